"""The Ray Data code: a table of rows, a list of stages and their pools, in; Parquet parts out.

One unit (`raygen.pools.units`) is one Ray Data block from the reader, through every pool, to its part. So the
composition of every batch depends on nothing but the table, and to resume is to run the units that have no part.
`engine="local"` runs the very same stages over the very same units in a plain loop.

Not for choosing what to generate (that is `raygen.synthesis`), nor for fits (`raygen.fits.running`).
"""

import contextlib
import functools
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.context import AutoscalingConfig
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from raygen import cluster
from raygen.cluster import capacity
from raygen.cluster.placement import Need
from raygen.errors import DataError, StageError
from raygen.pools.actors import ACTORS, UNITS_AT_ONCE
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.local import run_local
from raygen.pools.unit_tasks import UnitSink, UnitSource
from raygen.pools.units import Pass, Unit, actor_arguments, cut, num_units
from raygen.stages.spec import check_columns
from raygen.storage import progress

logger = logging.getLogger(__name__)

Engine = Literal["ray", "local"]
# Logical CPUs of a reading and of a writing task: they do little, and must never be the reason for a deadlock.
IO_CPUS = 0.25
# Actors of the widest pool that one reading and one writing task can keep busy.
ACTORS_PER_READER = 4
# A wedged pass should end with an error. A unit counts as progress only when it leaves a pool: on a slow device, or row
# by row after two deaths, that may take hours.
NO_PROGRESS_TIMEOUT_S = 6 * 3600
MAX_INIT_DEATHS = 3


def run(
    work: Pass, *, engine: Engine, say: progress.Say = progress.quiet, every_s: float = progress.EVERY_S
) -> Counter[str]:
    """Runs what is not done yet of a pass; gives back the number of rows by status.

    Args:
        work: What to do.
        engine: "ray" or "local".
        say: Called with how far a long pass is, unless Ray draws its own bars in a terminal.
        every_s: How often.

    Raises:
        TooManyFailedRowsError: More than `max_failed_fraction` of the rows failed; the parts stay.
        ResourceError: The pools need CPUs or GPUs that the cluster does not have.
        RunFolderError: A part in the folder belongs to another pass.
        DataError: The table is empty, or an image is not in the dataset.
        StageError: An actor failed for another reason than its rows.
    """
    folder = work.parts.folder
    if work.table.num_rows == 0:
        raise DataError(f"nothing to do in {folder}: the table of rows is empty")
    check_columns(work.specs, {*work.table.column_names, *work.source_columns, "status", "error"})
    done = work.parts.open()
    todo = cut(work, [number for number in range(num_units(work)) if number not in done])
    logger.info("%s: %d of %d units to do", folder.name, len(todo), num_units(work))
    if todo and engine == "local":
        with progress.said(work.progress, say, every_s=every_s):
            run_local(work, todo)
    elif todo:
        shows_bars = sys.stderr.isatty()
        with contextlib.nullcontext() if shows_bars else progress.said(work.progress, say, every_s=every_s):
            _run_ray(work, todo, shows_bars=shows_bars, say=say)
    return work.parts.close(range(num_units(work)))


def check_pools(names: Sequence[str], pools: PoolsConfig) -> None:
    """Checks that the least number of actors of pools that run at once fits the nodes, with reading and writing.

    Raises:
        ResourceError: It does not fit; the pass would wait for ever.
    """
    capacity.require(
        _needs(names, pools),
        what="the pools need",
        advice="Lower pools.*.actors, num_cpus or num_gpus, or add nodes.",
    )


def _needs(names: Sequence[str], pools: PoolsConfig) -> list[Need]:
    needs = [Need("reading and writing", {"CPU": IO_CPUS}, 2)]
    for name in names:
        pool: PoolConfig = getattr(pools, name)
        each = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
        needs.append(Need(f"pools.{name}", each, pool.min_actors))
    return needs


