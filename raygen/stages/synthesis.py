"""The three stages of a synthesis pass, from a run's config."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from raygen.config import PoolsConfig
from raygen.endpoint.http import Transport
from raygen.stages.inpaint import InpaintStage
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.spec import StageSpec


def synthesis_specs(
    pools: PoolsConfig,
    *,
    masker: Mapping[str, Any],
    inpainter: Mapping[str, Any],
    classifier_folder: str,
    attribution: Literal["exact", "ig"],
    num_steps: int,
    tokens: Mapping[str, str],
    connect: Callable[[str], Transport],
    found_model: str | None = None,
) -> list[StageSpec]:
    """Masker, inpainter and pruner.

    Args:
        pools: Their devices and rows.
        masker: Fields of a `MaskerConfig`.
        inpainter: Fields of `InpainterConfig`.
        classifier_folder: The classifier that CAM maskers look into and that the pruner asks.
        attribution: See `PruneStage`.
        num_steps: See `PruneStage`.
        tokens: See `InpaintStage`.
        connect: See `InpaintStage`.
        found_model: See `InpaintStage`.
    """
    of_masker = {"masker": masker, "classifier_folder": classifier_folder, "device": pools.masker.torch_device}
    of_inpainter = {
        "inpainter": inpainter,
        "num_rows": pools.inpainter.batch_size,
        "device": pools.inpainter.torch_device,
        "tokens": tokens,
        "connect": connect,
        "found_model": found_model,
    }
    of_pruner = {
        "classifier_folder": classifier_folder,
        "attribution": attribution,
        "num_steps": num_steps,
        "device": pools.pruner.torch_device,
    }
    return [
        StageSpec(MaskStage, "masker", of_masker),
        StageSpec(InpaintStage, "inpainter", of_inpainter),
        StageSpec(PruneStage, "pruner", of_pruner),
    ]
