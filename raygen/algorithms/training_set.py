"""Pictures and labels of a fit, at the classifier's size."""

# N images, M extra images, B images of a batch, S side of the square picture

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from raygen.classifier.framing import Frame, preprocess, squash
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, RowError
from raygen.groups import group_index
from raygen.images import decode_image

logger = logging.getLogger(__name__)

# Up to this size all pictures are decoded once and kept; beyond it, once to see whether they can be, and again when
# their batch comes.
MAX_CACHED_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class ExtraImage:
    """A picture beside the dataset's own: a generated one, or a control's.

    Attributes:
        image_HWC: (H, W, 3) uint8 RGB.
        label: Its class.
        attribute: Its spurious attribute, for algorithms that need groups: the source's, which is still in it; None
            where the source has none.
    """

    image_HWC: np.ndarray
    label: int
    attribute: int | None = None


class TrainingSet:
    """Pictures of one split, and extra ones.

    Args:
        index: The dataset.
        split: "train" or "val".
        size_px: Side of the classifier's square.
        extra: Pictures to add; they count as generated.
        keep_N: Which rows of the split to take, (N,) bool in order of image_id; by default all.
        max_failed_fraction: More pictures than this share that cannot be decoded are an error; fewer are left out.

    Attributes:
        label_N: Classes, (N,) int64.
        group_N: Groups, (N,) int64, -1 for extra pictures without an attribute; None where the dataset has none.
        generated_N: True for extra pictures, (N,) bool.
        num_attributes: Attributes that the dataset names.
        error_N: Which of the pictures a fit before got wrong, (N,) bool; None where no algorithm asked for it.

    Raises:
        DataError: The split is empty, or too many of its pictures cannot be decoded.
    """

    label_N: np.ndarray
    group_N: np.ndarray | None
    generated_N: np.ndarray
    num_attributes: int
    error_N: np.ndarray | None

    def __init__(
        self,
        index: RowIndex,
        split: str,
        *,
        size_px: int,
        extra: Iterable[ExtraImage] = (),
        keep_N: np.ndarray | None = None,
        max_failed_fraction: float = 0.05,
        max_cached_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        table = index.split(split)
        if keep_N is not None:
            table = table.filter(pa.array(keep_N))
        if not table.num_rows:
            raise DataError(f"{index.folder} has no image in split {split}")
        self._size_px = size_px
        self._ids: list[str] = table["image_id"].to_pylist()
        keeps = len(self._ids) * size_px * size_px * 3 <= max_cached_bytes
        # Where they are not kept, too: one that cannot be read must not end a fit in the middle of an epoch.
        self._cache_NHWC, ok_N = self._read_all(index, split, max_failed_fraction, keeps=keeps)
        labels, attributes = table["label"].to_numpy(), table["attribute"]
        self._num_own = int(ok_N.sum())
        self._ids = [image_id for image_id, ok in zip(self._ids, ok_N, strict=True) if ok]
        # With all pictures decoded the files are not needed any more, and a copy for another process has none of it.
        self._index = index if self._cache_NHWC is None else None
        self._own_label_N: np.ndarray = labels[ok_N].astype(np.int64)
        self.num_attributes = len(index.dataset.attribute_names)
        self._own_group_N: np.ndarray | None = None
        if not attributes.null_count and self.num_attributes:
            own = group_index(labels, attributes.to_numpy(), num_attributes=self.num_attributes)
            self._own_group_N = own[ok_N]
        # Squashed one by one: all of them in their own size may be many times what they are at the classifier's.
        extras = [(squash(one.image_HWC, size_px), one.label, one.attribute) for one in extra]
        self._add(
            [picture for picture, _, _ in extras],
            np.array([label for _, label, _ in extras], dtype=np.int64),
            np.array([-1 if attribute is None else attribute for _, _, attribute in extras], dtype=np.int64),
        )

    def with_extra(
        self, images: Sequence[np.ndarray], label_M: np.ndarray, attribute_M: np.ndarray | None = None
    ) -> "TrainingSet":
        """The same pictures, shared, with others beside them in place of any that were there.

        Args:
            images: Each (S, S, 3) uint8 already; kept as they are, not copied.
            label_M: Their classes, (M,) int.
            attribute_M: Their attributes, (M,) int, -1 where one has none; by default none has.
        """
        other = copy.copy(self)
        other._add(images, label_M, np.full(len(label_M), -1) if attribute_M is None else attribute_M)
        return other

    def with_errors(self, error_N: np.ndarray) -> "TrainingSet":
        """The same pictures, with the set of those that a fit before got wrong, (N,) bool."""
        other = copy.copy(self)
        other.error_N = error_N
        return other

    def image_ids(self, positions: np.ndarray) -> list[str | None]:
        """Ids of the dataset's own images among these; None for extra pictures."""
        return [self._ids[i] if i < self._num_own else None for i in positions.tolist()]

    def _add(self, images: Sequence[np.ndarray], label_M: np.ndarray, attribute_M: np.ndarray) -> None:
        self._extra = list(images)
        self.label_N = np.concatenate([self._own_label_N, label_M]).astype(np.int64)
        self.generated_N = np.arange(len(self.label_N)) >= self._num_own
        self.group_N = self.error_N = None
        if self._own_group_N is not None:
            group_M = np.where(attribute_M < 0, -1, label_M * self.num_attributes + attribute_M)
            self.group_N = np.concatenate([self._own_group_N, group_M]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.label_N)

    def images_NCHW(self, positions: np.ndarray) -> torch.Tensor:
        """Pictures in [0, 1], (B, 3, S, S) float32."""
        own = [int(i) for i in positions if i < self._num_own]
        decoded = dict(zip(own, self._own(own), strict=True))
        images = [decoded[int(i)] if i < self._num_own else self._extra[int(i) - self._num_own] for i in positions]
        return preprocess(images, Frame(self._size_px))

    def batches(self, positions: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """Pictures of each array of positions, uint8 (B, S, S, 3), in order."""
        for part in positions:
            own = [int(i) for i in part if i < self._num_own]
            decoded = dict(zip(own, self._own(own), strict=True))
            images = [decoded[int(i)] if i < self._num_own else self._extra[int(i) - self._num_own] for i in part]
            side = self._size_px
            yield torch.from_numpy(np.stack(images) if images else np.empty((0, side, side, 3), dtype=np.uint8))

    def _own(self, positions: Sequence[int]) -> Sequence[np.ndarray]:
        if self._cache_NHWC is not None:
            return [self._cache_NHWC[i] for i in positions]
        assert self._index is not None
        pictures = self._index.fetch([self._ids[i] for i in positions], ["image_png"])["image_png"].to_pylist()
        return [squash(decode_image(data or b""), self._size_px) for data in pictures]

    def _read_all(
        self, index: RowIndex, split: str, max_failed_fraction: float, *, keeps: bool
    ) -> tuple[np.ndarray | None, np.ndarray]:
        num, side = len(self._ids), self._size_px
        images_NHWC = np.empty((num if keeps else 0, side, side, 3), dtype=np.uint8)
        ok_N = np.ones(num, dtype=bool)
        errors: list[str] = []
        tables = index.each(self._ids, ["image_png"])
        for i, data in enumerate(data for table in tables for data in table["image_png"].to_pylist()):
            try:
                image_HWC = decode_image(data or b"")
                if keeps:
                    images_NHWC[i] = squash(image_HWC, side)
            except RowError as error:
                ok_N[i] = False
                errors.append(f"{self._ids[i]}: {error}")
        if len(errors) > max_failed_fraction * num:
            shown = "\n".join(f"  {line}" for line in errors[:5])
            raise DataError(
                f"{len(errors)} of {num} pictures of split {split} cannot be read; max_failed_fraction is "
                f"{max_failed_fraction}. The first:\n{shown}\n`raygen data check` lists them all."
            )
        if errors:
            logger.warning("left out %d of %d pictures of split %s: %s, ...", len(errors), num, split, errors[0])
        return images_NHWC[ok_N] if keeps else None, ok_N


def known_groups(train: TrainingSet, *, algorithm: str) -> np.ndarray:
    """Group of each training image, (N,) int64, generated pictures among them.

    Raises:
        DataError: An image has no attribute, and with it no group.
    """
    if train.group_N is None:
        raise DataError(f"algorithm {algorithm} needs the attribute of every training image; this dataset has none")
    return train.group_N


def group_weights(group_N: np.ndarray) -> np.ndarray:
    """Sampling weight of each image, N / n_g, (N,) float; each group's weights sum to the same."""
    _, inverse_N, counts_G = np.unique(group_N, return_inverse=True, return_counts=True)
    return np.asarray(len(group_N) / counts_G[inverse_N], dtype=float)
