"""From scores to pictures: learned tokens, what to generate, the candidates, and which of them are kept."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raygen import synthesis
from raygen.algorithms.feed import makes_copies
from raygen.config import fingerprint
from raygen.endpoint.connect import connect_endpoint
from raygen.errors import DataError
from raygen.fits import tokens as token_fits
from raygen.fits.extra_pictures import ExtraRows
from raygen.inpainters.fills import VERSION
from raygen.inpainters.served import store_tokens
from raygen.pruners import PruneThresholds, nothing_kept, verdicts
from raygen.run.config import RunConfig
from raygen.run.fit_steps import identifier, workers_of
from raygen.run.score_steps import scores_of
from raygen.run.steps import Run, RunStep
from raygen.schema import CANDIDATE, MASK, ROLE
from raygen.stages.fill import FillStage
from raygen.stages.inpaint import InpaintStage
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.region import RegionStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import CANDIDATE_SCORES, read_parts
from raygen.storage.progress import labelled
from raygen.storage.run_folder import Step
from raygen.storage.writing import atomic, write_json
from raygen.synthesis.controls import ControlKind


def learning(run: Run) -> Iterator[RunStep]:
    """A learned token for each class, in tokens/, where the config asks for them."""
    settings = run.config.textual_inversion
    if settings is None:
        return
    if settings.source == "val_groups":
        yield scores_of(run, "val", name="val_scores")
    yield _tokens(run)


def _tokens(run: Run) -> RunStep:
    config, settings, model = run.config, run.config.textual_inversion, run.opened.learner
    assert settings is not None
    assert model is not None
    scores = run.done["val_scores" if settings.source == "val_groups" else "scores"]
    request = token_fits.make_request(
        run.index,
        read_parts(scores.folder),
        settings,
        model=model,
        painter=run.opened.painter,
        seed=config.seed,
    )

    def learn(step: Step) -> Mapping[str, Any]:
        say = labelled("tokens", run.say)
        counts = token_fits.fit(
            request, step.folder, resources=config.fit, engine=config.engine, say=say, workers=run.workers
        )
        for line in token_fits.read_learned(step.folder).lines:
            say(line)
        return counts

    return RunStep(
        "tokens",
        inputs={"data": run.done["data"]},
        settings={
            "textual_inversion": request.settings,
            "tokens": request.tokens,
            "images": fingerprint(request.images),
            "model": [model.config.model, model.config.variant, model.revision],
            "resolution_px": model.config.resolution_px,
            "seed": config.seed,
            **workers_of(config.fit, of_classifier=False),
        },
        doing=f"learning {', '.join(token['name'] for token in request.tokens)}",
        body=learn,
        is_fit=True,
        keeps="own",
    )


def plan(run: Run) -> RunStep:
    """What to generate, in plan/plan.parquet; with learned tokens, prompts name them."""
    config, scores, paper = run.config, run.done["scores"], run.config.synthesis
    assert paper is not None
    info = run.index.dataset
    if "tokens" in run.done:
        info = replace(info, prompts=token_fits.read_learned(run.done["tokens"].folder).prompts)

    def choose(step: Step) -> Mapping[str, Any]:
        scored = read_parts(scores.folder, columns=paper.score_columns())
        table = synthesis.of(paper).select(paper, scored, dataset=info, run_seed=config.seed)
        with atomic(step.folder / "plan.parquet") as temporary:
            pq.write_table(table, temporary)
        return {"planned": table.num_rows}

    return RunStep(
        "plan",
        inputs={"scores": scores},
        settings={"synthesis": paper.deciding(), "seed": config.seed, "prompts": info.prompts},
        doing=f"choosing what to generate ({paper.name})",
        body=choose,
    )


def candidates(run: Run) -> RunStep:
    """Candidates: masked, inpainted and scored by three pools at once, in candidates/."""
    config, paper, tokens = run.config, run.config.synthesis, run.done.get("tokens")
    assert paper is not None
    models, (method, num_steps), filled = paper.finder(), paper.measure(), paper.as_candidates()
    tolerance = [] if paper.tolerance() is None else [paper.tolerance()]
    inputs = {"data": run.done["data"], "plan": run.done["plan"], "erm": identifier(run)}
    return RunStep(
        "candidates",
        inputs=inputs if tokens is None else {**inputs, "tokens": tokens},
        settings={
            "masker": synthesis.of(paper).masker(paper, run.index.dataset),
            "masker_revisions": [] if models is None else models.revisions(),
            "inpainter": config.inpainter.deciding() if paper.paints() else None,
            "model_revision": run.opened.painter_revision() if paper.paints() else None,
            "unit_rows": config.unit_rows,
            "pools": {name: getattr(config.pools, name).deciding() for name in ("masker", "inpainter", "pruner")},
            "attribution": method if method == "exact" else [method, num_steps, *tolerance],
            **({} if filled is None else {"fills": [asdict(filled), VERSION]}),
        },
        doing="generating: masker, inpainter and pruner pools",
        body=lambda step: _generate(run, step),
        keeps="parts",
    )


def _generate(run: Run, step: Step) -> Mapping[str, Any]:
    paper, pools, inpainter, painter = run.config.synthesis, run.config.pools, run.config.inpainter, run.opened.painter
    assert paper is not None
    tokens = token_fits.read_learned(run.done["tokens"].folder).files if "tokens" in run.done else {}
    if tokens and inpainter.url is not None:
        store_tokens(connect_endpoint(inpainter.url), tokens, inpainter.model)
    classifier, (method, num_steps) = str(identifier(run).folder.resolve()), paper.measure()
    masks = {
        "masker": synthesis.of(paper).masker(paper.with_absolute_models(), run.index.dataset),
        "classifier_folder": classifier,
        "device": pools.masker.torch_device,
    }
    paints = {
        "inpainter": inpainter.model_dump(mode="json"),
        "found_model": None if painter is None else painter.for_workers,
        "num_rows": pools.inpainter.batch_size,
        "device": pools.inpainter.torch_device,
        "tokens": tokens,
        "connect": connect_endpoint,
    }
    judges = {
        "classifier_folder": classifier,
        "attribution": method,
        "num_steps": num_steps,
        "completeness_tolerance": paper.tolerance(),
        "device": pools.pruner.torch_device,
    }
    filled, schema = paper.as_candidates(), CANDIDATE
    makes = [StageSpec(MaskStage, "masker", masks), StageSpec(InpaintStage, "inpainter", paints)]
    if filled is not None:
        values = {"counterfactual": filled.counterfactual, "factual": filled.factual}
        regions = {"counterfactual": filled.counterfactual_region, "factual": filled.factual_region}
        fills = {
            "values": {role: value for role, value in values.items() if value is not None},
            "fgsm_epsilon": filled.fgsm_epsilon,
            "data": str(run.done["data"].folder.resolve()),
            "classifier_folder": classifier,
            "paints": paints if paper.paints() else None,
            "device": pools.inpainter.torch_device,
        }
        makes = [
            StageSpec(RegionStage, "masker", {**masks, "regions": regions}),
            StageSpec(FillStage, "inpainter", fills),
        ]
        schema = schema.append(ROLE)
    table = pq.read_table(run.done["plan"].folder / "plan.parquet")
    specs = [*makes, StageSpec(PruneStage, "pruner", judges)]
    return run.stream(step, table, columns=("image_png", "object_png"), specs=specs, schema=schema)


def object_masks(run: Run) -> Iterator[RunStep]:
    """Object masks of the training images, in masks/, where fits need them."""
    config, paper = run.config, run.config.synthesis
    if not needs_masks(config):
        return
    classifier, masker = run.done["erm"], config.pools.masker
    fields: dict[str, Any] = {"name": "truth", "dilation_px": 0}
    for_workers, models = fields, None
    if paper is not None and paper.in_training() is not None:
        models = paper.finder()
        fields = synthesis.of(paper).masker(paper, run.index.dataset)
        for_workers = synthesis.of(paper).masker(paper.with_absolute_models(), run.index.dataset)

    def find(step: Step) -> Mapping[str, Any]:
        train = run.index.split("train")
        columns = {"image_id": train["image_id"], "source_label": train["label"], "predicted_label": train["label"]}
        table = pa.table({**columns, "role": pa.array(["object"] * train.num_rows)})
        stage = {
            "masker": for_workers,
            "regions": {},
            "classifier_folder": str(classifier.folder.resolve()),
            "device": masker.torch_device,
        }
        specs = [StageSpec(RegionStage, "masker", stage)]
        return run.stream(step, table, columns=("image_png", "object_png"), specs=specs, schema=MASK)

    yield RunStep(
        "masks",
        # The dataset's own masks are the same whatever was fitted.
        inputs={"data": run.done["data"], "erm": classifier if fields["name"] == "cam" else None},
        settings={
            "masker": fields,
            "masker_revisions": [] if models is None else models.revisions(),
            "unit_rows": config.unit_rows,
            "pool": masker.deciding(),
        },
        doing="looking for the objects of the training images",
        body=find,
        keeps="parts",
    )


def needs_masks(config: RunConfig) -> bool:
    """Whether a fit needs object masks of the training images."""
    filled = None if config.synthesis is None else config.synthesis.in_training()
    return config.algorithm.needs_masks() or makes_copies(filled)


def added_pictures(run: Run) -> Mapping[str, ExtraRows | None]:
    """The fits after the first by name, each with the pictures that it adds: the recipe's own, and those beside it.

    Raises:
        DataError: No picture is kept.
    """
    config, paper = run.config, run.config.synthesis
    if paper is None or not paper.plans():
        return {} if config.recipe == "erm" else {config.recipe: None}
    made = run.done["candidates"]
    table = read_parts(made.folder, columns=CANDIDATE_SCORES)
    scores = read_parts(run.done["scores"].folder, columns=paper.score_columns())
    limits = synthesis.of(paper).thresholds(paper, scores, table)
    (run.folder.path / "fit").mkdir(exist_ok=True)
    write_json(run.folder.path / "fit" / "thresholds.json", limits.model_dump(mode="json"))
    kept = _keys(table, limits)
    if not kept:
        raise DataError(nothing_kept(table, verdicts(table, limits)[1]))
    sources: dict[str, tuple[Literal["generated"] | ControlKind, tuple[str, ...]]] = {
        config.recipe: ("generated", kept),
        **({f"{config.recipe}_unpruned": ("generated", _keys(table, PruneThresholds()))} if config.unpruned else {}),
        **{f"control_{kind}": (kind, kept) for kind in config.controls},
    }
    folder, digest = str(made.folder.resolve()), made.digest
    return {name: ExtraRows(kind, keys, candidates=folder, digest=digest) for name, (kind, keys) in sources.items()}


def _keys(table: pa.Table, limits: PruneThresholds) -> tuple[str, ...]:
    kept_N, _ = verdicts(table, limits)
    return tuple(key for key, kept in zip(table["key"].to_pylist(), kept_N, strict=True) if kept)
