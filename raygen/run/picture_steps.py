"""From scores to pictures: learned tokens, what to generate, and the candidates."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen import synthesis
from raygen.config import fingerprint
from raygen.endpoint.connect import connect_endpoint
from raygen.errors import DataError
from raygen.fits import tokens as token_fits
from raygen.inpainters.fills import VERSION
from raygen.inpainters.served import store_tokens
from raygen.run.fit_steps import identifier, workers_of
from raygen.run.score_steps import scores_of
from raygen.run.steps import Run, RunStep
from raygen.schema import CANDIDATE, ROLE, SCORE
from raygen.seeding import row_seed
from raygen.stages.fill import FillStage
from raygen.stages.inpaint import InpaintStage
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.region import RegionStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import read_parts
from raygen.storage.progress import labelled
from raygen.storage.run_folder import Step
from raygen.storage.writing import atomic, write_json
from raygen.synthesis import SynthesisConfig
from raygen.synthesis.base import REPAINT_FRACTION, MaskSearch

# What a look at the training images found out for their masks, beside what it saw.
MASKS_FILE = "found.json"


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
        seed=config.seed_of_pictures,
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
            "seed": config.seed_of_pictures,
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
        if (wanted := paper.looks_at(scored)) is not None and wanted.num_rows:
            scored = _looked_at(run, step, scored, wanted)
        table = synthesis.of(paper).select(paper, scored, dataset=info, run_seed=config.seed_of_pictures)
        with atomic(step.folder / "plan.parquet") as temporary:
            pq.write_table(table, temporary)
        return {"planned": table.num_rows}

    return RunStep(
        "plan",
        inputs={"scores": scores},
        settings={"synthesis": paper.deciding(), "seed": config.seed_of_pictures, "prompts": info.prompts},
        doing=f"choosing what to generate ({paper.name})",
        body=choose,
    )


def _looked_at(run: Run, step: Step, scores: pa.Table, wanted: pa.Table) -> pa.Table:
    """Scores with what the masks of some images leave; an image without one is no failure of the run."""
    assert run.config.synthesis is not None
    table = wanted.select(["image_id", "label", "predicted_label"]).append_column("source_label", wanted["label"])
    fraction = CANDIDATE.field(REPAINT_FRACTION)
    run.stream(
        step,
        table,
        columns=("image_png", "object_png"),
        specs=[_mask_spec(run, run.config.synthesis)],
        schema=pa.schema([SCORE.field("image_id"), fraction, SCORE.field("status"), SCORE.field("error")]),
        max_failed_fraction=1.0,
    )
    seen = read_parts(step.folder, columns=["image_id", REPAINT_FRACTION])
    place_N = pc.index_in(scores["image_id"], value_set=seen["image_id"].combine_chunks())  # null: not among them
    return scores.append_column(fraction, seen[REPAINT_FRACTION].take(place_N))


def mask_search(run: Run) -> Iterator[RunStep]:
    """How the training images are to be masked, in masks/, where a synthesis finds that out from them."""
    assert run.config.synthesis is not None
    search = run.config.synthesis.mask_search()
    if search is not None:
        yield _searched(run, search)


def _searched(run: Run, search: MaskSearch) -> RunStep:
    config, classifier = run.config, identifier(run)
    masker = config.pools.masker

    def look(step: Step) -> Mapping[str, Any]:
        table = run.index.split("train").select(["image_id", "label"])
        rng = np.random.default_rng(row_seed(config.seed_of_pictures, "masks"))
        table = table.take(np.sort(rng.permutation(table.num_rows)[: search.num_images]))
        fields = {"classifier_folder": str(classifier.folder.resolve()), "device": masker.torch_device}
        specs = [StageSpec(search.stage, "masker", {**fields, **search.settings})]
        counts = run.stream(step, table, columns=("image_png",), specs=specs, schema=search.schema)
        seen = read_parts(step.folder, columns=["status", search.column])
        seen = seen.filter(pc.equal(seen["status"], "ok"))
        if not seen.num_rows:
            raise DataError("none of the training images that masks are chosen by could be looked at")
        found = search.found(np.array(seen[search.column].to_pylist(), dtype=np.float64))
        write_json(step.folder / MASKS_FILE, found)
        run.say("masks: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
        return counts

    return RunStep(
        "masks",
        inputs={"data": run.done["data"], "erm": classifier},
        settings={
            "search": {"images": search.num_images, "column": search.column, **search.settings},
            "seed": config.seed_of_pictures,
            "unit_rows": config.unit_rows,
            "masker": masker.deciding(),
        },
        doing="choosing how much of a picture masks keep",
        body=look,
        keeps="parts",
    )


def _masker(run: Run, paper: SynthesisConfig) -> dict[str, Any]:
    """Fields of the masker's config, with what was found out for it."""
    fields = synthesis.of(paper).masker(paper, run.index.dataset)
    if "masks" in run.done:
        fields |= json.loads((run.done["masks"].folder / MASKS_FILE).read_text(encoding="utf-8"))
    return fields


