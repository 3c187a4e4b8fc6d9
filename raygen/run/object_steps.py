"""Where the objects of the training images are, for fits that fill copies of them or penalise gradients beside them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from raygen import synthesis
from raygen.algorithms.feed import makes_copies
from raygen.run.config import RunConfig
from raygen.run.steps import Run, RunStep
from raygen.schema import MASK
from raygen.stages.region import RegionStage
from raygen.stages.spec import StageSpec
from raygen.storage.run_folder import Step


def object_masks(run: Run) -> Iterator[RunStep]:
    """Object masks of the training images, in objects/, where fits need them."""
    config, paper = run.config, run.config.synthesis
    if not needs_objects(config):
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
        "objects",
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


def needs_objects(config: RunConfig) -> bool:
    """Whether a fit needs object masks of the training images."""
    filled = None if config.synthesis is None else config.synthesis.in_training()
    return config.algorithm.needs_masks() or makes_copies(filled)
