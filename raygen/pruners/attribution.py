"""DBB's rho: how much of the step to the target label comes from inside the repaint mask.

ArXiv 2503.17226, eq. 4-5. rho = sum over the mask of IG(x'; baseline = x, target logit), where x is the
original picture and x' the generated one. Logits, not softmax: the paper's thresholds of 1 and 2 are beyond
any difference of probabilities.
"""

# N images, H height, W width, C colour channels

import numpy as np
import torch

from raygen.classifier import Classifier


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