def _run_ray(work: Pass, units: list[Unit], *, shows_bars: bool, say: progress.Say) -> None:
    cluster.connect()
    names = [spec.pool for spec in work.specs]
    check_pools(names, work.pools)
    capacity.wait_until_free(_needs(names, work.pools), what="the pools need", say=say)
    context = _data_context(shows_bars=shows_bars)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    _hear_warning()
    # Readers and writers are quick. Ray would start as many as there are free CPUs, each a process of 200 MB.
    num_io = 1 + max(getattr(work.pools, spec.pool).max_actors for spec in work.specs) // ACTORS_PER_READER
    with DataContext.current(context):
        # As many blocks as units: fewer would make Ray split the blocks again.
        source = UnitSource(units, work.source_columns, work.unit_rows)
        dataset = ray.data.read_datasource(source, override_num_blocks=len(units), num_cpus=IO_CPUS, concurrency=num_io)
        for spec in work.specs:
            pool: PoolConfig = getattr(work.pools, spec.pool)
            dataset = dataset.map_batches(
                ACTORS[spec.pool],
                fn_constructor_args=actor_arguments(work, spec),
                fn_constructor_kwargs={"own_thread": True},
                batch_size=work.unit_rows,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=pool.min_actors,
                    max_size=pool.max_actors,
                    max_concurrent_calls_per_actor=UNITS_AT_ONCE,
                    # No more wait in an actor: they would not go to the ones that are still loading their models.
                    max_tasks_in_flight_per_actor=UNITS_AT_ONCE,
                    enable_true_multi_threading=True,
                ),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus or None,
                udf_modifying_row_count=False,
            )
        try:
            dataset.write_datasink(UnitSink(work.parts), ray_remote_args={"num_cpus": IO_CPUS}, concurrency=num_io)
        except RayError as error:
            raise cluster.own_error(error, what="a worker") from error
        except ExecutionTimeoutError as error:
            raise StageError(
                f"no unit of {work.unit_rows} rows went through a pool in {NO_PROGRESS_TIMEOUT_S / 3600:.0f} hours. Is "
                "the cluster full? What is complete stays: run the same command again; if the device is that slow, "
                "with a smaller unit_rows in another --out."
            ) from error


def _data_context(*, shows_bars: bool) -> DataContext:
    context = DataContext.get_current().copy()
    context.target_max_block_size = None  # a unit is never split, however large its pictures
    context.enable_progress_bars = shows_bars
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    # Shares of what actors could do at once; Ray's are for actors that do one thing at a time, and have one in queue.
    scaling = context.autoscaling_config
    context.autoscaling_config = AutoscalingConfig(
        actor_pool_util_upscaling_threshold=scaling.actor_pool_util_upscaling_threshold / UNITS_AT_ONCE,
        actor_pool_util_downscaling_threshold=scaling.actor_pool_util_downscaling_threshold / UNITS_AT_ONCE,
        actor_pool_max_upscaling_delta=scaling.actor_pool_max_upscaling_delta,
    )
    # An actor that dies while it loads its model is started again: its node may be gone. An error in it is not.
    context.max_consecutive_actor_init_deaths = MAX_INIT_DEATHS
    return context


@functools.cache
def _hear_warning() -> None:
    """Lets Ray give, unheard, a warning that does not hold for pools; it gives it once in a process.

    It says that an actor cannot be started again once its constructor's arguments are lost from the object store. Ray
    Data has put there what every actor of a pool is made from, however small (ray-project/ray issue 57733, open), but
    keeps it for as long as the pass lasts, on the node of the driver. `tests/chaos` kills actors and nodes.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard:
        kept = os.dup(2)  # it comes from C++, which knows nothing of sys.stderr
        os.dup2(heard.fileno(), 2)
        try:
            ray.kill(ray.remote(_Idle).options(num_cpus=0, max_restarts=1).remote(ray.put(None)))
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        heard.seek(0)
        others = [line for line in heard if b"has constructor arguments in the object store" not in line]
    os.write(2, b"".join(others))


class _Idle:
    """An actor that does nothing.

    Args:
        argument: Nothing.
    """

    def __init__(self, argument: None) -> None:
        pass
