"""A folder of SOURCE shards: `dataset.json` and `part-*.parquet`, as `raygen data make` writes them."""

from fnmatch import fnmatchcase

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import printable
from raygen.datasets.known import Names
from raygen.datasets.names import check_names, check_not_swapped, shown
from raygen.datasets.places import Place
from raygen.datasets.references import open_reference
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts, info_of
from raygen.errors import DataError
from raygen.schema import SOURCE, cast

LABELS = pa.schema([SOURCE.field(name) for name in ("image_id", "label", "attribute", "split", "role")])


def list_shards(place: Place, given: Names) -> Listing:
    """Lists the rows of a folder's shards.

    Raises:
        DataError: No row, a damaged shard, or names that do not fit.
    """
    path = place.address
    try:
        shipped = info_of(place.read(INFO_FILE), place.shown(INFO_FILE))
    except OSError as error:
        raise DataError(f"{place.shown(INFO_FILE)} cannot be read: {error.strerror}") from error
    for field, names in (("class_names", shipped.class_names), ("attribute_names", shipped.attribute_names)):
        what, new = f"dataset.{field}", getattr(given, field)
        check_names(new, what=what, expected=len(names), of=f"{path}, which has {shown(names) or 'none'}")
        check_not_swapped(new, names, of=f"the names in {path}", what=what)
        check_names(names, what=f"{place.shown(INFO_FILE)}: {field}", expected=len(names), of=path)
    class_names = given.class_names or shipped.class_names
    same = class_names == shipped.class_names
    prompts = given.prompts or (shipped.prompts if same else ())
    listing = Listing(
        DatasetInfo(
            shipped.name,
            class_names,
            given.attribute_names or shipped.attribute_names,
            check_prompts(prompts, class_names),
            shipped.object_words if same else class_names,
        ),
        shards=[place.shown(name) for name in _shard_names(place)],
        place=place,
    )
    entries = [entry for name in _shard_names(place) for entry in _entries(place, name)]
    if not entries:
        raise DataError(f"{path} holds no row; make the dataset again with `raygen data make`")
    take_usable(listing, entries)
    return listing


def _shard_names(place: Place) -> list[str]:
    return [name for name in place.names() if fnmatchcase(name, "part-*.parquet")]


def _entries(place: Place, name: str) -> list[Entry]:
    shard, shown = place.shown(name), printable(place.shown(name))
    if (reason := place.why_no_file(name)) is not None:
        raise DataError(f"{shown} {reason}; make the dataset again with `raygen data make`")
    try:
        # By the file's own columns: one that may be absent (attribute) becomes null.
        file = pq.ParquetFile(open_reference(shard))
        cast(file.schema_arrow.empty_table(), SOURCE, what=shown)  # names and types, before any picture
        table = file.read(columns=[name for name in LABELS.names if name in file.schema_arrow.names])
        rows = cast(table, LABELS, what=shown).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown} cannot be read as a shard of SOURCE rows: {error}") from error
    return [
        Entry(row["image_id"], row["label"], row["attribute"], row["split"], shard, None, f"{shown}, row {i}")
        for i, row in enumerate(rows)
    ]
