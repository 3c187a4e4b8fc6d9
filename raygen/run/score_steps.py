"""The scoring passes of a run, each a step of its own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.rows import RowIndex
from raygen.pools import pipeline
from raygen.pools.units import Pass
from raygen.run.config import RunConfig
from raygen.run.evaluation import predict
from raygen.run.fit_steps import Needed
from raygen.schema import SCORE
from raygen.stages.score import ScoreStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts, read_parts
from raygen.storage.progress import Say, labelled
from raygen.storage.run_folder import RunFolder, Step
from raygen.storage.writing import atomic
from raygen.synthesis.fold_scores import with_unseen_predictions
from raygen.synthesis.folds import assign_folds


class ScoreSteps:
    """The scoring passes of one run in progress.

    Args:
        config: The run's config.
        folder: Its folder.
        needed: Says a step, and whether it has to be done.
        say: Called now and then with how far a long pass is.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, needed: Needed, say: Say) -> None:
        self._config, self._folder, self._needed, self._say = config, folder, needed, say

    def of(self, split: str, data: Step, classifier: Step, *, name: str) -> Step:
        """Logits, losses and features of a split's images, in a folder of that name."""
        config = self._config
        depends = {
            "data": data.digest,
            "erm": classifier.digest,
            "unit_rows": config.unit_rows,
            "scorer": config.pools.scorer.deciding(),
            **({} if split == "train" else {"split": split}),
        }
        step = self._folder.step(name, depends)
        doing = "scoring the training images" if split == "train" else "scoring the validation images"
        if not self._needed(step, name, doing):
            return step
        with self._folder.timed(name):
            index = RowIndex.open(data.folder)
            table = index.split(split).select(["image_id", "label"])
            spec = StageSpec(
                ScoreStage,
                "scorer",
                {"classifier_folder": str(classifier.folder.resolve()), "device": config.pools.scorer.torch_device},
            )
            folder = step.begin(keep_parts=True)
            job = job_of(config, table, index, ("image_png",), [spec], SCORE, folder, step)
            step.finish(pipeline.run(job, engine=config.engine, say=labelled(name, self._say)))
        return step

    def out_of_fold(self, data: Step, in_sample: Step, folds: Sequence[Step]) -> Step:
        """Scores of the training images whose predicted label is that of a classifier that has not seen the image."""
        config = self._config
        depends = {
            "data": data.digest,
            "in_sample": in_sample.digest,
            "folds": [fold.digest for fold in folds],
            "seed": config.seed,
            "scorer": config.pools.scorer.deciding(),
        }
        step = self._folder.step("scores", depends)
        if not self._needed(step, "scores", "predicting each fold by the classifier that has not seen it"):
            return step
        with self._folder.timed("scores"):
            index = RowIndex.open(data.folder)
            table = index.split("train").select(["image_id", "label"])
            parts = step.begin() / "parts"
            parts.mkdir()
            predictions = predict(
                index,
                table,
                {f"fold_{number}": str(fold.folder.resolve()) for number, fold in enumerate(folds)},
                parts,
                config.pools,
                step.fingerprint,
                config.max_failed_fraction,
                config.engine,
                labelled("scores", self._say),
            )
            shutil.rmtree(parts)
            fold_N = assign_folds(table["label"].to_numpy(), num_folds=len(folds), seed=config.seed)
            scores = with_unseen_predictions(read_parts(in_sample.folder), predictions, fold_N)
            with atomic(step.folder / "part-00000.parquet") as temporary:
                pq.write_table(scores, temporary)
            step.finish({"images": scores.num_rows})
        return step


def job_of(
    config: RunConfig,
    table: pa.Table,
    index: RowIndex,
    columns: tuple[str, ...],
    specs: list[StageSpec],
    schema: pa.Schema,
    folder: Path,
    step: Step,
) -> Pass:
    """A pass of a run over a table of rows."""
    parts = Parts(folder.resolve(), schema, step.fingerprint, table.num_rows, config.max_failed_fraction)
    return Pass(table, index.folder, columns, specs, config.pools, config.unit_rows, parts)
