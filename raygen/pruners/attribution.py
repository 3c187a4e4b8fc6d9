"""DBB's rho: how much of the step to the target label comes from inside the repaint mask.

ArXiv 2503.17226, eq. 4-5. rho = sum over the mask of IG(x'; baseline = x, target logit), where x is the
original picture and x' the generated one. Logits, not softmax: the paper's thresholds of 1 and 2 are beyond
any difference of probabilities, and the authors' code has logits too.
"""

# N images, H height, W width, C colour channels, P points of a path

from collections.abc import Iterator

import numpy as np
import torch

from raygen.classifier import Classifier

# Points of a path in one call, always of one image: its bits depend on no other, and a call has always the same shape.
POINTS_OF_A_CALL = 8
# Fewer points may sum to the logit difference by chance.
LEAST_POINTS = 7


def logit_difference(
    classifier: Classifier,
    generated_NCHW: torch.Tensor,
    original_NCHW: torch.Tensor,
    *,
    target_N: torch.Tensor,
) -> np.ndarray:
    """Rho by two forward passes: f_t(x') - f_t(x), (N,) float32.

    Integrated gradients sum to this difference, and a pixel that did not change has none of it. So it equals
    rho exactly when every pixel that differs between x' and x, in the classifier's frame, lies inside the
    repaint mask: composited pictures whose mask, brought to that frame, covers each pixel that resizing mixed
    with changed ones. Otherwise it counts the changes outside the mask too.
    """
    with torch.inference_mode():
        rows = torch.arange(len(target_N), device=target_N.device)
        difference_N = classifier(generated_NCHW)[rows, target_N] - classifier(original_NCHW)[rows, target_N]
    rho_N: np.ndarray = difference_N.float().cpu().numpy()
    return rho_N


