"""What the fields of an edit say together: as checks, and, where JSON Schema can say it, as its conditions."""

from typing import Any

from raygen.endpoint.edits import check_strength
from raygen.errors import EndpointError
from serve.config import ServedModelConfig
from serve.http.fields import MAX_FORM_SEED, EditFields

QUALITY_STEPS = {"low": 15, "medium": 30, "standard": 30, "high": 50}

# Not in here, as JSON Schema has no arithmetic: int(steps * strength) >= 1, seed + n - 1 <= MAX_FORM_SEED (schemathesis
# gives up on it as a list of cases), as many seeds as n, and the pixels.
CONDITIONS: list[dict[str, Any]] = [
    {"not": {"required": ["quality", "num_inference_steps"], "properties": {"quality": {"enum": [*QUALITY_STEPS]}}}},
    {"not": {"required": ["seed", "seeds"]}},
    {"not": {"required": ["n", "seeds"]}},
    {
        "anyOf": [
            {"properties": {"partial_images": {"maximum": 0}}},
            {"required": ["stream"], "properties": {"stream": {"const": True}}},
        ]
    },
    {
        "anyOf": [
            {"properties": {"output_compression": {"minimum": 100}}},
            {"required": ["output_format"], "properties": {"output_format": {"enum": ["jpeg", "webp"]}}},
        ]
    },
    {"not": {"required": ["mask", "mask_mode"], "properties": {"mask_mode": {"const": "full"}}}},
    {"anyOf": [{"properties": {"mask_mode": {"enum": ["auto", "alpha", "full"]}}}, {"required": ["mask"]}]},
]


def check_together(fields: EditFields, model: ServedModelConfig) -> None:
    """Checks what fields say together; what they say of the mask is checked where it is read.

    Args:
        fields: As they were sent.
        model: Whose defaults hold for what is None.

    Raises:
        EndpointError: conflicting_parameters, out_of_range.
    """
    sent = fields.model_fields_set
    if fields.quality != "auto" and "num_inference_steps" in sent:
        raise _conflict("quality", "quality and num_inference_steps both say how many steps; send one")
    if "seeds" in sent and "seed" in sent:
        raise _conflict("seeds", "seed and seeds both say the seeds; send one")
    if fields.seed + fields.n - 1 > MAX_FORM_SEED:
        raise EndpointError(
            f"the last of {fields.n} pictures would have the seed {fields.seed + fields.n - 1}; "
            f"seed + n - 1 is at most {MAX_FORM_SEED}",
            code="out_of_range",
            param="seed",
        )
    if "seeds" in sent and "n" in sent and fields.n != len(fields.seeds):
        raise _conflict("n", f"n is {fields.n}, and there are {len(fields.seeds)} seeds")
    if fields.partial_images and not fields.stream:
        raise _conflict("partial_images", "partial_images needs stream=true")
    if fields.output_format == "png" and fields.output_compression < 100:
        raise _conflict("output_compression", "PNG is lossless; output_compression is for jpeg and webp")
    strength = model.inpainter.strength if fields.strength is None else fields.strength
    check_strength(steps_of(fields, model), strength)


def steps_of(fields: EditFields, model: ServedModelConfig) -> int:
    """Denoising steps that were asked for, or the model's own number."""
    if fields.num_inference_steps is not None:
        return fields.num_inference_steps
    return QUALITY_STEPS.get(fields.quality, model.inpainter.num_inference_steps)


def _conflict(param: str, message: str) -> EndpointError:
    return EndpointError(message, code="conflicting_parameters", param=param)
