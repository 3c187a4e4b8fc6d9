"""The training loop that all algorithms share.

An algorithm says how an image is drawn (sampling weights) and how much it counts in its batch (loss weights); the
loop does the rest. Loss weights are computed on the whole batch and then divided among the workers, so that a loss
with several means (`balanced`) does not depend on how many workers there are. A worker loads, varies and computes only
its share of a batch.
"""

# N images, M draws of an epoch

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from raygen.algorithms.augmenting import Augment
from raygen.algorithms.base import AlgorithmBase
from raygen.algorithms.batches import batch_sizes, draw_batches, least_rows
from raygen.algorithms.checkpoints import Progress
from raygen.algorithms.feed import Terms, makes_copies
from raygen.algorithms.inference import accuracies, right_predictions
from raygen.algorithms.loss_weights import AdaptiveWeights, Companion, LossWeights
from raygen.algorithms.mixing import Mixed, Mixing, mix_batches
from raygen.algorithms.selection import SelectBy
from raygen.algorithms.steps import Network, NotFiniteError, Stepper
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import Identity, PositiveInt
from raygen.errors import ConfigError, DataError, StageError
from raygen.inpainters.fills import Infilling
from raygen.seeding import row_seed
from raygen.worker import Numerics, Worker

# In a fit's history: how much of an epoch's loss weights the added pictures had.
GENERATED_SHARE = "generated_share"


class LoopConfig(AlgorithmBase):
    """Fields that every algorithm of this loop has.

    Attributes:
        epochs: Passes over the training set. Ours: the small ResNet fits the scenes in eight. Published for a ResNet-50
            from ImageNet weights (group_DRO's and JTT's ERM): 300 on Waterbirds, 50 on CelebA; DFR's: 100 and 50.
        epoch_length: Images that an epoch draws. "all": each of them once. "original": as many as there would be
            without generated pictures, drawn anew in every epoch from all of them, none twice in one; so a fit with
            generated pictures takes as many steps as one without, and what differs is the pictures alone.
        batch_size: Images of one step, over all workers.
        learning_rate: Its highest value. Ours, for random weights; published for ImageNet weights, constant: 1e-3 on
            Waterbirds, 1e-4 on CelebA (group_DRO, JTT).
        weight_decay: L2 (sgd, adam) or decoupled (adamw).
        optimizer: "sgd" has momentum 0.9.
        schedule: "onecycle" (Smith & Topin 2017, arXiv 1708.07120), "cosine" to 0, or "constant".
        augment: "flip_shift" mirrors half of the pictures and moves them by up to 4 px, their edges repeated.
            "random_resized_crop" mirrors half, and takes a part of 70 to 100% of the area, 3:4 to 4:3 in shape, at the
            classifier's size (group DRO's and DFR's; `classifier.framing: resize_crop` is what they evaluate by).
            Differs: of the picture squashed to a square, not of its own aspect ratio. "none".
        select: "best": the epoch of the best validation worst-group accuracy, ties by average accuracy, then the
            earlier; "last".
        select_by: The groups of which the worst counts there, see `raygen.algorithms.selection`: "auto" takes the known
            ones, or, where validation images have no attributes, the classes.
        saliency_penalty: Weight of the mean squared gradient of the label's logit outside of the object, over the
            pictures that have an object mask ("Sal", GradMask). The authors' only published value is 10, of pixels in
            [-1, 1]: 2.5 here, where they are in [0, 1]. Needs object masks and float32.
        mixup_alpha: Pictures of a batch are mixed in pairs, by a share from Beta(alpha, alpha) once a batch; 0: not.
        label_smoothing: What the label gives to all classes alike, in [0, 1).
    """

    epochs: PositiveInt = 8
    epoch_length: Annotated[Literal["all", "original"], Identity.ABSENT_BY_DEFAULT] = "all"
    batch_size: PositiveInt = 64
    learning_rate: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["constant", "cosine", "onecycle"] = "onecycle"
    augment: Augment = "flip_shift"
    select: Literal["best", "last"] = "best"
    select_by: Annotated[SelectBy, Identity.ABSENT_BY_DEFAULT] = "auto"
    saliency_penalty: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(0.0, ge=0)
    mixup_alpha: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(0.0, ge=0)
    label_smoothing: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(0.0, ge=0, lt=1)

    @property
    def terms(self) -> Terms:
        """What the loss has beside the algorithm's own."""
        return Terms(self.saliency_penalty, self.mixup_alpha, self.label_smoothing)

    @model_validator(mode="after")
    def _terms_go_together(self) -> "LoopConfig":
        other = "mixup_alpha" if self.mixup_alpha else "label_smoothing" if self.label_smoothing else None
        if self.saliency_penalty and other:
            raise ValueError(
                f"saliency_penalty and {other} are both set, and exclude each other: the penalty asks for the gradient "
                "of one picture's one label. Set one of them to 0"
            )
        return self

    def selects_by(self) -> SelectBy | None:
        """The epoch."""
        return self.select_by if self.select == "best" else None

    def needs_masks(self) -> bool:
        """For the saliency penalty."""
        return self.saliency_penalty > 0

    def check_numerics(self, numerics: Numerics) -> None:
        """Checks that a gradient of a gradient can be computed."""
        if not self.saliency_penalty:
            return
        if numerics.precision != "float32":
            raise ConfigError(
                f"algorithm.saliency_penalty is {self.saliency_penalty:g}, which takes gradients of gradients, and "
                f"fit.precision is {numerics.precision}, in which they vanish; set fit.precision=float32"
            )
        if numerics.compile:
            raise ConfigError(
                f"algorithm.saliency_penalty is {self.saliency_penalty:g}, which takes gradients of gradients, and "
                "torch.compile has none; set fit.compile=false"
            )

    def check_infilling(self, infilling: Infilling) -> None:
        """Checks that counterfactual and factual pictures can be fitted on."""
        for name in ("mixup_alpha", "label_smoothing"):
            if value := getattr(self, name):
                raise ConfigError(
                    f"algorithm.{name} is {value:g}, and excludes counterfactual and factual pictures, whose labels "
                    f"are hard; set it to 0, or take a recipe without them"
                )


