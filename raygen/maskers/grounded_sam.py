"""Objects found by name with GroundingDINO and SAM, as LangSAM does: text to boxes, boxes to instance masks.

GroundingDINO: Liu et al. 2023 (arXiv 2303.05499); SAM: Kirillov et al. 2023 (arXiv 2304.02643); SAM 2: Ravi et al.
2024 (arXiv 2408.00714). All through transformers.
"""

# N images, C classes, B boxes of one image, H height, W width, T tokens

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from raygen.config import Decides, Strict
from raygen.errors import NonFiniteError, RowError
from raygen.maskers.loading import (
    Dtype,
    check_length,
    check_model,
    checked_kind,
    load_model,
    load_processor,
)
from raygen.model_files import FoundModel, find_model

DETECTORS = ("grounding-dino", "mm-grounding-dino")
DETECTOR = "a GroundingDINO detector"
# The hub's SAM 2 folders call themselves by the video model; the image model is a part of it.
SEGMENTERS = {"sam": ("SamModel", "SamProcessor"), "sam2": ("Sam2Model", "Sam2Processor")}
SEGMENTERS["sam2_video"] = SEGMENTERS["sam2"]
SEGMENTER = "a SAM segmenter"


class GroundedSamConfig(Strict, decides=Decides.RESULTS):
    """Find objects with GroundingDINO and SAM.

    Attributes:
        text: What to look for: one text, or a list with one per class; null takes the dataset's word for its objects
            ("bird" of the scenes and Waterbirds, "animal" of MetaShift, "hair" of CelebA, otherwise the class names).
            Several things: "a cat. a dog."
        detector: GroundingDINO: a local folder in Hugging Face layout, or a hub id. The default is the size that
            LangSAM takes.
        detector_revision: Commit, branch or tag of a hub id; pin it for results that are to be repeated.
        segmenter: SAM or SAM 2, likewise. The default is LangSAM's (version 0.1).
        segmenter_revision: Likewise.
        dtype: Numbers of both models: float32 on CPUs; float16 or bfloat16 on GPUs.
        box_threshold: Score above which a box counts. 0.3: DBB (arXiv 2503.17226) and LangSAM.
        text_threshold: Score above which a word belongs to a box; a box without any word does not count. 0.25:
            LangSAM; the code of DBB's authors has 0.3.
    """

    kind: Literal["grounded_sam"] = "grounded_sam"
    text: str | tuple[str, ...] | None = None
    detector: str = "IDEA-Research/grounding-dino-base"
    detector_revision: str | None = None
    segmenter: str = "facebook/sam-vit-huge"
    segmenter_revision: str | None = None
    dtype: Dtype = "float32"
    box_threshold: float = Field(0.3, gt=0, lt=1)
    text_threshold: float = Field(0.25, gt=0, lt=1)

    def found_detector(self) -> FoundModel:
        """Where the detector is; ModelError: see `find_model`."""
        return find_model(self.detector, revision=self.detector_revision, tiny=None)

    def found_segmenter(self) -> FoundModel:
        """Where the segmenter is; likewise."""
        return find_model(self.segmenter, revision=self.segmenter_revision, tiny=None)

    def check(self) -> None:
        """Checks the models' files, and the texts that the config gives, before any work; see `ClipsegConfig.check`."""
        found = self.found_detector()
        check_model(found, kinds=DETECTORS, what=DETECTOR, field="synthesis.language.detector")
        check_model(self.found_segmenter(), kinds=SEGMENTERS, what=SEGMENTER, field="synthesis.language.segmenter")
        if self.text is not None and found.folder is not None:
            detector = str(found.folder)
            from transformers import AutoConfig, AutoProcessor

            processor = load_processor(AutoProcessor, detector, revision=None, what=DETECTOR)
            model_config = load_processor(AutoConfig, detector, revision=None, what=DETECTOR)
            texts = [self.text] if isinstance(self.text, str) else list(self.text)
            _check_lengths(processor.tokenizer, texts, model_config)

    def load(self, texts: Sequence[str], *, device: str) -> "GroundedSamFinder":
        """What looks for a text per class; see `GroundedSamFinder` for errors."""
        return GroundedSamFinder(self, texts, device=device)

    def absolute(self) -> "GroundedSamConfig":
        """The config with local models' folders in full."""
        folders = {"detector": self.found_detector().for_workers, "segmenter": self.found_segmenter().for_workers}
        return self.model_copy(update=folders)

    def revisions(self) -> list[str]:
        """What decides masks beside the config."""
        return [found.revision or "main" for found in (self.found_detector(), self.found_segmenter())]


