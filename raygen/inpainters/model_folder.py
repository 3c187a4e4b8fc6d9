"""Finding an inpainting model and saying what is wrong with it before a pipeline is built.

Not for loading: `loading.py` does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from raygen.errors import ModelError
from raygen.inpainters import InpainterConfig
from raygen.model_files import FoundModel, check_safetensors, find_model, read_json
from raygen.model_files.hub import PIPELINE_INDEX, check_loadable

# Of the shipped model, in `raygen/tiny`.
TINY_FOLDER = "weights"
# Components of every model, and what a folder of each must hold besides weights; of alternatives, one.
COMPONENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "vae": (("config.json",),),
    "text_encoder": (("config.json",),),
    "tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "unet": (("config.json",),),
    "scheduler": (("scheduler_config.json",),),
}
WITH_WEIGHTS = ("vae", "text_encoder", "unet")
# Pipelines whose folders can inpaint here: the last two paint with a text-to-image UNet and latent blending.
PIPELINES = ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
EXAMPLE = "sd2-community/stable-diffusion-2-inpainting"
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclass(frozen=True, kw_only=True)
class FoundPainter(FoundModel):
    """An inpainting model that was looked for, and the config that names it."""

    config: InpainterConfig

    @property
    def config_for_workers(self) -> InpainterConfig:
        """The config with the folder in full."""
        return self.config.model_copy(update={"model": self.for_workers})


def find_painter(config: InpainterConfig) -> FoundPainter:
    """The model of a config; see `find_model`.

    Raises:
        ModelError: The name is neither of the shipped one, a folder, nor a hub id.
    """
    found = find_model(config.model, revision=config.revision, tiny=TINY_FOLDER)
    return FoundPainter(config=config, **vars(found))


def check_model(found: FoundPainter, *, field: str = "inpainter") -> None:
    """Checks before any work that a model can be loaded: its folder, or what the cache or the hub have of a hub id.

    Args:
        found: The model; its revision, variant, and whether its safety checker is loaded.
        field: The part of the config that names the model, for messages.

    Raises:
        ModelError: See `check_model_folder` and `raygen.model_files.hub.check_loadable`.
    """
    config = found.config

    def check(folder: Path, is_whole: bool) -> None:
        if is_whole:
            check_model_folder(folder, variant=config.variant, safety_checker=config.safety_checker, field=field)
        else:
            check_pipeline_class(load_json(folder / PIPELINE_INDEX, folder), found.name)

    check_loadable(found.name, config.revision, index=PIPELINE_INDEX, field=f"{field}.model", check=check)


def check_model_folder(
    folder: Path, *, variant: str | None = None, safety_checker: bool = True, field: str = "inpainter"
) -> None:
    """Checks that a local folder holds a Stable Diffusion pipeline that can inpaint.

    Args:
        folder: The folder.
        variant: Which weight files are to be loaded, such as "fp16"; None for those without a variant in their name.
        safety_checker: Whether the safety checker that the folder names will be loaded.
        field: The part of the config that names the model, for messages.

    Raises:
        ModelError: No model_index.json, another architecture, a component or file missing, weights that only pickle
            could read or that are there as another variant only, parts that do not fit each other, or a UNet with
            other than 4 or 9 input channels.
    """
    index = _read_index(folder)
    check_pipeline_class(index, str(folder))
    with_checker = safety_checker and names_safety_checker(index)
    _check_files(folder, with_checker=with_checker)
    parts = (*WITH_WEIGHTS, "safety_checker") if with_checker else WITH_WEIGHTS
    found = set().union(*(_check_weights(folder / part, variant, field) for part in parts))
    if variant is not None and variant not in found:
        raise ModelError(f"{folder}: no weights of variant '{variant}'; leave {field}.variant out")
    unet = load_json(folder / "unet" / "config.json", folder)
    channels = unet.get("in_channels")
    if channels not in (4, 9):
        raise ModelError(
            f"{folder}: the UNet takes {channels} input channels; an inpainting model has 9, a text-to-image model "
            "(painted with by latent blending) 4"
        )
    reads = unet.get("cross_attention_dim")
    given = load_json(folder / "text_encoder" / "config.json", folder).get("hidden_size")
    if isinstance(reads, int) and reads != given:
        raise ModelError(
            f"{folder}: the UNet reads text vectors of {reads} numbers, the text encoder gives {given}; "
            "the parts are of two models, copy the folder again"
        )


def check_pipeline_class(index: Mapping[str, Any], where: str) -> None:
    """Checks that a model_index.json names a pipeline that raygen can paint with.

    Raises:
        ModelError: Another architecture, such as Stable Diffusion XL or 3, or Flux.
    """
    name = str(index.get("_class_name", ""))
    if name not in PIPELINES:
        raise ModelError(
            f"{where}: model_index.json names the pipeline '{name}', which raygen does not paint with; supported are "
            f"Stable Diffusion 1 and 2 ({', '.join(PIPELINES)}), such as {EXAMPLE}"
        )


def names_safety_checker(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json names a safety checker."""
    named = index.get("safety_checker")
    return isinstance(named, list | tuple) and any(named)


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
    found = find_painter(config)
    folder = found.folder
    if folder is None:
        return ModelFacts(f"hub:{found.name}@{config.revision or 'main'}", config.resolution_px, None, None)
    channels = load_json(folder / "vae" / "config.json", folder)["block_out_channels"]
    assert isinstance(channels, list)
    stride_px = 2 ** (len(channels) - 1)
    return ModelFacts(
        digest=f"sha256:{found.revision}",
        resolution_px=config.resolution_px or _sample_size(folder) * stride_px,
        stride_px=stride_px,
        text_width=_integer(load_json(folder / "text_encoder" / "config.json", folder), "hidden_size"),
    )


