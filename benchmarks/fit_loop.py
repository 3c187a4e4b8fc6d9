"""The loop of a fit, start-up left out: against a plain PyTorch loop, and on two workers against one.

    python benchmarks/fit_loop.py            # some ten minutes on two cores
    python benchmarks/fit_loop.py --short

1. One fit on the scenes against the loop that a PyTorch user would write: the same network, weights, optimizer,
   schedule, batches and channels_last, all pictures ready as a tensor, augmentation of a batch by one gather, the same
   evaluation after every epoch. Ours also reads through the training set and writes its checkpoints. Both in this
   process, in turn, for each kind of augmentation, at one and at two threads.
2. One worker of one thread against two of one thread each, with a process group as a run's workers have it, but without
   Ray. A fit is timed from the end of its first epoch to the end of its last. What the machine allows stands beside it:
   two fits of half of the pictures and half of a batch each, at once, which know nothing of each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _ratios import Ratio, add_arguments, in_turn, report

from raygen.algorithms import erm
from raygen.algorithms.augmenting import Augment
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.datasets import make_dataset
from raygen.datasets.rows import RowIndex
from raygen.worker import Worker

SHIFT_PX = 4
# What one and two workers may differ in.
COMPARED = ("loss", "val_average", "val_worst_group")


class Counted(TrainingSet):
    """Counts the pictures that are loaded."""

    loaded = 0

    def batches(self, positions: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        for images_BSSC in super().batches(positions):
            self.loaded += len(images_BSSC)
            yield images_BSSC


def sets(data: Path) -> tuple[Counted, TrainingSet]:
    index = RowIndex(data)
    return Counted(index, "train", size_px=64), TrainingSet(index, "val", size_px=64)


def ours(data: tuple[Counted, TrainingSet], config: ErmConfig) -> float:
    """Seconds of a fit."""
    with tempfile.TemporaryDirectory() as scratch:
        classifier = build_classifier(ClassifierConfig(), 2, seed=0)
        start = time.perf_counter()
        erm.fit(config, classifier, *data, seed=0, worker=Worker(0, 1, "cpu", Path(scratch)))
        return time.perf_counter() - start


def everything(data: TrainingSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as floats and labels, in memory."""
    (images_NSSC,) = data.batches([np.arange(len(data))])
    return images_NSSC.permute(0, 3, 1, 2).float() / 255, torch.from_numpy(data.label_N)


