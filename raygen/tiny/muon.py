"""Muon: momentum whose matrix updates are made orthogonal, for the convolutions and linear layers of a small net."""

from collections.abc import Iterable

import torch
from torch import Tensor

from raygen.tiny.processes import Process

# Coefficients of the quintic Newton-Schulz iteration: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then Newton-Schulz orthogonalisation of each weight seen as (outputs, everything else).

    torch.optim.Muon takes matrices only; most weights here are convolutions. The factor 0.2 * sqrt(larger side) makes
    the update as large as AdamW's, so that both can share a learning rate (Liu et al. 2025, arXiv 2502.16982, eq. 4).

    Orthogonalising costs a third of a training step here. Processes whose gradients are equal share it: each does every
    so many weights, and the sum of all hands the updates round.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        process: Process,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._process = process

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            params = sorted((p for p in group["params"] if p.grad is not None), key=torch.numel)
            updates = []
            for place, p in enumerate(params):
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - momentum)
                if place % self._process.num_processes == self._process.rank:
                    updates.append(orthogonalise(p.grad.lerp(state["momentum"], momentum).flatten(1)).reshape(-1))
                else:
                    updates.append(torch.zeros(p.numel(), device=p.device))
            flat = self._process.add_up(torch.cat(updates))
            for p, update in zip(params, flat.split([p.numel() for p in params]), strict=True):
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update.view(p.shape), alpha=-lr * 0.2 * float(max(p.flatten(1).shape)) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T; singular values end up in about [0.7, 1.2]."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
