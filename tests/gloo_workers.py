"""Workers of a fit in a process group, without Ray: `python gloo_workers.py RANK WORLD_SIZE DATA FOLDER`.

Each leaves what it did in FOLDER/<rank>.pt.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raygen.algorithms import erm, group_dro, hsfm, lff, lisa
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.group_dro import GroupDroConfig
from raygen.algorithms.hsfm import HsfmConfig
from raygen.algorithms.inference import extract_features, right_predictions
from raygen.algorithms.lff import LffConfig
from raygen.algorithms.lisa import LisaConfig
from raygen.algorithms.pictures import InMemory
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.inpainters.fills import Infilling
from raygen.worker import Worker

ROOT = Path(__file__).parents[1]
CROPPED = ClassifierConfig(image_size_px=16, framing="resize_crop")
FIT = ErmConfig(epochs=2, batch_size=33, learning_rate=1e-3, augment="random_resized_crop", schedule="constant")

# A large step size, so that the groups' weights, which the workers must agree on, matter.
GROUPS = GroupDroConfig(epochs=1, batch_size=33, eta=1.0, learning_rate=1e-3, schedule="constant", select="last")


REGIONS: Any = {"counterfactual_region": "box", "factual_region": "segmentation", "not_label": "exact"}
TERMS: dict[str, tuple[Infilling | None, dict[str, float]]] = {
    "copies": (Infilling("random", "mixed_rand", fgsm_epsilon=0.3, **REGIONS), {"saliency_penalty": 50.0}),
    "perturbed": (Infilling(None, "fgsm", fgsm_epsilon=0.3, **REGIONS), {}),
    "mixup": (None, {"mixup_alpha": 0.5, "label_smoothing": 0.1}),
}


def with_masks(train: TrainingSet, index: RowIndex) -> TrainingSet:
    """Every picture has its object in its middle, but for each seventh."""
    ids, side_px = index.split("train")["image_id"].to_pylist(), CROPPED.frame.whole_px
    masks_NHWC = np.zeros((len(ids), side_px, side_px, 3), dtype=np.uint8)
    masks_NHWC[:, 6:12, 5:13] = 255
    masks_NHWC[::7] = 0
    return train.with_masks(InMemory(masks_NHWC), ids)


class Recorded(TrainingSet):
    """Notes which pictures are asked for."""

    asked: list[list[int]]

    def batches(self, positions: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        wanted = [*positions]
        self.asked = [part.tolist() for part in wanted]
        return super().batches(wanted)


class Seen(nn.Flatten):
    """A backbone without parameters that notes what it sees in training."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []
        self.drawn: list[float] = []

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.inputs.append(images_NCHW.detach().clone())
            self.drawn.append(float(torch.rand(())))  # as dropout draws
        return super().forward(images_NCHW)


def linear() -> tuple[Classifier, Seen]:
    """A classifier without batch statistics, whose fit does not depend on how a batch is shared out."""
    torch.default_generator.manual_seed(0)
    seen = Seen()
    return Classifier(CROPPED, seen, num_features=3 * 16 * 16, num_classes=2), seen


def fitted(data: Path, folder: Path, *, rank: int, world_size: int) -> dict[str, Any]:
    """What a worker did and found."""
    index, side_px = RowIndex(data), CROPPED.frame.whole_px
    train, val = Recorded(index, "train", size_px=side_px), TrainingSet(index, "val", size_px=side_px)

    def worker(name: str) -> Worker:
        (folder / name).mkdir(exist_ok=True)
        return Worker(rank, world_size, "cpu", folder / name)

    classifier, seen = linear()
    history = erm.fit(FIT, classifier, train, val, seed=0, worker=worker("whole"))
    found: dict[str, Any] = {
        "asked": train.asked,
        "inputs": seen.inputs,
        "drawn": seen.drawn,
        "history": history,
        "weights": classifier.state_dict(),
        "right": torch.from_numpy(right_predictions(classifier, val, worker("whole"))),
        "features": torch.from_numpy(extract_features(classifier, val, worker("whole"))),
    }
    fields = FIT.model_dump(exclude={"name", "select", "mixup_alpha"})
    second, _ = linear()
    found["lff_history"] = lff.fit(LffConfig(**fields), second, train, val, seed=0, worker=worker("lff"))
    found["lff"] = second.state_dict()
    mixed, _ = linear()
    lisa.fit(LisaConfig(**fields), mixed, train, val, seed=0, worker=worker("lisa"))
    found["lisa"] = mixed.state_dict()
    for name, (infilling, terms) in TERMS.items():
        fitted_so, seen = linear()
        whole = train if infilling is None else with_masks(train, index).with_infilling(infilling)
        config = FIT.model_copy(update={"epochs": 1, **terms})
        found[f"{name}_history"] = erm.fit(config, fitted_so, whole, val, seed=0, worker=worker(name))
        found[name] = fitted_so.state_dict()
    headed = copy.deepcopy(classifier)
    hsfm.fit(
        HsfmConfig(epochs=1, num_support=4, learning_rate=0.01, support_learning_rate=0.01),
        headed,
        train,
        val,
        seed=0,
        worker=worker("head"),
    )
    found["head"] = headed.head.weight.detach()
    old = worker("parts").folder / "checkpoint.pt"
    if rank == 0:
        torch.save({"history": [{}, {}]}, old)  # of another format: put aside
    if world_size > 1:
        torch.distributed.barrier()
    for epochs in (1, 2):  # the second goes on from the first's checkpoint
        resumed, _ = linear()
        erm.fit(FIT.model_copy(update={"epochs": epochs}), resumed, train, val, seed=0, worker=worker("parts"))
    found["resumed"] = resumed.state_dict()
    grouped, _ = linear()
    group_dro.fit(GROUPS, grouped, train, val, seed=0, worker=worker("groups"))
    found["grouped"] = grouped.state_dict()
    if rank == 0:
        found["q"] = torch.load(worker("groups").folder / "checkpoint.pt")["adaptive"]["q"]
    normalised = build_classifier(ClassifierConfig(image_size_px=16, width=8), 2, seed=0)
    small = TrainingSet(index, "train", size_px=16), TrainingSet(index, "val", size_px=16)
    erm.fit(ErmConfig(epochs=1, batch_size=33), normalised, *small, seed=0, worker=worker("normalised"))
    found["normalised"] = normalised.state_dict()
    found["normalised_right"] = torch.from_numpy(right_predictions(normalised, small[1], worker("normalised")))
    return found


def run(data: Path, folder: Path, *, world_size: int) -> list[dict[str, Any]]:
    """What each worker did, by rank."""
    folder.mkdir()
    command = [sys.executable, __file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(world_size), str(data), str(folder)], cwd=ROOT, env=environment)
        for rank in range(world_size)
    ]
    codes = [process.wait() for process in processes]
    assert codes == [0] * world_size
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def main() -> None:
    """One worker."""
    rank, world_size, data, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    torch.save(fitted(data, folder, rank=rank, world_size=world_size), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
