"""A fit on a GPU: ResNet-50 at 224 px in bfloat16 against a plain loop whose pictures are on the GPU already.

    python benchmarks/gpu_fit.py                 # some three minutes on a data centre's GPU
    python benchmarks/gpu_fit.py --compile       # both compiled
    python benchmarks/gpu_fit.py --device cpu    # a tiny network, to see that it runs

Ours is `fit_loop`: pictures come from memory as uint8, are varied on the GPU, and a checkpoint follows every epoch. The
plain loop has them as a uint8 tensor on the GPU, varies a batch by one gather, and evaluates as often. Both are timed
from the end of their first epoch. The GPU's busy share is what `nvidia-smi` says, every 100 ms, while ours runs.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _ratios import Ratio, add_arguments, in_turn, report

from raygen.algorithms import erm
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.worker import Numerics, Worker

SHIFT_PX = 4


class Noise(TrainingSet):
    """Random pictures in memory."""

    def __init__(self, num: int, side_px: int, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.images_NSSC = torch.from_numpy(rng.integers(256, size=(num, side_px, side_px, 3), dtype=np.uint8))
        self.label_N = rng.integers(2, size=num)
        self.group_N = self.error_N = None
        self.generated_N = np.zeros(num, dtype=bool)
        self.num_attributes = 0

    def batches(self, positions: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        for part in positions:
            yield self.images_NSSC[torch.from_numpy(part)]


class Runs:
    """Both ways to fit.

    Args:
        network: What is fitted.
        sets: Training and validation pictures.
        config: How.
        numerics: In which precision, and whether compiled.
        device: "cuda" or "cpu".
    """

    def __init__(
        self, network: ClassifierConfig, sets: tuple[Noise, Noise], config: ErmConfig, numerics: Numerics, device: str
    ) -> None:
        self.network, self.sets, self.config, self.numerics, self.device = network, sets, config, numerics, device
        self.busy: list[float] = []

    def new(self) -> Classifier:
        """A classifier of the same weights every time."""
        return build_classifier(self.network, 2, seed=0).to(self.device).to(memory_format=torch.channels_last)

    def now(self) -> float:
        """Seconds, once the device has done what it was asked."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def rate(self, ends: list[float]) -> float:
        """Images a second of all epochs but the first."""
        return len(self.sets[0]) * (len(ends) - 1) / (ends[-1] - ends[0])

    def ours(self) -> float:
        """Images/s of raygen's loop."""
        ends: list[float] = []

        def note(entry: Mapping[str, float], correct_N: np.ndarray) -> None:
            ends.append(self.now())

        with tempfile.TemporaryDirectory() as scratch, Busy(self.device) as busy:
            worker = Worker(0, 1, self.device, Path(scratch), on_epoch=note, numerics=self.numerics)
            erm.fit(self.config, self.new(), *self.sets, seed=0, worker=worker)
        self.busy += busy.shares(ends[0], ends[-1])
        return self.rate(ends)

    def plain(self) -> float:
        """Images/s of a loop on preloaded tensors."""
        classifier, config = self.new(), self.config
        model = torch.compile(classifier, dynamic=False) if self.numerics.compile else classifier
        (images, labels), (val_images, val_labels) = (
            (data.images_NSSC.to(self.device), torch.from_numpy(data.label_N).to(self.device)) for data in self.sets
        )
        optimizer = torch.optim.SGD(
            classifier.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
        ends = []
        for _ in range(config.epochs):
            classifier.train()
            for chosen in torch.randperm(len(images), device=self.device).split(config.batch_size):
                batch = varied(images[chosen]).permute(0, 3, 1, 2).float() / 255
                with torch.autocast(self.device, dtype=getattr(torch, self.numerics.precision)):
                    loss = F.cross_entropy(model(batch), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            classifier.eval()
            with torch.inference_mode():
                right = [
                    classifier(part.permute(0, 3, 1, 2).float() / 255).argmax(1) == label
                    for part, label in zip(val_images.split(256), val_labels.split(256), strict=True)
                ]
            torch.cat(right).float().mean().item()
            ends.append(self.now())
        return self.rate(ends)


def varied(images_BSSC: torch.Tensor) -> torch.Tensor:
    """Mirrored half of the time and moved by up to SHIFT_PX, edges repeated."""
    (num, side), device = images_BSSC.shape[:2], images_BSSC.device
    places = torch.arange(side, device=device)
    shift_2B = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2, num), device=device)
    rows, columns = ((places + shift_B[:, None]).clamp(0, side - 1) for shift_B in shift_2B)
    columns = torch.where(torch.rand(num, 1, device=device) < 0.5, columns.flip(1), columns)
    return images_BSSC[torch.arange(num, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Busy:
    """The GPU's busy share by nvidia-smi while a block runs; nothing on a CPU, or without nvidia-smi."""

    def __init__(self, device: str) -> None:
        self._is_there = device == "cuda" and shutil.which("nvidia-smi") is not None
        self._begun, self._percents = 0.0, list[float]()

    def __enter__(self) -> "Busy":
        if self._is_there:
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
            self._process = subprocess.Popen([*command, "-i", "0"], stdout=subprocess.PIPE, text=True)
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_there:
            self._ended = time.perf_counter()
            self._process.terminate()
            lines = self._process.communicate()[0].split()
            self._percents = [float(line) for line in lines if line.isdigit()]

    def shares(self, start: float, end: float) -> list[float]:
        """Shares in [0, 1] of the looks between two times, which are spread evenly over the block."""
        if not self._percents:
            return []
        moments = np.linspace(self._begun, self._ended, len(self._percents))
        return [share / 100 for moment, share in zip(moments, self._percents, strict=True) if start < moment < end]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--compile", action="store_true", help="both networks compiled")
    parser.add_argument("--batch", type=int, default=256, help="images of a step")
    parser.add_argument("--images", type=int, default=12_800, help="images of an epoch")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this machine has no CUDA device that torch can use; --device cpu shows that the script runs")
    tiny, num, turns = chosen.device == "cpu", chosen.images, 2 if chosen.short else 3
    network = ClassifierConfig(architecture="resnet50", image_size_px=224)
    if tiny:
        network, num = ClassifierConfig(width=8, image_size_px=32), 256
    config = ErmConfig(
        epochs=3, batch_size=64 if tiny else chosen.batch, select="last", schedule="constant", learning_rate=0.01
    )
    side = network.image_size_px
    sets = Noise(num, side, seed=0), Noise(64 if tiny else 1024, side, seed=1)
    runs = Runs(network, sets, config, Numerics("bfloat16", chosen.compile), chosen.device)
    rates = in_turn({"ours": runs.ours, "plain": runs.plain}, turns=turns)
    numbers = {f"{name}, images/s": statistics.median(found) for name, found in rates.items()}
    if runs.busy:
        numbers["GPU busy while ours runs, share"] = statistics.mean(runs.busy)
    if chosen.device == "cuda":
        numbers["peak GPU memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    what = "tiny network on a CPU" if tiny else "ResNet-50 at 224 px" + (", compiled" if chosen.compile else "")
    claim = f"{what}, bfloat16: images/s, ours / plain loop on tensors"
    ratios = [own / other for own, other in zip(rates["ours"], rates["plain"], strict=True)]
    report(Ratio(claim, ratios, at_least=None if tiny else 0.9, numbers=numbers), into=chosen.into)


if __name__ == "__main__":
    main()
