"""The batches of a fit: how many images each has, and which."""

# N images, B images of a batch

import copy
from collections.abc import Sequence

import numpy as np
import torch

from raygen.classifier import Classifier
from raygen.errors import ConfigError, DataError
from raygen.worker import Worker


def batch_sizes(num: int, batch_size: int, *, least: int) -> list[int]:
    """Images of each batch of an epoch: `batch_size`, and the rest in a last one; a last one below `least` joins in.

    Args:
        num: Images of an epoch, at least 1.
        batch_size: Images of one step.
        least: Images that a step needs.
    """
    sizes = [min(batch_size, num - start) for start in range(0, num, batch_size)]
    if len(sizes) > 1 and sizes[-1] < least:
        last = sizes.pop()
        sizes[-1] += last
    return sizes


def least_rows(classifier: Classifier, worker: Worker, *, num: int, batch_size: int) -> int:
    """Images that a step needs: one a worker, and two where batch normalisation has no more than a value of each image.

    That is so where the network has shrunk the picture to one pixel: ResNet-18 at 32 px, for one.

    Raises:
        DataError: The training set has fewer.
        ConfigError: `batch_size` is smaller.
    """
    one_each, two_each = worker.world_size, 2 * worker.world_size
    if num < one_each:
        raise DataError(f"a fit on {one_each} workers needs as many images, and the training set has {num}")
    if batch_size < one_each:
        raise ConfigError(f"a fit on {one_each} workers needs as many images in every step; batch_size is {batch_size}")
    if min(batch_size, num % batch_size or batch_size) >= two_each:
        return one_each  # no step is that small
    size_px = classifier.config.image_size_px
    # A copy, since the pass moves running statistics, and with numbers of its own, since dropout draws some.
    probe = copy.deepcopy(classifier).cpu().train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(torch.zeros(1, 3, size_px, size_px))
    except ValueError as error:  # "Expected more than 1 value per channel when training"
        needs = f"{classifier.config.architecture} at {size_px} px needs {two_each} images in every step of a fit"
        workers = "" if worker.world_size == 1 else f" on {worker.world_size} workers"
        if num < two_each:
            raise DataError(f"{needs}{workers}, and the training set has {num}; add images") from error
        if batch_size < two_each:
            raise ConfigError(f"{needs}{workers}, but batch_size is {batch_size}; raise it") from error
        return two_each
    return one_each


def draw_batches(
    sizes: Sequence[int], weights_N: np.ndarray | None, rng: np.random.Generator, *, num_images: int | None = None
) -> list[np.ndarray]:
    """Positions of each batch's images: each at most once in a random order, or drawn in proportion to weights.

    Args:
        sizes: Images of each batch, from `batch_sizes`.
        weights_N: How often each is drawn, (N,); None: each once, or as many of them as the batches hold.
        rng: Draws.
        num_images: N, at least as many as the batches hold where none is drawn twice; None: as many.
    """
    num = sum(sizes)
    num_images = num if num_images is None else num_images
    if weights_N is None:
        order = rng.permutation(num_images)[:num]
    else:
        order = rng.choice(num_images, size=num, p=weights_N / weights_N.sum())
    return np.split(order, np.cumsum(sizes)[:-1])
