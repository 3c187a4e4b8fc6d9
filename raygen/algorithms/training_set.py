"""Pictures and labels of a fit, at the classifier's size."""

# N images, M extra images, B images of a batch, S side of the square picture

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from raygen.algorithms.decoding import Loading
from raygen.algorithms.infilling import CopyReader, Draws, ObjectMasks, check_infilling
from raygen.algorithms.loader_processes import LoaderProcesses
from raygen.algorithms.pictures import InMemory, Pictures, open_pictures
from raygen.classifier.framing import SQUASHING, Resizing
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.groups import group_index
from raygen.inpainters.fills import Infilling
from raygen.storage.progress import Say, quiet

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
# Batches that are read before they are asked for.
READ_AHEAD = 2


@dataclass(frozen=True, slots=True)
class ExtraPictures:
    """Pictures beside the dataset's own: generated ones, or a control's.

    Attributes:
        pictures: Pictures at the classifier's size.
        row_M: Which of them, (M,) int.
        label_M: Their classes, (M,) int.
        attribute_M: Their spurious attributes, for algorithms that need groups: the sources', which are still in them,
            (M,) int; -1 where a source has none.
        counterfactual_M: Whose class is what they do not show ("not y"), (M,) bool; None: of none.
    """

    pictures: Pictures
    row_M: np.ndarray
    label_M: np.ndarray
    attribute_M: np.ndarray
    counterfactual_M: np.ndarray | None = None


