"""Objects of the training images, which controls take colours from or paste. No Ray here: loader processes import this.

Pictures and masks that cannot be read, or do not fit each other, are left out: each is a failed row elsewhere already.
"""

# M objects, H height, W width

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow.compute as pc

from raygen.datasets.row_pictures import RowPictures, located
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError
from raygen.fits.candidate_rows import CandidateRows, counterfactual
from raygen.images import decode_image, decode_mask
from raygen.maskers.truth import dilate
from raygen.storage.parquet_bytes import ParquetBytes
from raygen.synthesis.controls import object_colours
from raygen.synthesis.pasting import shrink

# Training objects that a control takes, per class.
SAMPLES = 400


@dataclass(frozen=True)
class Objects:
    """Objects of one class: pictures, and where the object is in each.

    Attributes:
        pictures: Pictures.
        masks: Their objects' masks, some of them grown.
        grown_px: By how much.
    """

    pictures: RowPictures
    masks: ParquetBytes
    grown_px: int

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray] | RowError]:
        """Each picture, (H, W, 3) uint8, and its object without what it was grown by, (H, W) bool; or why not."""
        for data, mask in zip(self.pictures.data(rows), self.masks.read(rows), strict=True):
            try:
                yield decode_object(data, mask, grown_px=self.grown_px)
            except RowError as error:
                yield error


def decode_object(data: bytes | None, mask: bytes | None, *, grown_px: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its object.

    Raises:
        RowError: There is none.
    """
    image_HWC, object_HW = decode_image(data or b""), decode_mask(mask or b"")
    if object_HW.shape != image_HWC.shape[:2] or not object_HW.any():
        raise RowError("the mask is empty, or not as large as its picture")
    return image_HWC, shrink(object_HW, grown_px)


def training_objects(index: RowIndex, every: CandidateRows, *, grown_px: int | None, seed: int) -> dict[int, Objects]:
    """Objects of each class, at most SAMPLES, drawn from the seed; a class without any is left out.

    By the dataset's object masks; in a class that has none that can be used, by what the run's masker found in the
    sources of candidates, if that is an object.

    Args:
        index: The dataset.
        every: All candidates.
        grown_px: How far their repaint masks reach beyond the object; None: what they repaint is no object.
        seed: The run's seed.
    """
    found = {}
    for label in range(index.num_classes):
        ids = sampled(index, label, seed=seed)
        objects = Objects(RowPictures(index, ids, label="paste"), located(index, ids, "object_png"), 0)
        usable = _usable(objects)
        if usable:
            ids = [ids[i] for i in usable]
            objects = Objects(RowPictures(index, ids, label="paste"), located(index, ids, "object_png"), 0)
        elif grown_px is not None:
            rows = every.take(_sources_of(every, label, seed=seed))
            usable = _usable(_of_candidates(index, rows, grown_px))
            objects = _of_candidates(index, rows.take(np.array(usable, dtype=np.int64)), grown_px)
        if usable:
            found[label] = objects
    return found


def classes_with_objects(index: RowIndex, every: CandidateRows, *, grown_px: int | None, seed: int) -> set[int]:
    """Classes in which `training_objects` may find some, without reading any picture."""
    found = set()
    for label in range(index.num_classes):
        masks = index.fetch(sampled(index, label, seed=seed), ["object_png"])["object_png"]
        if masks.null_count < len(masks) or (grown_px is not None and len(_sources_of(every, label, seed=seed))):
            found.add(label)
    return found


def sampled(index: RowIndex, label: int, *, seed: int) -> list[str]:
    """Ids of at most SAMPLES training images of a class, drawn from the seed, in order."""
    train = index.split("train")
    ids = np.array(train.filter(pc.equal(train["label"], label))["image_id"].to_pylist())
    chosen: list[str] = np.sort(np.random.default_rng([seed, label]).permutation(ids)[:SAMPLES]).tolist()
    return chosen


def _sources_of(every: CandidateRows, label: int, *, seed: int) -> np.ndarray:
    """Candidates that show what their masker found in training images of a class, at most SAMPLES."""
    is_of_class_M = every.table["source_label"].to_numpy() == label
    if "role" in every.table.column_names:  # a factual picture's mask is all but the object
        is_of_class_M &= counterfactual(every.table)
    rows = np.random.default_rng([seed, label]).permutation(np.flatnonzero(is_of_class_M))
    return np.sort(rows[:SAMPLES])


def _of_candidates(index: RowIndex, rows: CandidateRows, grown_px: int) -> Objects:
    pictures = RowPictures(index, rows.table["image_id"].to_pylist(), label="paste")
    return Objects(pictures, rows.column("repaint_png"), grown_px)


def _usable(objects: Objects) -> list[int]:
    """Which of them can be read."""
    chunks = objects.pictures.chunks()
    return [
        row
        for rows in chunks
        for row, one in zip(rows.tolist(), objects.read(rows.tolist()), strict=True)
        if not isinstance(one, RowError)
    ]


def removed_region(mask: bytes | None, shape: tuple[int, ...], *, by_px: int) -> np.ndarray | None:
    """A mask that is grown, (H, W) bool; None where there is none that can be used."""
    try:
        mask_HW = decode_mask(mask or b"")
    except RowError:
        return None
    return dilate(mask_HW, radius_px=by_px) if mask_HW.shape == shape else None


def flat_colours(index: RowIndex, *, seed: int) -> dict[int, np.ndarray]:
    """Mean colours of the training objects of each class, (M, 3) uint8, from at most SAMPLES of them.

    Where the dataset ships no object masks, or none of a class that can be used, the whole picture stands for the
    object.
    """
    colours: dict[int, np.ndarray] = {}
    for label in range(index.num_classes):
        chosen = sampled(index, label, seed=seed)
        pairs = _objects(index, chosen, ["image_png", "object_png"])
        first = next(pairs, None)
        pairs = _objects(index, chosen, ["image_png"]) if first is None else chain([first], pairs)
        colours[label] = object_colours(pairs)
    return colours


def _objects(index: RowIndex, image_ids: list[str], columns: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and their objects' masks, one at a time: decoded, those of all would not fit in memory.

    Without the column of masks, and for a picture that has none, the object is the whole picture.
    """
    for table in index.each(image_ids, columns):
        for row in table.to_pylist():
            try:
                image_HWC = decode_image(row["image_png"] or b"")
                whole_HW = np.ones(image_HWC.shape[:2], dtype=bool)
                object_HW = decode_mask(row["object_png"]) if row.get("object_png") else whole_HW
            except RowError:
                continue  # a failed row in scores/ already, or of the masker if it needs the mask
            if object_HW.shape == whole_HW.shape and object_HW.any():
                yield image_HWC, object_HW
