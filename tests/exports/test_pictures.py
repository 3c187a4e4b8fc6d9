"""Exports of pictures, loaded with the libraries that they are for."""

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image
from report_runs import SCORES_OF_LANDBIRDS
from torchvision.datasets import ImageFolder

from raygen.errors import DataError, RunFolderError
from raygen.exports.folders import folder_names
from raygen.exports.pictures import METADATA, every_picture, kept_pictures, mean_bytes
from raygen.exports.writing import PictureFormat, export_pictures

# By its name at run time: for mypy the folder of tests beside this one is called so.
datasets: Any = importlib.import_module("datasets")

FORMATS: tuple[PictureFormat, ...] = ("parquet", "imagefolder", "webdataset", "hf")
VERDICTS = [verdict for *_, verdict in SCORES_OF_LANDBIRDS]
KEPT = [f"train/0/{i:03d}/1/0000" for i, verdict in enumerate(VERDICTS) if verdict == "kept"]
PRUNED = [f"train/0/{i:03d}/1/0000" for i, verdict in enumerate(VERDICTS) if verdict not in ("kept", "failed")]


def candidates(run: Path) -> dict[str, dict[str, Any]]:
    """What the run itself has, by key."""
    parts = sorted((run / "candidates").glob("part-*.parquet"))
    return {row["key"]: row for row in pa.concat_tables(map(pq.read_table, parts)).to_pylist()}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def load(folder: Path, cache: Path) -> Any:
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_hf_loads_with_datasets_as_pictures_and_class_labels(run: Path, tmp_path: Path) -> None:
    export_pictures(kept_pictures(run), to=str(tmp_path / "out"), format="hf")
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert [*loaded] == ["train"]
    found = loaded["train"]
    assert found["key"] == KEPT
    assert found.features["label"].names == ["landbird", "waterbird"]
    assert found.features["attribute"].names == ["land", "water"]
    assert {*found.column_names} == {*METADATA.names, "image", "mask"}
    for row in found:
        own = candidates(run)[row["key"]]
        np.testing.assert_array_equal(np.asarray(row["image"]), pixels(own["generated_png"]))
        np.testing.assert_array_equal(np.asarray(row["mask"]), pixels(own["repaint_png"]))
        names = ("label", "source_label", "attribute", "attribute_name", "source_image_id", "kept")
        assert [row[name] for name in names] == [1, 0, 0, "land", own["image_id"], True]


def test_parquet_loads_with_pandas(run: Path, tmp_path: Path) -> None:
    export_pictures(kept_pictures(run), to=str(tmp_path / "out"), format="parquet")
    frame = pd.read_parquet(tmp_path / "out" / "data")
    own = candidates(run)
    assert frame["key"].tolist() == KEPT
    assert frame["image_png"].tolist() == [own[key]["generated_png"] for key in KEPT]
    assert frame["mask_png"].tolist() == [own[key]["repaint_png"] for key in KEPT]
    for name in ("prompt", "seed", "source_probability", "attribution_inside", "model_id", "model_revision"):
        assert frame[name].tolist() == [own[key][name] for key in KEPT]


