"""The stage that measures fitted classifiers: what they look at, and what another background does to them."""

# N rows of a model call, C classes or colour channels, H height, W width, B baselines

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from raygen.attention import DeepLift
from raygen.classifier import Classifier, load_frozen
from raygen.classifier.framing import Frame, as_input
from raygen.datasets.rows import Location, fetch_located
from raygen.errors import ModelError, RowError, or_row_error
from raygen.images import decode_image, decode_mask
from raygen.maskers.cam import CamExplainer, CamMethod, Explained
from raygen.maskers.truth import checked_object
from raygen.metrics import average_precision, pointing_hit
from raygen.schema import MEASURES
from raygen.stages.spec import (
    Batch,
    ModelStage,
    Prepared,
    empty_column,
    fail_row,
    fill_slots,
    ok_rows,
    with_own_status,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A call's slots as classifiers of one frame see them.

    Attributes:
        images_NCHW: Pictures, (N, 3, S, S) in [0, 1].
        pairs_NCHW: The same objects before another background; the picture itself where there is no pair.
        objects: Object masks by row, (S, S) bool; rows without a usable one are left out.
    """

    images_NCHW: torch.Tensor
    pairs_NCHW: torch.Tensor
    objects: Mapping[int, np.ndarray]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a call by frame, the labels of its slots, and which rows have a pair."""

    seen: Mapping[Frame, Seen]
    labels: Sequence[int] = ()
    splits: Sequence[str] = ()
    paired: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Looked:
    """What one classifier makes of a call's slots.

    Attributes:
        logits_NC: Logits, (N, C).
        pair_logits_NC: Of the pairs, likewise.
        gradient_NCHW: Gradient of the true label's logit at the pixels.
        heat_NHW: Class activation map of the true label; None for an architecture without one.
        deep_lift: Attribution, (3, S, S), and how far it is from complete, by row.
    """

    logits_NC: np.ndarray
    pair_logits_NC: np.ndarray
    gradient_NCHW: np.ndarray
    heat_NHW: np.ndarray | None
    deep_lift: Mapping[int, tuple[np.ndarray, float]] = field(default_factory=dict)


class MeasureStage(ModelStage[Pictures, dict[str, Looked]]):
    """MEASURES of each row's picture by several classifiers; the picture is decoded once.

    Its columns are named "<classifier>:<measure>", so `writes` cannot list them. Everything is asked about the true
    label. A mask that is absent or unusable, or a classifier whose output is not finite, leaves its cells empty.

    Args:
        classifier_folders: Name -> folder of each classifier.
        cam: Which class activation map.
        baselines: Where the pictures are that DeepLiftShap compares with, by split; None: it is not asked for.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_png", "object_png", "pair_png", "label", "split", "status", "error"})
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        classifier_folders: Mapping[str, str],
        cam: CamMethod,
        baselines: Mapping[str, Sequence[Location]] | None = None,
        device: str = "cpu",
    ) -> None:
        self._classifiers = {name: load_frozen(Path(folder), device) for name, folder in classifier_folders.items()}
        self._deep_lifts: dict[str, DeepLift] = {}
        self._baselines: dict[tuple[str, Frame], torch.Tensor] = {}
        self._device = device
        if baselines is not None:
            # Before there are hooks of class activation maps, which nobody can trace through.
            self._deep_lifts = {name: DeepLift(classifier) for name, classifier in self._classifiers.items()}
            for split, places in baselines.items():
                self._decode_baselines(split, places)
        self._explainers = {name: _explainer(found, cam) for name, found in self._classifiers.items()}

    def prepare(self, batch: Batch) -> Prepared[Pictures]:
        """Pictures, pairs and masks, in each frame that a classifier takes."""
        batch = with_own_status(batch)
        frames = {classifier.frame for classifier in self._classifiers.values()}
        images: dict[int, dict[Frame, np.ndarray]] = {}
        pairs: dict[int, dict[Frame, np.ndarray]] = {}
        objects: dict[int, dict[Frame, np.ndarray]] = {}
        for row in ok_rows(batch):
            data: Any = batch["image_png"][row]
            image = RowError("there is no image_png") if data is None else or_row_error(decode_image, data)
            if isinstance(image, RowError):
                fail_row(batch, row, RowError(f"image_png: {image}"))
                continue
            images[row] = {frame: frame.picture(image) for frame in frames}
            object_HW = or_row_error(_object_of, image, batch["object_png"][row])
            if not isinstance(object_HW, RowError):
                objects[row] = {frame: frame.mask(object_HW) for frame in frames}
            pair_png: Any = batch["pair_png"][row]
            pair = RowError("none") if pair_png is None else or_row_error(decode_image, pair_png)
            if not isinstance(pair, RowError):
                pairs[row] = {frame: frame.picture(pair) for frame in frames}
        if not images:
            return Prepared(batch, Pictures({}))
        slots = fill_slots(sorted(images), len(batch["status"]))
        seen = {
            frame: Seen(
                _stacked([images[i][frame] for i in slots]),
                _stacked([pairs.get(i, images[i])[frame] for i in slots]),
                {i: objects[i][frame] for i in objects},
            )
            for frame in frames
        }
        labels, splits = ([batch[name][i] for i in slots] for name in ("label", "split"))
        num_bytes = sum(2 * found.images_NCHW.nbytes for found in seen.values())
        return Prepared(batch, Pictures(seen, [int(label) for label in labels], splits, frozenset(pairs)), num_bytes)

    def work(self, prepared: Prepared[Pictures]) -> dict[str, Looked]:
        """Logits, gradients and maps by classifier."""
        inputs = prepared.inputs
        return {
            name: self._look(name, classifier, inputs.seen[classifier.frame], inputs)
            for name, classifier in self._classifiers.items()
            if inputs.seen
        }

    def finish(self, prepared: Prepared[Pictures], outputs: dict[str, Looked]) -> Batch:
        """The rows with the measures of each classifier."""
        batch, inputs = prepared.batch, prepared.inputs
        columns = {
            f"{name}:{measure}": empty_column(len(batch["status"]))
            for name in self._classifiers
            for measure in MEASURES.names
        }
        for name, looked in outputs.items():
            objects = inputs.seen[self._classifiers[name].frame].objects
            for row in ok_rows(batch):
                if not np.isfinite(looked.logits_NC[row]).all():
                    continue
                found = _measured(looked, row, objects.get(row), has_pair=row in inputs.paired)
                for measure, value in found.items():
                    columns[f"{name}:{measure}"][row] = value
        return {**batch, **columns}

    def _look(self, name: str, classifier: Classifier, seen: Seen, inputs: Pictures) -> Looked:
        images_NCHW, explainer = seen.images_NCHW.to(self._device), self._explainers[name]
        found = explainer(images_NCHW, inputs.labels) if explainer else _without_map(classifier, images_NCHW, inputs)
        with torch.inference_mode():
            pair_logits_NC = classifier(seen.pairs_NCHW.to(self._device)).float().cpu().numpy()
        lifted = {}
        if (deep_lift := self._deep_lifts.get(name)) is not None:
            for row in seen.objects:
                baselines_BCHW = self._baselines[inputs.splits[row], classifier.frame]
                label_1 = torch.tensor([inputs.labels[row]], device=self._device)
                attribution_1CHW, gap_1 = deep_lift(images_NCHW[row : row + 1], baselines_BCHW, label_1)
                lifted[row] = attribution_1CHW[0], float(gap_1[0])
        heat_NHW = None if explainer is None else found.heatmaps_NHW
        return Looked(found.logits_NC, pair_logits_NC, found.gradient_NCHW, heat_NHW, lifted)

    def _decode_baselines(self, split: str, places: Sequence[Location]) -> None:
        """A few pictures of a split, those that can be read, in each frame.

        Raises:
            ModelError: Fewer than two.
        """
        data = fetch_located(places, ["image_png"])["image_png"].to_pylist()
        images = [or_row_error(decode_image, png) for png in data if png is not None]
        usable = [image for image in images if not isinstance(image, RowError)]
        if len(usable) < 2:
            raise ModelError(
                f"DeepLiftShap needs two pictures of split {split} to compare with, and {len(usable)} can be read"
            )
        for classifier in self._classifiers.values():
            stacked_BCHW = _stacked([classifier.frame.picture(image) for image in usable])
            self._baselines[split, classifier.frame] = stacked_BCHW.to(self._device)


def _measured(looked: Looked, row: int, object_SS: np.ndarray | None, *, has_pair: bool) -> dict[str, Any]:
    """The cells of one row."""
    found: dict[str, Any] = {"logits": looked.logits_NC[row].tolist()}
    if has_pair and np.isfinite(looked.pair_logits_NC[row]).all():
        found["pair_logits"] = looked.pair_logits_NC[row].tolist()
    if object_SS is None:
        return found
    found["foreground"] = float(object_SS.mean())
    found["saliency_ap"] = average_precision(looked.gradient_NCHW[row], object_SS)
    if looked.heat_NHW is not None:
        found["pointing"] = pointing_hit(looked.heat_NHW[row], object_SS)
    if row in looked.deep_lift:
        attribution_CHW, found["deep_lift_gap"] = looked.deep_lift[row]
        found["deep_lift_ap"] = average_precision(attribution_CHW, object_SS)
    return found


def _explainer(classifier: Classifier, method: CamMethod) -> CamExplainer | None:
    try:
        return CamExplainer(classifier, method)
    except ModelError:  # a network without convolutions has no such map
        return None


def _without_map(classifier: Classifier, images_NCHW: torch.Tensor, inputs: Pictures) -> Explained:
    """What a pass forth and back says where there is no map to be drawn."""
    with torch.enable_grad():
        inputs_NCHW = images_NCHW.detach().clone().requires_grad_(True)
        logits_NC = classifier(inputs_NCHW)
        of_label_N = logits_NC[torch.arange(len(logits_NC)), torch.tensor(inputs.labels)]
        (gradient_NCHW,) = torch.autograd.grad(of_label_N.sum(), inputs_NCHW)
    logits, gradient = (tensor.detach().float().cpu().numpy() for tensor in (logits_NC, gradient_NCHW))
    nothing_NHW = np.zeros((len(logits), *images_NCHW.shape[2:]), dtype=np.float32)
    return Explained(logits, nothing_NHW, nothing_NHW, gradient)


def _object_of(image_HWC: np.ndarray, object_png: bytes | None) -> np.ndarray:
    """The object's mask; see `checked_object`."""
    return checked_object(image_HWC, None if object_png is None else decode_mask(object_png))


def _stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    return as_input(torch.from_numpy(np.stack(images)))
