"""The fields of an edit as HTTP sends them: one model, of which types, limits, defaults, errors and schema follow.

What fields say together is in `conditions.py`; what they mean for pixels is for `pictures.py` and the engine. Nothing
is ignored: a field that is not here is refused, and one that is accepted without effect is told in `warnings`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from raygen.endpoint.edits import MAX_HTTP_GUIDANCE, MAX_HTTP_STEPS
from raygen.errors import EndpointError, number_text
from raygen.inpainters.schedulers import Scheduler
from serve.http.backend import OutputFormat
from serve.http.body import Form
from serve.http.field_types import Seeds, Size, Text, kind_of
from serve.http.json_schema import FieldsJsonSchema, Schema
from serve.http.limits import MAX_NUM_IMAGES, MAX_PROMPT_LENGTH, MAX_USER_LENGTH

MAX_FORM_SEED = 2**32 - 1


class EditFields(BaseModel):
    """The fields of one edit, OpenAI's first. What is None is the model's own, or none.

    What `raygen.endpoint.edits.EditRequest` has under the same name goes to the engine as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Text = Field(min_length=1, max_length=MAX_PROMPT_LENGTH)
    """What to paint; at most 77 tokens with start and end, after learned tokens are expanded."""
    model: Text | None = Field(None, min_length=1, max_length=128)
    """Id of a served model; the first of /v1/models by default."""
    n: int = Field(1, ge=1, le=MAX_NUM_IMAGES)
    """Pictures; picture i has the seed `seed` + i, which must be in range too."""
    size: Size = "auto"
    """Width and height of the result, multiples of 8; auto: those of the image, whatever they are."""
    response_format: Literal["b64_json"] = "b64_json"
    """URLs are not offered."""
    output_format: OutputFormat = "png"
    """Only png and webp at 100 keep the pixels outside the mask equal to the bit."""
    output_compression: int = Field(100, ge=0, le=100)
    """Quality of jpeg and webp; webp at 100 is lossless. Below 100 not with png."""
    stream: bool = False
    """Server-sent events instead of one body."""
    partial_images: int = Field(0, ge=0, le=3)
    """Previews of each picture; needs stream=true."""
    quality: Literal["auto", "low", "medium", "standard", "high"] = "auto"
    """Steps: low 15, medium and standard 30, high 50, auto the model's. Not with num_inference_steps."""
    background: Literal["auto", "opaque"] = "auto"
    """Results are opaque."""
    input_fidelity: Literal["low", "high"] | None = None
    """Has no effect, which `warnings` says."""
    user: Text | None = Field(None, max_length=MAX_USER_LENGTH)
    """Has no effect but a hash in the log."""
    safety_identifier: Text | None = Field(None, max_length=MAX_USER_LENGTH)
    """As user."""
    seed: int = Field(-1, ge=-1, le=MAX_FORM_SEED)
    """-1: drawn. Picture i has seed + i, at most 4294967295. Same model, request, seed: same bytes."""
    seeds: Seeds = ()
    """The seeds themselves, 0 to 2^63 - 1, with commas between; instead of seed, and of n or as many as n."""
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_HTTP_STEPS)
    """Denoising steps at strength 1; the model's by default."""
    guidance_scale: float | None = Field(None, ge=0, le=MAX_HTTP_GUIDANCE)
    """Classifier-free guidance, 1 or less: off; the model's by default."""
    strength: float | None = Field(None, gt=0, le=1)
    """1 paints from pure noise; the integer part of steps * strength must be 1 or more."""
    negative_prompt: Text | None = Field(None, max_length=MAX_PROMPT_LENGTH)
    """What guidance steers away from; the model's by default."""
    mask_mode: Literal["auto", "alpha", "luminance", "luminance_inverted", "full"] = "auto"
    """auto: alpha if the mask has it (transparent = painted anew), else luminance (white = painted anew); \
without a mask the image's own alpha. full: everything, without a mask."""
    mask_blur: int = Field(0, ge=0, le=64)
    """Radius in pixels of the soft edge of what is pasted."""
    preserve_unmasked: bool = True
    """Put the pixels outside the mask back, equal to the bit."""
    padding_mask_crop: int | None = Field(None, ge=0, le=256)
    """Paint only the mask's box with so many pixels around it, at full resolution."""
    scheduler: Scheduler | None = None
    """The model's by default."""
    prompt_overflow: Literal["error", "truncate"] = "error"
    """truncate: a prompt that is too long is cut, and `warnings` says so."""
    literal_tokens: bool = False
    """Read <x> as plain text, not as a learned token."""

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, text: str, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        assert info.context is not None
        kind = KINDS[info.field_name]
        if info.context.get(info.field_name, kind.json_types[0]) not in kind.json_types:
            raise PydanticCustomError("invalid_type", "{name} is of the wrong JSON type")
        return kind.read(text)


