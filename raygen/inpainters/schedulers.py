"""The samplers that a config or a request may ask for by the name of their diffusers class."""

import inspect
from functools import lru_cache
from typing import Any, Literal, get_args

Scheduler = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)


def new_scheduler(own: Any, name: str | None) -> Any:
    """A scheduler of its own for one row: schedulers keep state between steps.

    Args:
        own: The model's scheduler, whose noise schedule and kind of prediction are taken over.
        name: One of `SCHEDULERS`, or None for the model's own.
    """
    if name is None:
        return type(own).from_config(own.config)
    import diffusers

    # As Stable Diffusion has it: PNDM's Runge-Kutta start makes three calls a step, and fails below four steps.
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    return getattr(diffusers, name).from_config(own.config, **options)


@lru_cache
def takes_generator(kind: Any) -> bool:
    """Whether a kind of sampler draws noise at its steps; asked at every step, and a signature takes 50 us to read."""
    return "generator" in inspect.signature(kind.step).parameters


def clean_estimate(scheduler: Any, result: Any) -> Any:
    """The clean latent as the sampler sees it now, (1, C, h, w), for previews."""
    estimate = getattr(result, "pred_original_sample", None)
    if (
        estimate is None
        and getattr(scheduler.config, "algorithm_type", "").endswith("++")
        and hasattr(scheduler, "model_outputs")
    ):
        estimate = scheduler.model_outputs[-1]  # DPM-Solver++ keeps what it takes the clean latent to be
    return result.prev_sample if estimate is None else estimate
