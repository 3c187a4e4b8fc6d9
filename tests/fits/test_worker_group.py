"""Workers of fits are shared, leave nothing of one fit to the next, survive deaths, and are let go."""

import _thread
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from torch import nn

from raygen.cluster import capacity
from raygen.errors import DataError, ResourceError, StageError
from raygen.fits import running
from raygen.fits.running import FitConfig
from raygen.fits.worker_group import WarmWorkers
from raygen.worker import Worker

# Workers of Ray do not find this file by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def workers() -> Iterator[WarmWorkers]:
    with WarmWorkers(patience_s=0.5) as workers:
        yield workers


def fit(
    body: running.Body,
    folder: Path,
    workers: WarmWorkers | None = None,
    payload: dict[str, Any] | None = None,
    **resources: Any,
) -> list[str]:
    """What each worker left of a fit, by rank."""
    folder.mkdir(exist_ok=True)
    config = FitConfig(**{"num_cpus": 0.5, "num_threads": 1, **resources})
    running.run(body, payload or {}, folder=folder, resources=config, engine="ray", workers=workers)
    return [(folder / str(rank)).read_text() for rank in range(config.num_workers)]


def leave(worker: Worker, text: object) -> None:
    (worker.folder / str(worker.rank)).write_text(str(text))


def tell_process(worker: Worker, payload: dict[str, Any]) -> None:
    leave(worker, os.getpid())


def add_ranks(worker: Worker, payload: dict[str, Any]) -> None:
    total = torch.tensor([worker.rank + 1.0])
    torch.distributed.all_reduce(total)
    leave(worker, f"{os.getpid()} of {worker.world_size}: {total.item():g}")


def train_a_little(worker: Worker, payload: dict[str, Any]) -> None:
    """A fit that draws, and leaves the digest of what it drew and learned."""
    drawn = torch.rand(3).tolist()
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.rand(2, 3, 8, 8))
    if worker.world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = model(torch.rand(8, 3, 8, 8)).logsumexp(1).mean()
        loss.backward()
        optimizer.step()
    digest = hashlib.sha256(repr(drawn).encode())
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    leave(worker, f"{digest.hexdigest()} {torch.get_num_threads()}")


def spoil(worker: Worker, payload: dict[str, Any]) -> None:
    """A fit that leaves behind all that it can, and dies if it is asked to."""
    train_a_little(worker, payload)
    torch.manual_seed(7)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_autocast_enabled("cpu", True)
    sys.modules["torch.backends.cudnn"].benchmark = True  # type: ignore[attr-defined] # by name: it cannot be pickled
    os.environ["OMP_NUM_THREADS"] = "3"
    died = worker.folder / f"died {worker.rank}"
    if payload["dies"] and not died.exists():
        died.touch()
        os._exit(9)


def refuse(worker: Worker, payload: dict[str, Any]) -> None:
    if worker.rank == payload["rank"] or payload["rank"] is None:
        raise DataError("the pictures are of another world")
    time.sleep(600)


def test_fits_share_workers_and_find_them_as_if_they_were_new(tmp_path: Path, workers: WarmWorkers) -> None:
    """Also after a fit that left all behind that it could, and one that failed."""
    processes, fresh = (
        fit(body, tmp_path / body.__name__, workers, num_workers=2) for body in (add_ranks, train_a_little)
    )
    assert [line.partition(" ")[2] for line in processes] == ["of 2: 3"] * 2
    assert len({*processes}) == 2
    assert all(line.endswith(" 1") for line in fresh)
    fit(spoil, tmp_path / "spoilt", workers, {"dies": False}, num_workers=2)
    with pytest.raises(DataError, match=r"^the pictures are of another world$"):
        fit(refuse, tmp_path / "refused", workers, {"rank": None}, num_workers=2)
    assert fit(train_a_little, tmp_path / "warm", workers, num_workers=2) == fresh
    assert fit(add_ranks, tmp_path / "last", workers, num_workers=2) == processes
    with pytest.raises(ResourceError):  # they hold theirs
        capacity.require_free({"CPU": 3.5}, what="this needs", patience_s=0)
    workers.release()
    capacity.require_free({"CPU": 4}, what="this needs")


@pytest.mark.slow
def test_workers_of_another_size_are_others(tmp_path: Path, workers: WarmWorkers) -> None:
    sizes: list[dict[str, Any]] = [{}, {"num_threads": 2}, {"num_cpus": 1}, {"num_workers": 2}, {"max_failures": 5}]
    found = [fit(tell_process, tmp_path / str(i), workers, **size)[0] for i, size in enumerate([*sizes, sizes[0]])]
    assert len({*found[:4]}) == 4
    assert found[4] == found[5] != found[0]  # how often it may fail is none of a worker's business


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "dies"), [(1, False), (1, True), (2, True)])
def test_a_fit_on_warm_workers_is_that_on_fresh_ones(
    tmp_path: Path, workers: WarmWorkers, num_workers: int, dies: bool
) -> None:
    fresh = fit(train_a_little, tmp_path / "fresh", num_workers=num_workers)
    fit(spoil, tmp_path / "spoilt", workers, {"dies": dies}, num_workers=num_workers)
    assert fit(train_a_little, tmp_path / "warm", workers, num_workers=num_workers) == fresh


@pytest.mark.slow
def test_workers_that_wait_for_one_that_raised_are_ended(tmp_path: Path, workers: WarmWorkers) -> None:
    before = fit(add_ranks, tmp_path / "before", workers, num_workers=2)
    with pytest.raises(DataError, match=r"^the pictures are of another world$"):
        fit(refuse, tmp_path / "one", workers, {"rank": 1}, num_workers=2)
    assert not {*fit(add_ranks, tmp_path / "anew", workers, num_workers=2)} & {*before}


def die_first(worker: Worker, payload: dict[str, Any]) -> None:
    """A fit whose worker dies as often as it is asked to."""
    count = len(list(worker.folder.glob("death *")))
    if count < payload["deaths"]:
        (worker.folder / f"death {count}").touch()
        os._exit(9)
    leave(worker, os.getpid())


@pytest.mark.slow
def test_deaths_are_counted_for_each_fit(tmp_path: Path, workers: WarmWorkers) -> None:
    for name in ("first", "second"):
        fit(die_first, tmp_path / name, workers, {"deaths": 1}, max_failures=1)
    with pytest.raises(StageError, match=r"^a fit failed: "):
        fit(die_first, tmp_path / "third", workers, {"deaths": 2}, max_failures=1)
    assert len(list((tmp_path / "third").glob("death *"))) == 2
    # A worker that dies while it has nothing to do is no failure of the next fit.
    (idle,) = fit(tell_process, tmp_path / "idle", workers)
    os.kill(int(idle), 9)
    assert fit(tell_process, tmp_path / "last", workers, max_failures=0) != [idle]


def wait_long(worker: Worker, payload: dict[str, Any]) -> None:
    leave(worker, os.getpid())
    time.sleep(600)


@pytest.mark.slow
def test_an_interrupted_fit_ends_its_workers(tmp_path: Path, workers: WarmWorkers) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where these tests run in the background

    def interrupt() -> None:
        while not (tmp_path / "fit" / "0").exists():
            time.sleep(0.05)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(wait_long, tmp_path / "fit", workers)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    capacity.require_free({"CPU": 4}, what="")
