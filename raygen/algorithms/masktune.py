"""MaskTune: blacken what the classifier looks at most, and fit on (Asgari et al., NeurIPS 2022, arXiv 2210.00055).

After ERM, XGradCAM of the predicted class says for each training picture what that prediction rests on. Pixels whose
heat is above the mean by two standard deviations, both over the positive heat, become black, and the classifier goes on
for one epoch on the masked pictures alone: it has to find other evidence. No label beyond the class, and no selection.

Differs from the authors' code: the map of what the classifier sees is put back where it was seen (theirs stretches the
map of a centre crop over the whole picture), and pictures are masked as they are read (theirs are saved as JPEG, which
smears the masks' edges). They go on with the optimizer's state of ERM, which a finished fit does not keep: momentum
begins at 0. Map and start are of one classifier, ERM's: its last epoch's or, with `erm.select: best`, the selected one.
More rounds and their cumulative masks, which are options of theirs, are left out.

Every worker maps all pictures by itself: several workers save no time there.
"""

# N images, B images of a batch, H height, W width, T side of the whole picture's square, P bytes of T * T bits

import logging
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from raygen.algorithms.inference import on_device
from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.classifier.framing import as_input
from raygen.config import PositiveInt
from raygen.maskers.cam import cam_heatmaps
from raygen.storage.progress import note
from raygen.worker import Worker

logger = logging.getLogger(__name__)

MAP_BATCH = 64


class MaskTuneConfig(LoopConfig):
    """MaskTune.

    The authors' settings: SGD, 1e-4, weight decay 1e-4, batches of 128 on Waterbirds, of 512 on CelebA, as their ERM.

    Attributes:
        epochs: Passes over the masked pictures (authors: 1).
        learning_rate: Constant, as theirs. Ours, for the small ResNet of the scenes, whose ERM ends near 0 at a highest
            rate of 0.1.
        deviations: A pixel is blackened whose heat is above the mean by so many standard deviations of the positive
            heat (authors: 2). At most 1 / (1 + deviations^2) of the positive pixels can be, and a flat or evenly rising
            heat has none.
        select: "last": there is no selection.
        init: ERM.
    """

    paper = "MaskTune (Asgari et al. 2022, arXiv 2210.00055)"
    label_access = "train: class; validation: none"

    name: Literal["masktune"] = "masktune"
    epochs: PositiveInt = 1
    learning_rate: float = Field(0.01, gt=0)
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    deviations: float = Field(2.0, ge=0)
    select: Literal["best", "last"] = "last"
    init: Literal["erm"] = "erm"

    def map_setting(self) -> str | None:
        """All of it."""
        return "algorithm masktune"


Config = MaskTuneConfig


def fit(
    config: MaskTuneConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Masks, and fits on the masked pictures; gives back the history, with the masked share in each entry."""
    worker.tell(f"mapping what {len(train)} training pictures' predictions rest on")
    black_NP, share_N = blacken_attended(classifier, train, worker, deviations=config.deviations)
    masked, untouched = float(share_N.mean()), float((share_N == 0).mean())
    logger.info(
        "MaskTune: %.1f%% of the pixels masked, nothing in %.1f%% of the pictures", 100 * masked, 100 * untouched
    )
    if untouched > 0.5 and worker.leads:
        note(
            worker.folder,
            f"warning: MaskTune masks nothing in {untouched:.0%} of the {len(train)} training pictures: their maps "
            f"have no pixel above the mean by {config.deviations:g} standard deviations. For these it is one more "
            "epoch of ERM; set algorithm.deviations lower",
        )
    history = fit_loop(
        classifier, train.with_black(black_NP), val, config, seed=seed, worker=worker, loss_weights=mean_weights
    )
    return [{**entry, "masked_share": masked, "untouched_share": untouched} for entry in history]


def blacken_attended(
    classifier: Classifier, train: TrainingSet, worker: Worker, *, deviations: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of each training picture are blackened, and what share of it they are.

    Args:
        classifier: What is asked; in evaluation mode on return.
        train: The pictures.
        worker: Where this runs.
        deviations: See `MaskTuneConfig`.

    Returns:
        Packed bits of the whole picture's squares, as `TrainingSet.with_black` takes them, (N, P) uint8, and shares of
        the square, (N,) float.
    """
    classifier.to(worker.device).eval()
    frame = classifier.frame
    black_NP = np.zeros((len(train), -(-(frame.whole_px**2) // 8)), dtype=np.uint8)
    share_N = np.zeros(len(train))
    batches = np.split(np.arange(len(train)), range(MAP_BATCH, len(train), MAP_BATCH))
    for positions_B, images_BTTC in zip(batches, train.batches(batches), strict=True):
        inputs_BCSS = as_input(on_device(images_BTTC, worker.device)[:, frame.inside, frame.inside])
        with torch.inference_mode():
            predicted_B = classifier(inputs_BCSS).argmax(1).tolist()
        heat_BSS = cam_heatmaps(classifier, inputs_BCSS, predicted_B, method="xgradcam")
        for position, heat_SS in zip(positions_B.tolist(), heat_BSS, strict=True):
            black_TT = frame.on_whole(hottest(heat_SS, deviations=deviations))
            black_NP[position], share_N[position] = np.packbits(black_TT), black_TT.mean()
    return black_NP, share_N


def hottest(heat_HW: np.ndarray, *, deviations: float) -> np.ndarray:
    """Pixels whose heat is above mean + deviations * standard deviation of the positive heat, (H, W) bool."""
    positive = heat_HW[heat_HW > 0].astype(np.float64)
    if not len(positive):
        return np.zeros(heat_HW.shape, dtype=bool)
    hot_HW: np.ndarray = heat_HW > positive.mean() + deviations * positive.std()
    return hot_HW
