"""Objects found by name with CLIPSeg (Lüddecke & Ecker 2022, arXiv 2112.10003): one light model, no boxes."""

# N images, H height, W width, C classes, D width of the joint space, T tokens

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from raygen.config import Decides, Strict
from raygen.errors import NonFiniteError, RowError, or_row_error
from raygen.maskers.loading import (
    Dtype,
    check_length,
    check_model,
    checked_kind,
    load_model,
    load_processor,
)
from raygen.model_files import TINY, FoundModel, find_model

TINY_FOLDER = "segmenter_weights"
KINDS = ("clipseg",)
WHAT = "a CLIPSeg model"


class ClipsegConfig(Strict, decides=Decides.RESULTS):
    """Find objects with CLIPSeg.

    Attributes:
        text: What to look for: one text, or a list with one per class; null takes the dataset's word for its objects
            ("bird" of the scenes and Waterbirds, "animal" of MetaShift, "hair" of CelebA, otherwise the class names).
        model: "tiny" (ships with raygen; knows the birds of the scenes and nothing else), a local folder in Hugging
            Face layout, or a hub id such as CIDAS/clipseg-rd64-refined.
        revision: Commit, branch or tag of a hub id; pin it for results that are to be repeated.
        dtype: Numbers of the model: float32 on CPUs; float16 or bfloat16 on GPUs.
        threshold: Probability from which a pixel belongs to the object. Assumption: 0.5; the weights that the authors
            published are less sure of themselves, and 0.3 to 0.4 finds more.
    """

    kind: Literal["clipseg"] = "clipseg"
    text: str | tuple[str, ...] | None = None
    model: str = TINY
    revision: str | None = None
    dtype: Dtype = "float32"
    threshold: float = Field(0.5, gt=0, lt=1)

    def found(self) -> FoundModel:
        """Where the model is.

        Raises:
            ModelError: See `find_model`.
        """
        return find_model(self.model, revision=self.revision, tiny=TINY_FOLDER)

    def check(self) -> None:
        """Checks the model's files, and the texts that the config gives, before any work.

        Raises:
            ModelError: See `loading.check_model`.
            ConfigError: A text is too long.
        """
        found = self.found()
        check_model(found, kinds=KINDS, what=WHAT, field="synthesis.language.model")
        if self.text is not None and found.folder is not None:
            name = str(found.folder)
            from transformers import AutoConfig, CLIPSegProcessor

            processor = load_processor(CLIPSegProcessor, name, revision=None, what=WHAT)
            texts = [self.text] if isinstance(self.text, str) else list(self.text)
            _check_lengths(processor.tokenizer, texts, load_processor(AutoConfig, name, revision=None, what=WHAT))

    def load(self, texts: Sequence[str], *, device: str) -> "ClipsegFinder":
        """What looks for a text per class; see `ClipsegFinder` for errors."""
        return ClipsegFinder(self, texts, device=device)

    def absolute(self) -> "ClipsegConfig":
        """The config with a local model's folder in full, for workers, whose working directory is another."""
        return self.model_copy(update={"model": self.found().for_workers})

    def revisions(self) -> list[str]:
        """What decides masks beside the config: the hash of the model's folder, or the revision of its hub id."""
        return [self.found().revision or "main"]


class ClipsegFinder:
    """Object = pixels whose probability reaches the threshold.

    Args:
        config: Which model.
        texts: What to look for, per class.
        device: "cpu" or "cuda".

    Attributes:
        model: The loaded model.

    Raises:
        ModelError: The model is absent, incomplete or of another kind.
        ConfigError: A text is too long.
    """

    def __init__(self, config: ClipsegConfig, texts: Sequence[str], *, device: str) -> None:
        # Here, not at the top: transformers takes seconds, which only actors with this masker need.
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        name = config.found().name
        checked_kind(name, revision=config.revision, kinds=KINDS, what=WHAT)
        self._config, self._texts, self._device = config, list(texts), device
        self._processor = load_processor(CLIPSegProcessor, name, revision=config.revision, what=WHAT)
        self.model = load_model(
            CLIPSegForImageSegmentation, name, revision=config.revision, dtype=config.dtype, device=device, what=WHAT
        )
        self._texts_CD = self._embed(self._processor.tokenizer)

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray | RowError]:
        """Object masks in the pictures' frames, (H, W) bool each; a RowError where nothing is found."""
        processor = self._processor.image_processor
        # Copies: decoded pictures are read-only, which torch warns of.
        pictures = [image_HWC.copy() for image_HWC in images]
        images_NCHW = processor(pictures, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        logits_NHW = self.model(
            pixel_values=images_NCHW.to(self._device, self.model.dtype), conditional_embeddings=self._texts_CD[labels]
        ).logits.float()
        return [
            or_row_error(self._threshold, logits_HW, image_HWC, self._texts[label])
            for logits_HW, image_HWC, label in zip(logits_NHW, images, labels, strict=True)
        ]

    def _threshold(self, logits_HW: torch.Tensor, image_HWC: np.ndarray, text: str) -> np.ndarray:
        if not bool(logits_HW.isfinite().all()):
            raise NonFiniteError("CLIPSeg gave numbers that are not finite; try synthesis.language.dtype=float32")
        logits_11HW = F.interpolate(logits_HW[None, None], image_HWC.shape[:2], mode="bilinear", align_corners=False)
        probability_HW = logits_11HW[0, 0].sigmoid().cpu().numpy()
        object_HW: np.ndarray = probability_HW >= self._config.threshold
        if not object_HW.any():
            raise RowError(
                f"CLIPSeg found no '{text}' (highest probability {probability_HW.max():.2f} < "
                f"{self._config.threshold:g})"
            )
        return object_HW

    @torch.inference_mode()
    def _embed(self, tokenizer: Any) -> torch.Tensor:
        """Embedding of each class's text, (C, D)."""
        _check_lengths(tokenizer, self._texts, self.model.config)
        tokens_CT = tokenizer(self._texts, padding=True, return_tensors="pt").to(self._device)
        embeddings_CD: torch.Tensor = self.model.clip.get_text_features(
            input_ids=tokens_CT["input_ids"], attention_mask=tokens_CT["attention_mask"]
        ).pooler_output
        return embeddings_CD


def _check_lengths(tokenizer: Any, texts: list[str], model_config: Any) -> None:
    limit = min(int(tokenizer.model_max_length), model_config.text_config.max_position_embeddings)
    for text, ids in zip(texts, tokenizer(texts, truncation=False)["input_ids"], strict=True):
        check_length(text, len(ids), limit)
