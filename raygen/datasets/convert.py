"""A dataset in any layout -> shards: Parquet that raygen reads, or WebDataset for other programs.

Which rows are in which shard follows from the dataset alone, so an interrupted conversion goes on with the shards that
are missing, and two of the same dataset are equal to the byte.
"""

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image

import raygen
from raygen.config import fingerprint
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.references import with_files
from raygen.datasets.table import INFO_FILE, ROWS_PER_SHARD, DatasetInfo, check_row, shard_name, write_shard
from raygen.errors import RowError
from raygen.images import decode_image, decode_mask, encode_image, encode_mask
from raygen.images.picture_files import read_file
from raygen.schema import SPLITS
from raygen.storage.destinations import Destination, open_destination

Format = Literal["parquet", "webdataset"]
# What every reader of tars takes as it is, and its suffix there. Others are written as PNG, as raygen reads them.
_KEPT = {"PNG": "png", "JPEG": "jpg"}
_KEPT_MODES = {"RGB", "L"}


@dataclass
class Converted:
    """What a conversion wrote.

    Attributes:
        address: Where it is.
        rows: Images of each split.
        left_out: Why an image or its mask is not there, by image_id; of the shards that were written now.
    """

    address: str
    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def convert_dataset(
    listing: Listing,
    *,
    to: str,
    format: Format,
    progress: Callable[[int, int], Any] = lambda done, total: None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Converted:
    """Writes a dataset's shards; the same again goes on where it was interrupted.

    "parquet": `part-*.parquet` of SOURCE rows and `dataset.json`, as `raygen data make` writes them; pictures are the
    bytes of their files. "webdataset": `<split>-*.tar` with NAME.png or NAME.jpg, NAME.mask.png (255 = object),
    NAME.cls (the label) and NAME.json of each image, and `dataset.json`. There, what is no plain 8-bit PNG or JPEG that
    stands upright becomes a PNG, and what cannot be decoded is left out.

    Args:
        listing: The dataset; without problems.
        to: Path or URL of a new or empty folder.
        format: Which.
        progress: Called with how many images are done, and how many there are.
        rows_per_shard: Images of a shard.

    Raises:
        DataError: The folder is not empty, or rows of the dataset's own shards are not sorted.
        ResourceError: The folder cannot be reached or written to.
    """
    key = fingerprint([listing.digest(), format, rows_per_shard, raygen.__version__])
    destination = open_destination(to, key=key)
    result, total = Converted(destination.address), len(listing.entries)
    for shard in _shards(listing, format, rows_per_shard):
        rows = ({**row, "path": None} for row in with_files(shard.rows(), listing.unread))
        if shard.name not in destination.present:
            with destination.file(shard.name) as path:
                if format == "parquet":
                    write_shard(_checked(rows, listing.info), path)
                else:
                    _write_tar(path, rows, listing.info, first=shard.first, left_out=result.left_out)
        for entry in shard.entries:
            result.rows[entry.split] = result.rows.get(entry.split, 0) + 1
        progress(sum(result.rows.values()), total)
    result.left_out |= listing.unread if format == "parquet" else {}
    _finish(destination, listing.info)
    return result


def _finish(destination: Destination, info: DatasetInfo) -> None:
    text = json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n"
    destination.write(INFO_FILE, text.encode())
    destination.finish()


@dataclass(frozen=True)
class _Shard:
    name: str
    first: int
    entries: Sequence[Entry]
    rows: Callable[[], Iterator[dict[str, Any]]]


def _shards(listing: Listing, format: Format, size: int) -> Iterator[_Shard]:
    if format == "parquet":
        yield from _cut(listing, listing.entries, size, lambda number, _: shard_name(number))
        return
    for split in SPLITS:
        entries = [entry for entry in listing.entries if entry.split == split]
        name = f"{split}-{{:05d}}-of-{{:05d}}.tar"
        yield from _cut(listing, entries, size, name.format)


def _cut(listing: Listing, entries: Sequence[Entry], size: int, name: Callable[[int, int], str]) -> Iterator[_Shard]:
    total = math.ceil(len(entries) / size)
    # Rows of shards are read once from end to end; each shard that is written takes the next of them.
    stream = replace(listing, entries=list(entries)).rows() if listing.shards else None
    for number in range(total):
        part = list(entries[number * size : (number + 1) * size])
        if stream is None:
            yield _Shard(name(number, total), number * size, part, replace(listing, entries=part).rows)
        else:
            rows = islice(stream, len(part))
            yield _Shard(name(number, total), number * size, part, lambda rows=rows: rows)  # type: ignore[misc]
            for _ in rows:  # of a shard that is there already
                pass


def _checked(rows: Iterable[dict[str, Any]], info: DatasetInfo) -> Iterator[dict[str, Any]]:
    last = None
    for row in rows:
        check_row(row, info, last)
        last = row["image_id"]
        yield row


def _write_tar(
    path: Path, rows: Iterable[Mapping[str, Any]], info: DatasetInfo, *, first: int, left_out: dict[str, str]
) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows, start=first):
            # Counted, since ids have dots and slashes, at which readers of tars cut names.
            image_id, name = row["image_id"], f"{row['split']}-{number:08d}"
            try:
                picture, suffix = _plain_picture(row["image_png"] or b"")
            except RowError as error:
                left_out[image_id] = f"left out: {error}"
                continue
            _add(tar, f"{name}.{suffix}", picture)
            if row["object_png"] is not None:
                try:
                    _add(tar, f"{name}.mask.png", encode_mask(decode_mask(row["object_png"])))
                except RowError as error:
                    left_out[image_id] = f"without its mask: {error}"
            _add(tar, f"{name}.cls", str(row["label"]).encode())
            _add(tar, f"{name}.json", json.dumps(_about(row, info), ensure_ascii=False).encode())


def _about(row: Mapping[str, Any], info: DatasetInfo) -> dict[str, Any]:
    attribute = row["attribute"]
    return {
        "image_id": row["image_id"],
        "split": row["split"],
        "label": row["label"],
        "class_name": info.class_names[row["label"]],
        "attribute": attribute,
        "attribute_name": None if attribute is None else info.attribute_names[attribute],
    }


def _plain_picture(data: bytes) -> tuple[bytes, str]:
    """The picture's file and suffix, where every reader sees in it what raygen does; else a PNG of what raygen sees.

    Raises:
        RowError: It cannot be decoded.
    """
    image_HWC = decode_image(data)
    file = read_file(data)
    if file.kind in _KEPT and file.orientation == 1 and file.num_frames == 1:
        with Image.open(io.BytesIO(file.data)) as image:
            if image.mode in _KEPT_MODES and not image.has_transparency_data:
                return data, _KEPT[file.kind]
    return encode_image(image_HWC), "png"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Neither time nor owner: the same pictures are the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
