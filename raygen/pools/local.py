"""A pass in a plain loop, in this process: `engine=local`."""

import contextlib
from collections.abc import Iterable

from raygen.pools.actors import ACTORS
from raygen.pools.units import Pass, Unit, actor_arguments, load


def run_local(work: Pass, units: Iterable[Unit]) -> None:
    """Runs units one after the other in this process."""
    with contextlib.ExitStack() as actors:
        stages = [
            actors.enter_context(contextlib.closing(ACTORS[spec.pool](*actor_arguments(work, spec))))
            for spec in work.specs
        ]
        for unit in units:
            table = load(unit, work.source_columns, work.unit_rows)
            for stage in stages:
                table = stage(table)
            work.parts.write(table)
