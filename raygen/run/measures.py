"""Measures of fits beside accuracy, in measures/: what they look at, and what another background does to them.

Nothing depends on them, so they are no part of a run's identity: a run that is finished can be measured later, or anew
with other settings.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.classifier.architectures import SMALL_RESNET
from raygen.datasets.rows import Location
from raygen.pools import pipeline
from raygen.pools.pipeline import Engine
from raygen.pools.units import Pass
from raygen.run.config import RunConfig
from raygen.run.evaluation import held_out, rows_of_unit
from raygen.run.results import MEASURES_FILE
from raygen.run.steps import Run, RunStep
from raygen.schema import MEASURED, MEASURES
from raygen.seeding import row_seed
from raygen.stages.measure import MeasureStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts, failure_reasons, read_parts
from raygen.storage.progress import labelled
from raygen.storage.run_folder import Step
from raygen.storage.writing import atomic

# Images up to which the small network is measured in this process.
SHORT = 1024
# What is known of a picture before it is looked at, beside its pair.
_KNOWN = ("image_id", "label", "attribute", "split", "is_next_class")


def measures(run: Run, fitted: Mapping[str, Step]) -> RunStep | None:
    """MEASURED rows of fits, by name, on some held-out images, in measures/; None where nothing is to be measured."""
    config, settings = run.config, run.config.measures
    if not settings.images:
        return None
    state = run.opened.dataset.pairs_state()

    def measure(step: Step) -> Mapping[str, Any]:
        table = drawn(run)
        parts = step.folder / "parts"
        parts.mkdir()
        _stream(run, step, table, fitted)
        found = read_parts(parts)
        with atomic(step.folder / MEASURES_FILE) as temporary:
            pq.write_table(_by_result(found, list(fitted)), temporary)
        counts = {"images": found.num_rows, "failed": dict(failure_reasons(parts))}
        for part in parts.iterdir():
            part.unlink()
        parts.rmdir()
        return counts

    return RunStep(
        "measures",
        inputs={"data": run.done["data"], "fits": fitted},
        settings={
            "seed": config.seed,
            "measures": settings.model_dump(mode="json"),
            "scorer": config.pools.scorer.deciding(),
            **({} if state is None else {"pairs": state}),
        },
        doing=f"measuring attention on {settings.images} held-out images",
        body=measure,
    )


def drawn(run: Run) -> pa.Table:
    """The images that are measured, the same for every fit, with their pairs (`pair_png`, `is_next_class`).

    Of each split that is asked for as many as the config says, drawn from the run's seed; of validation where none of
    the splits has an image.
    """
    settings, held = run.config.measures, held_out(run.index)
    there = set(held["split"].to_pylist())
    splits = [split for split in settings.splits if split in there] or sorted(there)
    tables = []
    for split in splits:
        table = held.filter(pc.equal(held["split"], split))
        rows = _draw(run.config.seed, split, "images", table.num_rows, settings.images)
        tables.append(table.take(pa.array(rows)))
    table = pa.concat_tables(tables).combine_chunks().sort_by("image_id")
    groups = list(zip(table["label"].to_pylist(), table["attribute"].to_pylist(), strict=True))
    pairs = run.opened.dataset.pairs(table["image_id"].to_pylist(), groups, run_seed=run.config.seed)
    pictures = [None if pair is None else pair.image_png for pair in pairs]
    is_next = [None if pair is None else pair.is_next_class for pair in pairs]
    table = table.append_column("pair_png", pa.array(pictures, pa.large_binary()))
    return table.append_column("is_next_class", pa.array(is_next, pa.bool_()))


def _draw(seed: int, split: str, what: str, num: int, count: int) -> list[int]:
    """Places of `count` of `num` rows, in order; all where there are not more."""
    rng = np.random.default_rng(row_seed(seed, f"measures/{what}/{split}"))
    return sorted(rng.choice(num, size=min(num, count), replace=False).tolist())


def _stream(run: Run, step: Step, table: pa.Table, fitted: Mapping[str, Step]) -> None:
    config, folders = run.config, {name: str(fit.folder.resolve()) for name, fit in fitted.items()}
    fields = {
        "classifier_folders": folders,
        "cam": config.measures.cam,
        "baselines": _baselines(run, set(table["split"].to_pylist())) if config.measures.deep_lift else None,
        "device": config.pools.scorer.torch_device,
    }
    columns = [pa.field(f"{name}:{of.name}", of.type) for name in fitted for of in MEASURES]
    known = [table.schema.field(name) for name in _KNOWN]
    schema = pa.schema([*known, *columns, pa.field("status", pa.string()), pa.field("error", pa.string())])
    folder = (step.folder / "parts").resolve()
    work = Pass(
        table,
        index=run.index,
        source_columns=("image_png", "object_png"),
        specs=[StageSpec(MeasureStage, "scorer", fields)],
        pools=config.pools,
        unit_rows=rows_of_unit(
            config.pools.scorer.batch_size, mean_bytes=run.index.mean_bytes(table["image_id"].to_pylist())
        ),
        parts=Parts(folder, schema, step.fingerprint, table.num_rows, config.max_failed_fraction),
    )
    pipeline.run(work, engine=engine_of(config), say=labelled(step.folder.name, run.say))


def engine_of(config: RunConfig) -> Engine:
    """Where fits are measured: like every pass, but for the small network on a CPU.

    Actors would take longer to load what they need than it takes this process to measure some hundred pictures of 64
    px; it needs the same libraries for the page's heat maps anyway. The bits are the same.
    """
    is_small = config.classifier.architecture == SMALL_RESNET and config.pools.scorer.torch_device == "cpu"
    is_short = config.measures.images <= SHORT and not config.measures.deep_lift
    return "local" if is_small and is_short else config.engine


def _baselines(run: Run, splits: set[str]) -> dict[str, list[Location]]:
    """Where the pictures are that DeepLiftShap compares with, by split."""
    found = {}
    for split in sorted(splits):
        ids = run.index.split(split)["image_id"].to_pylist()
        rows = _draw(run.config.seed, split, "baselines", len(ids), run.config.measures.baselines)
        found[split] = run.index.locate([ids[row] for row in rows])
    return found


def _by_result(found: pa.Table, names: list[str]) -> pa.Table:
    """MEASURED: one row for each image and fit; pictures that could not be read are left out."""
    found = found.filter(pc.equal(found["status"], "ok"))
    tables = []
    for name in names:
        columns = {field.name: found[field.name] for field in MEASURED if field.name in _KNOWN}
        columns["result"] = pa.array([name] * found.num_rows, pa.string())
        columns |= {field.name: found[f"{name}:{field.name}"] for field in MEASURES}
        tables.append(pa.table([columns[field.name] for field in MEASURED], schema=MEASURED))
    return pa.concat_tables(tables)