def candidates(run: Run) -> RunStep:
    """Candidates: masked, inpainted and scored by three pools at once, in candidates/."""
    config, paper, tokens = run.config, run.config.synthesis, run.done.get("tokens")
    assert paper is not None
    models, (method, num_steps), filled = paper.finder(), paper.measure(), paper.as_candidates()
    tolerance = [] if paper.tolerance() is None else [paper.tolerance()]
    inputs = {"data": run.done["data"], "plan": run.done["plan"], "erm": identifier(run)}
    own = paper.own_painter()
    painter: dict[str, Any] = {}
    if own is not None:
        painter = {"painter": [own.name, {**own.settings}], "seed": config.seed_of_pictures}
    elif config.needs_model:
        painter = {"inpainter": config.inpainter.deciding(), "model_revision": run.opened.painter_revision()}
    return RunStep(
        "candidates",
        inputs=inputs if tokens is None else {**inputs, "tokens": tokens},
        settings={
            "masker": _masker(run, paper),
            "masker_revisions": [] if models is None else models.revisions(),
            **painter,
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
    paper = run.config.synthesis
    assert paper is not None
    specs = [_mask_spec(run, paper), _paint_spec(run, paper), _judge_spec(run, paper)]
    table = pq.read_table(run.done["plan"].folder / "plan.parquet")
    schema = CANDIDATE if paper.as_candidates() is None else CANDIDATE.append(ROLE)
    return run.stream(step, table, columns=("image_png", "object_png"), specs=specs, schema=schema)


def _mask_spec(run: Run, paper: SynthesisConfig) -> StageSpec:
    fields = {
        "masker": _masker(run, paper.with_absolute_models()),
        "classifier_folder": str(identifier(run).folder.resolve()),
        "device": run.config.pools.masker.torch_device,
    }
    if (filled := paper.as_candidates()) is None:
        return StageSpec(MaskStage, "masker", fields)
    regions = {"counterfactual": filled.counterfactual_region, "factual": filled.factual_region}
    return StageSpec(RegionStage, "masker", {**fields, "regions": regions})


def _paint_spec(run: Run, paper: SynthesisConfig) -> StageSpec:
    """The inpainting model, or what the synthesis has in its place."""
    pool = run.config.pools.inpainter
    if (own := paper.own_painter()) is not None:
        fields = {
            "num_rows": pool.batch_size,
            "device": pool.torch_device,
            "masker": _masker(run, paper.with_absolute_models()),
            "classifier_folder": str(identifier(run).folder.resolve()),
            "data_folder": str(run.done["data"].folder.resolve()),
            "seed": run.config.seed_of_pictures,
            **own.settings,
        }
        return StageSpec(own.stage, "inpainter", fields)
    if (filled := paper.as_candidates()) is None:
        return StageSpec(InpaintStage, "inpainter", _model_fields(run))
    values = {"counterfactual": filled.counterfactual, "factual": filled.factual}
    fields = {
        "values": {role: value for role, value in values.items() if value is not None},
        "fgsm_epsilon": filled.fgsm_epsilon,
        "data": str(run.done["data"].folder.resolve()),
        "classifier_folder": str(identifier(run).folder.resolve()),
        "paints": _model_fields(run) if paper.paints() else None,
        "device": pool.torch_device,
    }
    return StageSpec(FillStage, "inpainter", fields)


def _model_fields(run: Run) -> dict[str, Any]:
    """Arguments of the inpainting model's stage."""
    pool, inpainter, painter = run.config.pools.inpainter, run.config.inpainter, run.opened.painter
    tokens = token_fits.read_learned(run.done["tokens"].folder).files if "tokens" in run.done else {}
    if tokens and inpainter.url is not None:
        store_tokens(connect_endpoint(inpainter.url), tokens, inpainter.model)
    return {
        "num_rows": pool.batch_size,
        "device": pool.torch_device,
        "inpainter": inpainter.model_dump(mode="json"),
        "found_model": None if painter is None else painter.for_workers,
        "tokens": tokens,
        "connect": connect_endpoint,
    }


def _judge_spec(run: Run, paper: SynthesisConfig) -> StageSpec:
    method, num_steps = paper.measure()
    fields = {
        "classifier_folder": str(identifier(run).folder.resolve()),
        "attribution": method,
        "num_steps": num_steps,
        "completeness_tolerance": paper.tolerance(),
        "device": run.config.pools.pruner.torch_device,
    }
    return StageSpec(PruneStage, "pruner", fields)
