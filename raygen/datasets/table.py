"""Writing a dataset: SOURCE rows as Parquet shards, and `dataset.json` with the names.

Shards are sorted by image_id and cut into small row groups, so that any set of rows can be read without the rest. They
are written a row group at a time, so that no more pictures than those of one are in memory.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.errors import DataError
from raygen.schema import ARRAY_BYTES, SOURCE, by_bytes, cast
from raygen.storage.writing import atomic, write_json

ROWS_PER_SHARD = 2048
# 32 rows: about a unit of the synthesis, so that a unit touches one or two row groups.
ROWS_PER_GROUP = 32
# Of one file: a page of Parquet ends at 2 GiB, and a picture is never cut.
MAX_FILE_BYTES = (2 << 30) - (1 << 20)
PICTURES = ("image_png", "object_png")
INFO_FILE = "dataset.json"
# What counts classes off, and WordNet's numbers, by which ImageNet's folders are called.
_NUMBER = re.compile(r"(?:class|label|n)?[ _-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Names of a dataset.

    Attributes:
        name: The dataset's name, for reports.
        class_names: One per label.
        attribute_names: One per attribute value; empty when no row has an attribute.
        prompts: What to ask the inpainter for, one per label.
        object_words: What to call the pictured object when it is looked for, one per label; by default the class names.
    """

    name: str
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    prompts: tuple[str, ...]
    object_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.object_words:
            object.__setattr__(self, "object_words", self.class_names)

    @property
    def has_numbered_classes(self) -> bool:
        """Whether the classes have numbers only ("class 0", "0", "n01440764"), which no model makes anything of."""
        return bool(self.class_names) and all(_NUMBER.fullmatch(name.strip().casefold()) for name in self.class_names)


def numbered(noun: str, count: int, *, first: int = 0) -> tuple[str, ...]:
    """Names of the values 0, 1, ... where nothing gives better ones, with the numbers that they are counted by."""
    return tuple(f"{noun} {first + i}" for i in range(count))


def write_source(
    rows: Iterable[Mapping[str, Any]],
    info: DatasetInfo,
    folder: Path,
    *,
    array_bytes: int = ARRAY_BYTES,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> dict[str, int]:
    """Writes rows, already sorted by image_id, as `part-*.parquet`, then `dataset.json`.

    Args:
        rows: Plain SOURCE rows; absent nullable fields become null.
        info: Names; labels and attributes are checked against them.
        folder: An existing folder.
        array_bytes: Pictures of a row group have at most so many, but for a picture that has more by itself.
        max_file_bytes: Most that a picture and its mask may have.

    Returns:
        Rows per split.

    Raises:
        DataError: Unsorted or repeated ids, a label or attribute outside the names, an unknown split, a picture of more
            than `max_file_bytes`, no row at all.
    """
    counts: dict[str, int] = {}

    def checked() -> Iterator[Mapping[str, Any]]:
        last = None
        for row in rows:
            check_row(row, info, last, max_file_bytes=max_file_bytes)
            last = str(row["image_id"])
            counts[row["split"]] = counts.get(row["split"], 0) + 1
            yield row

    waiting = checked()
    for number, first in enumerate(waiting):  # each turn takes the rows of one shard
        shard = itertools.chain([first], itertools.islice(waiting, ROWS_PER_SHARD - 1))
        write_shard(shard, folder / shard_name(number), array_bytes=array_bytes)
    if not counts:
        raise DataError(f"{info.name}: no image at all")
    write_json(folder / INFO_FILE, asdict(info))
    return counts


def read_info(folder: Path) -> DatasetInfo:
    """Names of a dataset written by `write_source`.

    Raises:
        DataError: `dataset.json` is absent or damaged.
    """
    path = folder / INFO_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {INFO_FILE}: not a dataset folder written by `raygen data make`") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return info_of(data, str(path))


def info_of(content: bytes, path: str) -> DatasetInfo:
    """Names of a dataset by the content of its `dataset.json`.

    Args:
        content: Of the file.
        path: Its address, for messages.

    Raises:
        DataError: It is damaged.
    """
    try:
        data = json.loads(content.decode("utf-8"))
        names = {key: _words(data[key]) for key in ("class_names", "attribute_names", "prompts")}
        (name,) = _words([str(data["name"])])
        return DatasetInfo(name=name, **names, object_words=_words(data.get("object_words", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); make the dataset again with `raygen data make`") from error


def check_prompts(prompts: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Prompts, one per class; "a photo of a <class name>" where none are given.

    Raises:
        DataError: Another number of prompts than of classes.
    """
    if not prompts:
        return tuple(f"a photo of a {name}" for name in class_names)
    if len(prompts) != len(class_names):
        raise DataError(
            f"{len(prompts)} prompts for {len(class_names)} classes ({', '.join(class_names)}); give one each"
        )
    return tuple(prompts)


def _words(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{names!r} is no list of words")
    "".join(names).encode("utf-8")  # JSON can hold half a letter, which no file that is written from it can
    return tuple(names)


def check_row(
    row: Mapping[str, Any], info: DatasetInfo, last: str | None, *, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Checks a row before it is written after the one called `last`; see `write_source`."""
    image_id, label, attribute = row["image_id"], row["label"], row.get("attribute")
    if last is not None and image_id <= last:
        kind = "occurs twice" if image_id == last else f"comes after '{last}'"
        raise DataError(f"image_id '{image_id}' {kind}; ids must be unique and sorted")
    if not 0 <= label < len(info.class_names):
        raise DataError(
            f"image '{image_id}' has label {label}; expected 0..{len(info.class_names) - 1} "
            f"({', '.join(info.class_names)})"
        )
    if attribute is not None and not 0 <= attribute < len(info.attribute_names):
        raise DataError(f"image '{image_id}' has attribute {attribute}; expected 0..{len(info.attribute_names) - 1}")
    if (num_bytes := picture_bytes(row)) > max_file_bytes:
        raise DataError(
            f"image '{image_id}': picture and mask have {num_bytes:,} bytes; at most {max_file_bytes:,} can be kept. "
            "Make the picture smaller, or take it out"
        )


def picture_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of a row's picture and object mask."""
    return sum(len(row.get(name) or b"") for name in PICTURES)


def shard_name(number: int) -> str:
    """File of a shard in a dataset's folder."""
    return f"part-{number:05d}.parquet"


def write_shard(rows: Iterable[Mapping[str, Any]], path: Path, *, array_bytes: int = ARRAY_BYTES) -> None:
    """Writes the rows of one shard; see `write_source`."""
    groups = by_bytes(rows, picture_bytes, most=ROWS_PER_GROUP, most_bytes=array_bytes)
    # Pictures are compressed already; dictionaries would hold whole pictures.
    with (
        atomic(path) as temporary,
        pq.ParquetWriter(temporary, SOURCE, compression="none", use_dictionary=False) as writer,
    ):
        for group in groups:
            columns = {field.name: [row.get(field.name) for row in group] for field in SOURCE}
            writer.write_table(cast(pa.table(columns), SOURCE, what=str(path)))
