"""A run's pictures -> a folder that other libraries load, at a path or a URL."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import raygen
from raygen.config import fingerprint
from raygen.exports import shards as shard_files
from raygen.exports.card import dataset_card
from raygen.exports.folders import write_folders
from raygen.exports.pictures import Pictures, read_pictures
from raygen.exports.shards import SHARD_BYTES, ShardWriter, shards
from raygen.storage.destinations import open_destination

PictureFormat = Literal["parquet", "imagefolder", "webdataset", "hf"]
FAILED_FILE, CARD_FILE = "failed.jsonl", "README.md"


@dataclass(frozen=True, slots=True)
class _Shards:
    """A format of shards: how one is written, and its suffix."""

    write: ShardWriter
    suffix: str


_SHARDS: Mapping[str, _Shards] = {
    "parquet": _Shards(shard_files.write_parquet, "parquet"),
    "hf": _Shards(shard_files.write_hf, "parquet"),
    "webdataset": _Shards(shard_files.write_webdataset, "tar"),
}


def export_pictures(
    pictures: Pictures,
    *,
    to: str,
    format: PictureFormat,
    progress: Callable[[int, int], None] = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Writes pictures, what is known of each, and a dataset card; the same again goes on where it was interrupted.

    Args:
        pictures: What is exported.
        to: Path or URL of a new or empty folder.
        format: "parquet": plain columns. "hf": Parquet with Hugging Face's features. "webdataset": tars.
            "imagefolder": folders of classes.
        progress: Called with how many pictures are written, and how many there are.
        shard_bytes: What pictures and masks of a shard come to; of all formats but "imagefolder".

    Returns:
        Where it is.

    Raises:
        DataError: The folder is not empty.
        ResourceError: It cannot be reached or written to.
        RunFolderError: A part of the run is gone or damaged.
    """
    key = fingerprint([pictures.key, format, shard_bytes, raygen.__version__])
    destination = open_destination(to, key=key)
    total, done = pictures.num_exported, 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    progress(0, total)
    if format == "imagefolder":
        write_folders(pictures, destination, advance)
    else:
        kind = _SHARDS[format]
        for shard in shards(pictures, suffix=kind.suffix, shard_bytes=shard_bytes):
            if shard.name not in destination.present:
                with destination.file(shard.name) as path:
                    kind.write(path, read_pictures(pictures.run, shard.table), pictures)
            advance(shard.table.num_rows)
    if pictures.failed.num_rows:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in pictures.failed.to_pylist()]
        destination.write(FAILED_FILE, "".join(lines).encode())
    destination.write(CARD_FILE, dataset_card(pictures, format=format).encode())
    destination.finish()
    return destination.address