def _sample_size(folder: Path) -> int:
    """Side of the UNet's latents.

    The first releases of Stable Diffusion 1 and 2 say 32 for models of 64; diffusers mends that on loading, by this
    very rule, and so the two agree.
    """
    unet = load_json(folder / "unet" / "config.json", folder)
    size = _integer(unet, "sample_size")
    version = Version(str(unet.get("_diffusers_version", "1.0")))
    return 64 if size < 64 and Version(version.base_version) < Version("0.9.0.dev0") else size


def _read_index(folder: Path) -> dict[str, Any]:
    if (folder / "model_index.json").is_file():
        return load_json(folder / "model_index.json", folder)
    inner = sorted(path.parent for path in folder.glob("*/model_index.json"))
    inner += sorted(path.parent for path in folder.glob("snapshots/*/model_index.json"))
    if inner:
        raise ModelError(f"{folder}: no model_index.json; did you mean {inner[0]}?")
    if any(path for suffix in ("*.safetensors", *_PICKLES) for path in folder.glob(suffix)):
        raise ModelError(
            f"{folder}: no model_index.json, but a checkpoint in one file; raygen reads diffusers folders. Convert it "
            "once: diffusers' StableDiffusionInpaintPipeline.from_single_file(…).save_pretrained(…)"
        )
    raise ModelError(f"{folder}: no model_index.json; not a diffusers model folder")


def _check_files(folder: Path, *, with_checker: bool) -> None:
    wanted = dict(COMPONENTS)
    if with_checker:
        wanted |= {"safety_checker": (("config.json",),), "feature_extractor": (("preprocessor_config.json",),)}
    missing = []
    for part, alternatives in wanted.items():
        if not (folder / part).is_dir():
            missing.append(f"{part}/")
        elif not any(all((folder / part / name).is_file() for name in names) for names in alternatives):
            missing.append(" or ".join(" and ".join(f"{part}/{name}" for name in names) for names in alternatives))
    if missing:
        advice = ", or set inpainter.safety_checker=false" if with_checker else ""
        raise ModelError(f"{folder}: no {', no '.join(missing)}; the folder is incomplete, copy it again{advice}")


def _check_weights(folder: Path, variant: str | None, field: str) -> set[str | None]:
    """Checks that a component's weights are there, as safetensors, complete, of the wanted variant or of none.

    diffusers takes the plain file of a component that lacks the variant.

    Returns:
        The variants that are there; None stands for the plain file.
    """
    names = [path.name for path in folder.glob("*.safetensors")]
    if not names:
        pickled = sorted(path.name for suffix in _PICKLES for path in folder.glob(suffix))
        found = f"only {', '.join(pickled)}" if pickled else "no weights"
        off = "; or set inpainter.safety_checker=false" if folder.name == "safety_checker" else ""
        raise ModelError(
            f"{folder}: {found}; expected .safetensors. Weights in pickle files are never loaded, since they can run "
            "code; take a revision of the model with safetensors, or save it again with save_pretrained"
            f"(…, safe_serialization=True){off}"
        )
    for name in sorted(names):
        check_safetensors(folder / name)
    variants = {_variant(name) for name in names}
    if variant not in variants and None not in variants:
        known = sorted(map(str, variants))
        wanted = "without a variant" if variant is None else f"of variant '{variant}'"
        raise ModelError(f"{folder}: no weights {wanted}; found: {', '.join(known)}. Set {field}.variant={known[0]}")
    for path in folder.glob("*.index*.json"):
        shards = load_json(path, folder).get("weight_map", {})
        absent = sorted({*shards.values()} - {*names}) if isinstance(shards, dict) else []
        if absent and path.name.split(".")[1] == "safetensors":
            raise ModelError(f"{folder}: {path.name} names {absent[0]}, which is not there; copy the folder again")
    return variants


def _variant(name: str) -> str | None:
    """Variant in a weight file's name: "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors"."""
    parts = name.split(".")
    return parts[1].partition("-")[0] if len(parts) == 3 else None


def _integer(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int):
        raise ModelError(f"a model's config.json has {name} = {value!r}; expected a whole number")
    return value


def load_json(path: Path, folder: Path) -> dict[str, Any]:
    """A JSON file of a pipeline's folder; see `raygen.model_files.read_json`."""
    return read_json(path, folder, layout="diffusers")
