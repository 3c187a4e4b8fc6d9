"""Controls of a dataset in plain colours: whose colours and objects they take, and with which labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets.rows import RowIndex
from raygen.datasets.table import DatasetInfo, write_source
from raygen.errors import DataError
from raygen.fits.candidate_rows import candidate_rows
from raygen.fits.extra_pictures import ExtraRows, extra_pictures
from raygen.fits.training_objects import classes_with_objects
from raygen.images import encode_image, encode_mask
from raygen.synthesis.controls import shuffled_labels

SIDE, GROWN_PX = 48, 4
# Objects of each class, and the ground of each attribute.
OBJECTS, GROUNDS = ((200, 0, 0), (0, 0, 200)), ((0, 200, 0), (120, 120, 120))
# Training images of each class on each ground: the rarest groups are (0, 1) and (1, 0).
COUNTS = {(0, 0): 6, (0, 1): 2, (1, 0): 1, (1, 1): 5}
BOX = np.s_[16:32, 12:28]


def mask_of(*, grown_px: int) -> np.ndarray:
    found_HW = np.zeros((SIDE, SIDE), dtype=bool)
    found_HW[16 - grown_px : 32 + grown_px, 12 - grown_px : 28 + grown_px] = True
    return found_HW


def make(folder: Path, *, has_masks: bool, mask_px: int = 0) -> RowIndex:
    rows = []
    for (label, attribute), count in COUNTS.items():
        image_HWC = np.full((SIDE, SIDE, 3), GROUNDS[attribute], dtype=np.uint8)
        image_HWC[BOX] = OBJECTS[label]
        rows += [
            {
                "image_id": f"{label}{attribute}-{i}",
                "image_png": encode_image(image_HWC),
                "label": label,
                "attribute": attribute,
                "split": "train",
                "role": "source",
                "object_png": encode_mask(mask_of(grown_px=mask_px)) if has_masks else None,
            }
            for i in range(count)
        ]
    folder.mkdir()
    write_source(iter(rows), DatasetInfo("plain", ("red", "blue"), ("green", "grey"), ("red", "blue")), folder)
    return RowIndex(folder)


def candidates(folder: Path) -> list[str]:
    """One of each image of the common groups, repainted as the other class; their pictures are white."""
    rows: list[dict[str, Any]] = [
        {
            "key": f"{label}{attribute}-{i}/{1 - label}",
            "image_id": f"{label}{attribute}-{i}",
            "source_label": label,
            "target_label": 1 - label,
            "generated_png": encode_image(np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)),
            "repaint_png": encode_mask(mask_of(grown_px=GROWN_PX)),
        }
        for label, attribute in ((0, 0), (1, 1))
        for i in range(COUNTS[label, attribute])
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-000000.parquet")
    return [row["key"] for row in rows]


def control(kind: Any, tmp_path: Path, *, has_masks: bool = True, grown_px: int | None = GROWN_PX) -> Any:
    """Pictures, labels and attributes of a control; the first six are of red sources, to be blue."""
    index, keys = make(tmp_path / "data", has_masks=has_masks), candidates(tmp_path / "candidates")
    extra = ExtraRows(kind, tuple(keys), str(tmp_path / "candidates"), "digest", grown_px)
    found = extra_pictures(extra, index, seed=0, size_px=SIDE)
    return found.pictures.read(found.row_M), found.label_M.tolist(), found.attribute_M.tolist()


TARGETS, ATTRIBUTES = [1] * 6 + [0] * 5, [0] * 6 + [1] * 5


def test_flat_has_the_colour_of_the_class_that_it_claims_to_be(tmp_path: Path) -> None:
    images, labels, attributes = control("flat", tmp_path)
    for image_HWC, target, ground in zip(images, TARGETS, ATTRIBUTES, strict=True):
        assert (image_HWC[mask_of(grown_px=GROWN_PX)] == OBJECTS[target]).all()
        assert (image_HWC[~mask_of(grown_px=GROWN_PX)] == GROUNDS[ground]).all()
    assert (labels, attributes) == (TARGETS, ATTRIBUTES)


@pytest.mark.parametrize(("has_masks", "grown_px"), [(True, GROWN_PX), (True, None), (False, GROWN_PX)])
def test_paste_has_a_real_object_of_that_class_and_nothing_of_the_old_one(
    tmp_path: Path, has_masks: bool, grown_px: int | None
) -> None:
    """By the dataset's masks, or by what the run's masker found; repainted or, as by scgs, not."""
    images, labels, attributes = control("paste", tmp_path, has_masks=has_masks, grown_px=grown_px)
    for image_HWC, target, ground in zip(images.astype(int), TARGETS, ATTRIBUTES, strict=True):
        # What the masker found is a little smaller in its corners once its growth is undone.
        inside = BOX if has_masks else np.s_[18:30, 14:26]
        assert np.abs(image_HWC[inside] - OBJECTS[target]).max() <= 1
        old_HW = np.abs(image_HWC - OBJECTS[1 - target]).max(axis=2) < 60
        assert not old_HW.any()
        outside_HW = ~mask_of(grown_px=GROWN_PX)
        assert (image_HWC[outside_HW] == GROUNDS[ground]).all()
        # The ground goes on up to the new object: the other object's own ground was not pasted with it.
        other_HW = np.abs(image_HWC - GROUNDS[1 - ground]).max(axis=2) < 60
        assert not other_HW.any()
    assert (labels, attributes) == (TARGETS, ATTRIBUTES)


def test_what_the_datasets_mask_leaves_of_the_outline_goes_with_the_object(tmp_path: Path) -> None:
    """Masks that end two pixels inside of the object, as where its outline is mixed with the ground."""
    index, keys = make(tmp_path / "data", has_masks=True, mask_px=-2), candidates(tmp_path / "candidates")
    extra = ExtraRows("paste", tuple(keys), str(tmp_path / "candidates"), "digest", None)
    found = extra_pictures(extra, index, seed=0, size_px=SIDE)
    for image_HWC, target in zip(found.pictures.read(found.row_M).astype(int), TARGETS, strict=True):
        across_WC = image_HWC[SIDE // 2]
        assert np.abs(across_WC - OBJECTS[1 - target]).max(axis=1).min() > 60
        assert np.abs(across_WC[14:26] - OBJECTS[target]).max() <= 1


def with_roles(folder: Path) -> list[str]:
    """Of each image of the common groups one without its object, and one whose ground alone is repainted."""
    white, grown_HW = encode_image(np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)), mask_of(grown_px=GROWN_PX)
    rows: list[dict[str, Any]] = [
        {
            "key": f"{label}{label}-{i}/{role}",
            "image_id": f"{label}{label}-{i}",
            "source_label": label,
            "target_label": label,
            "generated_png": white,
            "repaint_png": encode_mask(grown_HW if role == "counterfactual" else ~grown_HW),
            "role": role,
        }
        for role in ("counterfactual", "factual")
        for label in (0, 1)
        for i in range(COUNTS[label, label])
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-000000.parquet")
    return [row["key"] for row in rows]


@pytest.mark.parametrize("kind", ["flat", "paste"])
def test_a_picture_that_is_to_show_anything_but_its_class_has_another_ones_object(kind: Any, tmp_path: Path) -> None:
    """And a factual one its own class's: where the old object was, though all but it is what was repainted."""
    index, keys = make(tmp_path / "data", has_masks=True), with_roles(tmp_path / "candidates")
    extra = ExtraRows(kind, tuple(keys), str(tmp_path / "candidates"), "digest", GROWN_PX)
    found = extra_pictures(extra, index, seed=0, size_px=SIDE)
    images = found.pictures.read(found.row_M).astype(int)
    labels = [0] * 6 + [1] * 5
    assert found.label_M.tolist() == labels * 2
    for image_HWC, label in zip(images[:11], labels, strict=True):
        assert np.abs(image_HWC[BOX] - OBJECTS[1 - label]).max() <= 1
    for image_HWC, label in zip(images[11:], labels, strict=True):
        if kind == "flat":
            assert (image_HWC[~mask_of(grown_px=GROWN_PX)] == OBJECTS[label]).all()
            continue
        assert np.abs(image_HWC[BOX] - OBJECTS[label]).max() <= 1
        assert (image_HWC[~mask_of(grown_px=GROWN_PX)] == GROUNDS[label]).all()


