"""The steps of a run: each is skipped when its folder holds the output of the same config and inputs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raygen import cluster, fits, pipeline
from raygen.algorithms import AnyAlgorithm
from raygen.config import PoolConfig, fingerprint
from raygen.datasets import write_dataset
from raygen.errors import DataError
from raygen.evaluation import held_out, predict
from raygen.inpainters.model_folder import model_revision, resolve_model
from raygen.maskers.language import finder_revisions
from raygen.parts import Parts, failure_reasons, read_parts
from raygen.pruners import PruneThresholds, verdicts
from raygen.rows import RowIndex
from raygen.run_config import RunConfig
from raygen.runs import RunFolder, Step
from raygen.schema import CANDIDATE, SCORE
from raygen.stages.score import ScoreStage
from raygen.stages.spec import StageSpec
from raygen.stages.synthesis import synthesis_specs
from raygen.synthesis import attribution, finder, identification_epochs, masker, select, thresholds
from raygen.synthesis.controls import ControlKind
from raygen.units import Job
from raygen.writing import atomic, write_json

Say = Callable[[str], Any]
# Columns of a candidate that are small: everything but the two pictures.
SCORES_OF_CANDIDATES = tuple(name for name in CANDIDATE.names if not name.endswith("_png"))


class Steps:
    """One run in progress: every method is a step that is skipped when its folder is complete."""

    def __init__(self, config: RunConfig, folder: RunFolder, say: Say) -> None:
        self._config, self._folder, self._say = config, folder, say

    def load_rows(self) -> Step:
        """The dataset's rows, as SOURCE Parquet in data/.

        Raises:
            ConfigError: The masker cannot look for what the dataset shows.
        """
        config = self._config
        step = self._folder.step("data", {"dataset": config.dataset.model_dump(mode="json"), "seed": config.seed})
        if self._needed(step, "data", f"writing the rows of {config.dataset.name}"):
            with self._folder.timed("data"):
                step.finish(write_dataset(config.dataset, step.begin(), run_seed=config.seed))
        if config.synthesis is not None:
            # Now, not after hours of fitting: whether the masker can look for what this dataset shows.
            masker(config.synthesis, dataset=RowIndex.open(step.folder).dataset)
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
        depends = {
            "data": data.digest,
            "erm": erm.digest,
            "unit_rows": config.unit_rows,
            "scorer": _call(config.pools.scorer),
        }
        step = self._folder.step("scores", depends)
        if not self._needed(step, "scores", "scoring the training images"):
            return step
        with self._folder.timed("scores"):
            index = RowIndex.open(data.folder)
            table = index.split("train").select(["image_id", "label"])
            spec = StageSpec(
                ScoreStage,
                "scorer",
                {"classifier_folder": str(erm.folder.resolve()), "device": config.pools.scorer.torch_device},
            )
            folder = step.begin(keep_parts=True)
            counts = pipeline.run(
                self._job(table, index, ("image_png",), [spec], SCORE, folder, step), engine=config.engine
            )
            step.finish(counts)
        return step

    def plan(self, data: Step, scores: Step) -> Step:
        """What to generate, in plan/plan.parquet."""
        config = self._config
        assert config.synthesis is not None
        depends = {
            "scores": scores.digest,
            "synthesis": config.synthesis.model_dump(mode="json"),
            "seed": config.seed,
        }
        step = self._folder.step("plan", depends)
        if self._needed(step, "plan", f"choosing what to generate ({config.synthesis.name})"):
            with self._folder.timed("plan"):
                table = read_parts(scores.folder)
                index = RowIndex.open(data.folder)
                plan = select(config.synthesis, table, dataset=index.dataset, run_seed=config.seed)
                with atomic(step.begin() / "plan.parquet") as temporary:
                    pq.write_table(plan, temporary)
                step.finish({"planned": plan.num_rows})
        return step

    def synthesize(self, plan: Step, data: Step, erm: Step) -> Step:
        """Candidates: masked, inpainted and scored by three pools at once, in candidates/."""
        config = self._config
        assert config.synthesis is not None
        index = RowIndex.open(data.folder)
        depends = {
            "data": data.digest,
            "plan": plan.digest,
            "erm": erm.digest,
            "masker": masker(config.synthesis, dataset=index.dataset),
            "masker_revisions": _masker_revisions(config),
            "inpainter": config.inpainter.model_dump(mode="json", exclude={"on_out_of_memory", "url"}),
            "model_revision": _model_revision(config),
            "unit_rows": config.unit_rows,
            "pools": {name: _call(getattr(config.pools, name)) for name in ("masker", "inpainter", "pruner")},
            "attribution": list(attribution(config.synthesis)),
        }
        step = self._folder.step("candidates", depends)
        if not self._needed(step, "candidates", "generating: masker, inpainter and pruner pools"):
            return step
        with self._folder.timed("candidates"):
            table = pq.read_table(plan.folder / "plan.parquet")
            folder = step.begin(keep_parts=True)
            method, num_steps = attribution(config.synthesis)
            specs = synthesis_specs(
                config.pools,
                masker=masker(config.synthesis, dataset=index.dataset),
                inpainter=config.inpainter.model_dump(mode="json"),
                classifier_folder=str(erm.folder.resolve()),
                attribution=method,
                num_steps=num_steps,
                connect=cluster.connect_endpoint,
            )
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
            extra = fits.ExtraRows(
                kind=kind, keys=tuple(keys), candidates=str(candidates.folder.resolve()), digest=candidates.digest
            )
            fitted[name] = self.fit(name, data, erm, extra=extra)
        return fitted

    def evaluate(self, data: Step, fitted: dict[str, Step]) -> Step:
        """Predicted labels of every fit on the validation and test splits, in evaluation/predictions.parquet."""
        config = self._config
        fits_of = {name: fit.digest for name, fit in fitted.items()}
        depends = {"data": data.digest, "fits": fits_of, "scorer": _call(config.pools.scorer)}
        step = self._folder.step("evaluation", depends)
        if self._needed(step, "evaluation", "evaluating on validation and test"):
            with self._folder.timed("evaluation"):
                parts = step.begin() / "parts"
                parts.mkdir()
                index = RowIndex.open(data.folder)
                folders = {name: str(fit.folder.resolve()) for name, fit in fitted.items()}
                predictions = predict(
                    index,
                    held_out(index),
                    folders,
                    parts,
                    config.pools,
                    step.fingerprint,
                    config.max_failed_fraction,
                    config.engine,
                )
                with atomic(step.folder / "predictions.parquet") as temporary:
                    pq.write_table(predictions, temporary)
                failed = dict(failure_reasons(parts))
                shutil.rmtree(parts)
                step.finish({"images": predictions.num_rows, "failed": failed})
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
            "data": data.digest,
            "init": None if init is None else init.digest,
            "classifier": request.classifier,
            "algorithm": request.algorithm,
            "seed": config.seed,
            "workers": config.fit.model_dump(mode="json", include={"num_workers", "num_threads"}),
            "device": config.fit.torch_device,
            "extra": None if extra is None else [extra.kind, extra.digest, fingerprint(list(extra.keys))],
        }
        step = self._folder.step(folder, depends)
        count = "" if extra is None else f" with {len(extra.keys)} extra images"
        if self._needed(step, f"fit {name}", f"fitting {name}{count}"):
            with self._folder.timed(f"fit {name}"):
                # A checkpoint of another training set or algorithm is not gone on from.
                begun = step.begin(keep_parts=step.is_begun)
                counts = fits.fit(request, begun, resources=config.fit, engine=config.engine)
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


def _keys(candidates: pa.Table, limits: PruneThresholds) -> list[str]:
    kept_N, _ = verdicts(candidates, limits)
    return [key for key, kept in zip(candidates["key"].to_pylist(), kept_N, strict=True) if kept]


def _call(pool: PoolConfig) -> dict[str, int | str]:
    """What of a pool decides the bits of its results."""
    return {"batch_size": pool.batch_size, "num_threads": pool.num_threads, "device": pool.torch_device}


def _masker_revisions(config: RunConfig) -> list[str]:
    models = None if config.synthesis is None else finder(config.synthesis)
    return [] if models is None else finder_revisions(models)


def _model_revision(config: RunConfig) -> str | None:
    if config.inpainter.url is not None:
        digest = str(cluster.connect_endpoint(config.inpainter.url).facts(config.inpainter.model)["digest"])
        return digest.removeprefix("sha256:")
    folder = Path(resolve_model(config.inpainter.model))
    return model_revision(folder) if folder.is_dir() else config.inpainter.revision
