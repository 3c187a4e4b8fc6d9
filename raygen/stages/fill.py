"""The inpainter's stage of counterfactual and factual pictures: values that need no model, and those that do.

It runs in the inpainter pool, in the place of `InpaintStage`, which it asks for the rows that a model paints: then one
pass makes all candidates, and there is no pool beside that waits for work. A value that needs no model takes as long as
its picture's decoding and encoding, which threads beside the model do.
"""

# N rows of a model call, H height and W width of a picture, T side of the whole picture's square

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from raygen.classifier import load_frozen
from raygen.classifier.fgsm import fgsm, random_starts
from raygen.classifier.framing import SQUASHING, Resizing, as_input
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError, or_row_error
from raygen.images import decode_image, decode_mask, encode_image
from raygen.inpainters.fills import VERSION, FindOther, filled
from raygen.seeding import row_seed
from raygen.stages.inpaint import InpaintStage
from raygen.stages.pictures import decode_masks, decode_pictures, sum_bytes
from raygen.stages.spec import (
    Batch,
    ModelStage,
    Prepared,
    empty_column,
    fail_row,
    fill_slots,
    object_column,
    ok_rows,
    with_own_status,
)

# Pictures of another class that are looked at for one whose mask can be used.
ATTEMPTS = 20
# Status of the rows that the other of the two makes.
ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Pictures, repaint masks and what was made of them by row, and the rows that a model paints."""

    images: dict[int, np.ndarray]
    repaints: dict[int, np.ndarray]
    made: dict[int, np.ndarray]
    painted: Prepared[Any] | None


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Changes of "fgsm" on the whole picture's square by row, (T, T, 3) in [-1, 1], and what the model painted."""

    changes: dict[int, np.ndarray]
    painted: Any