def test_without_any_mask_there_is_nothing_to_paste(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no object of class 'blue' can be used for control_paste"):
        control("paste", tmp_path, has_masks=False, grown_px=None)
    index, every = RowIndex(tmp_path / "data"), candidate_rows(tmp_path / "candidates", "digest")
    assert classes_with_objects(index, every, grown_px=None, seed=0) == set()
    assert classes_with_objects(index, every, grown_px=GROWN_PX, seed=0) == {0, 1}


def test_shuffled_has_the_generated_pictures_with_labels_that_say_nothing(tmp_path: Path) -> None:
    images, labels, attributes = control("shuffled", tmp_path)
    assert (images == 255).all()
    assert labels == shuffled_labels(np.array(TARGETS), run_seed=0).tolist() != TARGETS
    assert attributes == ATTRIBUTES


def test_reweight_has_real_images_of_the_rarest_groups(tmp_path: Path) -> None:
    images, labels, attributes = control("reweight", tmp_path)
    assert labels == TARGETS
    # Six rows of blue on green, of which there is one image; five of red on grey, of which there are two.
    assert attributes == [0] * 6 + [1] * 5
    for image_HWC, label, ground in zip(images, labels, attributes, strict=True):
        assert (image_HWC[BOX] == OBJECTS[label]).all()
        assert (image_HWC[0] == GROUNDS[ground]).all()
