"""Schemas of the OpenAPI document: what bodies hold."""

from typing import Any

from serve.http.data_urls import MAX_LENGTH, PATTERN
from serve.http.errors import ERRORS
from serve.http.fields import FIELDS, MAX_FORM_SEED, MAY_BE_EMPTY, Field
from serve.http.limits import MAX_FILE_BYTES, MAX_NUM_IMAGES, MAX_PIXELS, MAX_SIDE_PX, MIN_SIDE_PX

Schema = dict[str, Any]

MEANINGS = {
    "prompt": "What to paint; at most 77 tokens with start and end, after learned tokens are expanded.",
    "model": "Id of a served model; the first of /v1/models by default.",
    "n": "Pictures; picture i has the seed `seed` + i, which must be in range too.",
    "size": "Width and height of the result, multiples of 8; auto: those of the image, whatever they are.",
    "response_format": "URLs are not offered.",
    "output_format": "Only png and webp at 100 keep the pixels outside the mask equal to the bit.",
    "output_compression": "Quality of jpeg and webp; webp at 100 is lossless. Below 100 not with png.",
    "stream": "Server-sent events instead of one body.",
    "partial_images": "Previews of each picture; needs stream=true.",
    "quality": "Steps: low 15, medium and standard 30, high 50, auto the model's. Not with num_inference_steps.",
    "background": "Results are opaque.",
    "input_fidelity": "Has no effect, which `warnings` says.",
    "user": "Has no effect but a hash in the log.",
    "safety_identifier": "As user.",
    "seed": f"-1: drawn. Picture i has seed + i, at most {MAX_FORM_SEED}. Same model, request, seed: same bytes.",
    "seeds": "The seeds themselves, 0 to 2^63 - 1, with commas between; instead of seed, and of n or as many as n.",
    "num_inference_steps": "Denoising steps at strength 1; the model's by default.",
    "guidance_scale": "Classifier-free guidance, 1 or less: off; the model's by default.",
    "strength": "1 paints from pure noise; the integer part of steps * strength must be 1 or more.",
    "negative_prompt": "What guidance steers away from; the model's by default.",
    "mask_mode": "auto: alpha if the mask has it (transparent = painted anew), else luminance (white = painted anew); "
    "without a mask the image's own alpha. full: everything, without a mask.",
    "mask_blur": "Radius in pixels of the soft edge of what is pasted.",
    "preserve_unmasked": "Put the pixels outside the mask back, equal to the bit.",
    "padding_mask_crop": "Paint only the mask's box with so many pixels around it, at full resolution.",
    "scheduler": "The model's by default.",
    "prompt_overflow": "truncate: a prompt that is too long is cut, and `warnings` says so.",
    "literal_tokens": "Read <x> as plain text, not as a learned token.",
}

FILE = (
    f"PNG, JPEG or WebP by content, at most {MAX_FILE_BYTES} bytes, one frame, sides from {MIN_SIDE_PX} to "
    f"{MAX_SIDE_PX}, at most {MAX_PIXELS} pixels."
)
# A WebP file's head; no picture is shorter.
MIN_FILE_BYTES = 30

# Multiples of 8 from 64 to 2048, in decimal: after an even digit end the multiples of 8, after an odd one the others
# that are 4 more.
_EVEN = "(00|08|16|24|32|40|48|56|64|72|80|88|96)"
_ODD = "(04|12|20|28|36|44|52|60|68|76|84|92)"
_SIDE = f"(64|72|80|88|96|[2468]{_EVEN}|[13579]{_ODD}|1[02468]{_EVEN}|1[13579]{_ODD}|20(00|08|16|24|32|40|48))"
_SEED = "(0|[1-9][0-9]{0,17})"

# What fields say together; the form's schema says it in words. Not in here, as JSON Schema has no arithmetic:
# int(steps * strength) >= 1, seed + n - 1 <= MAX_FORM_SEED (schemathesis gives up on it as a list of cases), and the
# pixels.
CONDITIONS: list[Schema] = [
    {
        "not": {
            "required": ["quality", "num_inference_steps"],
            "properties": {"quality": {"enum": ["low", "medium", "standard", "high"]}},
        }
    },
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
    {
        "anyOf": [
            {"properties": {"mask_mode": {"enum": ["auto", "alpha", "full"]}}},
            {"required": ["mask"]},
        ]
    },
]


def multipart_form() -> Schema:
    """The body of an edit as a form."""
    # Of bytes, the lengths count bytes (OpenAPI 3.1); that they are a picture, no schema can say.
    file = {"type": "string", "format": "binary", "minLength": MIN_FILE_BYTES, "maxLength": MAX_FILE_BYTES}
    properties = {
        "image": {**file, "description": f"{FILE} Also under the name `image[]`."},
        "mask": {
            **file,
            "description": f"{FILE} As large as the image. Black and white, or transparent where it is painted anew; "
            "of two values of which one is 0, or one colour on black, the other stands for white.",
        },
        **{name: _field(name, spec) for name, spec in FIELDS.items()},
    }
    # Without CONDITIONS: validators of JSON Schema, schemathesis' among them, do not judge values that are files.
    return _closed(properties, required=["image", "prompt"])


