"""Columns of every table that raygen writes, in one place.

SOURCE     one image of a dataset; written by `raygen.datasets`, kept in <run>/data/
SCORE      what the ERM classifier makes of one image; written by the scorer pool, kept in <run>/scores/
PLAN       one image to generate; written by a synthesis's `select`, kept in <run>/plan/
CANDIDATE  one generated image with its scores; written by the synthesis pools, kept in <run>/candidates/
MEASURED   what one fit looks at on one image; written by the scorer pool, kept in <run>/measures/

Null means "does not exist" (no attribute label, no mask in the dataset); NaN never stands for it.

On disk pictures are of Arrow's type `binary`, of which one array holds at most 2 GiB, and most of what Arrow does with
several joins them first: a hundred camera pictures are too many. So in memory they are `large_binary` (`widened`), and
`cast` brings them back in arrays that are small enough.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from raygen.errors import DataError

SPLITS = ("train", "val", "test")
# Most that one array of type `binary` holds here: far below Arrow's limit, and above what usual pictures come to.
ARRAY_BYTES = 512 << 20

T = TypeVar("T")

SOURCE = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # unique in the dataset
        pa.field(
            "image_png", pa.binary()
        ),  # encoded picture (PNG, or the original file's bytes); null when `path` is set
        pa.field("path", pa.string()),  # file of the picture when it is not inlined; null otherwise
        pa.field("label", pa.int32(), nullable=False),  # class, 0..C-1
        pa.field("attribute", pa.int32()),  # spurious attribute, 0..A-1; null where unknown
        pa.field("split", pa.string(), nullable=False),  # train, val or test
        pa.field("role", pa.string(), nullable=False),  # source, factual or counterfactual
        pa.field("object_png", pa.binary()),  # 8-bit mask, 255 = object; null when the dataset ships none
    ]
)

SCORE = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("logits", pa.list_(pa.float32())),  # (C,)
        pa.field("predicted_label", pa.int32()),
        pa.field("loss", pa.float32()),  # cross entropy of the true label, nats
        pa.field("confidence", pa.float32()),  # softmax of the true label
        pa.field("features", pa.list_(pa.float32())),  # penultimate activations, (D,)
        pa.field("status", pa.string(), nullable=False),  # ok or failed
        pa.field("error", pa.string()),
    ]
)

PLAN = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # image_id + target + sample, unique
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),  # 0, 1, ... for several pictures of one source
        pa.field("source_label", pa.int32(), nullable=False),
        pa.field("target_label", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("loss_rank", pa.int32(), nullable=False),  # 0 = lowest loss in its class
        pa.field("cluster", pa.int32()),  # null for syntheses that do not cluster
        pa.field("predicted_label", pa.int32(), nullable=False),  # what ERM says of the source
    ]
)

CANDIDATE = pa.schema(
    [
        *PLAN,
        pa.field("repaint_png", pa.binary()),  # 8-bit mask, 255 = generated anew
        pa.field("generated_png", pa.binary()),  # lossless
        pa.field("repaint_fraction", pa.float32()),  # share of the picture's pixels in the repaint mask
        # IoU of what the masker took for the object, before it was grown, with the dataset's object mask; null without
        pa.field("object_iou", pa.float32()),
        pa.field("source_probability", pa.float32()),  # psi: softmax of the source label on the generated picture
        pa.field("attribution_inside", pa.float32()),  # rho: attribution to the target logit inside the repaint mask
        pa.field("convergence_delta", pa.float32()),  # |sum of attributions - logit difference|; 0 when exact
        pa.field("status", pa.string(), nullable=False),  # ok or failed
        pa.field("error", pa.string()),  # why it failed; null when ok
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
    ]
)

# An object mask of one training image, where fits need it; written by the masker pool, kept in <run>/objects/.
MASK = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        *(CANDIDATE.field(name) for name in ("source_label", "repaint_png", "repaint_fraction", "object_iou")),
        *(CANDIDATE.field(name) for name in ("status", "error")),
    ]
)
# What a picture that is generated says of its label: "counterfactual" ("not its label") or "factual". A column of PLAN
# and CANDIDATE, last, of syntheses that make such pictures; absent of others.
ROLE = pa.field("role", pa.string(), nullable=False)

# What `raygen.stages.measure` finds of one image by one classifier; null where it cannot be said, as without a mask.
MEASURES = pa.schema(
    [
        pa.field("logits", pa.list_(pa.float32())),  # (C,)
        pa.field("foreground", pa.float32()),  # share of the object in what the classifier sees
        pa.field("saliency_ap", pa.float32()),  # average precision of the input gradient's square as the object's score
        pa.field("pointing", pa.float32()),  # whether the class activation map is hottest on the object
        pa.field("deep_lift_ap", pa.float32()),  # as saliency_ap, of DeepLiftShap; null unless it is asked for
        pa.field("deep_lift_gap", pa.float32()),  # how far its attributions are from complete; see raygen.attention
        pa.field("pair_logits", pa.list_(pa.float32())),  # (C,) of the same object before another background
    ]
)

MEASURED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("attribute", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_next_class", pa.bool_()),  # whether the other background is one of the next class; null: no pair
        pa.field("result", pa.string(), nullable=False),  # the fit, as in summary.json
        *MEASURES,
    ]
)


def plan_key(image_id: str, *, target_label: int, sample: int) -> str:
    """Unique name of one image to generate; sorting by it sorts by image first."""
    return f"{image_id}/{target_label}/{sample:04d}"


def cast(table: pa.Table, schema: pa.Schema, *, what: str, array_bytes: int = ARRAY_BYTES) -> pa.Table:
    """The table with exactly the schema's columns, in order and type; absent nullable columns become null.

    Args:
        table: Any table.
        schema: What it is to have.
        what: The table, for messages.
        array_bytes: Most that one array of type `binary` may hold.

    Raises:
        DataError: A required column is absent, twice there, or holds values of another type or null.
    """
    arrays = []
    for field in schema:
        if table.column_names.count(field.name) > 1:
            raise DataError(f"{what}: column '{field.name}' occurs {table.column_names.count(field.name)} times")
        if field.name not in table.column_names:
            if not field.nullable:
                raise DataError(f"{what}: column '{field.name}' ({field.type}) is missing; found {table.column_names}")
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        try:
            narrows = field.type == pa.binary() and column.type == pa.large_binary()
            array = _narrowed(column, array_bytes) if narrows else column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{what}: column '{field.name}' is {column.type}; expected {field.type} ({error})"
            ) from error
        if not field.nullable and array.null_count:
            raise DataError(f"{what}: column '{field.name}' has {array.null_count} empty values; every row needs one")
        arrays.append(array)
    return pa.table(arrays, schema=schema)


def memory_type(kind: pa.DataType) -> pa.DataType:
    """Type of a column in memory: `large_binary` for `binary`, any other as it is."""
    return pa.large_binary() if kind == pa.binary() else kind


def widened(table: pa.Table) -> pa.Table:
    """The table with `large_binary` in place of `binary`; the bytes are shared, not copied."""
    return table.cast(pa.schema([field.with_type(memory_type(field.type)) for field in table.schema]))


def by_bytes(items: Iterable[T], size: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """Items in their order, in lists of at most `most` that together have at most `most_bytes`.

    An item that has more by itself is alone in its list.
    """
    held: list[T] = []
    held_bytes = 0
    for item in items:
        num_bytes = size(item)
        if held and held_bytes + num_bytes > most_bytes:
            yield held
            held, held_bytes = [], 0
        held.append(item)
        held_bytes += num_bytes
        if len(held) == most:
            yield held
            held, held_bytes = [], 0
    if held:
        yield held


def _narrowed(column: pa.ChunkedArray, array_bytes: int) -> pa.ChunkedArray:
    arrays = []
    for chunk in column.chunks:
        sizes = pc.fill_null(pc.binary_length(chunk), 0).to_pylist()
        for rows in by_bytes(range(len(chunk)), sizes.__getitem__, most=len(chunk), most_bytes=array_bytes):
            # Copied, since Arrow refuses a slice that lies beyond 2 GiB of its array, however short it is.
            copy = pa.concat_arrays([chunk.slice(rows[0], len(rows))])
            arrays.append(copy.cast(pa.binary()))
    return pa.chunked_array(arrays, pa.binary())