FIELDS = EditFields.model_fields
KINDS = {name: kind_of(field.annotation) for name, field in FIELDS.items()}
# Those whose JSON value may be a list.
LISTS = {name for name, kind in KINDS.items() if list in kind.json_types}
SCHEMAS: dict[str, Schema] = EditFields.model_json_schema(schema_generator=FieldsJsonSchema)["properties"]

_RANGE = ("out_of_range", "{name} is out of range: {least} {low} to {high}")
# From pydantic's own errors to the interface's code and message; those of `field_types` bring both.
_ERRORS = {
    "missing": ("missing_required_parameter", "there is no {name}"),
    "literal_error": ("invalid_value", "{name} is none of {choices}"),
    "string_too_short": ("invalid_value", "{name} is empty"),
    "string_too_long": ("out_of_range", "{name} has {length} characters; at most {high}"),
    "string_pattern_mismatch": ("invalid_value", "{name} holds a NUL character"),
    "greater_than": _RANGE,
    "greater_than_equal": _RANGE,
    "less_than_equal": _RANGE,
}


def read_fields(form: Form) -> EditFields:
    """Every field's value; defaults where nothing was sent.

    Raises:
        EndpointError: missing_required_parameter, invalid_type, invalid_value, out_of_range, prompt_too_long,
            invalid_size: of the first field with which something is wrong.
    """
    try:
        return EditFields.model_validate(form.texts, context=form.json_kinds)
    except ValidationError as error:
        # Of the error itself nothing goes further: it quotes what was sent.
        raise _refusal(error.errors(include_url=False)[0]) from None


def _refusal(error: ErrorDetails) -> EndpointError:
    kind, name, sent = error["type"], str(error["loc"][0]), error["input"]
    code, message = _ERRORS.get(kind, (kind, error["msg"]))
    if kind == "string_too_long" and name.endswith("prompt"):
        code = "prompt_too_long"
    low, high, is_exclusive = _bounds(SCHEMAS[name])
    text = message.format(
        name=name,
        least="above" if is_exclusive else "from",
        low=number_text(low),
        high=number_text(high),
        choices=", ".join(SCHEMAS[name].get("enum", ())),
        length=len(sent) if isinstance(sent, str) else 0,
    )
    return EndpointError(text, code=code, param=name)


def _bounds(schema: Schema) -> tuple[float, float, bool]:
    """Least and greatest value, or length of a text, and whether the least itself is not allowed."""
    is_exclusive = "exclusiveMinimum" in schema
    low = schema["exclusiveMinimum"] if is_exclusive else schema.get("minimum", 0)
    return low, schema.get("maximum") or schema.get("maxLength") or 0, is_exclusive


def capabilities() -> dict[str, Schema]:
    """What `GET /v1/capabilities` tells of each field."""
    return {name: _capability(KINDS[name].name, schema) for name, schema in SCHEMAS.items()}


def _capability(kind: str, schema: Schema) -> Schema:
    told = {"kind": kind, "default": schema.get("default"), "choices": schema.get("enum")}
    if kind in {"int", "number", "text"}:
        told |= zip(("low", "high", "is_exclusive"), _bounds(schema), strict=True)
    return {name: value for name, value in told.items() if value is not None}
