"""Predictions of fitted classifiers on the held-out splits, through the scorer pool."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.classifier import ClassifierConfig, save_classifier
from raygen.classifier.architectures import SMALL_RESNET
from raygen.classifier.start import open_start, with_start
from raygen.config import validate
from raygen.datasets import make_dataset
from raygen.datasets.rows import RowIndex
from raygen.pools import pipeline
from raygen.pools.config import PoolsConfig
from raygen.pools.pipeline import Engine
from raygen.pools.units import Pass
from raygen.run.config import RunConfig
from raygen.run.results import HELD_OUT_SPLITS, LATER_FOLDER, results
from raygen.run.steps import Run, RunStep
from raygen.stages.score import PredictStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts, failure_reasons, read_parts
from raygen.storage.progress import Say, labelled, quiet
from raygen.storage.run_folder import Step
from raygen.storage.writing import atomic

# Model calls of a unit: with fewer, Ray's cost per block shows beside so short a stage.
MAX_CALLS = 8
# Images up to which the small network predicts in this process.
SHORT = 10_000
# Of a unit's pictures, which are in memory at once.
UNIT_BYTES = 512 << 20


def evaluation(run: Run, fitted: Mapping[str, Step], *, later: bool = False) -> RunStep:
    """Predicted labels of fits, by name, on the validation and test splits, in evaluation/predictions.parquet.

    Args:
        run: The run.
        fitted: The fits.
        later: Whether they are the controls that came later than others. Theirs are in `LATER_FOLDER`, beside the
            others' and not among them: folders that were evaluated before stay as they are.
    """

    def evaluate(step: Step) -> Mapping[str, Any]:
        table = held_out(run.index)
        engine = _engine(run.config, table.num_rows) if later else run.config.engine
        predictions, failed = predictions_in(run, step, table, fitted, engine=engine)
        with atomic(step.folder / "predictions.parquet") as temporary:
            pq.write_table(predictions, temporary)
        return {"images": predictions.num_rows, "failed": failed}

    return RunStep(
        LATER_FOLDER if later else "evaluation",
        inputs={
            "data": run.done["data"],
            "fits": fitted,
            **({"evaluation": run.done["evaluation"]} if later else {}),
        },
        settings={"scorer": run.config.pools.scorer.deciding()},
        doing="evaluating on validation and test",
        body=evaluate,
    )


def _engine(config: RunConfig, num_images: int) -> Engine:
    """Where few pictures are looked at by the small network: here, while actors would still start. The same bits."""
    is_small = config.classifier.architecture == SMALL_RESNET and config.pools.scorer.torch_device == "cpu"
    return "local" if is_small and num_images <= SHORT else config.engine


def predictions_in(
    run: Run, step: Step, table: pa.Table, fitted: Mapping[str, Step], *, engine: Engine | None = None
) -> tuple[pa.Table, dict[str, int]]:
    """Predicted labels of fits, by name, beside the columns of `table`, and failed pictures by reason.

    Args:
        run: The run.
        step: Its step, in whose folder the pass's parts are for as long as it lasts.
        table: The images; see `held_out`.
        fitted: The fits.
        engine: Where it runs; by default where the run does.
    """
    config, parts = run.config, step.folder / "parts"
    parts.mkdir()
    predictions = predict(
        run.index,
        table,
        {name: str(fit.folder.resolve()) for name, fit in fitted.items()},
        folder=parts,
        fingerprint=step.fingerprint,
        pools=config.pools,
        max_failed_fraction=config.max_failed_fraction,
        engine=engine or config.engine,
        say=labelled(step.folder.name, run.say),
    )
    failed = dict(failure_reasons(parts))
    shutil.rmtree(parts)
    return predictions, failed


def evaluate_classifier(
    classifier: Path | str, data: dict[str, Any], *, seed: int, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Accuracies of one classifier on a dataset's validation and test splits, in the form of summary.json.

    Args:
        classifier: A fit's folder, a folder of transformers (or "hf:OWNER/NAME"), or a file of weights.
        data: The dataset's config, as it was given.
        seed: Of its draw.
        fields: Fields of `ClassifierConfig`: what network the weights are of, where the file does not say.

    Raises:
        ConfigError: A wrong field, or one that contradicts the classifier.
        ModelError: Not a classifier.
        DataError: The dataset is wrong, or has another number of classes than the classifier.
    """
    given, start = with_start(fields or {}, str(classifier))
    config = validate(ClassifierConfig, given, where="classifier")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(data, [], folder / "data", seed=seed)
        (folder / "parts").mkdir()
        index = RowIndex(folder / "data")
        save_classifier(open_start(config, start, index.dataset.class_names), folder / "classifier")
        predictions = predict(
            index,
            held_out(index),
            {"predicted": str(folder / "classifier")},
            folder=folder / "parts",
            fingerprint="evaluate",
            pools=PoolsConfig(),
            max_failed_fraction=1.0,
            engine="local",
        )
        return results(predictions, index, names=["predicted"])["predicted"]


def held_out(index: RowIndex) -> pa.Table:
    """image_id, label, attribute and split of the validation and test images."""
    table = index.table.select(["image_id", "label", "attribute", "split"])
    return table.filter(pc.is_in(table["split"], pa.array(HELD_OUT_SPLITS)))


def predict(
    index: RowIndex,
    table: pa.Table,
    classifiers: Mapping[str, str],
    *,
    folder: Path,
    fingerprint: str,
    pools: PoolsConfig,
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
        fingerprint: Marks the parts.
        pools: The scorer pool is used.
        max_failed_fraction: More unreadable pictures than this share are an error.
        engine: Where it runs.
        say: Called now and then with how far it is.
    """
    fields = {"classifier_folders": dict(classifiers), "device": pools.scorer.torch_device}
    names = [pa.field(name, pa.int32()) for name in classifiers]
    schema = pa.schema([*table.schema, *names, pa.field("status", pa.string()), pa.field("error", pa.string())])
    mean_bytes = index.mean_bytes(table["image_id"].to_pylist())
    work = Pass(
        table,
        index=index,
        source_columns=("image_png",),
        specs=[StageSpec(PredictStage, "scorer", fields)],
        pools=pools,
        unit_rows=rows_of_unit(pools.scorer.batch_size, mean_bytes=mean_bytes),
        parts=Parts(folder.resolve(), schema, fingerprint, table.num_rows, max_failed_fraction),
    )
    pipeline.run(work, engine=engine, say=say)
    return read_parts(folder).select([*table.column_names, *classifiers])


def rows_of_unit(batch_size: int, *, mean_bytes: float) -> int:
    """Rows of a unit: MAX_CALLS model calls, or fewer where pictures are so large that a unit passes UNIT_BYTES.

    The calls themselves are the same, and so are the predictions.
    """
    calls = int(UNIT_BYTES / max(1.0, batch_size * mean_bytes))
    return batch_size * max(1, min(MAX_CALLS, calls))