def fit_loop(
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    config: LoopConfig,
    *,
    seed: int,
    worker: Worker,
    loss_weights: LossWeights | AdaptiveWeights | Companion,
    sampling_weights_N: np.ndarray | None = None,
    occurrences_M: np.ndarray | None = None,
    mixing: Mixing | None = None,
) -> list[dict[str, float]]:
    """Fits a classifier in place; gives back one entry per epoch.

    Args:
        classifier: Weights to start from; holds the selected epoch's on return.
        train: What to fit on.
        val: What to select the epoch by.
        config: Steps and rates.
        seed: Order of images and augmentation.
        worker: Where this runs; a checkpoint in its folder is continued.
        loss_weights: Weight of each image of a batch in the loss.
        sampling_weights_N: Draw images with replacement in proportion to these, (N,); by default each once an epoch.
        occurrences_M: What an epoch goes through once, as positions of images, (M,) int: an image that stands there
            several times counts as often. Not together with `sampling_weights_N`.
        mixing: Draws the pairs that are mixed, as many an epoch as it would have images; by default none are.

    Raises:
        StageError: The loss is not finite.
        ConfigError: The terms of the loss go neither with the numbers' precision nor with the pictures.
        DataError: There are no object masks, and a term of the loss needs them.
    """
    _check(config, train, worker)
    classifier.to(worker.device).to(memory_format=torch.channels_last)
    assert sampling_weights_N is None or occurrences_M is None
    occurrences_M = np.arange(len(train)) if occurrences_M is None else occurrences_M
    num_draws = len(occurrences_M)
    if config.epoch_length == "original":
        num_draws -= int(train.generated_N[occurrences_M].sum())
    least = least_rows(classifier, worker, num=num_draws, batch_size=config.batch_size)
    sizes = batch_sizes(num_draws, config.batch_size, least=least)
    num_steps = len(sizes) * config.epochs
    network, beside = _network(classifier, config, worker, num_steps=num_steps), None
    if isinstance(loss_weights, Companion):
        second = loss_weights.classifier.to(worker.device).to(memory_format=torch.channels_last)
        beside = _network(second, config, worker, num_steps=num_steps)
    stepper = Stepper(network, train, loss_weights, worker, augment=config.augment, terms=config.terms, beside=beside)
    with Progress(classifier, stepper.parts(), worker) as progress:
        for epoch in range(progress.resume(), config.epochs):
            # A seed for each epoch, not one for the fit: so that a fit that goes on from a checkpoint draws the same.
            rng = np.random.default_rng(row_seed(seed, f"fit/{epoch}"))
            mixed: list[Mixed] | None = None
            if mixing is not None:
                mixed = mixing.draw(sizes, rng)
                batches = [batch.positions for batch in mixed]
            else:
                drawn = draw_batches(sizes, sampling_weights_N, rng, num_images=len(occurrences_M))
                batches = [occurrences_M[draws] for draws in drawn]
                if config.terms.mixup_alpha:
                    mixed = mix_batches(batches, config.terms.mixup_alpha, rng)
                    batches = [batch.positions for batch in mixed]
            try:
                loss, images_per_s = stepper.epoch(batches, number=epoch, of=config.epochs, seed=seed, mixed=mixed)
            except NotFiniteError as error:
                raise StageError(
                    f"the loss of epoch {epoch + 1} is {error}; lower learning_rate (now {config.learning_rate})"
                ) from error
            correct_N = right_predictions(classifier, val, worker)
            entry = {"epoch": epoch, "loss": loss, **accuracies(correct_N, val)}
            if (share := stepper.generated_share) is not None:
                entry[GENERATED_SHARE] = share
            progress.wait()  # whoever ends the fit in `on_epoch` finds all epochs before on the disk
            if worker.on_epoch is not None and worker.leads:
                worker.on_epoch(entry, correct_N)
            progress.add(entry, select=config.select)
            if worker.leads:
                noun = "class" if val.group_N is None else "group"
                worker.tell(_line(entry, config.epochs, images_per_s, noun=noun))
    classifier.load_state_dict(progress.selected)
    return progress.history


