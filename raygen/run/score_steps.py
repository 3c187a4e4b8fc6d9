"""The scoring passes of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from raygen.run.evaluation import predictions_in
from raygen.run.fit_steps import folds, identification, identifier
from raygen.run.steps import Run, RunStep
from raygen.schema import SCORE
from raygen.stages.score import ScoreStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import read_parts
from raygen.storage.run_folder import Step
from raygen.storage.writing import atomic
from raygen.synthesis.folds import assign_folds, with_unseen_predictions


def scoring(run: Run) -> Iterator[RunStep]:
    """Logits, losses and features of the training images, in scores/; k-fold: with predictions out of fold."""
    assert run.config.synthesis is not None
    yield from identification(run)
    num_folds = run.config.synthesis.identification_folds()
    if num_folds is None:
        yield scores_of(run, "train", name="scores")
        return
    yield from folds(run, num_folds=num_folds)
    yield scores_of(run, "train", name="scores_in_sample")
    yield _out_of_fold(run, num_folds=num_folds)


def scores_of(run: Run, split: str, *, name: str) -> RunStep:
    """Logits, losses and features of a split's images, in a folder of that name."""
    config, classifier = run.config, identifier(run)
    scorer = config.pools.scorer

    def score(step: Step) -> Mapping[str, Any]:
        table = run.index.split(split).select(["image_id", "label"])
        fields = {"classifier_folder": str(classifier.folder.resolve()), "device": scorer.torch_device}
        specs = [StageSpec(ScoreStage, "scorer", fields)]
        return run.stream(step, table, columns=("image_png",), specs=specs, schema=SCORE)

    return RunStep(
        name,
        inputs={"data": run.done["data"], "erm": classifier},
        settings={
            "unit_rows": config.unit_rows,
            "scorer": scorer.deciding(),
            **({} if split == "train" else {"split": split}),
        },
        doing="scoring the training images" if split == "train" else "scoring the validation images",
        body=score,
        keeps="parts",
    )


def _out_of_fold(run: Run, *, num_folds: int) -> RunStep:
    """Scores of the training images whose predicted label is that of a classifier that has not seen the image."""
    config, in_sample = run.config, run.done["scores_in_sample"]
    fitted = {f"fold_{number}": run.done[f"folds/{number}"] for number in range(num_folds)}

    def combine(step: Step) -> Mapping[str, Any]:
        table = run.index.split("train").select(["image_id", "label"])
        predictions, _ = predictions_in(run, step, table, fitted)
        fold_N = assign_folds(table["label"].to_numpy(), num_folds=num_folds, seed=config.seed)
        scores = with_unseen_predictions(read_parts(in_sample.folder), predictions, fold_N)
        with atomic(step.folder / "part-00000.parquet") as temporary:
            pq.write_table(scores, temporary)
        return {"images": scores.num_rows}

    return RunStep(
        "scores",
        inputs={"data": run.done["data"], "in_sample": in_sample, "folds": [*fitted.values()]},
        settings={"seed": config.seed, "scorer": config.pools.scorer.deciding()},
        doing="predicting each fold by the classifier that has not seen it",
        body=combine,
    )
