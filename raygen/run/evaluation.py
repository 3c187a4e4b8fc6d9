"""Predictions of fitted classifiers on the held-out splits, through the scorer pool."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raygen.config import PoolsConfig
from raygen.datasets.rows import RowIndex
from raygen.pools import pipeline
from raygen.pools.pipeline import Engine
from raygen.pools.units import Pass
from raygen.run.results import HELD_OUT_SPLITS
from raygen.stages.score import PredictStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts, read_parts
from raygen.storage.progress import Say, quiet

# Model calls of a unit: with fewer, Ray's cost per block shows beside so short a stage.
MAX_CALLS = 8
# Of a unit's pictures, which are in memory at once.
UNIT_BYTES = 512 << 20


def held_out(index: RowIndex) -> pa.Table:
    """image_id, label, attribute and split of the validation and test images."""
    table = index.table.select(["image_id", "label", "attribute", "split"])
    return table.filter(pc.is_in(table["split"], pa.array(HELD_OUT_SPLITS)))


def predict(
    index: RowIndex,
    table: pa.Table,
    classifiers: dict[str, str],
    folder: Path,
    pools: PoolsConfig,
    step_fingerprint: str,
    max_failed_fraction: float,
    engine: Engine,
    say: Say = quiet,
) -> pa.Table:
    """Predicted labels of several classifiers, one int32 column each, beside the columns of `table`.

    Args:
        index: The dataset.
        table: The images; see `held_out`.
        classifiers: Classifier folders by the name of their column.
        folder: An existing folder for the pass's parts.
        pools: The scorer pool is used.
        step_fingerprint: Marks the parts.
        max_failed_fraction: More unreadable pictures than this share are an error.
        engine: Where it runs.
        say: Called now and then with how far it is.
    """
    spec = StageSpec(PredictStage, "scorer", {"classifier_folders": classifiers, "device": pools.scorer.torch_device})
    names = [pa.field(name, pa.int32()) for name in classifiers]
    schema = pa.schema([*table.schema, *names, pa.field("status", pa.string()), pa.field("error", pa.string())])
    parts = Parts(folder.resolve(), schema, step_fingerprint, table.num_rows, max_failed_fraction)
    mean_bytes = index.mean_bytes(table["image_id"].to_pylist())
    unit_rows = rows_of_unit(pools.scorer.batch_size, mean_bytes=mean_bytes)
    pipeline.run(Pass(table, index.folder, ("image_png",), [spec], pools, unit_rows, parts), engine=engine, say=say)
    return read_parts(folder).select([*table.column_names, *classifiers])


def rows_of_unit(batch_size: int, *, mean_bytes: float) -> int:
    """Rows of a unit: MAX_CALLS model calls, or fewer where pictures are so large that a unit passes UNIT_BYTES.

    The calls themselves are the same, and so are the predictions.
    """
    calls = int(UNIT_BYTES / max(1.0, batch_size * mean_bytes))
    return batch_size * max(1, min(MAX_CALLS, calls))
