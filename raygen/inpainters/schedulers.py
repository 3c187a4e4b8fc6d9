"""The samplers that a request may ask for by the name of their diffusers class."""

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
