"""Finding an inpainting model and saying what is wrong with it before a pipeline is built.

Not for loading: `stable_diffusion.py` does that.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raygen.errors import ModelError
from raygen.inpainters import InpainterConfig
from raygen.model_files import find_model, model_revision, read_json

__all__ = ["ModelFacts", "check_model_folder", "model_facts", "model_revision", "resolve_model"]

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
_read_json = partial(read_json, layout="diffusers")


def resolve_model(model: str) -> str:
    """Folder of the tiny model or of a local model, or the hub id as it is.

    Raises:
        ModelError: The name is neither "tiny", an existing folder nor in the form of a hub id.
    """
    return find_model(model, tiny="weights")


def check_model_folder(folder: Path) -> None:
    """Checks that a local folder holds a Stable Diffusion pipeline that can inpaint.

    Raises:
        ModelError: No model_index.json, a component missing, or a UNet with other than 4 or 9 input channels.
    """
    index = _read_json(folder / "model_index.json", folder)
    name = str(index.get("_class_name", ""))
    if not name.startswith("StableDiffusion"):
        raise ModelError(
            f"{folder}: model_index.json names '{name}'; expected a StableDiffusion pipeline that can inpaint"
        )
    missing = [part for part in COMPONENTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"{folder}: no {', '.join(part + '/' for part in missing)}; the folder is incomplete, copy it again"
        )
    for part in ("vae", "text_encoder", "unet"):
        if not list((folder / part).glob("*.safetensors")):
            raise ModelError(f"{folder / part}: no .safetensors file; weights in other formats are not loaded (pickle)")
    channels = _read_json(folder / "unet" / "config.json", folder).get("in_channels")
    if channels not in (4, 9):
        raise ModelError(
            f"{folder}: the UNet takes {channels} input channels; an inpainting pipeline has 9 (4 with latent blending)"
        )


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's files tell without loading it.

    Attributes:
        digest: "sha256:" and the revision of a local folder (see `model_revision`), "hub:<id>@<revision>" of a hub id.
        resolution_px: Side of the square that the model was made for; None where its files are not on this machine.
        stride_px: Pixels of one latent cell; None likewise.
        text_width: Width of the text encoder's vectors; None likewise.
    """

    digest: str
    resolution_px: int | None
    stride_px: int | None
    text_width: int | None


def model_facts(config: InpainterConfig) -> ModelFacts:
    """The facts of a configured model."""
    name = resolve_model(config.model)
    folder = Path(name)
    if not folder.is_dir():
        return ModelFacts(f"hub:{name}@{config.revision or 'main'}", config.resolution_px, None, None)
    channels = _read_json(folder / "vae" / "config.json", folder)["block_out_channels"]
    assert isinstance(channels, list)
    stride_px = 2 ** (len(channels) - 1)
    sample_size = _integer(_read_json(folder / "unet" / "config.json", folder), "sample_size")
    return ModelFacts(
        digest=f"sha256:{model_revision(folder)}",
        resolution_px=config.resolution_px or sample_size * stride_px,
        stride_px=stride_px,
        text_width=_integer(_read_json(folder / "text_encoder" / "config.json", folder), "hidden_size"),
    )


def _integer(data: dict[str, object], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int):
        raise ModelError(f"a model's config.json has {name} = {value!r}; expected a whole number")
    return value