def test_webdataset_loads_with_webdataset(run: Path, tmp_path: Path) -> None:
    export_pictures(kept_pictures(run), to=str(tmp_path / "out"), format="webdataset")
    urls = [str(path) for path in sorted((tmp_path / "out" / "data").iterdir())]
    samples = [*webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")]
    assert [sample["json"]["key"] for sample in samples] == KEPT
    for sample in samples:
        own = candidates(run)[sample["json"]["key"]]
        np.testing.assert_array_equal(sample["png"], pixels(own["generated_png"]))
        np.testing.assert_array_equal(sample["mask.png"][..., 0], pixels(own["repaint_png"]))
        assert sample["cls"] == 1
        assert sample["json"]["source_image_id"] == own["image_id"]
    loaded = load(tmp_path / "out", tmp_path / "cache")["train"]
    assert [row["json"]["key"] for row in loaded] == KEPT


def test_imagefolder_loads_with_torchvision(run: Path, tmp_path: Path) -> None:
    export_pictures(kept_pictures(run), to=str(tmp_path / "out"), format="imagefolder")
    found = ImageFolder(str(tmp_path / "out" / "train"))
    assert found.classes == ["waterbird"]
    about = pd.read_parquet(tmp_path / "out" / "train" / "metadata.parquet")
    assert about["key"].tolist() == KEPT
    for (path, _), (image, _), row in zip(found.samples, found, about.to_dict("records"), strict=True):
        own = candidates(run)[str(row["key"])]
        assert path == str(tmp_path / "out" / "train" / str(row["file_name"]))
        np.testing.assert_array_equal(np.asarray(image), pixels(own["generated_png"]))
        assert (tmp_path / "out" / str(row["mask"])).read_bytes() == own["repaint_png"]
    loaded = load(tmp_path / "out", tmp_path / "cache")["train"]
    assert loaded["key"] == KEPT


@pytest.mark.parametrize("format", FORMATS)
def test_pruned_pictures_are_a_split_of_their_own_with_their_verdicts(
    run: Path, tmp_path: Path, format: PictureFormat
) -> None:
    export_pictures(every_picture(run), to=str(tmp_path / "out"), format=format)
    loaded = load(tmp_path / "out", tmp_path / "cache")
    rows = {split: [row.get("json", row) for row in loaded[split]] for split in loaded}
    assert {split: [row["key"] for row in found] for split, found in rows.items()} == {"train": KEPT, "pruned": PRUNED}
    verdicts = [verdict for verdict in VERDICTS if verdict not in ("kept", "failed")]
    assert [row["prune_reason"] for row in rows["pruned"]] == verdicts
    assert {row["prune_reason"] for row in rows["train"]} == {None}
    (failed,) = (json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines())
    assert failed["error"] == "the repaint mask is empty"


def test_pictures_of_anything_but_their_label_are_a_split_of_their_own(infill_run: Path, tmp_path: Path) -> None:
    """In a folder called after a class, a picture without that class would teach the opposite of what it shows."""
    export_pictures(kept_pictures(infill_run), to=str(tmp_path / "out"), format="hf")
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert {split: {*loaded[split]["role"]} for split in loaded} == {
        "train": {"factual"},
        "counterfactual": {"counterfactual"},
    }
    assert loaded["train"].num_rows + loaded["counterfactual"].num_rows == 6


@pytest.mark.parametrize("format", ["parquet", "hf", "webdataset"])
@pytest.mark.parametrize(("rows", "pruned", "train"), [(1, 4, 2), (3, 2, 1)])
def test_shards_hold_each_picture_once(
    run: Path, tmp_path: Path, format: PictureFormat, rows: int, pruned: int, train: int
) -> None:
    pictures = every_picture(run)
    shard_bytes = int(rows * mean_bytes(pictures)) + 1
    export_pictures(pictures, to=str(tmp_path / "out"), format=format, shard_bytes=shard_bytes)
    names = sorted(path.name.partition(".")[0] for path in (tmp_path / "out" / "data").iterdir())
    assert names == [
        *(f"pruned-{i:05d}-of-{pruned:05d}" for i in range(pruned)),
        *(f"train-{i:05d}-of-{train:05d}" for i in range(train)),
    ]
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert [row.get("json", row)["key"] for split in ("train", "pruned") for row in loaded[split]] == [*KEPT, *PRUNED]


@pytest.mark.parametrize("format", FORMATS)
def test_card_says_that_pictures_are_synthetic_and_where_from(run: Path, tmp_path: Path, format: PictureFormat) -> None:
    export_pictures(every_picture(run), to=str(tmp_path / "out"), format=format)
    _, header, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["license"] == "apache-2.0"
    assert "synthetic" in about["tags"]
    assert about["size_categories"] == ["n<1K"]
    for words in (
        "These pictures are synthetic",
        "Generated: 6; kept: 2; pruned: 4; failed, without a picture: 1",
        "| train | waterbird | land | 2 |",
        "| pruned | waterbird | land | 4 |",
        "| tiny | 1 | Apache-2.0 (ships with raygen) |",
        "6 x `a photo of a waterbird`",
        "arXiv 2503.17226",
    ):
        assert words in text


def test_card_does_not_call_others_pictures_free(own_run: Path, tmp_path: Path) -> None:
    config = own_run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("scenes", "celeba"), encoding="utf-8")
    info = json.loads((own_run / "data" / "dataset.json").read_text(encoding="utf-8"))
    (own_run / "data" / "dataset.json").write_text(json.dumps({**info, "name": "celeba"}), encoding="utf-8")
    export_pictures(kept_pictures(own_run), to=str(tmp_path / "out"), format="parquet")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "non-commercial research only" in text


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_pictures_are_the_same_bytes(run: Path, tmp_path: Path, format: PictureFormat) -> None:
    for name in ("one", "two"):
        export_pictures(kept_pictures(run), to=str(tmp_path / name), format=format)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("a/b", "a:b", ".", "CAT", "cat"), ("a_b", "a_b_1", "2", "CAT", "cat_4")),
        (("Goéland", "鳥", "a b"), ("Goéland", "鳥", "a b")),
    ],
)
def test_classes_become_folders_whatever_they_are_called(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert folder_names(names) == expected


def _without_manifest(run: Path) -> None:
    (run / "candidates" / "manifest.json").unlink()


def _without_thresholds(run: Path) -> None:
    (run / "fit" / "thresholds.json").unlink()


def _with_a_changed_part(run: Path) -> None:
    path = run / "candidates" / "part-00000.parquet"
    path.write_bytes(path.read_bytes() + b" ")


def _without_candidates(run: Path) -> None:
    for path in (run / "candidates").iterdir():
        path.unlink()


def _without_config(run: Path) -> None:
    (run / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without_manifest, "still generating"),
        (_without_thresholds, "has not judged its pictures yet"),
        (_with_a_changed_part, "has .* bytes, but .* says"),
        (_without_candidates, "no generated pictures to export"),
        (_without_config, "not a run's folder"),
    ],
)
def test_a_run_without_finished_pictures_is_refused(own_run: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(own_run)
    with pytest.raises(RunFolderError, match=says):
        kept_pictures(own_run)


def test_a_run_that_kept_nothing_is_refused_with_the_reasons(own_run: Path) -> None:
    nothing = {"source_probability_below": {"0": 0.0}, "attribution_above": {}}
    (own_run / "fit" / "thresholds.json").write_text(json.dumps(nothing), encoding="utf-8")
    with pytest.raises(DataError, match="none of 6 generated pictures"):
        kept_pictures(own_run)
    assert [*every_picture(own_run).by_split] == ["pruned"]
