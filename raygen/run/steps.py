"""The steps of a run: each is skipped when its folder holds the output of the same config and inputs."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raygen import synthesis
from raygen.config import fingerprint
from raygen.datasets import dataset_state, write_dataset
from raygen.datasets.rows import RowIndex
from raygen.endpoint.connect import connect_endpoint
from raygen.endpoint.retry import ask_blocking
from raygen.errors import DataError
from raygen.fits import classifiers
from raygen.fits import tokens as token_fits
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import absolute_painter, model_revision, resolve_model
from raygen.inpainters.served import store_tokens
from raygen.maskers.language import finder_revisions
from raygen.pools import pipeline
from raygen.pruners import PruneThresholds, nothing_kept, verdicts
from raygen.run.config import RunConfig
from raygen.run.evaluation import held_out, predict
from raygen.run.fit_steps import FitSteps
from raygen.run.score_steps import ScoreSteps, call_of, job_of
from raygen.schema import CANDIDATE
from raygen.stages.synthesis import synthesis_specs
from raygen.storage.parts import failure_reasons, read_parts
from raygen.storage.progress import Say, labelled
from raygen.storage.run_folder import RunFolder, Step, read_manifest
from raygen.storage.writing import atomic, write_json
from raygen.synthesis.controls import ControlKind
from raygen.textual_inversion.class_tokens import trained_model

# Columns of a candidate that are small: everything but the two pictures.
SCORES_OF_CANDIDATES = tuple(name for name in CANDIDATE.names if not name.endswith("_png"))


class Steps:
    """One run in progress: every method is a step that is skipped when its folder is complete."""

    def __init__(self, config: RunConfig, folder: RunFolder, say: Say) -> None:
        self._config, self._folder, self._say = config, folder, say
        self._fits = FitSteps(config, folder, self._needed, say)
        self._scores = ScoreSteps(config, folder, self._needed, say)

    def load_rows(self) -> Step:
        """The dataset's rows, as SOURCE Parquet in data/."""
        config = self._config
        depends = {"dataset": config.dataset.model_dump(mode="json"), **dataset_state(config.dataset, config.seed)}
        step = self._folder.step("data", depends)
        if self._needed(step, "data", f"writing the rows of {config.dataset.name}"):
            with self._folder.timed("data"):
                step.finish(write_dataset(config.dataset, step.begin(), run_seed=config.seed))
        return step

    def fit_erm(self, data: Step) -> Step:
        """The biased classifier, in erm/."""
        return self._fits.erm(data)

    def fit_identifier(self, data: Step, erm: Step) -> Step:
        """The classifier whose scores and features a synthesis selects by; see `FitSteps.identifier`."""
        return self._fits.identifier(data, erm)

    def fit_first(self, data: Step) -> None:
        """What the algorithm needs fitted on the original images, such as JTT's: before hours of generation."""
        self._fits.original_first(data)

    def fit(self, name: str, data: Step, erm: Step, *, extra: classifiers.ExtraRows | None) -> Step:
        """A classifier by the recipe's algorithm, in fit/<name>/."""
        return self._fits.by_algorithm(name, data, erm, extra=extra)

    def score(self, data: Step, identifier: Step) -> Step:
        """Logits, losses and features of the training images, in scores/; k-fold: with predictions out of fold."""
        paper = self._config.synthesis
        num_folds = None if paper is None else paper.identification_folds()
        if num_folds is None:
            return self._scores.of("train", data, identifier, name="scores")
        folds = self._fits.folds(data, num_folds=num_folds)
        in_sample = self._scores.of("train", data, identifier, name="scores_in_sample")
        return self._scores.out_of_fold(data, in_sample, folds)

    def learn_tokens(self, data: Step, scores: Step, classifier: Step) -> Step | None:
        """A learned token for each class, in tokens/; None where the config asks for none."""
        config, settings = self._config, self._config.textual_inversion
        if settings is None:
            return None
        if settings.source == "val_groups":
            scores = self._scores.of("val", data, classifier, name="val_scores")
        request = token_fits.make_request(
            RowIndex.open(data.folder), read_parts(scores.folder), settings, config.inpainter, seed=config.seed
        )
        model = trained_model(settings, config.inpainter)
        depends = {
            "data": data.digest,
            "textual_inversion": request.settings,
            "tokens": request.tokens,
            "images": fingerprint(request.images),
            "model": [model.model, model.variant, _revision(model)],
            "resolution_px": model.resolution_px,
            "seed": config.seed,
            "workers": config.fit.model_dump(mode="json", include={"num_workers", "num_threads"}),
            "device": config.fit.torch_device,
        }
        step = self._folder.step("tokens", depends)
        if self._needed(step, "tokens", f"learning {', '.join(token['name'] for token in request.tokens)}"):
            with self._folder.timed("tokens"):
                begun = step.begin(keep_parts=step.is_begun)
                say = labelled("tokens", self._say)
                step.finish(token_fits.fit(request, begun, resources=config.fit, engine=config.engine, say=say))
            for line in token_fits.read_learned(step.folder).lines:
                self._say(f"tokens: {line}")
        return step

    def plan(self, data: Step, scores: Step, tokens: Step | None) -> Step:
        """What to generate, in plan/plan.parquet; with learned tokens, prompts name them."""
        config = self._config
        assert config.synthesis is not None
        depends = {
            "scores": scores.digest,
            "synthesis": config.synthesis.model_dump(mode="json"),
            "seed": config.seed,
        }
        info = RowIndex.open(data.folder).dataset
        if tokens is not None:
            info = replace(info, prompts=token_fits.read_learned(tokens.folder).prompts)
        depends["prompts"] = info.prompts
        step = self._folder.step("plan", depends)
        if self._needed(step, "plan", f"choosing what to generate ({config.synthesis.name})"):
            with self._folder.timed("plan"):
                table = read_parts(scores.folder)
                plan = synthesis.of(config.synthesis).select(
                    config.synthesis, table, dataset=info, run_seed=config.seed
                )
                with atomic(step.begin() / "plan.parquet") as temporary:
                    pq.write_table(plan, temporary)
                step.finish({"planned": plan.num_rows})
        return step

    def synthesize(self, plan: Step, data: Step, erm: Step, tokens: Step | None) -> Step:
        """Candidates: masked, inpainted and scored by three pools at once, in candidates/."""
        config = self._config
        assert config.synthesis is not None
        index = RowIndex.open(data.folder)
        method, num_steps = config.synthesis.measure()
        masker = synthesis.of(config.synthesis).masker
        depends = {
            "data": data.digest,
            "plan": plan.digest,
            "erm": erm.digest,
            "masker": masker(config.synthesis, index.dataset),
            "masker_revisions": _masker_revisions(config),
            "inpainter": config.inpainter.model_dump(mode="json", exclude={"on_out_of_memory", "url"}),
            "model_revision": _model_revision(config),
            "unit_rows": config.unit_rows,
            "pools": {name: call_of(getattr(config.pools, name)) for name in ("masker", "inpainter", "pruner")},
            "attribution": method if method == "exact" else [method, num_steps],
        }
        files = {} if tokens is None else token_fits.read_learned(tokens.folder).files
        if tokens is not None:
            depends["tokens"] = tokens.digest
        step = self._folder.step("candidates", depends)
        if not self._needed(step, "candidates", "generating: masker, inpainter and pruner pools"):
            return step
        with self._folder.timed("candidates"):
            table = pq.read_table(plan.folder / "plan.parquet")
            folder = step.begin(keep_parts=True)
            if files and config.inpainter.url is not None:
                store_tokens(connect_endpoint(config.inpainter.url), files, config.inpainter.model)
            specs = synthesis_specs(
                config.pools,
                masker=masker(config.synthesis.with_absolute_models(), index.dataset),
                inpainter=config.inpainter.model_dump(mode="json"),
                found_model=None if config.inpainter.url is not None else absolute_painter(config.inpainter.model),
                classifier_folder=str(erm.folder.resolve()),
                attribution=method,
                num_steps=num_steps,
                tokens=files,
                connect=connect_endpoint,
            )
            job = job_of(config, table, index, ("image_png", "object_png"), specs, CANDIDATE, folder, step)
            step.finish(pipeline.run(job, engine=config.engine, say=labelled("candidates", self._say)))
        return step

    def fit_all(self, data: Step, scores: Step, candidates: Step, erm: Step) -> dict[str, Step]:
        """Prunes, then fits the recipe, its unpruned twin and its controls; gives back the fits by name."""
        config = self._config
        assert config.synthesis is not None
        table = read_parts(candidates.folder, columns=SCORES_OF_CANDIDATES)
        limits = synthesis.of(config.synthesis).thresholds(config.synthesis, read_parts(scores.folder), table)
        (self._folder.path / "fit").mkdir(exist_ok=True)
        write_json(self._folder.path / "fit" / "thresholds.json", limits.model_dump(mode="json"))
        kept = _keys(table, limits)
        if not kept:
            raise DataError(nothing_kept(table, verdicts(table, limits)[1]))
        sources: dict[str, tuple[Literal["generated"] | ControlKind, list[str]]] = {config.recipe: ("generated", kept)}
        if config.unpruned:
            sources[f"{config.recipe}_unpruned"] = ("generated", _keys(table, PruneThresholds()))
        sources |= {f"control_{kind}": (kind, kept) for kind in config.controls}
        fitted = {}
        for name, (kind, keys) in sources.items():
            extra = classifiers.ExtraRows(
                kind=kind, keys=tuple(keys), candidates=str(candidates.folder.resolve()), digest=candidates.digest
            )
            fitted[name] = self.fit(name, data, erm, extra=extra)
        return fitted

    def evaluate(self, data: Step, fitted: dict[str, Step]) -> Step:
        """Predicted labels of every fit on the validation and test splits, in evaluation/predictions.parquet."""
        config = self._config
        fits_of = {name: fit.digest for name, fit in fitted.items()}
        depends = {"data": data.digest, "fits": fits_of, "scorer": call_of(config.pools.scorer)}
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
                    labelled("evaluation", self._say),
                )
                with atomic(step.folder / "predictions.parquet") as temporary:
                    pq.write_table(predictions, temporary)
                failed = dict(failure_reasons(parts))
                shutil.rmtree(parts)
                step.finish({"images": predictions.num_rows, "failed": failed})
        return step

    def _needed(self, step: Step, name: str, doing: str) -> bool:
        if step.is_complete:
            self._say(f"{name}: done before")
            return False
        if read_manifest(step.folder) is not None:
            self._say(f"{name}: made again, since what it depends on is not what it was")
        self._say(f"{name}: {doing}")
        return True


def _keys(candidates: pa.Table, limits: PruneThresholds) -> list[str]:
    kept_N, _ = verdicts(candidates, limits)
    return [key for key, kept in zip(candidates["key"].to_pylist(), kept_N, strict=True) if kept]


def _masker_revisions(config: RunConfig) -> list[str]:
    models = None if config.synthesis is None else config.synthesis.finder()
    return [] if models is None else finder_revisions(models)


def _model_revision(config: RunConfig) -> str | None:
    if config.inpainter.url is not None:
        facts = ask_blocking(connect_endpoint(config.inpainter.url).facts, config.inpainter.model)
        return str(facts["digest"]).removeprefix("sha256:")
    return _revision(config.inpainter)


def _revision(inpainter: InpainterConfig) -> str | None:
    folder = Path(resolve_model(inpainter.model))
    return model_revision(folder) if folder.is_dir() else inpainter.revision
