"""An export as folders of classes, as torchvision's ImageFolder reads them, masks and metadata beside."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.exports.pictures import METADATA, Pictures, read_pictures
from raygen.storage.destinations import Destination

# Files that are written at once: a store behind a URL answers many at a time.
WRITERS = 8
# Rows of metadata that are plain Python at once.
ROWS = 1024
FOLDER_METADATA = pa.schema(
    [
        # What `datasets` finds a row's picture by: relative to the file that the row stands in.
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("mask", pa.string(), nullable=False),  # relative to the export's folder
        *METADATA,
    ]
)
# What no file system takes in a name, or some do not.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def write_folders(pictures: Pictures, destination: Destination, done: Callable[[int], None]) -> None:
    """SPLIT/CLASS/NAME.png, masks/SPLIT/CLASS/NAME.png and SPLIT/metadata.parquet.

    Args:
        pictures: What is exported.
        destination: Where to; what it has already is not written again.
        done: Called with how many more pictures are there.
    """
    folders = folder_names(pictures.info.class_names)
    with ThreadPoolExecutor(WRITERS) as pool:
        for split, table in pictures.by_split.items():
            for read in read_pictures(pictures.run, table):
                wanted: dict[str, bytes] = {}
                for row in read.to_pylist():
                    place = f"{split}/{folders[row['label']]}/{row['name']}.png"
                    wanted |= {place: row["image_png"]}
                    if row["mask_png"] is not None:
                        wanted |= {f"masks/{place}": row["mask_png"]}
                missing = [name for name in wanted if name not in destination.present]
                list(pool.map(destination.write, missing, [wanted[name] for name in missing]))
                done(read.num_rows)
    for split, table in pictures.by_split.items():
        with destination.file(f"{split}/metadata.parquet") as path:
            _write_metadata(path, table, split, folders)


def folder_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes as every file system takes them, each once and none of them hidden."""
    names: list[str] = []
    for label, class_name in enumerate(class_names):
        name = _UNSAFE.sub("_", class_name).strip(" .")
        if not name or name.casefold() in {other.casefold() for other in names}:
            name = f"{name}_{label}".lstrip("_")
        names.append(name)
    return tuple(names)


def _write_metadata(path: Path, table: pa.Table, split: str, folders: tuple[str, ...]) -> None:
    # Parquet, not CSV or JSON: a column that is null throughout one split keeps its type, which `datasets` asks for.
    with pq.ParquetWriter(path, FOLDER_METADATA, compression="zstd") as writer:
        for batch in table.drop_columns(["part", "row"]).to_batches(max_chunksize=ROWS):
            labels, names = batch["label"].to_pylist(), batch["name"].to_pylist()
            places = [f"{folders[label]}/{name}.png" for label, name in zip(labels, names, strict=True)]
            masks = [f"masks/{split}/{place}" for place in places]
            columns = [pa.array(places), pa.array(masks), *batch.columns]
            writer.write_batch(pa.record_batch(columns, schema=FOLDER_METADATA))
