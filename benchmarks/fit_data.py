"""The pictures of a fit: against torchvision's ImageFolder and DataLoader, and against row groups of Parquet.

JPEG files of 256 px are fitted at 112 px. Ours decodes them once into a store, in the first epoch, and copies from it;
the plain loop decodes them in every epoch, with its best number of DataLoader workers. Both train the same network,
channels_last, on the same device, with the same steps. "data alone" leaves out the network, and augmentation, which is
done by the plain loop's workers and by our loop. "streamed" is how fast pictures come from Parquet where nothing is
stored.

    python benchmarks/fit_data.py [--short] [--into FILE]
    python benchmarks/fit_data.py --files 20000 --turns 3 --parts network data
"""

import argparse
import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ratios import Ratio, Usage, add_arguments, in_turn, report, used
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from raygen.algorithms import erm
from raygen.algorithms.decoding import Loading
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.datasets import make_dataset
from raygen.datasets.rows import RowIndex
from raygen.storage.picture_store import GB
from raygen.worker import Worker

JPEG_PX, SIDE, BATCH = 256, 112, 64
# Different pictures; files beyond them repeat these.
DIFFERENT = 500
PROCESSES = 2
PARTS = ("data", "network", "streamed")


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--files", type=int, help="JPEG files (20,000; --short: 1,500)")
    parser.add_argument("--turns", type=int, help="(3; --short: 2)")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--folder", type=Path, help="where data and stores go for as long as it runs")
    arguments = parser.parse_args()
    files = arguments.files or (1_500 if arguments.short else 20_000)
    turns = arguments.turns or (2 if arguments.short else 3)
    torch.set_num_threads(PROCESSES)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        write_jpegs(folder / "jpeg", files)
        start = time.monotonic()
        (folder / "data").mkdir()
        make_dataset({"name": "folder", "path": str(folder / "jpeg")}, [], folder / "data", seed=0)
        print(
            f"{files:,} files; their rows, which a run writes once, took {time.monotonic() - start:.1f} s", flush=True
        )
        if "data" in arguments.parts:
            data_alone(folder, turns, arguments.into)
        if "network" in arguments.parts:
            for name, config in networks(short=arguments.short).items():
                with_network(folder, name, config, turns, arguments.into)
        if "streamed" in arguments.parts:
            streamed(folder, turns, arguments.into)


def networks(*, short: bool) -> dict[str, ClassifierConfig]:
    """What is fitted."""
    small = {"small ResNet": ClassifierConfig(image_size_px=SIDE)}
    return small if short else {"ResNet-18": ClassifierConfig(architecture="resnet18", image_size_px=SIDE), **small}


