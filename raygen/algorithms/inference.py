"""What a classifier says of all pictures of a set, in evaluation mode; each worker asks it about a share of them."""

# N images, M some of them, D features, C classes, B images of a batch, T side of the whole picture's square

from collections.abc import Callable

import numpy as np
import torch

from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.classifier.framing import as_input
from raygen.metrics import worst_group_accuracy
from raygen.worker import Worker

EVALUATION_BATCH = 256


def right_predictions(classifier: Classifier, data: TrainingSet, worker: Worker) -> np.ndarray:
    """Whether each image's label is predicted, (N,) bool; the same on all workers.

    Of a counterfactual picture: whether any other is.
    """
    predicted_N = _of_all(classifier, data, worker, lambda images_NCHW: classifier(images_NCHW).argmax(1), shape=())
    correct_N: np.ndarray = (predicted_N == data.label_N) ^ data.counterfactual_N
    return correct_N


def extract_features(
    classifier: Classifier, data: TrainingSet, worker: Worker, *, row_M: np.ndarray | None = None
) -> np.ndarray:
    """Input of the linear head for each image, without augmentation, (N, D) float64; the same on all workers.

    Args:
        classifier: The classifier.
        data: The images.
        worker: Where this runs.
        row_M: Positions of those to ask about, (M,) int; by default all.
    """
    return _of_all(classifier, data, worker, classifier.features, shape=(classifier.head.in_features,), row_M=row_M)


def extract_logits(classifier: Classifier, data: TrainingSet, worker: Worker) -> np.ndarray:
    """Logits of each image, (N, C) float64; the same on all workers."""
    return _of_all(classifier, data, worker, classifier, shape=(classifier.num_classes,))


def accuracies(correct_N: np.ndarray, data: TrainingSet) -> dict[str, float]:
    """Average accuracy, and that of the worst of the groups that are selected by, each in [0, 1]."""
    group_N = data.selection_group_N
    worst_group = worst_group_accuracy(correct_N, group_N, num_groups=int(group_N.max()) + 1)
    return {"val_average": float(correct_N.mean()), "val_worst_group": worst_group}


def on_device(images_BTTC: torch.Tensor, device: str) -> torch.Tensor:
    """Pictures where the classifier is; a GPU need not be done with the batch before."""
    if device == "cpu":
        return images_BTTC
    return images_BTTC.pin_memory().to(device, non_blocking=True)


@torch.inference_mode()
def _of_all(
    classifier: Classifier,
    data: TrainingSet,
    worker: Worker,
    ask: Callable[[torch.Tensor], torch.Tensor],
    *,
    shape: tuple[int, ...],
    row_M: np.ndarray | None = None,
) -> np.ndarray:
    """What `ask` gives for every picture, or for those at some positions, (N, *shape) float64."""
    classifier.to(worker.device).eval()
    row_M = np.arange(len(data)) if row_M is None else row_M
    own = row_M[worker.rank :: worker.world_size]
    batches = np.split(own, range(EVALUATION_BATCH, len(own), EVALUATION_BATCH)) if len(own) else []
    inside = classifier.frame.inside
    # Left on the device until the last is done: nothing waits in between.
    found = [
        ask(as_input(on_device(images_BTTC, worker.device)[:, inside, inside])).double()
        for images_BTTC in data.batches(batches)
    ]
    all_N = torch.zeros((len(row_M), *shape), dtype=torch.float64, device=worker.device)
    if found:
        all_N[worker.rank :: worker.world_size] = torch.cat(found)
    if worker.world_size > 1:
        torch.distributed.all_reduce(all_N)  # a sum with zeros: nothing is rounded
    return np.asarray(all_N.cpu().numpy())
