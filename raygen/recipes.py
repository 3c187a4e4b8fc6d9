"""Recipes: a named pair of one synthesis (or none) and one algorithm, and the whole job from top to bottom.

`run` is the place to start reading: every step of the job is one call.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from raygen import fits, pipeline
from raygen.algorithms import AlgorithmConfig, AnyAlgorithm
from raygen.algorithms.erm import ErmConfig
from raygen.classifier import ClassifierConfig
from raygen.config import PoolsConfig, PositiveInt, Strict, apply_overrides, fingerprint, validate
from raygen.datasets import DatasetConfig, write_dataset
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import ConfigError, DataError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import check_model_folder, model_revision, resolve_model
from raygen.pipeline import Engine
from raygen.pruners import PruneThresholds, verdicts
from raygen.rows import RowIndex
from raygen.runs import RunFolder, Step, write_json
from raygen.schema import CANDIDATE, SCORE
from raygen.stages.inpaint import InpaintStage
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.score import PredictStage, ScoreStage
from raygen.stages.spec import StageSpec
from raygen.synthesis import SynthesisConfig, attribution, identification_epochs, masker, select, thresholds
from raygen.synthesis.controls import CONTROL_KINDS, ControlKind
from raygen.training import FitConfig
from raygen.units import Job, Parts, read_parts

Say = Callable[[str], Any]
# Columns of a candidate that are small: everything but the two pictures.
SCORES_OF_CANDIDATES = tuple(name for name in CANDIDATE.names if not name.endswith("_png"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named pair.

    Attributes:
        synthesis: Name of the synthesis, or None.
        algorithm: Name of the algorithm.
        paper: Where it comes from.
    """

    synthesis: str | None
    algorithm: str
    paper: str


RECIPES = {
    "erm": Recipe(None, "erm", "empirical risk minimization"),
    "erm_reweighted": Recipe(None, "reweighted", "group-reweighted ERM (Sagawa et al. 2020, arXiv 1911.08731)"),
    "scgs": Recipe("scgs", "erm", "SCGS (Li et al., arXiv 2412.19457)"),
    "dbb": Recipe("dbb", "balanced", "DBB (Yazdan Parast et al., arXiv 2503.17226)"),
}


