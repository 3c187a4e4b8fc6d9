"""Runs whose pictures are made as `raygen run` makes them, for studies that then do something else with them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raygen import recipes
from raygen.run.opened import Opened
from raygen.run.steps import Run, RunStep
from raygen.storage.run_folder import RunFolder

# What is pruned decides no picture; it is said here so that a study stays what it is.
POOL_SETTINGS = [
    "synthesis.k=500",  # those of `raygen demo`
    "synthesis.prune=true",
    "synthesis.source_probability_test=selected",
    "synthesis.attribution_test=quantile",
    "synthesis.attribution_threshold=0.25",
    "controls=[]",
    "unpruned=true",
    "measures.images=0",
]


@contextlib.contextmanager
def with_candidates(
    data: Mapping[str, Any],
    overrides: Sequence[str],
    folder: Path,
    *,
    reuse: Sequence[Path] = (),
    in_place_of: Mapping[str, Callable[[Run], RunStep]] | None = None,
) -> Iterator[Run]:
    """A run of which everything is done up to its candidates; what was done before is skipped.

    Args:
        data: The config; see `raygen.recipes.make_config`.
        overrides: Overrides of it.
        folder: The run's folder.
        reuse: Runs whose finished steps are taken.
        in_place_of: Steps of the study's own, by the name of the step that they replace.
    """
    config = recipes.make_config(dict(data), overrides, where="config")
    opened, run_folder = Opened(config), RunFolder(folder, [one for one in reuse if one != folder and one.is_dir()])
    with (
        run_folder.claimed(config.model_dump(mode="json"), identity=config.deciding(), fresh=False),
        Run(opened, run_folder, partial(print, flush=True)) as begun,
    ):
        for step in recipes.steps(begun):
            if step.name.startswith("fit/"):
                break
            own = (in_place_of or {}).get(step.name)
            begun.do(step if own is None else own(begun))
        yield begun