@dataclass(frozen=True, slots=True)
class Detection:
    """What the detector sees in one picture.

    Attributes:
        boxes_B4: Left, top, right, bottom in pixels, (B, 4) float; possibly none.
        best_score: Of any box, whether or not it counts.
    """

    boxes_B4: np.ndarray
    best_score: float


class GroundedSamFinder:
    """Object = union of the instance masks of all boxes.

    Args:
        config: Which models and thresholds.
        texts: What to look for, per class.
        device: "cpu" or "cuda".

    Attributes:
        detector: The loaded detector.
        segmenter: The loaded segmenter.

    Raises:
        ModelError: A model is absent, incomplete or of another kind.
        ConfigError: A text is too long.
    """

    def __init__(self, config: GroundedSamConfig, texts: Sequence[str], *, device: str) -> None:
        self._config, self._texts, self._device = config, list(texts), device
        self.detector, self._detector_processor = self._load_detector()
        self.segmenter, self._segmenter_processor = self._load_segmenter()
        self._tokens_CT = self._tokenize(self._detector_processor.tokenizer)
        self._pad_size = _padded_size(self._detector_processor.image_processor)

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray | RowError]:
        """Object masks in the pictures' frames, (H, W) bool each; a RowError where nothing is found."""
        images = [image_HWC.copy() for image_HWC in images]  # decoded pictures are read-only, which torch warns of
        detections = self.detect(images, labels)
        unions = self._segment(images, [detection.boxes_B4 for detection in detections])
        found: list[np.ndarray | RowError] = []
        for detection, object_HW, label in zip(detections, unions, labels, strict=True):
            text, best, limit = self._texts[label], detection.best_score, self._config.box_threshold
            if not np.isfinite(best):
                found.append(NonFiniteError("the detector gave numbers that are not finite; try dtype=float32"))
            elif object_HW is None:
                # Where the best score is high enough, its box has no word of the text.
                reason = f"{best:.2f} < {limit:g}" if best <= limit else f"{best:.2f}, but no word of the text"
                found.append(RowError(f"the detector found no '{text}' (best score {reason})"))
            elif not object_HW.any():
                found.append(
                    RowError(f"the segmenter marked no pixel in the {len(detection.boxes_B4)} box(es) of '{text}'")
                )
            else:
                found.append(object_HW)
        return found

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> list[Detection]:
        """The boxes that count in each picture."""
        inputs = self._detector_processor.image_processor(
            images, return_tensors="pt", input_data_format="channels_last", pad_size=self._pad_size
        )
        tokens = {name: tokens_CT[list(labels)] for name, tokens_CT in self._tokens_CT.items()}
        outputs = self.detector(
            pixel_values=inputs["pixel_values"].to(self._device, self.detector.dtype),
            pixel_mask=inputs["pixel_mask"].to(self._device),
            **tokens,
        )
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        results = self._detector_processor.post_process_grounded_object_detection(
            outputs,
            tokens["input_ids"],
            threshold=self._config.box_threshold,
            text_threshold=self._config.text_threshold,
            target_sizes=[image_HWC.shape[:2] for image_HWC in images],
        )
        best_N = outputs.logits.sigmoid().amax((1, 2)).tolist()
        detections = []
        for result, best_score in zip(results, best_N, strict=True):
            boxes_B4 = result["boxes"].cpu().numpy()
            # Cut: of no box at all, transformers gives one empty label.
            has_word_B = [bool(words.strip(" .")) for words in result["text_labels"][: len(boxes_B4)]]
            detections.append(Detection(boxes_B4[np.array(has_word_B, dtype=bool)], best_score))
        return detections

    def _segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """Union of the boxes' masks in each picture, (H, W) bool; None where there is no box."""
        inputs = [
            self._segmenter_processor(
                images=image_HWC,
                input_boxes=[boxes_B4.tolist()] if len(boxes_B4) else None,
                return_tensors="pt",
                input_data_format="channels_last",
            )
            for image_HWC, boxes_B4 in zip(images, boxes, strict=True)
        ]
        images_NCHW = torch.cat([one["pixel_values"] for one in inputs]).to(self._device, self.segmenter.dtype)
        # The large half of the model sees all pictures at once; the small half one picture with its boxes at a time,
        # so that a picture's mask does not depend on how many boxes the others have.
        embeddings = self.segmenter.get_image_embeddings(images_NCHW)
        return [
            self._union(_row(embeddings, i), one) if len(boxes_B4) else None
            for i, (one, boxes_B4) in enumerate(zip(inputs, boxes, strict=True))
        ]

    def _union(self, embedding: Any, inputs: Any) -> np.ndarray:
        outputs = self.segmenter(
            image_embeddings=embedding,
            input_boxes=inputs["input_boxes"].to(self._device, self.segmenter.dtype),
            multimask_output=False,
        )
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        (masks_B1HW,) = self._segmenter_processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)
        union_HW: np.ndarray = masks_B1HW.flatten(0, -3).any(0).numpy()
        return union_HW

    def _load_detector(self) -> tuple[Any, Any]:
        # Here, not at the top: transformers takes seconds, which only actors with this masker need.
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        config = self._config
        name, revision = config.found_detector().name, config.detector_revision
        checked_kind(name, revision=revision, kinds=DETECTORS, what=DETECTOR)
        model = load_model(
            AutoModelForZeroShotObjectDetection,
            name,
            revision=revision,
            dtype=config.dtype,
            device=self._device,
            what=DETECTOR,
        )
        return model, load_processor(AutoProcessor, name, revision=revision, what=DETECTOR)

    def _load_segmenter(self) -> tuple[Any, Any]:
        import transformers

        config = self._config
        name, revision = config.found_segmenter().name, config.segmenter_revision
        kind = checked_kind(name, revision=revision, kinds=SEGMENTERS, what=SEGMENTER)
        model_class, processor_class = (getattr(transformers, part) for part in SEGMENTERS[kind])
        model = load_model(
            model_class, name, revision=revision, dtype=config.dtype, device=self._device, what=SEGMENTER
        )
        return model, load_processor(processor_class, name, revision=revision, what=SEGMENTER)

    def _tokenize(self, tokenizer: Any) -> dict[str, torch.Tensor]:
        """Tokens of each class's text, (C, T) each; padded alike, so that a row's do not depend on its companions."""
        _check_lengths(tokenizer, self._texts, self.detector.config)
        phrases = [as_phrases(text) for text in self._texts]
        tokens = tokenizer(phrases, padding=True, return_tensors="pt", return_token_type_ids=True)
        return {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask", "token_type_ids")}


def as_phrases(text: str) -> str:
    """A text as GroundingDINO was trained on it: lower case, each phrase ended by a full stop."""
    text = text.strip().lower()
    return text if text.endswith(".") else f"{text}."


def _check_lengths(tokenizer: Any, texts: list[str], model_config: Any) -> None:
    phrases = [as_phrases(text) for text in texts]
    for text, ids in zip(texts, tokenizer(phrases, truncation=False)["input_ids"], strict=True):
        check_length(text, len(ids), int(model_config.max_text_len))


def _padded_size(image_processor: Any) -> dict[str, int]:
    """The square that holds every resized picture: neither a batch's shape nor its bits depend on its members."""
    size = image_processor.size
    side = size.get("longest_edge") or max(size["height"], size["width"])
    return {"height": int(side), "width": int(side)}


def _row(embeddings: Any, index: int) -> Any:
    """One picture's embedding; SAM 2 has several levels of them."""
    if isinstance(embeddings, list | tuple):
        return [level[index : index + 1] for level in embeddings]
    return embeddings[index : index + 1]
