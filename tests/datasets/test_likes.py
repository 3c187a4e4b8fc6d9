"""`raygen data make NAME-like`: trees in the raw layouts, read by the loaders and taken by a run."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from published_trees import listed, masks
from typer.testing import CliRunner

from raygen.cli import app
from raygen.config import load_yaml
from raygen.datasets import folder_config
from raygen.datasets.check import check_dataset
from raygen.datasets.known import KNOWN
from raygen.datasets.published.like_tables import scene_seed
from raygen.datasets.published.likes import LIKES, make_like
from raygen.datasets.scene_rendering import render_scene
from raygen.errors import ConfigError, DataError
from raygen.images import decode_image, decode_mask
from raygen.recipes import make_config

# A tree's name, the loader's, and a scale at which it has a hundred pictures or so.
TREES = {
    "waterbirds-like": ("waterbirds", 0.008),
    "celeba-like": ("celeba", 0.001),
    "metashift-like": ("metashift", 0.2),
    "in9-like": ("imagenet9", 0.0005),
    "cct-like": ("cct20", 0.001),
    "chexpert-like": ("chexpert", 0.001),
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All trees, by the names of their loaders."""
    made = {}
    for name, (loader, scale) in TREES.items():
        made[loader] = tmp_path_factory.mktemp("trees") / name
        make_like(name, [f"scale={scale}", "size_px=16"], made[loader], seed=3)
    return made


def scaled(number: int, scale: float) -> int:
    return max(1, round(number * scale))


def test_every_tree_is_recognised_and_read_without_an_error(trees: dict[str, Path]) -> None:
    assert set(TREES) == set(LIKES)
    for loader, root in trees.items():
        assert folder_config(str(root)) == {"name": loader, "path": str(root)}
        findings = check_dataset(root)
        assert findings.problems == []
        assert any(f"read in the layout of {loader}" in line for line in findings.notes)
        assert any("published" in line and "filtered, sampled or unfinished copy" in line for line in findings.warnings)


@pytest.mark.parametrize("name", ["waterbirds-like", "celeba-like"])
def test_groups_have_the_published_sizes_times_the_scale(trees: dict[str, Path], name: str) -> None:
    loader, scale = TREES[name]
    expected = {
        (split, *group): scaled(number, scale)
        for split, groups in KNOWN[loader].items()
        for group, number in groups.items()
    }
    assert listed(loader, trees[loader]).counts() == expected


def test_segmentations_are_the_drawn_birds(trees: dict[str, Path]) -> None:
    root = trees["waterbirds"]
    for image_id, mask_HW in masks(listed("waterbirds", root)).items():
        assert mask_HW is not None
        written_HW = decode_mask((root / "segmentations" / f"{image_id}.png").read_bytes())
        np.testing.assert_array_equal(mask_HW, written_HW)
        assert 0 < mask_HW.mean() < 0.6


def test_boxes_hold_the_drawn_birds(trees: dict[str, Path]) -> None:
    """Boxes are those of the scenes, in the pixels of originals of 2048 x 1494, and masks all pixels they touch."""
    root = trees["cct20"]
    data = json.loads((root / "eccv_18_annotation_files" / "train_annotations.json").read_text())
    found = masks(listed("cct20", root))
    boxes = {row["image_id"]: row.get("bbox") for row in data["annotations"] if row["category_id"] != 30}
    assert len(boxes) > 5
    cameras = {image["id"]: image["location"] for image in data["images"]}
    kinds = {row["image_id"]: (row["category_id"], cameras[row["image_id"]]) for row in data["annotations"]}
    for image_id, box in boxes.items():
        mask_HW = found[image_id]
        assert (mask_HW is None) == (box is None)
        if box is not None:
            kind, camera = kinds[image_id]
            scene = render_scene(scene_seed(3, int(image_id[-6:])), label=kind % 3, attribute=camera % 3)
            ys, xs = np.nonzero(scene.object_HW)
            assert box[:2] == [xs.min() * 32, ys.min() * 1494 / 64]
            assert (box[0] + box[2], box[1] + box[3]) == pytest.approx(
                ((xs.max() + 1) * 32, (ys.max() + 1) * 1494 / 64)
            )
        if mask_HW is not None:
            left, top, width, height = (box[0] / 128, box[1] / 93.375, box[2] / 128, box[3] / 93.375)
            expected_HW = np.zeros((16, 16), dtype=bool)
            for y in range(16):
                for x in range(16):
                    touched = x + 1 > left and x < left + width and y + 1 > top and y < top + height
                    expected_HW[y, x] = touched
            np.testing.assert_array_equal(mask_HW, expected_HW)
    empty = {row["image_id"] for row in data["annotations"] if row["category_id"] == 30}
    assert empty
    assert not empty & set(found)


def test_masks_of_imagenet9_follow_from_its_two_pictures(trees: dict[str, Path]) -> None:
    root = trees["imagenet9"]
    found = masks(listed("imagenet9", root))
    for image_id in [name for name in found if name.startswith("train/")][:4]:
        image_HWC, without_HWC = (
            decode_image((root / f"{image_id.replace('original', kind)}.JPEG").read_bytes())
            for kind in ("original", "no_fg")
        )
        mask_HW = found[image_id]
        assert mask_HW is not None
        for y in range(16):
            for x in range(16):
                black = all(int(value) == 0 for value in without_HWC[y, x])
                other = all(int(a) != int(b) for a, b in zip(image_HWC[y, x], without_HWC[y, x], strict=True))
                assert mask_HW[y, x] == (black and other)
        assert mask_HW.any()


