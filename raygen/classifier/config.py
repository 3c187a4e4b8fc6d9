"""Which network a classifier is, how pictures come to it, and from which weights it starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raygen.classifier.architectures import IMAGENET, SMALL_RESNET
from raygen.classifier.framing import Frame, Framing, Interpolation
from raygen.config import Decides, Identity, Strict

# Prefixes of an architecture's name.
HF, TIMM = "hf:", "timm:"
# Weights that whoever published the network gives with it.
PRETRAINED = "pretrained"

# Mean and standard deviation of ImageNet's pixels, as torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Kind = Literal["small_resnet", "torchvision", "timm", "hf", "function"]
Channels = tuple[float, float, float]


class ClassifierConfig(Strict, decides=Decides.RESULTS):
    """Which network, how it sees pictures, and from which weights it starts.

    Attributes:
        architecture: "small_resnet"; the name of a torchvision classifier such as "resnet50"; "timm:NAME" (the extra
            `timm`); "hf:FOLDER_OR_ID", a folder or hub id that transformers' `AutoModelForImageClassification` reads;
            or "MODULE:FUNCTION", an importable function that gives the network (`raygen.classifier.networks`).
        image_size_px: Side of the square that the classifier sees: 64 for scenes, 224 for ImageNet's. For "hf:" and
            "timm:" this, framing, interpolation, mean and std are the model's own where they are not given.
        framing: How a picture comes into that square, wherever the classifier looks at one. "squash": all of it, its
            aspect ratio lost. "resize_crop": squashed to a larger square, then cropped in the middle, as group
            DRO's, JTT's and DFR's code evaluates; a fit with `augment: random_resized_crop` crops from the same square.
            "center_crop": the shorter side resized, then cropped in the middle, the aspect ratio kept, as
            torchvision's, timm's and most of transformers' models evaluate. "square_crop": the largest square in its
            middle, then resized, as group DRO's code evaluates CelebA.
        resize_px: Side to which a picture is resized before the crop; null: 256 / 224 of image_size_px.
        interpolation: Pillow's filter for that. Varied pictures of a fit are always cut out bilinearly.
        mean: Of each channel, of pixels in [0, 1]; null: ImageNet's.
        std: Standard deviation, likewise.
        width: Channels of the first stage of small_resnet, at least 8; other architectures have their own. (With
            fewer, oneDNN's gradient of a channels_last convolution writes beyond its buffer: torch 2.15, AVX2.)
        weights: null starts from random numbers, "hf:" from the folder's own; "imagenet" takes torchvision's ImageNet
            weights (from its cache, or downloaded), "pretrained" timm's; anything else is the path of a .safetensors,
            .pth, .pt or .ckpt state dict, which a fit goes on from. To take a classifier as it is: `erm.from`.
        head: Name of the last linear layer in a network of one's own; null: it is found.
        cam_layer: Name of the layer whose map class activation maps are drawn from; null: it is found.
    """

    architecture: str = SMALL_RESNET
    image_size_px: int = Field(64, ge=16)
    width: int = Field(16, ge=8)
    weights: str | None = None
    framing: Annotated[Framing, Identity.ABSENT_BY_DEFAULT] = "squash"
    resize_px: Annotated[int | None, Identity.ABSENT_BY_DEFAULT] = Field(None, ge=16)
    interpolation: Annotated[Interpolation, Identity.ABSENT_BY_DEFAULT] = "bilinear"
    mean: Annotated[Channels | None, Identity.ABSENT_BY_DEFAULT] = None
    std: Annotated[Channels | None, Identity.ABSENT_BY_DEFAULT] = None
    head: Annotated[str | None, Identity.ABSENT_BY_DEFAULT] = None
    cam_layer: Annotated[str | None, Identity.ABSENT_BY_DEFAULT] = None

    @property
    def kind(self) -> Kind:
        """Who makes the network."""
        return kind_of(self.architecture)

    @property
    def is_own(self) -> bool:
        """Whether it is a network that is asked what it is like, not one whose layers are known by name."""
        return self.kind in ("timm", "hf", "function")

    @property
    def frame(self) -> Frame:
        """What of a picture the classifier sees."""
        return Frame(self.image_size_px, self.framing, self.resize_px, self.interpolation)

    @model_validator(mode="after")
    def _frame_is_possible(self) -> "ClassifierConfig":
        if self.resize_px is not None and self.framing in ("squash", "square_crop"):
            raise ValueError(
                f"resize_px is set, but framing is {self.framing}, which crops nothing after it; set framing: "
                "center_crop"
            )
        if self.resize_px is not None and self.resize_px < self.image_size_px:
            raise ValueError(f"resize_px is {self.resize_px}, less than image_size_px ({self.image_size_px})")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; expected numbers above 0")
        return self

    @model_validator(mode="after")
    def _names_are_of_own_networks(self) -> "ClassifierConfig":
        if self.head is not None and not self.is_own:
            raise ValueError(f"head is set, but where the last layer of {self.architecture} is, is known; leave it out")
        if self.weights == PRETRAINED and self.kind in ("small_resnet", "torchvision", "function"):
            raise ValueError(
                f"weights is {PRETRAINED}, but {self.architecture} comes without any by that name; torchvision's are "
                f"{IMAGENET}"
            )
        return self


def kind_of(architecture: str) -> Kind:
    """Who makes the network of that name."""
    if architecture == SMALL_RESNET:
        return "small_resnet"
    if architecture.startswith(HF):
        return "hf"
    if architecture.startswith(TIMM):
        return "timm"
    return "function" if ":" in architecture else "torchvision"


def weights_file(config: ClassifierConfig) -> Path | None:
    """The file that a classifier starts from, in full; None where it starts from none."""
    is_file = config.weights not in (None, IMAGENET, PRETRAINED)
    return Path(str(config.weights)).expanduser().absolute() if is_file else None


def framing_fields() -> tuple[str, ...]:
    """Fields that say how pictures come to the network, which a model's own files say too."""
    return ("image_size_px", "framing", "resize_px", "interpolation", "mean", "std")


def given_fields(data: Mapping[str, Any], names: tuple[str, ...]) -> set[str]:
    """Of these fields those that somebody gave."""
    return {name for name in names if data.get(name) is not None}
