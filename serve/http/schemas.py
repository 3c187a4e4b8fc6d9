"""The bodies of the interface as types, and the OpenAPI document's schemas of them."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from serve.http.backend import JobStatus, MaskFacts, OutputFormat
from serve.http.conditions import CONDITIONS
from serve.http.data_urls import MAX_LENGTH, PATTERN
from serve.http.errors import Error, ErrorObject
from serve.http.fields import SCHEMAS
from serve.http.json_schema import PlainJsonSchema, Schema
from serve.http.limits import MAX_FILE_BYTES, MAX_NUM_IMAGES, MAX_PIXELS, MAX_SIDE_PX, MIN_SIDE_PX

FILE = (
    f"PNG, JPEG or WebP by content, at most {MAX_FILE_BYTES} bytes, one frame, sides from {MIN_SIDE_PX} to "
    f"{MAX_SIDE_PX}, at most {MAX_PIXELS} pixels."
)
# A WebP file's head; no picture is shorter.
MIN_FILE_BYTES = 30


class Picture(TypedDict):
    """A painted picture; null where it was blocked."""

    b64_json: str | None
    seed: int
    flagged: bool


class Tokens(TypedDict):
    """OpenAI's split of a number of tokens."""

    text_tokens: int
    image_tokens: int


class Usage(TypedDict):
    """OpenAI's usage object."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: Tokens
    output_tokens_details: Tokens


class Rendered(TypedDict):
    """How pictures were written."""

    created: int
    size: str
    output_format: OutputFormat
    background: Literal["opaque"]
    quality: Literal["low", "medium", "high"]


class EditResult(Rendered):
    """The pictures of an edit."""

    data: Annotated[list[Picture], Field(min_length=1, max_length=MAX_NUM_IMAGES)]
    mask: MaskFacts
    usage: Usage
    provenance: dict[str, Any]
    warnings: list[str]


class Job(TypedDict):
    """A job as its owner sees it."""

    id: str
    object: Literal["image.edit.job"]
    status: JobStatus
    queue_position: int | None
    step: int
    steps: int
    created_at: int
    deadline_at: int
    error: ErrorObject | None
    result: EditResult | None


class Model(TypedDict):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[str]
    digest: str
    resolution_px: int | None
    stride_px: int | None
    max_replicas: int
    bucket: int | None


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Token(TypedDict):
    """A learned token."""

    name: str
    object: Literal["learned_token"]
    vectors: int
    dim: int
    model: str
    digest: str
    loaded_at: int


class TokenList(TypedDict):
    """A model's learned tokens."""

    object: Literal["list"]
    data: list[Token]


class Health(TypedDict):
    """What a probe reads when all is well."""

    status: Literal["live", "ready"]
    reason: str | None


class NotReady(TypedDict):
    """What a probe reads when a model does not paint."""

    status: Literal["not_ready"]
    reason: str
    error: ErrorObject


_BODIES: tuple[Any, ...] = (EditResult, Error, Health, Job, Model, ModelList, NotReady, Token, TokenList)


def schemas() -> dict[str, Schema]:
    """`components.schemas`."""
    mode: Literal["serialization"] = "serialization"
    adapters = [(body, mode, TypeAdapter(body)) for body in _BODIES]
    template = ref("{model}")["$ref"]
    _, bodies = TypeAdapter.json_schemas(adapters, ref_template=template, schema_generator=PlainJsonSchema)
    forms = {"EditForm": multipart_form(), "EditJson": json_form()}
    return {**forms, "Capabilities": {"type": "object"}, **bodies["$defs"]}


def ref(name: str) -> Schema:
    """Reference to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


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
        # A form has texts alone: of two spellings the first.
        **{
            name: {**schema.get("anyOf", [schema])[0], "description": schema["description"]}
            for name, schema in SCHEMAS.items()
        },
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
    images = {"type": "array", "items": picture, "minItems": 1, "maxItems": 1}
    properties = {"images": images, **SCHEMAS, "mask": picture}
    return _closed(properties, required=["images", "prompt"], allOf=CONDITIONS)


def _closed(properties: Schema, *, required: list[str], **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}
