"""A folder of SOURCE shards: `dataset.json` and `part-*.parquet`, as `raygen data make` writes them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import printable, why_no_file
from raygen.datasets.known import Names
from raygen.datasets.names import check_names, check_not_swapped, shown
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts, read_info
from raygen.errors import DataError
from raygen.schema import SOURCE, cast

LABELS = pa.schema([SOURCE.field(name) for name in ("image_id", "label", "attribute", "split", "role")])


def list_shards(path: Path, given: Names) -> Listing:
    """Lists the rows of a folder's shards.

    Raises:
        DataError: No row, a damaged shard, or names that do not fit.
    """
    shipped = read_info(path)
    for field, names in (("class_names", shipped.class_names), ("attribute_names", shipped.attribute_names)):
        what, new = f"dataset.{field}", getattr(given, field)
        check_names(new, what=what, expected=len(names), of=f"{path}, which has {shown(names) or 'none'}")
        check_not_swapped(new, names, of=f"the names in {path}", what=what)
        check_names(names, what=f"{path / INFO_FILE}: {field}", expected=len(names), of=str(path))
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
        shards=sorted(path.glob("part-*.parquet")),
    )
    entries = [entry for shard in listing.shards for entry in _entries(shard)]
    if not entries:
        raise DataError(f"{path} holds no row; make the dataset again with `raygen data make`")
    take_usable(listing, entries)
    return listing


def _entries(shard: Path) -> list[Entry]:
    if (reason := why_no_file(shard)) is not None:
        raise DataError(f"{printable(shard)} {reason}; make the dataset again with `raygen data make`")
    try:
        # By the file's own columns: one that may be absent (attribute) becomes null.
        file = pq.ParquetFile(shard)
        cast(file.schema_arrow.empty_table(), SOURCE, what=printable(shard))  # names and types, before any picture
        table = file.read(columns=[name for name in LABELS.names if name in file.schema_arrow.names])
        rows = cast(table, LABELS, what=printable(shard)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(shard)} cannot be read as a shard of SOURCE rows: {error}") from error
    return [
        Entry(
            row["image_id"], row["label"], row["attribute"], row["split"], shard, None, f"{printable(shard)}, row {i}"
        )
        for i, row in enumerate(rows)
    ]
