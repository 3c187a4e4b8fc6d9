"""Where exports go, and what an interrupted one leaves."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyarrow import fs
from s3_server import BUCKET, S3Server
from typer.testing import CliRunner

from raygen.cli import app
from raygen.errors import ConfigError, DataError, ResourceError
from raygen.exports.pictures import every_picture, kept_pictures
from raygen.exports.writing import PictureFormat, export_pictures
from raygen.storage.destinations import UNFINISHED

FORMATS: tuple[PictureFormat, ...] = ("parquet", "imagefolder", "webdataset", "hf")
# Of the run's two kept and four pruned pictures, one in a shard.
ONE_EACH = 1


@pytest.fixture
def url() -> Iterator[str]:
    """A folder of fsspec's store in memory."""
    url = f"memory://{uuid.uuid4().hex}/birds"
    yield url
    store, path = fsspec.core.url_to_fs(url)
    if store.exists(path):
        store.rm(path, recursive=True)


def contents(to: str) -> dict[str, bytes]:
    store, root = fsspec.core.url_to_fs(to)
    return {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}


def interrupted_after(num: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= num:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("format", FORMATS)
def test_a_url_gets_the_same_bytes_as_a_folder(run: Path, tmp_path: Path, url: str, format: PictureFormat) -> None:
    export_pictures(every_picture(run), to=url, format=format, shard_bytes=ONE_EACH)
    export_pictures(every_picture(run), to=str(tmp_path / "out"), format=format, shard_bytes=ONE_EACH)
    assert contents(url) == contents(str(tmp_path / "out"))
    assert UNFINISHED not in contents(url)


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_folder_is_not_there(run: Path, tmp_path: Path, format: PictureFormat) -> None:
    out, pictures = tmp_path / "out", every_picture(run)
    with pytest.raises(KeyboardInterrupt):
        export_pictures(pictures, to=str(out), format=format, progress=interrupted_after(3), shard_bytes=ONE_EACH)
    assert not out.exists()
    (begun,) = tmp_path.iterdir()
    stamps = {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.suffix in (".parquet", ".tar", ".png")}
    assert stamps
    export_pictures(pictures, to=str(out), format=format, shard_bytes=ONE_EACH)
    export_pictures(pictures, to=str(tmp_path / "whole"), format=format, shard_bytes=ONE_EACH)
    assert contents(str(out)) == contents(str(tmp_path / "whole"))
    for path, stamp in stamps.items():  # what was there is not written again
        assert (out / path.relative_to(begun / "files")).stat().st_mtime_ns == stamp
    assert not begun.exists()


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_url_says_so_and_is_gone_on_with(run: Path, url: str, format: PictureFormat) -> None:
    pictures = every_picture(run)
    with pytest.raises(KeyboardInterrupt):
        export_pictures(pictures, to=url, format=format, progress=interrupted_after(3), shard_bytes=ONE_EACH)
    left = contents(url)
    assert UNFINISHED in left
    assert "README.md" not in left
    with pytest.raises(DataError, match="unfinished export of other pictures"):
        export_pictures(kept_pictures(run), to=url, format=format, shard_bytes=ONE_EACH)
    export_pictures(pictures, to=url, format=format, shard_bytes=ONE_EACH)
    whole = f"{url}-whole"
    export_pictures(pictures, to=whole, format=format, shard_bytes=ONE_EACH)
    assert contents(url) == contents(whole)


def test_what_another_export_left_beside_a_folder_is_not_taken_over(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export_pictures(every_picture(run), to=out, format="hf", progress=interrupted_after(3), shard_bytes=ONE_EACH)
    export_pictures(kept_pictures(run), to=out, format="parquet")
    assert {*contents(out)} == {"README.md", "data/train-00000-of-00001.parquet"}


def test_a_folder_that_is_not_empty_is_refused(run: Path, tmp_path: Path, url: str) -> None:
    pictures = kept_pictures(run)
    (tmp_path / "full").mkdir()
    for name in "abcdefg":
        (tmp_path / "full" / name).touch()
    with pytest.raises(DataError, match=r"full is not empty: it holds a, b, c, d, e and 2 more\. Give a new"):
        export_pictures(pictures, to=str(tmp_path / "full"), format="hf")
    with pytest.raises(DataError, match="a is a file"):
        export_pictures(pictures, to=str(tmp_path / "full" / "a"), format="hf")
    assert len([*tmp_path.rglob("*")]) == 8
    export_pictures(pictures, to=url, format="hf")
    before = contents(url)
    with pytest.raises(DataError, match=r"is not empty: it holds README\.md"):
        export_pictures(pictures, to=url, format="hf")
    assert contents(url) == before


def test_an_empty_folder_is_taken(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_pictures(kept_pictures(run), to=str(tmp_path / "empty"), format="hf")
    assert (tmp_path / "empty" / "README.md").is_file()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    found = S3Server()
    found.filesystem().create_dir(BUCKET)
    yield found
    found.close()


@pytest.mark.parametrize("format", ["imagefolder", "hf"])
def test_a_bucket_gets_the_same_bytes_as_a_folder(
    run: Path, tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch, format: PictureFormat
) -> None:
    server.use(monkeypatch)
    pictures, to = every_picture(run), f"s3://{BUCKET}/exports/{format}"
    with pytest.raises(KeyboardInterrupt):
        export_pictures(pictures, to=to, format=format, progress=interrupted_after(3), shard_bytes=ONE_EACH)
    assert UNFINISHED in _in_bucket(server, to)
    for address in (to, str(tmp_path / "out")):
        export_pictures(pictures, to=address, format=format, shard_bytes=ONE_EACH)
    assert _in_bucket(server, to) == contents(str(tmp_path / "out"))
    with pytest.raises(DataError, match="is not empty"):
        export_pictures(pictures, to=to, format=format)


def _in_bucket(server: S3Server, to: str) -> dict[str, bytes]:
    """Objects, whatever is one: also those of no bytes that stand for folders."""
    there, root = server.filesystem(), to.removeprefix("s3://")
    found = there.get_file_info(fs.FileSelector(root, recursive=True))
    return {
        info.path.removeprefix(f"{root}/"): there.open_input_stream(info.path).read()
        for info in found
        if info.type == fs.FileType.File
    }


def test_without_credentials_it_is_said_where_they_are_looked_for(
    run: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.use(monkeypatch, credentials=False)
    with pytest.raises(ResourceError, match=r"cannot be read and written .*AWS_ACCESS_KEY_ID"):
        export_pictures(kept_pictures(run), to=f"s3://{BUCKET}/elsewhere", format="hf")


def test_a_url_that_cannot_be_written_to_is_named(run: Path) -> None:
    with pytest.raises(DataError, match=r"nothing:// addresses cannot be reached here"):
        export_pictures(kept_pictures(run), to="nothing://bucket/birds", format="hf")
    with pytest.raises(ResourceError, match=r"https://127\.0\.0\.1:9/birds cannot be read and written"):
        export_pictures(kept_pictures(run), to="https://127.0.0.1:9/birds", format="hf")


def test_a_password_in_a_url_is_refused_and_not_repeated(run: Path) -> None:
    with pytest.raises(DataError, match="was given with a name or key before '@'") as caught:
        export_pictures(kept_pictures(run), to="s3://key:secret@bucket/birds", format="hf")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "zip"], "--format is zip; pictures can be exported as parquet, imagefolder, webdataset, hf"),
        (["--format", "safetensors"], "name one with --classifier"),
        (["--format", "parquet", "--classifier", "dbb"], "leave --classifier out"),
        (["--format", "hf", "--classifier", "dbb", "--all"], "--all is of pictures"),
    ],
)
def test_command_refuses_what_does_not_go_together(run: Path, tmp_path: Path, words: list[str], says: str) -> None:
    result: Any = CliRunner().invoke(app, ["export", str(run), "--to", str(tmp_path / "out"), *words])
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_command_says_what_is_where(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["export", str(run), "--format", "parquet", "--to", out, "--all"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [f"{out}: 2 train, 4 pruned (parquet); README.md says what they are"]
