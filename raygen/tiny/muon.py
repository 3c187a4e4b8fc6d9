"""Muon: momentum whose matrix updates are made orthogonal, for the convolutions and linear layers of a small net."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of the quintic Newton-Schulz iteration: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then Newton-Schulz orthogonalisation of each weight seen as (outputs, everything else).

    torch.optim.Muon takes matrices only; most weights here are convolutions. The factor 0.2 * sqrt(larger side) makes
    the update as large as AdamW's, so that both can share a learning rate (Liu et al. 2025, arXiv 2502.16982, eq. 4).
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - momentum)
                update = orthogonalise(p.grad.lerp(state["momentum"], momentum).flatten(1))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-lr * 0.2 * float(max(update.shape)) ** 0.5)


def orthogonalise(matrix: Tensor, *, num_iterations: int = 5) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T; singular values end up in about [0.7, 1.2]."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