class TrainingSet:
    """Pictures of one split, and extra ones.

    Args:
        index: The dataset.
        split: "train" or "val".
        size_px: Side of the classifier's square.
        keep_N: Which rows of the split to take, (N,) bool in order of image_id; by default all.
        max_failed_fraction: More pictures than this share that cannot be decoded are an error; fewer are left out.
        loading: Where decoded pictures are kept, and who decodes them; None: in memory, in this process.
        resizing: How pictures become squares.
        say: Called with how far decoding is, about once a second.
        warn: Called with a line where there is no room for a store.

    Attributes:
        label_N: Classes, (N,) int64.
        group_N: Groups, (N,) int64, -1 for extra pictures without an attribute; None where the dataset has none.
        generated_N: True for extra pictures, (N,) bool.
        counterfactual_N: True for those whose label is what they do not show, (N,) bool.
        masks: Object masks of the dataset's own images; None where no algorithm or infilling needs them.
        infilling: What copies of the pictures a fit makes of each batch, and what the loss of counterfactual pictures
            asks for; None: none.
        num_attributes: Attributes that the dataset names.
        error_N: Which of the pictures a fit before got wrong, (N,) bool; None where no algorithm asked for it.
        selection_group_N: Groups of which the worst is selected by, (N,) int64: `group_N`, else the classes, unless
            `selecting_by` gave others.

    Raises:
        DataError: The split is empty, or too many of its pictures cannot be decoded.
        RaygenError: See `raygen.algorithms.pictures.open_pictures`.
    """

    label_N: np.ndarray
    group_N: np.ndarray | None
    generated_N: np.ndarray
    counterfactual_N: np.ndarray
    masks: ObjectMasks | None
    infilling: Infilling | None
    num_attributes: int
    error_N: np.ndarray | None
    _inferred_N: np.ndarray | None = None

    def __init__(
        self,
        index: RowIndex,
        split: str,
        *,
        size_px: int,
        keep_N: np.ndarray | None = None,
        max_failed_fraction: float = 0.05,
        loading: Loading | None = None,
        resizing: Resizing = SQUASHING,
        say: Say = quiet,
        warn: Say = quiet,
    ) -> None:
        table = index.split(split)
        if not table.num_rows or (keep_N is not None and not keep_N.any()):
            raise DataError(f"{index.folder} has no image in split {split}")
        source = RowPictures(index, table["image_id"].to_pylist(), label=split)
        pictures = open_pictures(source, size_px=size_px, loading=loading, resizing=resizing, say=say, warn=warn)
        kept_N = np.ones(table.num_rows, dtype=bool) if keep_N is None else keep_N
        _check_failed(source, pictures, kept_N, max_failed_fraction)
        row_N = np.flatnonzero(kept_N & ~np.isin(np.arange(table.num_rows), list(pictures.failed)))
        table = table.take(pa.array(row_N))
        self._processes = 0 if loading is None else loading.processes
        self._ids = pa.concat_arrays(table["image_id"].chunks)
        self._own_label_N: np.ndarray = table["label"].to_numpy().astype(np.int64)
        self.num_attributes = len(index.dataset.attribute_names)
        self._own_group_N: np.ndarray | None = None
        if not table["attribute"].null_count and self.num_attributes:
            attribute_N = table["attribute"].to_numpy()
            self._own_group_N = group_index(self._own_label_N, attribute_N, num_attributes=self.num_attributes)
        self.masks = self.infilling = None
        none = np.zeros(0, dtype=np.int64)
        empty = InMemory(np.zeros((0, size_px, size_px, 3), dtype=np.uint8))
        self._reader = _Reader(pictures, row_N, empty, none)
        self._add(ExtraPictures(empty, none, none, none))

    def with_extra(self, extra: ExtraPictures) -> "TrainingSet":
        """The same pictures, shared, with others beside them in place of any that were there."""
        other = copy.copy(self)
        other._add(extra)
        return other

    def without_extra(self) -> "TrainingSet":
        """The same pictures, without any beside them."""
        none = np.zeros(0, dtype=np.int64)
        return self.with_extra(ExtraPictures(self._reader.extra, none, none, none))

    def with_masks(self, pictures: Pictures, image_ids: Sequence[str]) -> "TrainingSet":
        """The same pictures, with object masks.

        Args:
            pictures: Masks as grey pictures, at the size of these.
            image_ids: Of which image each is.
        """
        other = copy.copy(self)
        row_of = {image_id: row for row, image_id in enumerate(image_ids) if row not in pictures.failed}
        rows = [row_of.get(image_id, -1) for image_id in self._ids.to_pylist()]
        other.masks = ObjectMasks(pictures, np.array(rows, dtype=np.int64))
        other._copies = None
        return other

    def with_infilling(self, infilling: Infilling) -> "TrainingSet":
        """The same pictures, of which a fit makes copies, or whose counterfactual ones have another loss.

        Raises:
            DataError: The copies cannot be made of these pictures.
        """
        check_infilling(infilling, self._own_label_N)
        other = copy.copy(self)
        other.infilling = infilling
        other._copies = None
        return other

    def with_errors(self, error_N: np.ndarray) -> "TrainingSet":
        """The same pictures, with the set of those that a fit before got wrong, (N,) bool."""
        other = copy.copy(self)
        other.error_N = error_N
        return other

    def with_black(self, black_NP: np.ndarray) -> "TrainingSet":
        """The same pictures, some of whose pixels are black.

        Args:
            black_NP: Which: for each picture the bits of its square, row after row, as `numpy.packbits` packs them,
                (N, P) uint8.
        """
        other = copy.copy(self)
        other._reader, other._loaders, other._copies = replace(self._reader, black_NP=black_NP), None, None
        return other

    def selecting_by(self, group_N: np.ndarray) -> "TrainingSet":
        """The same pictures, told apart by these groups where the worst of them is selected by, (N,) int."""
        other = copy.copy(self)
        other._inferred_N = group_N
        return other

    @property
    def selection_group_N(self) -> np.ndarray:
        """See the class."""
        if self._inferred_N is not None:
            return self._inferred_N
        return self.label_N if self.group_N is None else self.group_N

    def image_ids(self, positions: np.ndarray) -> list[str | None]:
        """Ids of the dataset's own images among these; None for extra pictures."""
        return [self._ids[i].as_py() if i < len(self._ids) else None for i in positions.tolist()]

    def _add(self, extra: ExtraPictures) -> None:
        self._reader = _Reader(self._reader.own, self._reader.row_N, extra.pictures, extra.row_M)
        self._loaders: LoaderProcesses[np.ndarray, torch.Tensor] | None = None
        self._copies: LoaderProcesses[Draws, torch.Tensor] | None = None
        counterfactual_M = extra.counterfactual_M
        none_M = np.zeros(len(extra.label_M), dtype=bool)
        own_N = np.zeros(len(self._own_label_N), dtype=bool)
        self.counterfactual_N = np.concatenate([own_N, none_M if counterfactual_M is None else counterfactual_M])
        self.label_N = np.concatenate([self._own_label_N, extra.label_M]).astype(np.int64)
        self.generated_N = np.arange(len(self.label_N)) >= len(self._ids)
        self.group_N = self.error_N = self._inferred_N = None
        if self._own_group_N is not None:
            group_M = np.where(extra.attribute_M < 0, -1, extra.label_M * self.num_attributes + extra.attribute_M)
            self.group_N = np.concatenate([self._own_group_N, group_M]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.label_N)

    def __getstate__(self) -> dict[str, object]:
        """Without loader processes: a copy in another process starts its own."""
        return {**self.__dict__, "_loaders": None, "_copies": None}

    def batches(self, positions: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """The pictures of each array of positions, in order, each (B, S, S, 3) uint8; read ahead of the caller.

        Where they are in a store, a thread copies them; where they have to be decoded, loader processes do it. One
        iteration of a set at a time.

        Args:
            positions: Positions of the pictures of each batch, (B,) int; taken some batches before they are needed.

        Raises:
            StageError: A loader process died.
            DataError: A picture cannot be decoded any more.
        """
        if self._reader.streams and self._processes:
            if self._loaders is None:
                self._loaders = LoaderProcesses(self._reader, num=self._processes)
            yield from self._loaders.map(positions)
        else:
            yield from _read_ahead(self._reader, positions)

    def copies(self, draws: Iterable[Draws]) -> Iterator[torch.Tensor]:
        """As `batches`, with masks and filled copies: see `raygen.algorithms.infilling.CopyReader`."""
        assert self.masks is not None, "copies need object masks"
        reader = CopyReader(self._reader, self.masks, self._own_label_N, self.infilling)
        if (self._reader.streams or self.masks.pictures.streams) and self._processes:
            if self._copies is None:
                self._copies = LoaderProcesses(reader, num=self._processes)
            yield from self._copies.map(draws)
        else:
            yield from _read_ahead(reader, draws)


@dataclass(frozen=True)
class _Reader:
    """Reads batches of a dataset's own pictures and extra ones; sent to loader processes where one of them streams."""

    own: Pictures
    row_N: np.ndarray
    extra: Pictures
    row_M: np.ndarray
    black_NP: np.ndarray | None = None

    @property
    def streams(self) -> bool:
        return self.own.streams or (self.extra.streams and len(self.row_M) > 0)

    def __call__(self, positions: np.ndarray) -> torch.Tensor:
        images_BHWC = self._read(positions)
        if self.black_NP is not None:
            num_pixels = images_BHWC.shape[1] * images_BHWC.shape[2]
            black_BHW = np.unpackbits(self.black_NP[positions], axis=1, count=num_pixels).astype(bool)
            images_BHWC[black_BHW.reshape(images_BHWC.shape[:3])] = 0
        return torch.from_numpy(images_BHWC)

    def _read(self, positions: np.ndarray) -> np.ndarray:
        is_own_B = positions < len(self.row_N)
        if is_own_B.all():
            return self.own.read(self.row_N[positions])
        extra_BHWC = self.extra.read(self.row_M[positions[~is_own_B] - len(self.row_N)])
        images_BHWC = np.empty((len(positions), *extra_BHWC.shape[1:]), dtype=np.uint8)
        images_BHWC[~is_own_B] = extra_BHWC
        images_BHWC[is_own_B] = self.own.read(self.row_N[positions[is_own_B]])
        return images_BHWC


def _read_ahead(read: Callable[[Item], torch.Tensor], positions: Iterable[Item]) -> Iterator[torch.Tensor]:
    waiting: deque[Future[torch.Tensor]] = deque()
    # One thread: numpy lets go of Python's lock while it copies, and pages of the file are read by the system.
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as pool:
        try:
            for batch in positions:
                waiting.append(pool.submit(read, batch))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _check_failed(source: RowPictures, pictures: Pictures, kept_N: np.ndarray, max_failed_fraction: float) -> None:
    failed = sorted(row for row in pictures.failed if kept_N[row])
    errors = [f"{source.name(row)}: {pictures.failed[row]}" for row in failed]
    num, split = int(kept_N.sum()), source.label
    if len(errors) > max_failed_fraction * num:
        shown = "\n".join(f"  {line}" for line in errors[:5])
        raise DataError(
            f"{len(errors)} of {num} pictures of split {split} cannot be read; max_failed_fraction is "
            f"{max_failed_fraction}. The first:\n{shown}\n`raygen data check` lists them all."
        )
    if errors:
        logger.warning("left out %d of %d pictures of split %s: %s, ...", len(errors), num, split, errors[0])


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
