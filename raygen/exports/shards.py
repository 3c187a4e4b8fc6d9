"""Shards of an export, each written as a whole: Parquet, Parquet with Hugging Face's features, WebDataset."""

import json
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.exports.pictures import METADATA, Pictures, mean_bytes
from raygen.schema import cast

# Of pictures and masks: what is on this machine's disk at once where the export goes elsewhere, and what a reader of
# one shard fetches. Assumption: between WebDataset's advice of 100 MB and more, and the hub's 500 MB.
SHARD_BYTES = 256 << 20

# Writes pictures, as `read_pictures` gives them, to a file.
ShardWriter = Callable[[Path, Iterable[pa.Table], Pictures], None]

PARQUET = pa.schema([*METADATA, pa.field("image_png", pa.binary(), nullable=False), pa.field("mask_png", pa.binary())])
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
# What `datasets` calls Arrow's types.
_DTYPES = {pa.string(): "string", pa.bool_(): "bool", pa.int32(): "int32", pa.int64(): "int64", pa.float32(): "float32"}


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a split.

    Attributes:
        name: Path in the export, such as "data/train-00000-of-00003.parquet".
        table: Its rows; see `Pictures.by_split`.
    """

    name: str
    table: pa.Table


def shards(pictures: Pictures, *, suffix: str, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """All shards of an export; which rows are in which depends on nothing but the pictures.

    Args:
        pictures: What is exported.
        suffix: Of the files, without a dot.
        shard_bytes: What pictures and masks of a shard come to, on average.
    """
    rows = max(1, int(shard_bytes / max(1.0, mean_bytes(pictures))))
    found = []
    for split, table in pictures.by_split.items():
        total = math.ceil(table.num_rows / rows)
        for number in range(total):
            name = f"data/{split}-{number:05d}-of-{total:05d}.{suffix}"
            found.append(Shard(name, table.slice(number * rows, rows)))
    return found


def write_parquet(path: Path, pictures: Iterable[pa.Table], _: Pictures) -> None:
    """Plain columns: METADATA, `image_png` and `mask_png`."""
    _write(path, (cast(table, PARQUET, what=path.name) for table in pictures), PARQUET)


def write_hf(path: Path, pictures: Iterable[pa.Table], about: Pictures) -> None:
    """METADATA with `image` and `mask` as Hugging Face's Image, and `label` as its ClassLabel."""
    schema = hf_schema(about)

    def rows() -> Iterator[pa.Table]:
        for table in pictures:
            plain = cast(table, PARQUET, what=path.name).combine_chunks()
            name = plain["name"].to_pylist()
            columns = [plain[field.name] for field in METADATA]
            for column, suffix in (("image_png", ".png"), ("mask_png", ".mask.png")):
                for_file = pa.array([f"{stem}{suffix}" for stem in name])
                columns.append(_structs(plain[column], for_file))
            yield pa.table(columns, schema=schema)

    _write(path, rows(), schema)


def hf_schema(about: Pictures) -> pa.Schema:
    """Columns of the format hf, with the features that `datasets` reads from a Parquet file's own metadata."""
    names = {"label": about.info.class_names, "source_label": about.info.class_names}
    if about.info.attribute_names:
        names["attribute"] = about.info.attribute_names
    features: dict[str, Any] = {
        field.name: {"names": list(names[field.name]), "_type": "ClassLabel"}
        if field.name in names
        else {"dtype": _DTYPES[field.type], "_type": "Value"}
        for field in METADATA
    }
    features |= {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    # `datasets` keeps a ClassLabel as int64, and passes over the features of a column that may not be null.
    types = [pa.int64() if field.name in names else field.type for field in METADATA]
    fields = [pa.field(field.name, kind) for field, kind in zip(METADATA, types, strict=True)]
    schema = pa.schema([*fields, pa.field("image", _IMAGE), pa.field("mask", _IMAGE)])
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_webdataset(path: Path, pictures: Iterable[pa.Table], _: Pictures) -> None:
    """A tar with NAME.png, NAME.mask.png, NAME.cls and NAME.json of each picture, one after the other."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for table in pictures:
            for row in table.to_pylist():
                image, mask = row.pop("image_png"), row.pop("mask_png")
                _add(tar, f"{row['name']}.png", image)
                if mask is not None:
                    _add(tar, f"{row['name']}.mask.png", mask)
                _add(tar, f"{row['name']}.cls", str(row["label"]).encode())
                _add(tar, f"{row['name']}.json", json.dumps(row, ensure_ascii=False).encode())


def _write(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    # Pictures are compressed already; dictionaries would hold whole pictures.
    codecs = {name: "none" if name in ("image_png", "mask_png") else "zstd" for name in schema.names}
    codecs |= {f"{name}.{part}": "none" for name in ("image", "mask") if name in codecs for part in ("bytes", "path")}
    with pq.ParquetWriter(path, schema, compression=codecs, use_dictionary=False) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _structs(bytes_N: pa.ChunkedArray, names_N: pa.Array) -> pa.ChunkedArray:
    """Hugging Face's pictures; null where there are no bytes."""
    arrays, at = [], 0
    for chunk in bytes_N.chunks:
        names = names_N.slice(at, len(chunk))
        arrays.append(pa.StructArray.from_arrays([chunk, names], fields=[*_IMAGE], mask=chunk.is_null()))
        at += len(chunk)
    return pa.chunked_array(arrays, _IMAGE)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Neither time nor owner: the same pictures are the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, BytesIO(data))