def _check(config: LoopConfig, train: TrainingSet, worker: Worker) -> None:
    config.check_numerics(worker.numerics)
    if train.infilling is not None:
        config.check_infilling(train.infilling)
    if train.masks is None and (config.needs_masks() or makes_copies(train.infilling)):
        raise DataError(
            "algorithm.saliency_penalty, or pictures that are filled while they are fitted on, need object masks, and "
            "the training set has none"
        )


def mean_weights(label_B: np.ndarray, generated_B: np.ndarray) -> np.ndarray:
    """1 / B for every image: the loss is the batch's mean cross entropy."""
    return np.full(len(label_B), 1 / len(label_B))


def _line(entry: dict[str, float], num_epochs: int, images_per_s: float, *, noun: str) -> str:
    return (
        f"epoch {entry['epoch'] + 1:.0f}/{num_epochs}: loss {entry['loss']:.4f}, validation "
        f"{entry['val_average']:.1%}, worst {noun} {entry['val_worst_group']:.1%}, {images_per_s:,.0f} images/s"
    )


def _network(classifier: Classifier, config: LoopConfig, worker: Worker, *, num_steps: int) -> Network:
    optimizer, scheduler = _build_optimizer(classifier, config, worker, num_steps=num_steps)
    return Network(classifier, optimizer, scheduler, worker)


def _build_optimizer(
    classifier: Classifier, config: LoopConfig, worker: Worker, *, num_steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    rate, decay, parameters = config.learning_rate, config.weight_decay, classifier.parameters()
    # One kernel for all parameters, element by element: the same bits every time.
    fused = worker.device in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    match config.optimizer:
        case "sgd":
            optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=fused)
        case "adam":
            optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=fused)
        case "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)
    schedules = torch.optim.lr_scheduler
    scheduler: Any
    match config.schedule:
        case "constant":
            scheduler = schedules.ConstantLR(optimizer, factor=1.0)
        case "cosine":
            scheduler = schedules.CosineAnnealingLR(optimizer, T_max=num_steps)
        case "onecycle":
            scheduler = schedules.OneCycleLR(
                optimizer, max_lr=rate, total_steps=max(num_steps, 2), cycle_momentum=False
            )
    return optimizer, scheduler