def json_form() -> Schema:
    """The body of an edit as JSON."""
    url = {
        "type": "string",
        "format": "data-url",
        "pattern": PATTERN,
        "maxLength": MAX_LENGTH,
        "description": f"data:image/png;base64,… (RFC 2397): {FILE} Line breaks and percent escapes are read too, "
        "padding may be missing. Nothing is ever fetched.",
    }
    picture = _closed({"image_url": url}, required=["image_url"])
    properties: Schema = {"images": {"type": "array", "items": picture, "minItems": 1, "maxItems": 1}}
    for name, spec in FIELDS.items():
        schema = _field(name, spec)
        if name == "seeds":
            seed = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
            schema = {"anyOf": [schema, {"type": "array", "items": seed, "minItems": 1, "maxItems": MAX_NUM_IMAGES}]}
        properties[name] = schema
    properties["mask"] = picture
    return _closed(properties, required=["images", "prompt"], allOf=CONDITIONS)


def schemas() -> dict[str, Schema]:
    """`components.schemas`."""
    text, whole = {"type": "string"}, {"type": "integer"}
    number_or_null, text_or_null = {"type": ["integer", "null"]}, {"type": ["string", "null"]}
    error = _closed(
        {
            "message": text,
            "type": {"type": "string", "enum": sorted({kind.type for kind in ERRORS.values()})},
            "param": text_or_null,
            "code": {"type": "string", "enum": sorted(ERRORS)},
        }
    )
    token: Schema = {"name": text, "object": {"const": "learned_token"}, "vectors": whole, "dim": whole, "model": text}
    model: Schema = {"id": text, "object": {"const": "model"}, "created": whole, "owned_by": text, "digest": text}
    model |= {"capabilities": {"type": "array", "items": text}}
    model |= {"resolution_px": number_or_null, "stride_px": number_or_null}
    return {
        "EditForm": multipart_form(),
        "EditJson": json_form(),
        "Error": _closed({"error": error}),
        "EditResult": _edit_result(),
        "Job": _job(),
        "Model": {"type": "object", "properties": model, "required": [*model]},
        "ModelList": _list_of("Model"),
        "Token": _closed({**token, "digest": text, "loaded_at": whole}),
        "TokenList": _list_of("Token"),
        "Capabilities": {"type": "object"},
        "Health": _closed({"status": {"enum": ["live", "ready"]}, "reason": text_or_null}),
        "NotReady": _closed({"status": {"const": "not_ready"}, "reason": text, "error": error}),
    }


def ref(name: str) -> Schema:
    """Reference to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _edit_result() -> Schema:
    whole, text = {"type": "integer"}, {"type": "string"}
    picture = _closed({"b64_json": {"type": ["string", "null"]}, "seed": whole, "flagged": {"type": "boolean"}})
    fraction = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    box = {"type": "array", "items": whole, "minItems": 4, "maxItems": 4}
    tokens = _closed({"text_tokens": whole, "image_tokens": whole})
    usage = {"input_tokens": whole, "output_tokens": whole, "total_tokens": whole}
    return _closed(
        {
            "created": whole,
            "size": text,
            "output_format": {"enum": ["png", "jpeg", "webp"]},
            "background": {"const": "opaque"},
            "quality": {"enum": ["low", "medium", "high"]},
            "data": {"type": "array", "items": picture, "minItems": 1, "maxItems": MAX_NUM_IMAGES},
            "mask": _closed({"mode": text, "edited_fraction": fraction, "bbox": box}),
            "usage": _closed({**usage, "input_tokens_details": tokens, "output_tokens_details": tokens}),
            "provenance": {"type": "object"},
            "warnings": {"type": "array", "items": text},
        }
    )


def _job() -> Schema:
    whole = {"type": "integer"}
    return _closed(
        {
            "id": {"type": "string"},
            "object": {"const": "image.edit.job"},
            "status": {"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
            "queue_position": {"type": ["integer", "null"]},
            "step": whole,
            "steps": whole,
            "created_at": whole,
            "deadline_at": whole,
            "result": {"anyOf": [ref("EditResult"), {"type": "null"}]},
            "error": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        }
    )


def _field(name: str, spec: Field) -> Schema:
    schema = {
        "text": _text_schema,
        "int": _number_schema,
        "number": _number_schema,
        "bool": lambda name, spec: {"type": "boolean"},
        "enum": lambda name, spec: {"type": "string", "enum": [*spec.choices]},
        "seeds": lambda name, spec: {"type": "string", "pattern": f"^{_SEED}(,{_SEED}){{0,{MAX_NUM_IMAGES - 1}}}$"},
        "size": lambda name, spec: {"type": "string", "pattern": f"^(auto|{_SIDE}x{_SIDE})$"},
    }[spec.kind](name, spec)
    if spec.default is not None:
        schema["default"] = spec.default
    return {**schema, "description": MEANINGS[name]}


def _text_schema(name: str, spec: Field) -> Schema:
    # No NUL character.
    schema = {"type": "string", "maxLength": int(spec.high), "pattern": r"^[^\u0000]*$"}
    return schema if name in MAY_BE_EMPTY else {**schema, "minLength": 1}


def _number_schema(name: str, spec: Field) -> Schema:
    least = "exclusiveMinimum" if spec.is_exclusive else "minimum"
    return {"type": "integer" if spec.kind == "int" else "number", least: spec.low, "maximum": spec.high}


def _list_of(name: str) -> Schema:
    return _closed({"object": {"const": "list"}, "data": {"type": "array", "items": ref(name)}})


def _closed(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    names = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False, **more}