def plain(train: tuple[torch.Tensor, torch.Tensor], val: tuple[torch.Tensor, torch.Tensor], config: ErmConfig) -> float:
    """Seconds of the loop that a user of PyTorch would write."""
    model = build_classifier(ClassifierConfig(), 2, seed=0).to(memory_format=torch.channels_last)
    (images, labels), (val_images, val_labels) = train, val
    steps = -(-len(images) // config.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps * config.epochs, cycle_momentum=False
    )
    side = images.shape[-1]
    places = torch.arange(side)
    start = time.perf_counter()
    for _ in range(config.epochs):
        model.train()
        for chosen in torch.randperm(len(images)).split(config.batch_size):
            batch = images[chosen]
            if config.augment == "flip_shift":
                num = len(batch)
                padded = F.pad(batch, (SHIFT_PX,) * 4, mode="replicate")
                top, left = torch.randint(2 * SHIFT_PX + 1, (2, num))
                rows, columns = top[:, None] + places, left[:, None] + places
                flip = torch.rand(num) < 0.5
                columns = torch.where(flip[:, None], columns.flip(1), columns)
                batch = padded[torch.arange(num)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
                batch = batch.permute(0, 3, 1, 2)
            loss = F.cross_entropy(model(batch.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.inference_mode():
            right = [(model(part).argmax(1) == label).float() for part, label in batched(val_images, val_labels)]
        torch.cat(right).mean().item()
    return time.perf_counter() - start


def batched(images: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from zip(images.split(256), labels.split(256), strict=True)


def against_plain(data: Path, *, turns: int, epochs: int, threads: int, augment: Augment, into: Path | None) -> None:
    """The first claim."""
    torch.set_num_threads(threads)
    train, val = sets(data)
    config = ErmConfig(epochs=epochs, select="last", augment=augment)
    in_memory = everything(train), everything(val)
    warm = config.model_copy(update={"epochs": 1})
    ours((train, val), warm), plain(*in_memory, warm)
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}

    def timed(name: str, fit: Callable[[], float]) -> float:
        before = time.process_time()
        seconds = fit()
        cpu[name].append(time.process_time() - before)
        return seconds

    seconds = in_turn(
        {
            "ours": lambda: timed("ours", lambda: ours((train, val), config)),
            "plain": lambda: timed("plain", lambda: plain(*in_memory, config)),
        },
        turns=turns,
    )
    images = len(train) * epochs
    numbers = {f"{name}, images/s": images / statistics.median(found) for name, found in seconds.items()}
    numbers |= {f"{name}, images per CPU second": images / statistics.median(found) for name, found in cpu.items()}
    # The second for machines that are shared.
    for unit, found, at_least in (("images/s", seconds, 0.95), ("images per CPU second", cpu, None)):
        report(
            Ratio(
                f"fit on the scenes, {augment}, {threads} thread(s): {unit}, ours / plain loop on tensors",
                [other / own for own, other in zip(found["ours"], found["plain"], strict=True)],
                at_least=at_least,
                numbers=numbers,
            ),
            into=into,
        )


def worker_main(chosen: argparse.Namespace) -> None:
    """One worker: notes when its epochs ended, what it loaded, its CPU seconds and its accuracies."""
    torch.set_num_threads(1)
    rank, world_size, folder, epochs, seed = (
        chosen.rank,
        1 if chosen.apart else chosen.world_size,
        chosen.folder,
        chosen.epochs,
        chosen.seed,
    )
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=chosen.world_size)
    train, val = sets(chosen.data)
    torch.distributed.barrier()
    ends: list[tuple[float, float]] = []

    def note(entry: Mapping[str, float], correct_N: np.ndarray) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    own = folder / str(rank) if chosen.apart else folder
    own.mkdir(exist_ok=True)
    worker = Worker(0 if chosen.apart else rank, world_size, "cpu", own, on_epoch=note)
    config = ErmConfig(epochs=epochs, select="last")
    if chosen.apart:
        config = config.model_copy(update={"batch_size": config.batch_size // chosen.world_size})
    history = erm.fit(config, build_classifier(ClassifierConfig(), 2, seed=seed), train, val, seed=seed, worker=worker)
    found = {**history[-1], "loaded": train.loaded / epochs}
    if ends:
        found |= {"seconds": ends[-1][0] - ends[0][0], "cpu": ends[-1][1] - ends[0][1]}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


def workers(num: int, data: Path, epochs: int, notes: list[dict[str, float]], *, apart: bool = False) -> float:
    """Seconds of all epochs but the first on so many workers; each fit of theirs has another seed.

    Args:
        num: Workers.
        data: The dataset.
        epochs: Of the fit.
        notes: What the first of them noted is added.
        apart: Each fits alone.
    """
    seed = len(notes)
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            __file__,
            "--data",
            str(data),
            "--epochs",
            str(epochs),
            "--folder",
            scratch,
            *(["--apart"] if apart else []),
            "--seed",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen([*command, str(seed), "--rank", str(rank), "--world-size", str(num)], env=environment)
            for rank in range(num)
        ]
        if any([process.wait() for process in processes]):  # all are waited for
            sys.exit("a worker failed")
        found = [json.loads((Path(scratch) / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(num)]
    notes.append(found[0])
    return float(max(one["seconds"] for one in found if "seconds" in one))


def against_one_worker(data: Path, half: Path, *, turns: int, epochs: int, into: Path | None) -> None:
    """The second claim."""
    notes: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    ways = {str(num): lambda num=num: workers(num, data, epochs, notes[num]) for num in notes}
    apart: list[dict[str, float]] = []
    seconds = in_turn({**ways, "apart": lambda: workers(2, half, epochs, apart, apart=True)}, turns=turns)
    allowed = [one / two for one, two in zip(seconds["1"], seconds["apart"], strict=True)]
    numbers = {"two fits of half the pictures and batch, apart, at once: speed": statistics.median(allowed)}
    for num, found in notes.items():
        numbers[f"{num} worker(s), seconds an epoch"] = statistics.median(seconds[str(num)]) / (epochs - 1)
        cpu_s = statistics.median(one["cpu"] for one in found)
        numbers[f"{num} worker(s), CPU seconds of the first, an epoch"] = cpu_s / (epochs - 1)
        numbers[f"{num} worker(s), pictures loaded by each, an epoch"] = found[0]["loaded"]
        for name in COMPARED:
            numbers[f"{num} worker(s), {name} at the end, mean of the seeds"] = statistics.mean(
                one[name] for one in found
            )
    for name in COMPARED:
        pairs = zip(notes[1], notes[2], strict=True)
        numbers[f"{name}: largest difference of a seed's fits"] = max(abs(one[name] - two[name]) for one, two in pairs)
    report(
        Ratio(
            "fit on the scenes: speed of two workers of one thread / one",
            [one / two for one, two in zip(seconds["1"], seconds["2"], strict=True)],
            at_least=1.7,
            numbers=numbers,
        ),
        into=into,
    )


def main() -> None:
    """Makes the scenes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", choices=("plain", "workers"), help="one of the two claims")
    parser.add_argument("--scale", type=float, help="size of the scenes")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    for name in ("rank", "world-size", "epochs", "seed"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    for name in ("data", "folder"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank is not None:
        worker_main(chosen)
        return
    turns, scale = (3, 0.25) if chosen.short else (5, 1.0)
    with tempfile.TemporaryDirectory() as scratch:
        data, half = Path(scratch) / "data", Path(scratch) / "half"
        for folder, part in ((data, 1.0), (half, 0.5)):
            make_dataset({"name": "scenes", "scale": part * (chosen.scale or scale)}, [], folder, seed=0)
        if chosen.only != "workers":
            kinds: list[tuple[int, Augment]] = [(1, "flip_shift"), (2, "flip_shift"), (2, "none")]
            for threads, augment in kinds[:1] if chosen.short else kinds:
                against_plain(data, turns=turns, epochs=2, threads=threads, augment=augment, into=chosen.into)
        if chosen.only != "plain":
            against_one_worker(data, half, turns=turns, epochs=3 if chosen.short else 8, into=chosen.into)


if __name__ == "__main__":
    main()
