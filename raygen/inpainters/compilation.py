"""Compiling a model's UNet, once, when its actor starts.

Not for CPUs: there torch.compile makes the UNet slower (`docs/performance.md`).
"""

import logging
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from raygen.errors import ConfigError, ResourceError

logger = logging.getLogger(__name__)

# Shapes that a UNet may be compiled for; torch's own limit of eight would end the search for the rows that fit into a
# GPU's memory (`batch.py`), each of which is a shape, with guidance and without.
MAX_SHAPES = 64


def check_device(device: str, *, where: str = "this worker") -> None:
    """Checks that compiling has a use.

    Args:
        device: "cpu" or "cuda".
        where: What runs there, for the message.

    Raises:
        ConfigError: On a CPU it has none.
    """
    if device != "cuda":
        raise ConfigError(
            f"inpainter.compile is true, but {where} paints on a CPU, where a compiled UNet is slower; leave it out, "
            "or give the pool GPUs (pools.inpainter.num_gpus)"
        )


def compile_unet(unet: torch.nn.Module, warm_up: Callable[[], object], *, backend: str | Callable[..., Any]) -> None:
    """Compiles a UNet in place, each shape when it is first called with it.

    Args:
        unet: The UNet; its calls are compiled from now on.
        warm_up: Calls it once with each shape, so that no row waits for the compiler.
        backend: Of torch.compile: "inductor", or another for tests.

    Raises:
        ResourceError: The compiler is absent or failed.
    """
    start_s = time.monotonic()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_SHAPES)
    try:
        unet.compile(backend=backend, fullgraph=True, dynamic=False)
        warm_up()
    except torch.OutOfMemoryError:
        # The first call finds out how many rows fit, and says so.
        logger.warning("out of memory while the UNet was compiled")
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        raise ResourceError(
            f"inpainter.compile is true, but the UNet could not be compiled here: {_first_line(error)}. torch.compile "
            "needs triton and a C compiler (gcc) on every node with a painting actor; install them, or set "
            "inpainter.compile=false with --fresh or another --out"
        ) from error
    logger.info("compiled the UNet in %.0f s", time.monotonic() - start_s)


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text.rstrip(".:") or type(error).__name__