class FillStage(ModelStage[_Pictures, _Outputs]):
    """Makes each row's picture by the value of its role.

    Args:
        values: Value by role: "counterfactual" and "factual".
        fgsm_epsilon: The most that a pixel changes by "fgsm", of pixels in [0, 1].
        data: The dataset's folder, for pictures of another class.
        classifier_folder: Whose gradient "fgsm" follows.
        paints: Arguments of `InpaintStage`, for "inpaint"; None where nothing is painted.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = InpaintStage.reads | {"role", "source_label"}
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision"})

    def __init__(
        self,
        *,
        values: Mapping[str, str],
        fgsm_epsilon: float,
        data: str,
        classifier_folder: str,
        paints: Mapping[str, Any] | None,
        device: str = "cpu",
    ) -> None:
        self._values, self._epsilon, self._data, self._device = dict(values), fgsm_epsilon, Path(data), device
        self._painter = None if paints is None else InpaintStage(**paints)
        self._classifier = load_frozen(Path(classifier_folder), device) if "fgsm" in self._values.values() else None

    @cached_property
    def _others(self) -> "OtherPictures":
        return OtherPictures(self._data)

    def prepare(self, batch: Batch) -> Prepared[_Pictures]:
        """The decoded pictures, filled where no model is needed, and what the models see."""
        batch = with_own_status(batch)
        value_N = [self._values[str(role)] for role in batch["role"]]
        own = [i for i in ok_rows(batch) if value_N[i] != "inpaint"]
        images = decode_pictures(batch, own, "image_png")
        repaints = decode_masks(batch, [*images], "repaint_png")
        made = {}
        for i in [i for i in repaints if value_N[i] != "fgsm"]:
            rng = np.random.default_rng(int(batch["seed"][i]))
            other = self._others.of_another(int(batch["source_label"][i])) if value_N[i] == "mixed_rand" else None
            picture = or_row_error(_filled, value_N[i], images[i], repaints[i], rng, other)
            if isinstance(picture, RowError):
                fail_row(batch, i, picture)
            else:
                made[i] = picture
        painted = None
        if self._painter is not None:
            theirs = [s if v == "inpaint" else ELSEWHERE for s, v in zip(batch["status"], value_N, strict=True)]
            painted = self._painter.prepare({**batch, "status": object_column(theirs)})
        num_bytes = sum_bytes(images, repaints, made) + (0 if painted is None else painted.num_bytes)
        return Prepared(batch, _Pictures(images, repaints, made, painted), num_bytes)

    def work(self, prepared: Prepared[_Pictures]) -> _Outputs:
        """What the models make of them."""
        pictures, batch = prepared.inputs, prepared.batch
        painted = None
        if self._painter is not None and pictures.painted is not None:
            painted = self._painter.work(pictures.painted)
        rows = [i for i in ok_rows(batch) if self._values[str(batch["role"][i])] == "fgsm"]
        changes: dict[int, np.ndarray] = {}
        if self._classifier is not None and rows:
            slots, frame = fill_slots(rows, len(batch["status"])), self._classifier.frame
            squares_NTTC = np.stack([frame.whole(pictures.images[i]) for i in slots])
            images_NCTT = as_input(torch.from_numpy(squares_NTTC)).to(self._device)
            label_N = torch.tensor([int(batch["source_label"][i]) for i in slots], device=self._device)
            seeds = [row_seed(int(batch["seed"][i]), "fgsm") for i in slots]
            start_NCTT = random_starts(seeds, frame.whole_px, epsilon=self._epsilon).to(self._device)
            moved_NCTT = fgsm(
                self._classifier, images_NCTT, label_N, start_NCTT, epsilon=self._epsilon, inside=frame.inside
            )
            change_NTTC = (moved_NCTT - images_NCTT).permute(0, 2, 3, 1).cpu().numpy()
            changes = {i: change_NTTC[i] for i in rows}
        return _Outputs(changes, painted)

    def finish(self, prepared: Prepared[_Pictures], outputs: _Outputs) -> Batch:
        """The rows with their pictures; a row that fails has none."""
        batch, pictures = prepared.batch, prepared.inputs
        num_rows = len(batch["status"])
        columns = {name: empty_column(num_rows) for name in sorted(self.writes)}
        painted: Batch = {}
        if self._painter is not None and pictures.painted is not None:
            painted = self._painter.finish(pictures.painted, outputs.painted)
        made = dict(pictures.made)
        for i, change_TTC in outputs.changes.items():
            assert self._classifier is not None
            resizing = self._classifier.frame.resizing
            made[i] = moved(pictures.images[i], pictures.repaints[i], change_TTC, resizing)
        for i in range(num_rows):
            value = self._values[str(batch["role"][i])]
            if value == "inpaint":
                for name in (*columns, "status", "error"):
                    (columns if name in columns else batch)[name][i] = painted[name][i]
                continue
            columns["model_id"][i], columns["model_revision"][i] = f"infill/{value}", VERSION
            if batch["status"][i] == "ok":
                columns["generated_png"][i] = encode_image(made[i], text=_provenance(batch, i, value))
        rows = {"unet_rows": painted["unet_rows"]} if "unet_rows" in painted else {}
        return {**batch, **columns, **rows}


class OtherPictures:
    """Training pictures with their object masks, by class.

    Args:
        data: The dataset's folder.
    """

    def __init__(self, data: Path) -> None:
        self._index = RowIndex(data)
        table = self._index.split("train")
        self._ids, self._label_N = table["image_id"].to_pylist(), table["label"].to_numpy()

    def of_another(self, label: int) -> FindOther:
        """Draws pictures of any class but this one, until one has a mask that can be used."""
        others = np.flatnonzero(self._label_N != label)

        def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            reason = "there is none"
            for _ in range(ATTEMPTS if len(others) else 0):
                image_id = self._ids[int(others[rng.integers(len(others))])]
                row = self._index.fetch([image_id], ["image_png", "object_png"]).to_pylist()[0]
                if row["object_png"] is None:
                    reason = f"{image_id} has no object mask"
                    continue
                try:
                    image_HWC, object_HW = decode_image(row["image_png"] or b""), decode_mask(row["object_png"])
                except RowError as error:
                    reason = f"{image_id}: {error}"
                    continue
                if object_HW.any() and object_HW.shape == image_HWC.shape[:2]:
                    return image_HWC, object_HW
                reason = f"the object mask of {image_id} selects nothing, or does not fit its picture"
            raise RowError(f"no picture of another class whose background can be taken ({reason})")

        return draw


def moved(
    image_HWC: np.ndarray, repaint_HW: np.ndarray, change_TTC: np.ndarray, resizing: Resizing = SQUASHING
) -> np.ndarray:
    """A picture with a change of its square in its region, (H, W, 3) uint8; outside of that square it stays.

    By nearest neighbour, so that no pixel changes by more than one of the square does.
    """
    part, changed_HWC = resizing.part(*image_HWC.shape[:2]), image_HWC.copy()
    (height, width), side_px = image_HWC[part].shape[:2], len(change_TTC)
    rows, columns = (np.minimum((np.arange(n) + 0.5) * side_px / n, side_px - 1).astype(int) for n in (height, width))
    moved_HWC = np.rint(image_HWC[part] + 255 * change_TTC[rows[:, None], columns])
    changed_HWC[part] = moved_HWC.clip(0, 255).astype(np.uint8)
    return np.where(repaint_HW[..., None], changed_HWC, image_HWC)


def _filled(
    value: Any, image_HWC: np.ndarray, repaint_HW: np.ndarray, rng: np.random.Generator, other: FindOther | None
) -> np.ndarray:
    return filled(value, image_HWC, repaint_HW, rng=rng, other=other)


def _provenance(batch: Batch, row: int, value: str) -> dict[str, str]:
    return {
        "synthetic": "true",
        "model": f"infill/{value}@{VERSION}",
        "role": str(batch["role"][row]),
        "seed": str(int(batch["seed"][row])),
        "source": str(batch["image_id"][row]),
    }
