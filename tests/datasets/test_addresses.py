"""Datasets behind URLs: the same rows as on disk, from an S3 on this machine and from a web server."""

import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from class_folders import PICTURE, make
from s3_server import BUCKET, S3Server

from raygen import recipes
from raygen.datasets import listed_config, open_dataset, open_listed
from raygen.datasets.addresses import place_of
from raygen.datasets.check import check_dataset
from raygen.datasets.convert import convert_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.references import read_references
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError
from raygen.storage.parts import read_parts
from raygen.storage.progress import quiet


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    found = S3Server()
    yield found
    found.close()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    server.use(monkeypatch)
    server.requests.clear()
    server.num_throttled = 0
    return server


def table(root: Path, scenes_folder: Path) -> Path:
    """An eighth of the scenes as files with a metadata.csv, object masks and a pair."""
    index, lines = RowIndex(scenes_folder), ["path,label,attribute,split,mask_filename"]
    columns = ["image_png", "object_png", "label", "attribute", "split"]
    ids = index.table["image_id"].to_pylist()[::8]
    for number, row in enumerate(index.fetch(ids, columns).to_pylist()):
        names = [f"{kind}/ä {number:03d}.png" for kind in ("image", "object")]
        for name, data in zip(names, (row["image_png"], row["object_png"]), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        lines.append(f"{names[0]},{row['label']},{row['attribute']},{row['split']},{names[1]}")
    (root / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    (root / "pairs.csv").write_text("img_filename,pair_filename\nimage/ä 000.png,image/ä 001.png\n", encoding="utf-8")
    return root


def rows_of(address: str | Path, out: Path) -> list[dict[str, Any]]:
    out.mkdir()
    open_dataset(FolderConfig(path=address)).write(out, run_seed=0)
    index = RowIndex(out)
    ids = index.table["image_id"].to_pylist()
    labels = index.table.drop_columns(["path"]).to_pylist()
    pixels = index.fetch(ids, ["image_png", "object_png"]).to_pylist()
    return [{**row, **pictures} for row, pictures in zip(labels, pixels, strict=True)]


@pytest.mark.parametrize("layout", ["folders", "table", "shards"])
def test_rows_of_a_bucket_are_those_of_the_disk(layout: str, s3: S3Server, scenes_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / f"tree-{layout}"
    if layout == "folders":
        make(root)
        (root / "train" / "cat" / "deep").mkdir()
        (root / "train" / "cat" / "deep" / "1 ü.PNG").write_bytes(PICTURE)
        (root / "train" / "cat" / "notes.txt").write_text("no picture")
    elif layout == "table":
        table(root, scenes_folder)
    else:
        root = scenes_folder
    url = s3.upload(root)
    here, there = open_folder(FolderConfig(path=root)), open_folder(FolderConfig(path=url))
    assert there.info == here.info
    assert there.counts() == here.counts()
    assert [line.replace(url, str(root)) for line in there.warnings] == here.warnings
    assert rows_of(url, tmp_path / "there") == rows_of(root, tmp_path / "here")
    if layout != "shards":
        paths = RowIndex(tmp_path / "there").table["path"].to_pylist()
        assert all(path.startswith(f"{url}/") for path in paths)
    pairs = [open_dataset(FolderConfig(path=path)).pairs(["image/ä 000"], [(0, 0)], run_seed=0) for path in (root, url)]
    assert pairs[0] == pairs[1]


def test_rows_of_a_file_system_of_fsspec_are_those_of_the_disk(scenes_folder: Path, tmp_path: Path) -> None:
    root = table(tmp_path / "kept", scenes_folder)
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/kept", recursive=True)
    assert rows_of("memory://kept", tmp_path / "there") == rows_of(root, tmp_path / "here")
    before = open_folder(FolderConfig(path="memory://kept")).digest()
    memory.pipe("/kept/image/ä 000.png", b"another")
    assert open_folder(FolderConfig(path="memory://kept")).digest() != before
    memory.rm("/kept", recursive=True)
    with pytest.raises(DataError, match="memory://kept does not exist, or holds no file"):
        open_folder(FolderConfig(path="memory://kept"))


def test_a_folder_is_listed_with_one_request_and_its_state_follows_its_files(s3: S3Server, tmp_path: Path) -> None:
    url = s3.upload(make(tmp_path / "state"))
    s3.requests.clear()
    digests = [open_folder(FolderConfig(path=url)).digest() for _ in range(2)]
    assert len(s3.requests) == 2
    assert digests[0] == digests[1]
    time.sleep(1.1)  # S3 tells times in seconds
    with s3.filesystem().open_output_stream(f"{BUCKET}/state/val/cat/0.png") as file:
        file.write(PICTURE[::-1])  # of the same size
    assert open_folder(FolderConfig(path=url)).digest() != digests[0]


def test_a_check_finds_the_same_and_names_what_vanished(s3: S3Server, scenes_folder: Path, tmp_path: Path) -> None:
    root = table(tmp_path / "checked", scenes_folder)
    (root / "image" / "ä 002.png").write_bytes(b"no picture")
    url, told = s3.upload(root), list[tuple[int, int]]()
    found, expected = check_dataset(url, progress=lambda done, total: told.append((done, total))), check_dataset(root)
    assert found.lines() == expected.lines()
    assert len(found.problems) == 1
    assert told[-1] == (len(open_folder(FolderConfig(path=url)).entries),) * 2
    listing = open_folder(FolderConfig(path=url))
    s3.filesystem().delete_file(f"{BUCKET}/checked/image/ä 004.png")
    s3.filesystem().delete_file(f"{BUCKET}/checked/object/ä 005.png")
    assert [row["object_png"] == b"" for row in listing.rows()].count(True) == 1
    assert listing.unread == {"image/ä 005": f"{url}/object/ä 005.png cannot be read: does not exist"}
    problems = check_dataset(url).problems
    assert [problem.split("metadata.csv, ")[1] for problem in problems[:2]] == [
        f"line 6: {url}/image/ä 004.png does not exist",
        f"line 7: {url}/object/ä 005.png does not exist",
    ]


def test_throttled_requests_are_sent_again(s3: S3Server, tmp_path: Path) -> None:
    root = make(tmp_path / "busy")
    url = s3.upload(root)
    s3.num_throttled = 3
    names = ("train/cat/0.png", "train/dog/0.png")
    assert read_references([f"{url}/{name}" for name in names]) == [(root / name).read_bytes() for name in names]
    assert s3.num_throttled <= 0


def test_without_credentials_it_is_said_where_they_come_from(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.upload(make(tmp_path / "closed"), bucket="closed")
    server.use(monkeypatch, credentials=False)
    with pytest.raises(DataError, match=rf"{url} cannot be read: .*credentials.*AWS_ACCESS_KEY_ID"):
        open_folder(FolderConfig(path=url))


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA123:secret@bucket/folder",
        "s3://bucket/folder?secret_key=abc",
        "https://host/folder?X-Amz-Signature=abc",
        "https://user@host/folder",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="Give the address alone") as caught:
        recipes.make_config({"recipe": "erm", "dataset": {"name": "folder", "path": url}}, [], where="test")
    assert not any(word in str(caught.value) for word in ("secret@", "abc", "AKIA123"))
    with pytest.raises(DataError, match="Give the address alone"):
        place_of(url)


def test_what_is_not_there_is_named(s3: S3Server, tmp_path: Path) -> None:
    s3.upload(make(tmp_path / "there"))
    for url, message in {
        f"s3://{BUCKET}/none": "does not exist, or holds no file",
        "s3://no-such-bucket/none": "no-such-bucket/none",
        "nonsense://bucket/none": "nonsense:// addresses cannot be read here",
    }.items():
        with pytest.raises(DataError, match=message):
            open_folder(FolderConfig(path=url))


SMALL = {
    "engine": "local",
    "classifier": {"width": 8},
    "erm": {"epochs": 1},
    "algorithm": {"epochs": 1},
}
# `erm` has no synthesis.
PAINTED = {
    "synthesis": {"k": 2, "prune": False, "mask": "box"},
    "inpainter": {"model": "tiny", "num_inference_steps": 2},
    "unit_rows": 16,
    "controls": [],
}


@pytest.mark.parametrize("recipe", ["erm", pytest.param("dbb", marks=pytest.mark.slow)])
def test_a_run_on_a_bucket_gives_the_bytes_of_one_on_disk(
    recipe: str, s3: S3Server, scenes_folder: Path, tmp_path: Path
) -> None:
    root = table(tmp_path / "run-tree", scenes_folder)
    url = s3.upload(root)
    for address, out in ((str(root), "here"), (url, "there")):
        data = {**SMALL, **(PAINTED if recipe == "dbb" else {}), "recipe": recipe}
        config = recipes.make_config({**data, "dataset": {"name": "folder", "path": address}}, [], where="test")
        recipes.run(config, tmp_path / out, fresh=False, command="raygen run", say=quiet)
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("scores", "candidates") if recipe == "dbb" else ():
        assert read_parts(there / name).equals(read_parts(here / name))
    weights = sorted(path.relative_to(here) for path in here.rglob("*.safetensors"))
    assert len(weights) == (1 if recipe == "erm" else 2)
    assert all((there / path).read_bytes() == (here / path).read_bytes() for path in weights)


def test_a_picture_that_vanishes_is_a_failed_row(
    s3: S3Server, scenes_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = s3.upload(table(tmp_path / "gone", scenes_folder))
    (tmp_path / "out").mkdir()
    open_dataset(FolderConfig(path=url)).write(tmp_path / "out", run_seed=0)
    index = RowIndex(tmp_path / "out")
    s3.filesystem().delete_file(f"{BUCKET}/gone/image/ä 000.png")
    with caplog.at_level(logging.WARNING):
        pictures = index.fetch(["image/ä 000", "image/ä 001"], ["image_png"])["image_png"].to_pylist()
    assert [data is None for data in pictures] == [True, False]
    assert f"1 of 2 pictures cannot be read; {url}/image/ä 000.png cannot be read: does not exist" in caplog.text


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of a folder."""
    (tmp_path / "site").mkdir()
    handler = partial(_Silent, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Silent(SimpleHTTPRequestHandler):
    busy = 1

    def do_GET(self) -> None:
        type(self).busy -= 1
        if type(self).busy >= 0:
            self.send_error(429)
            return
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("where", ["a table on disk", "a table beside the pictures"])
def test_a_table_lists_pictures_of_web_servers(where: str, web: str, tmp_path: Path) -> None:
    site, _Silent.busy = tmp_path / "site", 1
    (site / "0.png").write_bytes(PICTURE)
    splits = ("train", "train", "val", "val", "test")
    on_disk = where == "a table on disk"
    names = [f"{web}/{0 if i < 4 else 9}.png?n={i}" if on_disk else f"{0 if i < 4 else 9}.png" for i in range(5)]
    home = tmp_path / "list" if on_disk else site
    home.mkdir(exist_ok=True)
    if not on_disk:
        for i in range(4):
            names[i] = f"{i}.png"
            (site / names[i]).write_bytes(PICTURE)
    lines = [f"{name},{i % 2},{split}" for i, (name, split) in enumerate(zip(names, splits, strict=True))]
    (home / "metadata.csv").write_text("\n".join(["path,label,split", *lines]), encoding="utf-8")
    address = str(home) if on_disk else web
    listing = open_folder(FolderConfig(path=address))
    problems = listing.problems
    if on_disk:  # the suffix is behind the parameters
        assert len(problems) == 0
    findings = check_dataset(address)
    assert [problem.split("cannot be read: ")[1] for problem in findings.problems] == ["does not exist"]
    rows = rows_of(address, tmp_path / "rows")
    assert [row["image_png"] for row in rows].count(PICTURE) == 4


def test_a_local_folder_need_not_be_copied(
    scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = table(tmp_path / "large", scenes_folder)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    open_dataset(FolderConfig(path="large", inline=False)).write(tmp_path / "out", run_seed=0)
    index = RowIndex(tmp_path / "out")
    assert index.table["path"][0].as_py() == str(root / "image" / "ä 000.png")
    (picture,) = index.fetch(["image/ä 000"], ["image_png"])["image_png"].to_pylist()
    assert picture == (root / "image" / "ä 000.png").read_bytes()
    with pytest.raises(DataError, match="does not exist"):
        open_folder(FolderConfig(path="larger", inline=False))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_in_a_bucket_is_the_one_on_disk(s3: S3Server, scenes_folder: Path, tmp_path: Path, suffix: str) -> None:
    """Also where its pictures are elsewhere, and when it is brought into shards."""
    root = table(tmp_path / f"table{suffix[1:]}", scenes_folder)
    (root / "metadata.csv").rename(root / "birds.csv")
    if suffix == ".parquet":
        pd.read_csv(root / "birds.csv").to_parquet(root / "birds.parquet")
    url = s3.upload(root)
    listings = [open_listed(listed_config(f"{place}/birds{suffix}")).listing for place in (root, url)]
    local, remote = [[(e.image_id, e.label, e.attribute, e.split) for e in listing.entries] for listing in listings]
    assert remote == local
    elsewhere = tmp_path / f"birds{suffix}"
    elsewhere.write_bytes((root / f"birds{suffix}").read_bytes())
    assert len(open_listed(listed_config(str(elsewhere), [f"root={url}"])).listing.entries) == len(local)
    for listing, out in zip(listings, ("local", "remote"), strict=True):
        convert_dataset(listing, to=str(tmp_path / out), format="parquet")
    read = [(tmp_path / out / "part-00000.parquet").read_bytes() for out in ("local", "remote")]
    assert read[0] == read[1]