def test_celebas_two_forms_say_the_same(trees: dict[str, Path], tmp_path: Path) -> None:
    make_like("celeba-like", ["scale=0.001", "size_px=16", "annotations=csv"], tmp_path / "csv", seed=3)
    for label, attribute in (("Blond_Hair", "Male"), ("Eyeglasses", "Young")):
        rows = [
            [
                (e.image_id, e.label, e.attribute, e.split)
                for e in listed("celeba", root, label=label, attribute=attribute).entries
            ]
            for root in (trees["celeba"], tmp_path / "csv")
        ]
        assert rows[0] == rows[1]
    width, height = 16, 20
    picture = decode_image(next((tmp_path / "csv" / "img_align_celeba").iterdir()).read_bytes())
    assert picture.shape == (height, width, 3)


def test_chexperts_table_is_the_papers(trees: dict[str, Path]) -> None:
    path = trees["chexpert"] / "CheXpert-v1.0-small" / "train.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(next(csv.reader(path.open()))) == 19
    counts = Counter((line["Pneumothorax"] == "1.0", line["Support Devices"] == "1.0") for line in lines)
    assert counts[True, True] > counts[True, False]
    assert {cell for line in lines for cell in (line["Edema"], line["Fracture"])} == {"", "0.0", "1.0", "-1.0"}


def test_the_same_seed_gives_the_same_bytes_and_a_full_folder_is_refused(tmp_path: Path) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_like("metashift-like", ["scale=0.003", "size_px=16"], tmp_path / out, seed=seed)
    files = {
        out: {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*.jpg")}
        for out in "abc"
    }
    assert files["a"] == files["b"]
    assert files["a"].keys() == files["c"].keys()
    assert files["a"] != files["c"]
    with pytest.raises(DataError, match="not an empty folder"):
        make_like("metashift-like", [], tmp_path / "a", seed=1)
    with pytest.raises(ConfigError, match="scale"):
        make_like("metashift-like", ["scale=0"], tmp_path / "d", seed=1)


def test_the_command_makes_a_tree(tmp_path: Path) -> None:
    arguments = ["data", "make", "metashift-like", "--out", str(tmp_path / "out"), "--set", "scale=0.004"]
    result = CliRunner().invoke(app, [*arguments, "--set", "size_px=16"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "files, and their tables" in result.output
    assert folder_config(str(tmp_path / "out"))["name"] == "metashift"


EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = ["engine=local", "erm.epochs=1", "classifier.image_size_px=16", "fit.num_threads=1"]


@pytest.mark.parametrize(
    ("loader", "settings"),
    [
        ("celeba", ["dataset.label=Smiling", "dataset.attribute=Male"]),
        ("cct20", []),
        ("waterbirds", []),
        ("metashift", []),
        ("imagenet9", []),
        ("chexpert", []),
    ],
)
def test_a_run_takes_the_path(trees: dict[str, Path], tmp_path: Path, loader: str, settings: list[str]) -> None:
    arguments = ["run", "erm", "--dataset", str(trees[loader]), "--out", str(tmp_path / "run")]
    sets = [part for setting in [*RUN, *settings] for part in ("--set", setting)]
    result = CliRunner().invoke(app, [*arguments, *sets], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"read in the layout of {loader}" in result.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dataset"] == loader
    fields = dict(setting.removeprefix("dataset.").split("=") for setting in settings)
    expected = Counter(
        entry.label for entry in listed(loader, trees[loader], **fields).entries if entry.split == "test"
    )
    found: Counter[int] = Counter()
    for group in summary["results"]["erm"]["test"]["groups"]:
        found[group["label"]] += group["n"]
    assert found == expected


# Settings of the examples that are for real pictures and real networks.
SMALL = ["engine=local", "fit.num_threads=1", "erm.epochs=1", "classifier.architecture=small_resnet"]
SMALL += ["classifier.weights=null", "classifier.image_size_px=16"]


@pytest.mark.parametrize(
    ("example", "settings"),
    [
        ("celeba", ["algorithm.num_retrains=1", "dataset.label=Smiling"]),
        ("metashift", ["algorithm.epochs=2"]),
        ("imagenet9", ["algorithm.num_steps=2"]),
        ("cct20", ["algorithm.epochs=1", "algorithm.identification_epochs=1"]),
        ("chexpert", ["algorithm.num_retrains=1"]),
    ],
)
def test_the_examples_run(trees: dict[str, Path], tmp_path: Path, example: str, settings: list[str]) -> None:
    config = EXAMPLES / f"{example}.yaml"
    sets = [part for setting in [*SMALL, *settings, f"dataset.path={trees[example]}"] for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "run"), *sets])
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"read in the layout of {example}" in result.output


@pytest.mark.parametrize("example", ["waterbirds", "dominoes", "spawrious"])
def test_the_other_examples_are_configs(example: str) -> None:
    """Waterbirds' needs models of a hub; of the others no tree is drawn."""
    assert make_config(load_yaml(EXAMPLES / f"{example}.yaml"), [], where=example).dataset.name == example
