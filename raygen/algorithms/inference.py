"""What a classifier says of all pictures of a set, in evaluation mode; each worker asks it about a share of them."""

# N images, D features, B images of a batch, T side of the whole picture's square

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


def extract_features(classifier: Classifier, data: TrainingSet, worker: Worker) -> np.ndarray:
    """Input of the linear head for each image, without augmentation, (N, D) float64; the same on all workers."""
    return _of_all(classifier, data, worker, classifier.features, shape=(classifier.head.in_features,))


def accuracies(correct_N: np.ndarray, data: TrainingSet) -> dict[str, float]:
    """Average and worst-group accuracy (worst class where there are no attributes), each in [0, 1]."""
    group_N = data.label_N if data.group_N is None else data.group_N
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
) -> np.ndarray:
    """What `ask` gives for every picture, (N, *shape) float64."""
    classifier.to(worker.device).eval()
    own = np.arange(worker.rank, len(data), worker.world_size)
    batches = np.split(own, range(EVALUATION_BATCH, len(own), EVALUATION_BATCH)) if len(own) else []
    inside = classifier.frame.inside
    # Left on the device until the last is done: nothing waits in between.
    found = [
        ask(as_input(on_device(images_BTTC, worker.device)[:, inside, inside])).double()
        for images_BTTC in data.batches(batches)
    ]
    all_N = torch.zeros((len(data), *shape), dtype=torch.float64, device=worker.device)
    if found:
        all_N[worker.rank :: worker.world_size] = torch.cat(found)
    if worker.world_size > 1:
        torch.distributed.all_reduce(all_N)  # a sum with zeros: nothing is rounded
    return np.asarray(all_N.cpu().numpy())