class RunConfig(Strict):
    """One run: a recipe on a dataset with one seed.

    Attributes:
        recipe: One of `RECIPES`.
        seed: Seed of everything that is drawn: dataset, fits, selection, pictures.
        engine: "ray" streams through actor pools; "local" does the same in one process, for debugging.
        dataset: What to debias on.
        classifier: The classifier's architecture.
        erm: The first fit, which falls for the bias.
        synthesis: What is generated; null for none.
        algorithm: How the classifier is fitted at the end.
        inpainter: The inpainting model.
        pools: Actors, CPUs, GPUs and batch sizes of the four pools.
        fit: Workers of a fit.
        controls: Which controls are fitted beside the recipe, with as many extra rows from the same sources.
        unpruned: Also fit with every generated picture, kept or pruned, as "<recipe>_unpruned".
        unit_rows: Rows that are committed at once; a multiple of pools.inpainter.batch_size.
        max_failed_fraction: A pass stops when more than this share of its rows fails.
    """

    recipe: Literal["erm", "erm_reweighted", "scgs", "dbb"]
    seed: int = Field(0, ge=0)
    engine: Engine = "ray"
    dataset: DatasetConfig = ScenesConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    erm: ErmConfig = ErmConfig()
    synthesis: SynthesisConfig | None = None
    algorithm: AlgorithmConfig
    inpainter: InpainterConfig = InpainterConfig()
    pools: PoolsConfig = PoolsConfig()
    fit: FitConfig = FitConfig()
    controls: tuple[ControlKind, ...] = CONTROL_KINDS
    unpruned: bool = False
    unit_rows: PositiveInt = 64
    max_failed_fraction: float = Field(0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _units_hold_whole_batches(self) -> "RunConfig":
        rows = self.pools.inpainter.batch_size
        if self.unit_rows % rows:
            raise ValueError(f"unit_rows is {self.unit_rows}, not a multiple of pools.inpainter.batch_size ({rows})")
        return self


def make_config(data: dict[str, Any], overrides: Sequence[str], *, where: str) -> RunConfig:
    """The config of a recipe's name and whatever else is given, with overrides applied.

    Raises:
        ConfigError: An unknown recipe, or any wrong field; all of them are named.
    """
    data = apply_overrides(data, overrides)
    name = data.get("recipe")
    if name not in RECIPES:
        raise ConfigError(f"{where}: recipe is {name!r}; known: {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[name]
    data["algorithm"] = {"name": recipe.algorithm, **(data.get("algorithm") or {})}
    if recipe.synthesis is not None:
        data["synthesis"] = {"name": recipe.synthesis, **(data.get("synthesis") or {})}
    if isinstance(data.get("dataset"), str):
        data["dataset"] = {"name": data["dataset"]}
    if isinstance(data.get("dataset"), dict):
        data["dataset"] = {"name": "scenes", **data["dataset"]}
    return validate(RunConfig, data, where=where)


def run(config: RunConfig, out: Path, *, fresh: bool, command: str, say: Say) -> None:
    """The whole job; steps that are complete are skipped.

    Args:
        config: What to do.
        out: The run's folder.
        fresh: Delete what the folder holds first.
        command: The command line, for the report.
        say: Called with a line before each step.

    Raises:
        RaygenError: See the steps; what was complete stays complete.
    """
    _check_model(config)
    folder = RunFolder(out)
    folder.claim(config.model_dump(mode="json"), identity=_identity(config), fresh=fresh)
    folder.log("command", argv=command)
    job = _Run(config, folder, say)
    data = job.load_rows()
    erm = job.fit_erm(data)
    fitted = {"erm": erm}
    if config.synthesis is None:
        if config.recipe != "erm":
            fitted[config.recipe] = job.fit(config.recipe, data, erm, extra=None)
    else:
        identifier = job.fit_identifier(data, erm)
        scores = job.score(data, identifier)
        plan = job.plan(scores)
        candidates = job.synthesize(plan, data, identifier)
        fitted |= job.fit_all(data, scores, candidates, erm)
    job.evaluate(data, fitted)


def make_dataset(data: dict[str, Any], overrides: Sequence[str], out: Path, *, seed: int) -> dict[str, int]:
    """Writes a dataset folder; gives back rows per split.

    Raises:
        ConfigError: A wrong field.
        DataError: The folder is not empty, or the dataset is wrong.
    """

    class Wrapped(Strict):
        dataset: DatasetConfig

    config = validate(Wrapped, {"dataset": apply_overrides(data, overrides)}, where="dataset").dataset
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not an empty folder; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    return write_dataset(config, out, run_seed=seed)


def evaluate_classifier(classifier: Path, data: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Accuracies of one classifier on a dataset's validation and test splits, in the form of summary.json.

    Raises:
        ModelError: Not a classifier's folder.
        DataError: The dataset is wrong.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(data, [], folder / "data", seed=seed)
        (folder / "parts").mkdir()
        index = RowIndex.open(folder / "data")
        table = _held_out(index)
        predictions = _predict(
            index,
            table,
            {"correct": str(classifier)},
            folder / "parts",
            PoolsConfig(),
            "evaluate",
            1.0,
            "local",
        )
        return {split: fits.accuracies(predictions, split, "correct", index.dataset) for split in ("val", "test")}


class _Run:
    """One run in progress: every method is a step that is skipped when its folder is complete."""

    def __init__(self, config: RunConfig, folder: RunFolder, say: Say) -> None:
        self._config, self._folder, self._say = config, folder, say

    def load_rows(self) -> Step:
        """The dataset's rows, as SOURCE Parquet in data/."""
        config = self._config
        step = self._folder.step("data", {"dataset": config.dataset.model_dump(mode="json"), "seed": config.seed})
        if self._needed(step, "data", f"writing the rows of {config.dataset.name}"):
            with self._folder.timed("data"):
                step.finish(write_dataset(config.dataset, step.begin(), run_seed=config.seed))
        return step

    def fit_erm(self, data: Step) -> Step:
        """The biased classifier, in erm/."""
        return self._fit("erm", "erm", self._config.erm, data, init=None, extra=None)

    def fit_identifier(self, data: Step, erm: Step) -> Step:
        """The classifier whose mistakes are selected by: ERM, or ERM stopped early, in identification/."""
        config = self._config
        epochs = None if config.synthesis is None else identification_epochs(config.synthesis)
        if epochs is None:
            return erm
        early = config.erm.model_copy(update={"epochs": epochs, "select": "last"})
        return self._fit("identification", "identification", early, data, init=None, extra=None)

    def fit(self, name: str, data: Step, erm: Step, *, extra: fits.ExtraRows | None) -> Step:
        """A classifier by the recipe's algorithm, in fit/<name>/."""
        return self._fit(f"fit/{name}", name, self._config.algorithm, data, init=erm, extra=extra)

    def score(self, data: Step, erm: Step) -> Step:
        """Logits, losses and features of the training images under ERM, in scores/."""
        config = self._config
        step = self._folder.step("scores", {"erm": erm.fingerprint, "batch_size": config.pools.scorer.batch_size})
        if not self._needed(step, "scores", "scoring the training images"):
            return step
        with self._folder.timed("scores"):
            index = RowIndex.open(data.folder)
            table = index.split("train").select(["image_id", "label"])
            spec = StageSpec(
                ScoreStage,
                "scorer",
                {
                    "classifier_folder": str(erm.folder.resolve()),
                    "batch_size": config.pools.scorer.batch_size,
                    "device": _device(config.pools.scorer.num_gpus),
                },
            )
            folder = step.begin(keep_parts=True)
            counts = pipeline.run(
                self._job(table, index, ("image_png",), [spec], SCORE, folder, step), engine=config.engine
            )
            step.finish(counts)
        return step

    def plan(self, scores: Step) -> Step:
        """What to generate, in plan/plan.parquet."""
        config = self._config
        assert config.synthesis is not None
        depends = {
            "scores": scores.fingerprint,
            "synthesis": config.synthesis.model_dump(mode="json"),
            "seed": config.seed,
        }
        step = self._folder.step("plan", depends)
        if self._needed(step, "plan", f"choosing what to generate ({config.synthesis.name})"):
            with self._folder.timed("plan"):
                table = read_parts(scores.folder)
                index = RowIndex.open(self._folder.path / "data")
                plan = select(config.synthesis, table, dataset=index.dataset, run_seed=config.seed)
                pq.write_table(plan, step.begin() / "plan.parquet")
                step.finish({"planned": plan.num_rows})
        return step

    def synthesize(self, plan: Step, data: Step, erm: Step) -> Step:
        """Candidates: masked, inpainted and scored by three pools at once, in candidates/."""
        config = self._config
        pools = config.pools
        assert config.synthesis is not None
        masks, (method, num_steps) = masker(config.synthesis), attribution(config.synthesis)
        depends = {
            "plan": plan.fingerprint,
            "erm": erm.fingerprint,
            "masker": masks,
            "inpainter": config.inpainter.model_dump(mode="json"),
            "model_revision": _model_revision(config),
            "unit_rows": config.unit_rows,
            "num_rows": pools.inpainter.batch_size,
            "attribution": [method, num_steps],
        }
        step = self._folder.step("candidates", depends)
        if not self._needed(step, "candidates", "generating: masker, inpainter and pruner pools"):
            return step
        classifier = str(erm.folder.resolve())
        specs = [
            StageSpec(
                MaskStage,
                "masker",
                {
                    "masker": masks,
                    "classifier_folder": classifier,
                    "batch_size": pools.masker.batch_size,
                    "device": _device(pools.masker.num_gpus),
                },
            ),
            StageSpec(
                InpaintStage,
                "inpainter",
                {
                    "inpainter": config.inpainter.model_dump(mode="json"),
                    "num_rows": pools.inpainter.batch_size,
                    "device": _device(pools.inpainter.num_gpus),
                },
            ),
            StageSpec(
                PruneStage,
                "pruner",
                {
                    "classifier_folder": classifier,
                    "attribution": method,
                    "num_steps": num_steps,
                    "batch_size": pools.pruner.batch_size,
                    "device": _device(pools.pruner.num_gpus),
                },
            ),
        ]
        with self._folder.timed("candidates"):
            table = pq.read_table(plan.folder / "plan.parquet")
            folder = step.begin(keep_parts=True)
            index = RowIndex.open(data.folder)
            job = self._job(table, index, ("image_png", "object_png"), specs, CANDIDATE, folder, step)
            step.finish(pipeline.run(job, engine=config.engine))
        return step

    def fit_all(self, data: Step, scores: Step, candidates: Step, erm: Step) -> dict[str, Step]:
        """Prunes, then fits the recipe, its unpruned twin and its controls; gives back the fits by name."""
        config = self._config
        assert config.synthesis is not None
        table = read_parts(candidates.folder, columns=SCORES_OF_CANDIDATES)
        limits = thresholds(config.synthesis, read_parts(scores.folder), table)
        (self._folder.path / "fit").mkdir(exist_ok=True)
        write_json(self._folder.path / "fit" / "thresholds.json", limits.model_dump(mode="json"))
        kept = _keys(table, limits)
        if not kept:
            raise DataError(
                f"pruning left none of {table.num_rows} generated pictures; loosen synthesis.attribution_threshold or "
                "switch synthesis.prune off"
            )
        sources: dict[str, tuple[Literal["generated"] | ControlKind, list[str]]] = {config.recipe: ("generated", kept)}
        if config.unpruned:
            sources[f"{config.recipe}_unpruned"] = ("generated", _keys(table, PruneThresholds()))
        sources |= {f"control_{kind}": (kind, kept) for kind in config.controls}
        fitted = {}
        for name, (kind, keys) in sources.items():
            extra = fits.ExtraRows(kind=kind, keys=tuple(keys), candidates=str(candidates.folder.resolve()))
            fitted[name] = self.fit(name, data, erm, extra=extra)
        return fitted

    def evaluate(self, data: Step, fitted: dict[str, Step]) -> Step:
        """Predicted labels of every fit on the validation and test splits, in evaluation/predictions.parquet."""
        config = self._config
        step = self._folder.step("evaluation", {name: fit.fingerprint for name, fit in fitted.items()})
        if self._needed(step, "evaluation", "evaluating on validation and test"):
            with self._folder.timed("evaluation"):
                parts = step.begin() / "parts"
                parts.mkdir()
                index = RowIndex.open(data.folder)
                folders = {name: str(fit.folder.resolve()) for name, fit in fitted.items()}
                predictions = _predict(
                    index,
                    _held_out(index),
                    folders,
                    parts,
                    config.pools,
                    step.fingerprint,
                    config.max_failed_fraction,
                    config.engine,
                )
                pq.write_table(predictions, step.folder / "predictions.parquet")
                shutil.rmtree(parts)
                step.finish({"images": predictions.num_rows})
        return step

    def _fit(
        self,
        folder: str,
        name: str,
        algorithm: AnyAlgorithm,
        data: Step,
        *,
        init: Step | None,
        extra: fits.ExtraRows | None,
    ) -> Step:
        config = self._config
        request = fits.FitRequest(
            data=str(data.folder.resolve()),
            classifier=config.classifier.model_dump(mode="json"),
            algorithm=algorithm.model_dump(mode="json"),
            seed=config.seed,
            init=None if init is None else str(init.folder.resolve()),
            extra=extra,
            max_failed_fraction=config.max_failed_fraction,
        )
        depends = {
            "data": data.fingerprint,
            "init": None if init is None else init.fingerprint,
            "classifier": request.classifier,
            "algorithm": request.algorithm,
            "seed": config.seed,
            "num_workers": config.fit.num_workers,
            "extra": None if extra is None else [extra.kind, fingerprint(list(extra.keys))],
        }
        step = self._folder.step(folder, depends)
        count = "" if extra is None else f" with {len(extra.keys)} extra images"
        if self._needed(step, f"fit {name}", f"fitting {name}{count}"):
            with self._folder.timed(f"fit {name}"):
                counts = fits.fit(request, step.begin(keep_parts=True), resources=config.fit, engine=config.engine)
                step.finish(counts)
        return step

    def _job(
        self,
        table: pa.Table,
        index: RowIndex,
        columns: tuple[str, ...],
        specs: list[StageSpec],
        schema: pa.Schema,
        folder: Path,
        step: Step,
    ) -> Job:
        config = self._config
        parts = Parts(folder.resolve(), schema, step.fingerprint, table.num_rows, config.max_failed_fraction)
        return Job(table, index.folder, columns, specs, config.pools, config.unit_rows, parts)

    def _needed(self, step: Step, name: str, doing: str) -> bool:
        if step.is_complete:
            self._say(f"{name}: done before")
            return False
        self._say(f"{name}: {doing}")
        return True


def _held_out(index: RowIndex) -> pa.Table:
    table = index.table.select(["image_id", "label", "attribute", "split"])
    return table.filter(pc.is_in(table["split"], pa.array(["val", "test"])))


def _predict(
    index: RowIndex,
    table: pa.Table,
    classifiers: dict[str, str],
    folder: Path,
    pools: PoolsConfig,
    step_fingerprint: str,
    max_failed_fraction: float,
    engine: Engine,
) -> pa.Table:
    batch_size = pools.scorer.batch_size
    kwargs = {
        "classifier_folders": classifiers,
        "batch_size": batch_size,
        "device": _device(pools.scorer.num_gpus),
    }
    spec = StageSpec(PredictStage, "scorer", kwargs)
    names = [pa.field(name, pa.int32()) for name in classifiers]
    schema = pa.schema([*table.schema, *names, pa.field("status", pa.string()), pa.field("error", pa.string())])
    parts = Parts(folder.resolve(), schema, step_fingerprint, table.num_rows, max_failed_fraction)
    # Eight model calls a unit: with fewer, Ray's cost per block shows beside so short a stage.
    pipeline.run(Job(table, index.folder, ("image_png",), [spec], pools, 8 * batch_size, parts), engine=engine)
    return read_parts(folder).select([*table.column_names, *classifiers])


def _keys(candidates: pa.Table, limits: PruneThresholds) -> list[str]:
    kept_N, _ = verdicts(candidates, limits)
    return [key for key, kept in zip(candidates["key"].to_pylist(), kept_N, strict=True) if kept]


def _device(num_gpus: float) -> str:
    # From the config, never from what the driver sees: the driver's machine may have no GPU, or another.
    return "cuda" if num_gpus > 0 else "cpu"


def _identity(config: RunConfig) -> dict[str, Any]:
    """The part of a config that decides results: without the engine, and without where and how often actors run."""
    data = config.model_dump(mode="json")
    data.pop("engine")
    for pool in data["pools"].values():
        for name in ("actors", "num_cpus", "num_gpus"):
            pool.pop(name)
    return data


def _check_model(config: RunConfig) -> None:
    if config.synthesis is not None:
        folder = Path(resolve_model(config.inpainter.model))
        if folder.is_dir():
            check_model_folder(folder)


def _model_revision(config: RunConfig) -> str | None:
    folder = Path(resolve_model(config.inpainter.model))
    return model_revision(folder) if folder.is_dir() else config.inpainter.revision