def integrated_gradients(
    classifier: Classifier,
    generated_NCHW: torch.Tensor,
    original_NCHW: torch.Tensor,
    *,
    repaint_NHW: torch.Tensor,
    target_N: torch.Tensor,
    num_steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rho by captum's integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365).

    Args:
        classifier: In evaluation mode.
        generated_NCHW: x', (N, 3, H, W) in [0, 1].
        original_NCHW: x, the baseline, likewise.
        repaint_NHW: Repaint mask in the classifier's frame, (N, H, W) bool.
        target_N: Target label, (N,) int64.
        num_steps: Points of the Gauss-Legendre rule on the path from x to x'.

    Returns:
        rho, (N,) float32, and the convergence delta |sum of all attributions - (f_t(x') - f_t(x))|, (N,)
        float32.
    """
    # Here, not at the top: captum loads a library of plots, which the exact difference never needs.
    from captum.attr import IntegratedGradients

    attributions_NCHW, delta_N = IntegratedGradients(classifier).attribute(
        generated_NCHW,
        baselines=original_NCHW,
        target=target_N,
        n_steps=num_steps,
        method="gausslegendre",
        # One path point of every image at a time: 200 points at once would need 200 times the memory.
        internal_batch_size=len(generated_NCHW),
        return_convergence_delta=True,
    )
    rho_N = (attributions_NCHW * repaint_NHW.unsqueeze(1)).sum(dim=(1, 2, 3))  # eq. (5)
    return rho_N.detach().float().cpu().numpy(), delta_N.detach().abs().float().cpu().numpy()


def integrated_gradients_to_tolerance(
    classifier: Classifier,
    generated_NCHW: torch.Tensor,
    original_NCHW: torch.Tensor,
    *,
    repaint_NHW: torch.Tensor,
    target_N: torch.Tensor,
    num_steps: int,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rho by integrated gradients with as many points as each image needs.

    Fejer's second rules of 7, 15, 31, ... points are nested: each takes over the gradients of the one before. An image
    is done once its attributions sum to the difference of its logits but for `tolerance * max(|difference|, 1)`.

    Args:
        classifier: In evaluation mode.
        generated_NCHW: x', (N, 3, H, W) in [0, 1].
        original_NCHW: x, the baseline, likewise.
        repaint_NHW: Repaint mask in the classifier's frame, (N, H, W) bool.
        target_N: Target label, (N,) int64.
        num_steps: Most points of a path. Below 7, the largest rule of 1 or 3 that fits is all there is.
        tolerance: See above; above 0.

    Returns:
        See `integrated_gradients`.
    """
    expected_N = logit_difference(classifier, generated_NCHW, original_NCHW, target_N=target_N)
    found = [
        _refined(
            classifier,
            generated_NCHW[n],
            original_NCHW[n],
            repaint_NHW[n],
            target=int(target_N[n]),
            expected=float(expected_N[n]),
            num_steps=num_steps,
            tolerance=tolerance,
        )
        for n in range(len(target_N))
    ]
    rho_N, total_N = (np.array(values_N, dtype=np.float32) for values_N in zip(*found, strict=True))
    return rho_N, np.abs(total_N - expected_N)


def _refined(
    classifier: Classifier,
    generated_CHW: torch.Tensor,
    original_CHW: torch.Tensor,
    repaint_HW: torch.Tensor,
    *,
    target: int,
    expected: float,
    num_steps: int,
    tolerance: float,
) -> tuple[float, float]:
    """Rho, and the sum of all attributions."""
    change_CHW = generated_CHW - original_CHW
    at: dict[float, tuple[float, float]] = {}  # what a point of the path says of both
    rho = total = 0.0
    for alphas, weights in nested_rules(num_steps):
        new = [alpha for alpha in alphas if alpha not in at]
        for start in range(0, len(new), POINTS_OF_A_CALL):
            points = new[start : start + POINTS_OF_A_CALL]
            padded = [*points, *points[:1] * (POINTS_OF_A_CALL - len(points))]
            alpha_P111 = torch.tensor(padded, dtype=change_CHW.dtype, device=change_CHW.device).view(-1, 1, 1, 1)
            path_PCHW = (original_CHW + alpha_P111 * change_CHW).requires_grad_(True)
            (gradient_PCHW,) = torch.autograd.grad(classifier(path_PCHW)[:, target].sum(), path_PCHW)
            attributed_PHW = (gradient_PCHW * change_CHW).sum(dim=1).double()
            inside_P = (attributed_PHW * repaint_HW).sum(dim=(1, 2)).tolist()
            all_P = attributed_PHW.sum(dim=(1, 2)).tolist()
            at |= dict(zip(points, zip(inside_P, all_P, strict=True), strict=False))
        rho, total = (sum(w * at[a][i] for a, w in zip(alphas, weights, strict=True)) for i in range(2))
        if abs(total - expected) <= tolerance * max(abs(expected), 1.0):
            break
    return rho, total


def nested_rules(num_steps: int) -> Iterator[tuple[list[float], list[float]]]:
    """Fejer's second rules on [0, 1], points and weights, the points of each among those of the next.

    A rule of P points is exact for polynomials up to degree P (P is odd), its weights are positive, and it needs no
    point at the ends (Waldvogel 2006, doi 10.1007/s10543-006-0045-4).

    Args:
        num_steps: Most points.
    """
    sizes = [2**k - 1 for k in range(1, (num_steps + 1).bit_length())]
    for size in [size for size in sizes if size >= LEAST_POINTS] or sizes[-1:]:
        # By whole numbers, so that a point that two rules share is the same to the bit.
        position_P = np.arange(1, size + 1) / (size + 1)
        theta_P = np.pi * position_P
        odd_M = np.arange(1, size + 1, 2)
        weight_P = 2 * np.sin(theta_P) * (np.sin(np.outer(theta_P, odd_M)) / odd_M).sum(axis=1) / (size + 1)
        yield ((1 - np.cos(theta_P)) / 2).tolist(), weight_P.tolist()
