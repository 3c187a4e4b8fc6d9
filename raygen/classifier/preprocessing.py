"""How a published model sees pictures, as its own files say: transformers' image processors, timm's data configs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from raygen.classifier.config import HF, TIMM, framing_fields, given_fields, kind_of
from raygen.classifier.networks import model_folder, timm_library
from raygen.errors import ConfigError
from raygen.model_files import load_errors

# Where transformers has it; in the second, where a model has several.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def with_own_framing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier's config as it was given, with what its model's own files say of pictures where nothing was given.

    For "hf:" and "timm:"; of other networks it stays as it is. A folder of "hf:" is named in full: workers have another
    working directory.

    Args:
        fields: Fields of `ClassifierConfig` as they were given, not checked yet.

    Raises:
        ConfigError: The model does not say, or says what cannot be done here.
        ModelError: Its files cannot be had.
    """
    architecture = fields.get("architecture")
    kind = kind_of(architecture) if isinstance(architecture, str) else "small_resnet"
    if kind == "hf":
        path = Path(str(architecture).removeprefix(HF)).expanduser()
        if path.is_dir():
            fields = {**fields, "architecture": f"{HF}{path.absolute()}"}
    names = framing_fields()
    given = given_fields(fields, names)
    if kind not in ("hf", "timm") or {"image_size_px", "mean", "std"} <= given:
        return dict(fields)
    own = _of_timm(str(architecture)) if kind == "timm" else _of_transformers(str(fields["architecture"]))
    if given & {"framing", "resize_px"}:
        own.pop("resize_px", None)
    elif "image_size_px" in given and "resize_px" in own:  # the same share of the picture
        own["resize_px"] = own["resize_px"] * int(fields["image_size_px"]) // own["image_size_px"]
    return {**own, **{name: value for name, value in fields.items() if name not in names or name in given}}


def _of_timm(architecture: str) -> dict[str, Any]:
    timm, name = timm_library(), architecture.removeprefix(TIMM)
    if not timm.is_model(name):
        return {}  # said where the network is made
    data = timm.data.resolve_data_config(timm.get_pretrained_cfg(name, allow_unregistered=True).to_dict())
    size_px = int(data["input_size"][-1])
    crop = float(data.get("crop_pct") or 1.0)
    mode = data.get("crop_mode") or "center"
    if mode == "squash":
        frame: dict[str, Any] = {"framing": "squash" if crop >= 1 else "resize_crop"}
    elif mode == "center":
        frame = {"framing": "center_crop"}
    else:
        raise ConfigError(
            f"classifier.architecture: {architecture} pads its pictures (crop_mode {mode}), which is not done here; "
            "set classifier.framing, image_size_px, mean and std"
        )
    if frame["framing"] != "squash":
        frame["resize_px"] = max(size_px, int(size_px / crop))
    return {
        "image_size_px": size_px,
        **frame,
        "interpolation": _known_filter(data["interpolation"], architecture),
        "mean": [float(value) for value in data["mean"]],
        "std": [float(value) for value in data["std"]],
    }


def _of_transformers(architecture: str) -> dict[str, Any]:
    name = architecture.removeprefix(HF)
    says = _processor(name)
    if says is None:
        raise ConfigError(
            f"classifier.architecture: {name} has no {PROCESSORS[0]}, so how it sees pictures is not known; set "
            "classifier.image_size_px, mean and std, and, where they are not squashed to that size, framing"
        )
    size = says.get("size")
    frame = _frame(says, size, architecture)
    scale = float(says.get("rescale_factor", 1 / 255)) if says.get("do_rescale", True) else 1.0
    if says.get("rescale_offset"):
        raise ConfigError(
            f"classifier.architecture: {name} moves its pictures' values (rescale_offset); set classifier.mean and "
            "std, of pixels in [0, 1]"
        )
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if says.get("do_normalize", True):
        mean, std = (_three(says.get(field), field, name) for field in ("image_mean", "image_std"))
    # Theirs are of pixels times `scale`; ours of pixels in [0, 1].
    to_unit = 255 * scale
    return {
        **frame,
        "interpolation": _known_filter(_filter_name(says.get("resample", 2)), architecture),
        "mean": [value / to_unit for value in mean] if abs(to_unit - 1) > 1e-6 else list(mean),
        "std": [value / to_unit for value in std] if abs(to_unit - 1) > 1e-6 else list(std),
    }


def _processor(name: str) -> Mapping[str, Any] | None:
    """What a model's image processor does, with the defaults of its kind; None where it has none.

    Raises:
        ModelError: It cannot be read, or the hub does not give it.
    """
    from transformers import AutoImageProcessor

    folder = model_folder(name)
    here = Path(folder)
    if here.is_dir() and not any((here / file).is_file() for file in PROCESSORS):
        return None
    with load_errors(name, what="an image processor"):
        return dict(json.loads(AutoImageProcessor.from_pretrained(folder).to_json_string()))


def _frame(says: Mapping[str, Any], size: Any, architecture: str) -> dict[str, Any]:
    """Size and framing; of `size` transformers knows a number, height and width, or the shorter side."""
    crop = _side(says.get("crop_size"), architecture) if says.get("do_center_crop") else None
    resizes = says.get("do_resize", True)
    is_square = isinstance(size, Mapping) and size.get("height") is not None
    side = _side(size, architecture) if resizes else None
    if side is None:
        if crop is None:
            raise ConfigError(
                f"classifier.architecture: the processor of {architecture} brings pictures to no size; set "
                "classifier.image_size_px, mean and std, and framing"
            )
        raise ConfigError(
            f"classifier.architecture: the processor of {architecture} crops pictures of {crop} px without resizing "
            "them, which is not done here; set classifier.image_size_px, framing, mean and std"
        )
    share = says.get("crop_pct")
    if (
        share is not None and not is_square
    ):  # ConvNeXt's: below 384 px a crop of a larger square, from there on squashed
        if side >= 384:
            return {"image_size_px": side, "framing": "squash"}
        return {"image_size_px": side, "framing": "center_crop", "resize_px": int(side / share)}
    if is_square and crop is None:
        return {"image_size_px": side, "framing": "squash"}
    if is_square:
        return {"image_size_px": crop, "framing": "resize_crop", "resize_px": side}
    return {"image_size_px": crop or side, "framing": "center_crop", "resize_px": side}


def _side(size: Any, architecture: str) -> int | None:
    if size is None:
        return None
    found = size
    if isinstance(size, Mapping):
        if size.get("height") is not None:
            if size["height"] != size.get("width"):
                raise ConfigError(
                    f"classifier.architecture: {architecture} takes pictures of {size['height']} x {size.get('width')}"
                    "; only square ones are made here"
                )
            found = size["height"]
        else:
            found = size.get("shortest_edge")
    return found if isinstance(found, int) else None


def _three(values: Any, field: str, name: str) -> tuple[float, float, float]:
    if isinstance(values, list) and len(values) == 3:
        return float(values[0]), float(values[1]), float(values[2])
    raise ConfigError(
        f"classifier.architecture: {field} of {name} is {json.dumps(values)}; expected three numbers, of RGB pictures. "
        "Set classifier.mean and std"
    )


def _filter_name(resample: Any) -> str:
    try:
        return Image.Resampling(int(resample)).name.lower()
    except ValueError:
        return str(resample)


def _known_filter(name: str, architecture: str) -> str:
    if name.upper() in Image.Resampling.__members__:
        return name.lower()
    raise ConfigError(
        f"classifier.architecture: {architecture} resizes by '{name}', which is not known here; set "
        "classifier.interpolation, image_size_px, mean and std"
    )
