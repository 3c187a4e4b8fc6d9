"""Copies whose background speaks against the label of their picture: "fgsm", made of what is being fitted."""

# B images of a worker's share, R rows of a step, S side of the classifier's square

from dataclasses import replace

import torch

from raygen.algorithms.feed import Share
from raygen.algorithms.inference import on_device
from raygen.classifier import Classifier
from raygen.classifier.fgsm import fgsm, random_starts
from raygen.inpainters.fills import Infilling, Shape
from raygen.seeding import row_seed


def with_fgsm(share: Share, classifier: Classifier, infilling: Infilling) -> Share:
    """The share with copies of its pictures whose background is moved against their labels, after all others.

    By the gradient of the classifier as it is at this step, in evaluation mode and float32, as in the authors' code.
    """
    assert share.object_RSS is not None
    assert share.seeds_B is not None
    num = share.num_own
    images_BCSS, object_BSS, target_B = share.inputs_RCSS[:num], share.object_RSS[:num], share.target_R[:num]
    seeds = [row_seed(seed, "fgsm") for seed in share.seeds_B.tolist()]
    start_BCSS = random_starts(seeds, images_BCSS.shape[-1], epsilon=infilling.fgsm_epsilon)
    start_BCSS = on_device(start_BCSS, str(images_BCSS.device.type))
    moved_BCSS = fgsm(classifier, images_BCSS, target_B, start_BCSS, epsilon=infilling.fgsm_epsilon)
    # A picture without an object stays as it is, as copies do that cannot be made.
    kept_BSS = kept(object_BSS, infilling.factual_region) | ~object_BSS.flatten(1).any(1)[:, None, None]
    copies_BCSS = torch.where(kept_BSS[:, None], images_BCSS, moved_BCSS)
    own = share.counterfactual_R
    return replace(
        share,
        inputs_RCSS=torch.cat([share.inputs_RCSS, copies_BCSS]).contiguous(memory_format=torch.channels_last),
        target_R=torch.cat([share.target_R, target_B]),
        counterfactual_R=None if own is None else torch.cat([own, torch.zeros_like(own[:num])]),
        object_RSS=torch.cat([share.object_RSS, object_BSS]),
    )


def kept(object_BSS: torch.Tensor, shape: Shape) -> torch.Tensor:
    """What of the pictures stays, (B, S, S) bool: the objects, or their bounding rectangles."""
    if shape == "segmentation":
        return object_BSS
    rows_BS, columns_BS = (_between(object_BSS.any(axis)) for axis in (2, 1))
    return rows_BS[:, :, None] & columns_BS[:, None, :]


def _between(found_BS: torch.Tensor) -> torch.Tensor:
    """True from the first True to the last."""
    after_BS = found_BS.cummax(1).values
    before_BS = found_BS.flip(1).cummax(1).values.flip(1)
    return after_BS & before_BS
