"""What stands for each generated picture in a control, made from the same source.

No Ray here: loader processes import this.
"""

# M pictures of the control, H height, W width

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from raygen.config import fingerprint
from raygen.datasets.row_pictures import RowPictures, located
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, RowError, or_row_error
from raygen.fits.candidate_rows import CandidateRows, counterfactual
from raygen.fits.training_objects import Objects, flat_colours, removed_region, training_objects
from raygen.images import decode_image, decode_mask
from raygen.schema import ROLE
from raygen.seeding import row_seed
from raygen.synthesis.controls import ControlKind, control_picture, draw_colour
from raygen.synthesis.pasting import paste_object

# What is taken out around an object by the dataset's own mask: its outline is mixed with what is behind it.
RIM_PX = 2


class ControlPictures:
    """Copies, grey holes, flat colours: see `raygen.synthesis.controls.control_picture`."""

    def __init__(self, kind: ControlKind, rows: CandidateRows, index: RowIndex, *, seed: int) -> None:
        self.label: str = kind
        self._kind, self._seed, self._keys = kind, seed, rows.keys
        self._target_M = rows.table["target_label"].to_numpy()
        self._counterfactual_M = counterfactual(rows.table)
        self._sources = RowPictures(index, rows.table["image_id"].to_pylist(), label=kind)
        self._repaint = rows.column("repaint_png")
        self.columns = (*self._sources.columns, self._repaint)
        kept = {"candidates": rows.digest, "kind": kind, "keys": fingerprint(rows.keys), "seed": seed}
        self.key = {**kept, "sources": self._sources.key}
        self._index: RowIndex | None = index
        self._colour_M3: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which is large and of use only to `prepare`."""
        return {**self.__dict__, "_index": None}

    def name(self, row: int) -> str:
        """The candidate's key."""
        return self._keys[row]

    def prepare(self) -> None:
        """Draws the colours, which takes pictures of every class."""
        if self._kind == "flat" and self._colour_M3 is None:
            assert self._index is not None
            colours = flat_colours(self._index, seed=self._seed)
            # A picture that is to show anything but its class gets a colour of another class's objects.
            others = {
                label: np.concatenate([colours[other] for other in colours if other != label]) for label in colours
            }
            chosen = zip(self._keys, self._target_M.tolist(), self._counterfactual_M.tolist(), strict=True)
            drawn = [
                draw_colour((others if is_not_label else colours)[target], run_seed=self._seed, key=key)
                for key, target, is_not_label in chosen
            ]
            self._colour_M3 = np.array(drawn, dtype=np.uint8).reshape(-1, 3)

    def chunks(self) -> list[np.ndarray]:
        """Those of a part together."""
        return self._repaint.runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8, or why there is none."""
        for row, source, repaint in zip(rows, self._sources.data(rows), self._repaint.read(rows), strict=True):
            yield or_row_error(self._picture, row, source, repaint or b"")

    def _picture(self, row: int, source: bytes, repaint: bytes) -> np.ndarray:
        colour = None if self._colour_M3 is None else self._colour_M3[row]
        return control_picture(self._kind, decode_image(source), decode_mask(repaint), colour=colour)


class PastePictures:
    """Sources whose object gave way to a real one of the class that the row says.

    Where the recipe repaints the object, what is taken out is what it repaints (of a factual picture, what it does not
    repaint); else the dataset's mask of the object.

    Args:
        rows: The rows.
        every: All candidates, in which the masker found objects.
        index: The dataset.
        grown_px: How far repaint masks reach beyond the object; None: what is repainted is no object.
        seed: The run's seed, which draws the objects.
    """

    label = "paste"

    def __init__(
        self, rows: CandidateRows, every: CandidateRows, index: RowIndex, *, grown_px: int | None, seed: int
    ) -> None:
        self._keys, self._seed, self._grown_px, ids = rows.keys, seed, grown_px, rows.table["image_id"].to_pylist()
        self._target_M = rows.table["target_label"].to_numpy()
        self._other_class_M = counterfactual(rows.table)
        has_roles = ROLE.name in rows.table.column_names
        self._factual_M = ~self._other_class_M & has_roles
        self._sources = RowPictures(index, ids, label=self.label)
        self._regions = located(index, ids, "object_png") if grown_px is None else rows.column("repaint_png")
        self.columns = (*self._sources.columns, self._regions)
        kept = {"candidates": rows.digest, "kind": self.label, "keys": fingerprint(rows.keys), "seed": seed}
        self.key = {**kept, "sources": self._sources.key, "grown_px": grown_px}
        self._drawn_from: tuple[RowIndex, CandidateRows] | None = (index, every)
        self._objects: dict[int, Objects] = {}
        self._object_M2 = np.zeros((0, 2), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is of use only to `prepare`."""
        return {**self.__dict__, "_drawn_from": None}

    def name(self, row: int) -> str:
        """The candidate's key."""
        return self._keys[row]

    def prepare(self) -> None:
        """Draws an object for each row, by the run's seed and the row's key.

        Raises:
            DataError: A class has none.
        """
        if self._objects:
            return
        assert self._drawn_from is not None
        index, every = self._drawn_from
        objects = training_objects(index, every, grown_px=self._grown_px, seed=self._seed)
        drawn = []
        for key, target, is_other in zip(self._keys, self._target_M, self._other_class_M, strict=True):
            # A picture that is to show anything but its class gets an object of another one.
            classes = [label for label in objects if (label != target if is_other else label == target)]
            if not classes:
                raise DataError(
                    f"no object of class '{index.dataset.class_names[target]}' can be used for control_paste: no "
                    "training image of it has a mask that can be read. Leave paste out of controls"
                )
            rng = np.random.default_rng(row_seed(self._seed, f"control_paste/{key}"))
            label = classes[rng.integers(len(classes))]
            drawn.append((label, rng.integers(len(objects[label]))))
        self._objects, self._object_M2 = objects, np.array(drawn, dtype=np.int64).reshape(-1, 2)

    def chunks(self) -> list[np.ndarray]:
        """Those of a part together."""
        return self._regions.runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8, or why there is none."""
        pasted: dict[int, Any] = {}
        for label, objects in self._objects.items():
            own = [row for row in rows if self._object_M2[row, 0] == label]
            pasted |= zip(own, objects.read(self._object_M2[own, 1].tolist()), strict=True)
        for row, source, region in zip(rows, self._sources.data(rows), self._regions.read(rows), strict=True):
            found = pasted[row]
            yield found if isinstance(found, RowError) else or_row_error(self._picture, row, source, region, *found)

    def _picture(
        self, row: int, source: bytes, region: bytes | None, donor_HWC: np.ndarray, object_HW: np.ndarray
    ) -> np.ndarray:
        image_HWC, rim_px = decode_image(source), RIM_PX if self._grown_px is None else 0
        removed_HW = removed_region(region, image_HWC.shape[:2], by_px=rim_px)
        if removed_HW is not None and self._grown_px is not None and self._factual_M[row]:
            removed_HW = ~removed_HW
        return paste_object(image_HWC, removed_HW, donor_HWC, object_HW, grown_px=self._grown_px or rim_px)