def write_jpegs(folder: Path, num: int) -> None:
    """An ImageFolder of two classes: smooth noise with some grain, about 25 kB each."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(DIFFERENT, num)):
        coarse = Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((JPEG_PX, JPEG_PX), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-16, 17, size=smooth.shape)
        pictures.append(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)))
    for split, count in (("train", num), ("val", 64), ("test", 2)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
        encoded: dict[int, bytes] = {}
        for i in range(count):
            path = folder / split / "ab"[i % 2] / f"{i:06d}.jpg"
            which = i % len(pictures)
            if which not in encoded:
                pictures[which].save(path, quality=90)
                encoded[which] = path.read_bytes()
            else:
                path.write_bytes(encoded[which])


class Plain:
    """What a competent user writes: ImageFolder, DataLoader with persistent workers, torchvision's transforms."""

    def __init__(self, folder: Path, workers: int, *, augments: bool) -> None:
        augmentation = [v2.RandomHorizontalFlip(), v2.RandomCrop(SIDE, padding=4, padding_mode="edge")]
        steps = [
            v2.Resize((SIDE, SIDE)),
            *(augmentation if augments else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
        self.loader: DataLoader[Any] = DataLoader(
            ImageFolder(str(folder / "jpeg" / "train"), v2.Compose(steps)),
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def epoch(self, *, most: int | None = None) -> float:
        """Seconds of an epoch without a network, or of its first batches."""
        start = time.monotonic()
        for _ in itertools.islice(self.loader, most):
            pass
        return time.monotonic() - start


def fit_plain(folder: Path, config: ClassifierConfig, epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch of the plain loop."""
    plain, model = Plain(folder, workers, augments=True), build_classifier(config, 2, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    seconds = []
    for _ in range(epochs):
        start = time.monotonic()
        model.train()
        for images, labels in plain.loader:
            loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        seconds.append(time.monotonic() - start)
    return seconds


def loading(folder: Path, *, gb: float = 64) -> Loading:
    """A new, empty folder of stores."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    return Loading(str(folder / "store"), gb * GB, PROCESSES)


def fit_ours(folder: Path, config: ClassifierConfig, epochs: int) -> list[float]:
    """Seconds of each epoch of our fit; the first has the decoding in it, each a validation of 64 pictures."""
    ends = [time.monotonic()]
    index, place = RowIndex(folder / "data"), loading(folder)
    train, val = (TrainingSet(index, split, size_px=SIDE, loading=place) for split in ("train", "val"))
    (folder / "fit").mkdir(exist_ok=True)
    (folder / "fit" / "checkpoint.pt").unlink(missing_ok=True)
    worker = Worker(0, 1, "cpu", folder / "fit", on_epoch=lambda entry, correct_N: ends.append(time.monotonic()))
    algorithm = ErmConfig(epochs=epochs, batch_size=BATCH, learning_rate=0.01, schedule="constant", select="last")
    erm.fit(algorithm, build_classifier(config, 2, seed=0), train, val, seed=0, worker=worker)
    return np.diff(ends).tolist()


def best_workers(folder: Path) -> int:
    """The plain loop's best number of DataLoader workers, by forty batches without a network."""
    found = {}
    for workers in range(1, PROCESSES + 1):
        plain = Plain(folder, workers, augments=False)
        plain.epoch(most=4)
        found[workers] = plain.epoch(most=40)
    print("plain, data alone, s by workers:", {key: round(value, 2) for key, value in found.items()}, flush=True)
    return min(found, key=lambda key: found[key])


def data_alone(folder: Path, turns: int, into: Path | None) -> None:
    """Pictures a second without a network: the first epoch, and later ones."""
    workers = best_workers(folder)
    first, later = Turns(), Turns()

    def ours() -> float:
        with first.noted("ours"):
            train = TrainingSet(RowIndex(folder / "data"), "train", size_px=SIDE, loading=loading(folder))
            one_epoch(train)
        with later.noted("ours"):
            one_epoch(train)
        return 0.0

    def plain() -> float:
        loop = Plain(folder, workers, augments=False)
        with first.noted("plain"):
            loop.epoch()
        with later.noted("plain"):
            loop.epoch()
        return 0.0

    in_turn({"ours": ours, "plain": plain}, turns=turns)
    num = len(ImageFolder(str(folder / "jpeg" / "train")))
    for name, of in (("first", first), ("later", later)):
        claim = f"data of a fit alone, {name} epoch, images/s: ours / ImageFolder and DataLoader"
        report(Ratio(claim, of.ratios("plain", "ours"), numbers=of.numbers(num)), into=into)


class Turns:
    """What each way used in each turn."""

    def __init__(self) -> None:
        self._usages: dict[str, list[Usage]] = {}

    @contextlib.contextmanager
    def noted(self, who: str) -> Iterator[None]:
        """Notes what is used inside."""
        with used() as usage:
            yield
        self._usages.setdefault(who, []).append(usage)

    def ratios(self, slower: str, faster: str) -> list[float]:
        """Seconds of one to those of the other in each turn."""
        pairs = zip(self._usages[slower], self._usages[faster], strict=True)
        return [a.seconds / b.seconds for a, b in pairs]

    def numbers(self, num: int) -> dict[str, float]:
        """Images a second and CPU time of each, for that many images."""
        found = {}
        for who, usages in self._usages.items():
            found[f"{who}, images/s"] = num / float(np.median([usage.seconds for usage in usages]))
            found[f"{who}, CPU ms an image"] = 1e3 * float(np.median([usage.cpu_seconds for usage in usages])) / num
        return found


def one_epoch(train: TrainingSet) -> None:
    """Reads all pictures in a random order, as batches of floats that a network takes."""
    order = np.random.default_rng(0).permutation(len(train))
    for images_BHWC in train.batches(np.split(order, range(BATCH, len(order), BATCH))):
        images_BHWC.permute(0, 3, 1, 2).float().div_(255)


def with_network(folder: Path, name: str, config: ClassifierConfig, turns: int, into: Path | None) -> None:
    """Whole fits of two epochs in turn: images a second in the first and in the second, as in all later ones."""
    workers, epochs = best_workers(folder), 2
    seconds: dict[str, list[list[float]]] = {"ours": [], "plain": []}
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}

    def measured(who: str, fit: Callable[[], list[float]]) -> Callable[[], float]:
        def call() -> float:
            with used() as usage:
                seconds[who].append(fit())
            cpu[who].append(usage.cpu_seconds)
            return usage.seconds

        return call

    ways = {
        "ours": measured("ours", lambda: fit_ours(folder, config, epochs)),
        "plain": measured("plain", lambda: fit_plain(folder, config, epochs, workers)),
    }
    in_turn(ways, turns=turns)
    num = len(ImageFolder(str(folder / "jpeg" / "train")))
    for epoch, label, target in ((0, "first epoch", 1.0), (-1, "later epochs", 1.5)):
        of = {who: [one[epoch] for one in found] for who, found in seconds.items()}
        report(
            Ratio(
                f"fit from JPEG files, {name} at {SIDE} px, {label}, images/s: ours / ImageFolder and DataLoader",
                [b / a for a, b in zip(of["ours"], of["plain"], strict=True)],
                at_least=target,
                numbers={
                    **{f"{who}, images/s": num / float(np.median(value)) for who, value in of.items()},
                    **{f"{who}, CPU s of the whole fit": float(np.median(value)) for who, value in cpu.items()},
                    "the network alone on pictures in memory, images/s": network_alone(config),
                },
            ),
            into=into,
        )


def network_alone(config: ClassifierConfig) -> float:
    """Images a second of training steps on one batch that is in memory: what no loading can beat."""
    model, images = build_classifier(config, 2, seed=0), torch.rand(BATCH, 3, SIDE, SIDE)
    images, labels = images.to(memory_format=torch.channels_last), torch.arange(BATCH) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    times = []
    for _ in range(12):
        start = time.monotonic()
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        times.append(time.monotonic() - start)
    return BATCH / float(np.median(times[2:]))


def streamed(folder: Path, turns: int, into: Path | None) -> None:
    """Pictures beyond the budget, at random from Parquet: our loader processes, or whole row groups one by one."""
    index = RowIndex(folder / "data")
    train = TrainingSet(index, "train", size_px=SIDE, loading=loading(folder, gb=0))
    ids = index.split("train")["image_id"].to_pylist()
    num = min(len(ids), 1_280)
    order = np.random.default_rng(0).permutation(len(ids))[:num]
    batches = np.split(order, range(BATCH, num, BATCH))
    list(train.batches(batches[:2]))  # the processes have started

    of = Turns()

    def ours() -> float:
        with of.noted("ours"):
            for _ in train.batches(batches):
                pass
        return 0.0

    def groups() -> float:
        with of.noted("row groups"):
            for positions in batches:
                decode_all(index.fetch([ids[i] for i in positions], ["image_png"])["image_png"].to_pylist())
        return 0.0

    in_turn({"ours": ours, "row groups": groups}, turns=turns)
    claim = "pictures that are not stored, at random from Parquet, images/s: ours / row groups, one process"
    report(Ratio(claim, of.ratios("row groups", "ours"), numbers=of.numbers(num)), into=into)


def decode_all(pictures: list[bytes]) -> np.ndarray:
    """As a stage does it."""
    from raygen.classifier.framing import squash
    from raygen.images import decode_image

    return np.stack([squash(decode_image(data), SIDE) for data in pictures])


if __name__ == "__main__":
    main()
