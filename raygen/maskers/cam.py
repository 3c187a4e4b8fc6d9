"""Repaint masks from class activation maps: what the classifier attends to, or everything else.

The two recipes that mask by attention do opposite things. SCGS (arXiv 2412.19457) keeps what fooled the
classifier and repaints the rest: `repaint: unattended`, `explain: predicted_label`. A stand-in for an object
mask repaints what speaks for the image's own class: `repaint: attended`, `explain: source_label`. The maps
are pytorch-grad-cam's.
"""

# N images, H height, W width, C colour channels

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from raygen.classifier import Classifier, load_frozen
from raygen.classifier.framing import preprocess
from raygen.errors import RowError, or_row_error
from raygen.maskers.base import MaskerBase, Repaint
from raygen.maskers.truth import dilate

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM

CamMethod = Literal["gradcam", "gradcam++", "xgradcam"]


class CamConfig(MaskerBase):
    """Repaint by attention.

    Attributes:
        method: Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063), as SCGS uses, Grad-CAM, or XGrad-CAM (Fu et
            al. 2020, arXiv 2008.02312), as MaskTune and DaC use.
        tau: Heat from which a pixel counts as attended, 0..1. SCGS says "red and orange regions": orange ends
            at 0.69 (OpenCV's jet) to 0.71 (matplotlib's). Assumption: 0.7, in between.
        repaint: The attended pixels, or all others.
        explain: Column with the label whose logit is explained.
        dilation_px: Radius by which the repaint region is grown, pixels of the picture.
        top_q: Where the map is 0 everywhere, this share of the pixels counts as attended: those whose activations speak
            least against the label (gradient times activation, summed over channels, without Grad-CAM's ReLU). None:
            such a picture has no mask.
        quantile: A pixel counts as attended from this quantile of its picture's own heat on, in place of `tau`: of a
            map without ties, 1 - quantile of its pixels; equal heat is all attended, or none of it.
    """

    name: Literal["cam"] = "cam"
    method: CamMethod = "gradcam++"
    tau: float = Field(0.7, gt=0, le=1)
    repaint: Literal["attended", "unattended"] = "attended"
    explain: Literal["predicted_label", "source_label"] = "source_label"
    dilation_px: int = Field(8, ge=0)
    top_q: float | None = Field(None, gt=0, lt=1)
    quantile: float | None = Field(None, gt=0, lt=1)


class CamMasker:
    """Repaint = thresholded class activation map.

    Args:
        config: Which map, which side of it.
        classifier: Whose attention is mapped.
    """

    def __init__(self, config: CamConfig, classifier: Classifier) -> None:
        self.label_column = config.explain
        self._config, self._classifier = config, classifier
        self._explainer = _build_explainer(classifier, config.method)

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        """Masks per picture; a RowError where the map is empty or not finite."""
        images_NCHW = preprocess(images, self._classifier.frame)
        heatmaps_NHW, signed_NHW = _heatmaps(self._explainer, images_NCHW, labels)
        maps = zip(images, heatmaps_NHW, signed_NHW, strict=True)
        return [or_row_error(self._repaint, *one) for one in maps]

    def _repaint(self, image_HWC: np.ndarray, heatmap_HW: np.ndarray, signed_HW: np.ndarray) -> Repaint:
        if self._config.top_q is not None and not heatmap_HW.any():
            attended_HW = top_pixels(signed_HW, fraction=self._config.top_q)
        elif self._config.quantile is not None:
            attended_HW = hot_pixels(heatmap_HW, quantile=self._config.quantile)
        else:
            attended_HW = attended(heatmap_HW, tau=self._config.tau)
        # What lies outside of the classifier's frame is not attended.
        height, width = image_HWC.shape[:2]
        attended_HW = self._classifier.frame.on_picture(attended_HW, height=height, width=width)
        is_object = self._config.repaint == "attended"
        chosen_HW = attended_HW if is_object else scgs_to_edit(attended_HW)
        repaint_HW = dilate(chosen_HW, radius_px=self._config.dilation_px)
        if not repaint_HW.any():
            name = "tau" if self._config.quantile is None else "quantile"
            raise RowError(f"no pixel is left to repaint at {name} = {getattr(self._config, name):g}; use another")
        return Repaint(repaint_HW, chosen_HW if is_object else None)


Config = CamConfig


def load(config: CamConfig, classifier_folder: str, *, device: str) -> CamMasker:
    """The masker of a config."""
    return CamMasker(config, load_frozen(Path(classifier_folder), device))


def cam_heatmaps(
    classifier: Classifier, images_NCHW: torch.Tensor, target_labels_N: Sequence[int], *, method: CamMethod
) -> np.ndarray:
    """Class activation maps in the classifier's frame, (N, H, W) float32 in [0, 1].

    ReLU, per-image min-max, bilinear to the input's size, min-max again, as pytorch-grad-cam does. A map
    without any positive weight is 0 everywhere. Grad-CAM++'s weights hold the library's eps = 1e-6, which is
    not small beside the squared gradients of a ResNet's head; other values give other maps.

    Args:
        classifier: In evaluation mode on return.
        images_NCHW: Pictures, (N, 3, H, W) in [0, 1].
        target_labels_N: The label whose logit each map explains.
        method: Which weights.
    """
    explainer = _build_explainer(classifier, method)
    # Not `with explainer`: the library's __exit__ prints an IndexError and swallows it.
    try:
        return _heatmaps(explainer, images_NCHW, target_labels_N)[0]
    finally:
        explainer.activations_and_grads.release()


