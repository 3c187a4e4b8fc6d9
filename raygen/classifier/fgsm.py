"""The fast gradient sign method with a random start: the background of factual pictures that speaks against the label.

Chang et al. 2021 (arXiv 2106.01127) fill the background of a factual picture so (Goodfellow et al. 2015, arXiv
1412.6572; the random start and the step of 1.25 epsilon are Wong et al. 2020, arXiv 2001.03994).
"""

# N images, C classes or colour channels, T side of the whole picture's square, S side of the classifier's

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from raygen.classifier import Classifier

# Size of the step, in epsilons.
STEP = 1.25


def fgsm(
    classifier: Classifier,
    images_NCHW: torch.Tensor,
    label_N: torch.Tensor,
    start_NCHW: torch.Tensor,
    *,
    epsilon: float,
    inside: slice = slice(None),
) -> torch.Tensor:
    """Pictures moved against their labels, in [0, 1], (N, 3, T, T); at no pixel by more than epsilon.

    d = clamp(d0 + 1.25 epsilon * sign(gradient of the summed cross entropy at x + d0), -epsilon, epsilon), then such
    that x + d is in [0, 1]. What the classifier does not see has no gradient and keeps d0. In evaluation mode, so that
    a picture does not depend on those beside it, and without gradients for the classifier's parameters.

    Args:
        classifier: Whose gradient; its mode is as before afterwards.
        images_NCHW: x, float in [0, 1].
        label_N: Their labels, int.
        start_NCHW: d0, in [-epsilon, epsilon].
        epsilon: The most that a pixel changes.
        inside: What of a picture the classifier sees, on either axis.
    """
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.enable_grad():
            moved_NCHW = (images_NCHW + start_NCHW).detach().requires_grad_()
            logits_NC = classifier(moved_NCHW[:, :, inside, inside])
            loss = F.cross_entropy(logits_NC.float(), label_N, reduction="sum")
            (gradient_NCHW,) = torch.autograd.grad(loss, moved_NCHW)
    finally:
        classifier.train(was_training)
    change_NCHW = (start_NCHW + STEP * epsilon * gradient_NCHW.sign()).clamp(-epsilon, epsilon)
    return (images_NCHW.detach() + change_NCHW).clamp(0, 1)


def random_starts(seeds: Sequence[int], side_px: int, *, epsilon: float) -> torch.Tensor:
    """d0 of pictures, uniform in [-epsilon, epsilon), (N, 3, side, side) float32; each by its own seed."""
    drawn = [np.random.default_rng(seed).random((3, side_px, side_px), dtype=np.float32) for seed in seeds]
    return torch.from_numpy((2 * np.stack(drawn) - 1) * np.float32(epsilon))
