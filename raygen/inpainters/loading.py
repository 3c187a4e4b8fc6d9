"""Loading a diffusers inpainting pipeline from a folder or the hub."""

import logging
from typing import Any

import torch

from raygen.inpainters import InpainterConfig
from raygen.model_files import load_errors

logger = logging.getLogger(__name__)


def load_pipeline(name: str, config: InpainterConfig, device: str) -> Any:
    """The pipeline, on its device.

    Args:
        name: Folder or hub id, see `model_folder.resolve_model`.
        config: Its dtype, revision and variant.
        device: "cpu" or "cuda".

    Raises:
        ModelError: It cannot be loaded.
    """
    from diffusers import AutoPipelineForInpainting
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    dtype: torch.dtype = getattr(torch, config.dtype)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if config.revision is not None:
        options["revision"] = config.revision
    if config.variant is not None:
        options["variant"] = config.variant
    with load_errors(name, what="an inpainting pipeline"):
        pipe = AutoPipelineForInpainting.from_pretrained(name, **options)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    logger.info("loaded %s on %s as %s", name, device, config.dtype)
    return pipe