@dataclass(frozen=True, slots=True)
class Explained:
    """What one pass forth and back says of pictures.

    Attributes:
        logits_NC: Logits, (N, C) float32.
        heatmaps_NHW: Class activation maps as `cam_heatmaps` gives them, (N, H, W) float32.
        signed_NHW: Gradient times activation summed over channels, (N, H, W) float32.
        gradient_NCHW: Gradient of each label's logit at the pixels, (N, 3, H, W) float32.
    """

    logits_NC: np.ndarray
    heatmaps_NHW: np.ndarray
    signed_NHW: np.ndarray
    gradient_NCHW: np.ndarray


class CamExplainer:
    """Class activation maps of one classifier, with the logits and the gradients at the pixels that come with them.

    Args:
        classifier: In evaluation mode.
        method: Which weights.

    Raises:
        ModelError: The architecture has no layer with a map of the picture.
    """

    def __init__(self, classifier: Classifier, method: CamMethod) -> None:
        self._explainer = _build_explainer(classifier, method)

    def __call__(self, images_NCHW: torch.Tensor, labels: Sequence[int]) -> Explained:
        """What speaks for these labels in pictures, (N, 3, H, W) in [0, 1]."""
        return _explained(self._explainer, images_NCHW, labels)


def attended(heatmap_HW: np.ndarray, *, tau: float) -> np.ndarray:
    """Pixels with heat of at least tau, (H, W) bool.

    Raises:
        RowError: The map is not finite, or 0 everywhere.
    """
    if not np.isfinite(heatmap_HW).all():
        raise RowError("the class activation map is not finite; is the classifier's training diverged?")
    if not heatmap_HW.any():
        raise RowError("the class activation map is 0 everywhere: nothing in the picture speaks for the label")
    return heatmap_HW >= tau


def top_pixels(heatmap_HW: np.ndarray, *, fraction: float) -> np.ndarray:
    """The hottest pixels, (H, W) bool: round(fraction * H * W) of them, at least one; of equal ones, the first.

    Raises:
        RowError: The map is not finite.
    """
    if not np.isfinite(heatmap_HW).all():
        raise RowError("the class activation map is not finite; is the classifier's training diverged?")
    chosen = np.argsort(-heatmap_HW, axis=None, kind="stable")[: max(1, round(fraction * heatmap_HW.size))]
    top_HW = np.zeros(heatmap_HW.shape, dtype=bool)
    top_HW.flat[chosen] = True
    return top_HW


def hot_pixels(heatmap_HW: np.ndarray, *, quantile: float) -> np.ndarray:
    """Pixels whose heat is at least a quantile of the map, (H, W) bool.

    Raises:
        RowError: The map is not finite.
    """
    if not np.isfinite(heatmap_HW).all():
        raise RowError("the class activation map is not finite; is the classifier's training diverged?")
    hot_HW: np.ndarray = heatmap_HW >= np.quantile(heatmap_HW, quantile)
    return hot_HW


def scgs_to_edit(keep_HW: np.ndarray) -> np.ndarray:
    """Repaint mask from SCGS's mask, whose True means keep, (H, W) bool."""
    return ~keep_HW


def _build_explainer(classifier: Classifier, method: CamMethod) -> "BaseCAM":
    # Here, not at the top: it brings matplotlib and OpenCV, several seconds that only actors with this masker
    # need.
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, XGradCAM

    kind = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "xgradcam": XGradCAM}[method]
    return kind(model=classifier, target_layers=[classifier.target_layer], reshape_transform=classifier.to_map)


def _heatmaps(explainer: "BaseCAM", images_NCHW: torch.Tensor, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The library's maps, and gradient times activation summed over channels, (N, H, W) float32 each."""
    found = _explained(explainer, images_NCHW, labels)
    return found.heatmaps_NHW, found.signed_NHW


def _explained(explainer: "BaseCAM", images_NCHW: torch.Tensor, labels: Sequence[int]) -> Explained:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    # The inputs take the gradient, so that frozen parameters are explained like others and collect none.
    inputs_NCHW = images_NCHW.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        heatmaps_NHW: Any = explainer(input_tensor=inputs_NCHW, targets=targets)
    kept = explainer.activations_and_grads
    signed_N1hw = (kept.gradients[-1] * kept.activations[-1]).detach().float().sum(1, keepdim=True)
    signed_N1HW = torch.nn.functional.interpolate(signed_N1hw, size=images_NCHW.shape[2:], mode="bilinear")
    # The library keeps the last batch's graph until the next call; an actor may wait for long in between.
    outputs_NC: Any = explainer.outputs
    explainer.outputs = None
    explainer.activations_and_grads.clear()
    assert inputs_NCHW.grad is not None
    logits_NC, signed_NHW, gradient_NCHW = (
        tensor.detach().float().cpu().numpy() for tensor in (outputs_NC, signed_N1HW[:, 0], inputs_NCHW.grad)
    )
    return Explained(logits_NC, np.asarray(heatmaps_NHW, dtype=np.float32), signed_NHW, gradient_NCHW)
