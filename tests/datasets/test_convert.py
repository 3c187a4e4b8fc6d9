"""Datasets in shards: what other programs read, and what an interrupted conversion leaves."""

import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset
from PIL import Image
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets import listed_config, open_listed
from raygen.datasets.check import check_dataset
from raygen.datasets.convert import Format, convert_dataset
from raygen.datasets.entries import Listing
from raygen.errors import ConfigError, DataError
from raygen.images import decode_image, encode_image, encode_mask

SPLITS = ("train", "val", "test")
MASK = np.eye(9, 7, dtype=bool)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 pictures of many kinds in a table: two labels, three splits."""
    folder = tmp_path / "birds.v1"
    folder.mkdir()
    for i in range(12):
        image = Image.fromarray(picture(i))
        exif = Image.Exif()
        exif[0x0112] = 6
        kinds: dict[int, dict[str, Any]] = {
            1: {"format": "PNG", "exif": exif},
            2: {"format": "JPEG"},
            3: {"format": "WEBP", "lossless": True},
            5: {"format": "GIF"},
        }
        image = image.convert("CMYK") if i == 4 else image
        image = image.convert("RGBA") if i == 6 else image
        if i == 6:
            image.putalpha(Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8)))
        kind = kinds.get(i, {"format": "TIFF" if i == 4 else "PNG"})
        image.save(folder / f"bird.{i}.x", **kind)
    (folder / "mask.png").write_bytes(encode_mask(MASK))
    lines = [f"bird.{i}.x,{'ab'[i % 2]},{SPLITS[i % 3]},{'mask.png' if i == 0 else ''}" for i in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["path,label,split,mask", *lines]))
    return folder


def listing(root: Path) -> Listing:
    return open_listed(listed_config(str(root))).listing


def contents(to: str) -> dict[str, bytes]:
    fs, folder = fsspec.core.url_to_fs(to)
    return {name.removeprefix(f"{folder}/"): fs.cat_file(name) for name in fs.find(folder)}


def test_parquet_is_the_dataset(root: Path, tmp_path: Path) -> None:
    done = convert_dataset(listing(root), to=str(tmp_path / "out"), format="parquet", rows_per_shard=5)
    assert done.rows == {"train": 4, "val": 4, "test": 4}
    assert sorted(contents(str(tmp_path / "out"))) == ["dataset.json", *(f"part-0000{i}.parquet" for i in range(3))]
    before, after = listing(root), listing(tmp_path / "out")
    assert after.info == before.info
    for left, right in zip(before.rows(), after.rows(), strict=True):
        assert {**left, "path": None} == right
    again = convert_dataset(after, to=str(tmp_path / "again"), format="parquet", rows_per_shard=5)
    assert again.rows == done.rows
    assert contents(str(tmp_path / "again")) == contents(str(tmp_path / "out"))


@pytest.mark.parametrize("source", ["table", "shards"])
def test_tars_are_read_by_webdataset(root: Path, tmp_path: Path, source: str) -> None:
    found, to = listing(root), tmp_path / "tars"
    if source == "shards":
        convert_dataset(found, to=str(tmp_path / "rows"), format="parquet", rows_per_shard=5)
        found = listing(tmp_path / "rows")
    convert_dataset(found, to=str(to), format="webdataset", rows_per_shard=3)
    seen: dict[str, Any] = {}
    keys = set()
    for split in SPLITS:
        shards = sorted(map(str, to.glob(f"{split}-*.tar")))
        assert len(shards) == 2
        for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"):
            image_HWC = sample.get("png") if "png" in sample else sample["jpg"]
            about = sample["json"]
            assert about["split"] == split
            assert about["label"] == sample["cls"]
            assert about["class_name"] == "ab"[sample["cls"]]
            seen[about["image_id"]] = (image_HWC, sample.get("mask.png"))
            keys.add(sample["__key__"].rpartition("/")[2])
    assert len(keys) == 12
    for row in listing(root).rows():
        image_HWC, mask_HWC = seen.pop(row["image_id"])
        # As raygen sees it: upright, over black, of its colours.
        np.testing.assert_array_equal(image_HWC, decode_image(row["image_png"]))
        assert (mask_HWC is not None) == (row["object_png"] is not None)
        if mask_HWC is not None:
            np.testing.assert_array_equal(mask_HWC[..., 0] > 0, MASK)
    assert seen == {}


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("source", ["table", "shards"])
def test_an_interrupted_conversion_goes_on(root: Path, tmp_path: Path, format: Format, source: str) -> None:
    found = listing(root)
    if source == "shards":
        convert_dataset(found, to=str(tmp_path / "rows"), format="parquet", rows_per_shard=5)
        found = listing(tmp_path / "rows")
    convert_dataset(found, to=str(tmp_path / "whole"), format=format, rows_per_shard=2)

    def stop(done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    url = f"memory://{tmp_path.name}/{format}-{source}"
    for to in (str(tmp_path / "out"), url):
        with pytest.raises(KeyboardInterrupt):
            convert_dataset(found, to=to, format=format, rows_per_shard=2, progress=stop)
        assert "dataset.json" not in contents(to)
        convert_dataset(found, to=to, format=format, rows_per_shard=2)
        assert contents(to) == contents(str(tmp_path / "whole"))


def test_shards_that_are_there_are_not_written_again(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(listing(root), to=str(out), format="parquet", rows_per_shard=6, progress=stop)
    (shard,) = tmp_path.glob(".out.unfinished/files/*.parquet")
    written = shard.stat().st_mtime_ns
    convert_dataset(listing(root), to=str(out), format="parquet", rows_per_shard=6)
    assert (out / shard.name).stat().st_mtime_ns == written


def test_a_picture_that_cannot_be_decoded_is_said(root: Path, tmp_path: Path) -> None:
    (root / "bird.7.x").write_bytes(encode_image(picture(7))[:40])
    arguments = ["data", "convert", str(root), "--out", str(tmp_path / "tars"), "--format", "webdataset"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 images are not there wholly: bird.7: left out: not a picture" in result.output
    assert check_dataset(root).problems[0].startswith("bird.7: ")


def test_what_is_in_the_way_or_wrong_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="is not empty: it holds x"):
        convert_dataset(listing(root), to=str(tmp_path / "full"), format="parquet")
    for arguments, error, message in (
        (["--out", str(tmp_path / "out"), "--format", "tfrecord"], ConfigError, "parquet, webdataset"),
        (["--out", str(tmp_path / "out"), "--set", "class_names=[x]"], DataError, "cannot be used|has 1 names"),
    ):
        result = CliRunner().invoke(app, ["data", "convert", str(root), *arguments])
        assert isinstance(result.exception, error)
        assert any(text in str(result.exception) for text in message.split("|"))
    assert not (tmp_path / "out").exists()


def test_pixels_of_plain_files_are_not_touched(root: Path, tmp_path: Path) -> None:
    convert_dataset(listing(root), to=str(tmp_path / "tars"), format="webdataset")
    tars = {split: tmp_path / "tars" / f"{split}-00000-of-00001.tar" for split in SPLITS}
    samples = (sample for tar in tars.values() for sample in webdataset.WebDataset(str(tar), shardshuffle=False))
    jpegs = [sample["jpg"] for sample in samples if "jpg" in sample]
    assert jpegs == [(root / "bird.2.x").read_bytes()]
    with Image.open(io.BytesIO(jpegs[0])) as image:
        assert image.format == "JPEG"
