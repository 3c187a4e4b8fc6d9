"""Loading a diffusers inpainting pipeline from a folder or the hub.

Not for saying what is wrong with a local folder: `model_folder.check_model_folder` does that, before anything is read.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import check_pipeline_class, names_safety_checker
from raygen.model_files import load_errors
from raygen.model_files.hub import loadable

logger = logging.getLogger(__name__)


def load_pipeline(name: str, config: InpainterConfig, device: str) -> Any:
    """The pipeline, on its device.

    Args:
        name: Folder or hub id, see `model_folder.find_painter`.
        config: Its dtype, revision, variant, and whether its safety checker is loaded.
        device: "cpu" or "cuda".

    Raises:
        ModelError: It cannot be loaded, or is of an architecture that raygen does not paint with.
    """
    from diffusers import StableDiffusionInpaintPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # its text encoder's
    # It announces a black picture for each one that is blocked; here the row fails and says why.
    logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel(logging.ERROR)
    dtype: torch.dtype = getattr(torch, config.dtype)
    if device == "cpu" and dtype == torch.float16:
        logger.warning("float16 on a CPU is slow and may overflow; inpainter.dtype=float32 or bfloat16 suits it")
    where = {} if config.revision is None else {"revision": config.revision}
    name = loadable(name, config.revision)
    with load_errors(name, what="an inpainting pipeline"):
        index: Mapping[str, Any] = StableDiffusionInpaintPipeline.load_config(name, **where)
        check_pipeline_class(index, name)  # of a hub id: before gigabytes are fetched
        # No attention slicing: it trades time for memory, and diffusers leaves it off by itself. Not its Auto class,
        # which gives the same pipeline for these classes, but imports those of every other model first.
        pipe = StableDiffusionInpaintPipeline.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            variant=config.variant,
            **where,
            **_without_checker(name, index, config),
        )
    pipe.set_progress_bar_config(disable=True)
    if dtype == torch.float16 and pipe.vae.config.force_upcast:
        # diffusers' rule for SDXL: such an autoencoder may overflow in float16 and give black or non-finite pictures.
        pipe.vae.to(torch.float32)
    pipe.to(device)
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    logger.info("loaded %s on %s as %s", name, device, config.dtype)
    return pipe


def _without_checker(name: str, index: Mapping[str, Any], config: InpainterConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that leave out the safety checker and the processor that only it uses."""
    if names_safety_checker(index):
        if config.safety_checker:
            return {}
        logger.warning("the safety checker of %s is switched off (inpainter.safety_checker=false)", name)
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
