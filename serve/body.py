"""A request's body as named texts and files: multipart/form-data, or the JSON form with data URLs.

Limits are applied while the body arrives. Names are checked here only for being sent twice; what they mean is for
`serve.fields`. File names and types of parts are never looked at: clients send what they like in them.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from raygen.errors import EndpointError
from serve.connection import body_chunks, check_body_headers, whole_body
from serve.limits import MAX_BODY_BYTES, MAX_FILE_BYTES, MAX_NUM_PARTS, MAX_PART_HEADER_BYTES, MAX_TEXT_BYTES

FILE_FIELDS = ("image", "mask")


@dataclass(slots=True)
class Form:
    """What a body holds.

    Attributes:
        texts: By field name.
        files: By field name; "image[]" is "image".
        json_kinds: Type of each field's value in the JSON form; empty for multipart, where everything is text.
    """

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    json_kinds: dict[str, type] = field(default_factory=dict)


async def read_form(headers: Headers, receive: Receive) -> Form:
    """The body of an edit.

    Raises:
        EndpointError: unsupported_media_type, request_too_large, request_body_timeout, file_too_large,
            malformed_multipart, malformed_json, duplicate_parameter, too_many_images, invalid_type.
        ClientDisconnected: The client went away.
    """
    check_body_headers(headers, max_bytes=MAX_BODY_BYTES)
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind == "multipart/form-data":
        return await _read_multipart(options.get("boundary", ""), receive)
    if kind == "application/json":
        return _from_json(await whole_body(receive, max_bytes=MAX_BODY_BYTES))
    raise EndpointError(
        "send the body as multipart/form-data, or as application/json with data URLs", code="unsupported_media_type"
    )


async def _read_multipart(boundary: str, receive: Receive) -> Form:
    if not boundary:
        raise EndpointError("the Content-Type names no boundary", code="malformed_multipart")
    form = Form()
    part: MultipartSegment | None = None
    data = bytearray()
    try:
        with PushMultipartParser(
            boundary,
            max_header_size=MAX_PART_HEADER_BYTES,
            max_segment_count=MAX_NUM_PARTS,
            strict=True,
        ) as parser:
            async for chunk in body_chunks(receive, max_bytes=MAX_BODY_BYTES):
                for event in parser.parse(chunk):
                    if isinstance(event, MultipartSegment):
                        part, data = event, bytearray()
                    elif event is None:
                        assert part is not None
                        _add(form, part, bytes(data))
                    else:
                        assert part is not None
                        data += event
                        _check_size(part, len(data))
    except ParserLimitReached as error:
        raise EndpointError(
            f"the form has more than {MAX_NUM_PARTS} parts, or a part's header is too long", code="malformed_multipart"
        ) from error
    except (MultipartError, UnicodeDecodeError) as error:
        raise EndpointError(
            "the body is not a complete multipart/form-data body", code="malformed_multipart"
        ) from error
    return form


def _check_size(part: MultipartSegment, num_bytes: int) -> None:
    name = _field_name(part.name or "")
    if _is_file(part) and num_bytes > MAX_FILE_BYTES:
        param = name if name in FILE_FIELDS else None
        raise EndpointError(f"a file has more than {MAX_FILE_BYTES} bytes", code="file_too_large", param=param)
    if not _is_file(part) and num_bytes > MAX_TEXT_BYTES:
        raise EndpointError(f"a text field has more than {MAX_TEXT_BYTES} bytes", code="malformed_multipart")


def _add(form: Form, part: MultipartSegment, data: bytes) -> None:
    name = _field_name(part.name or "")
    if name in FILE_FIELDS:
        if not _is_file(part):
            raise EndpointError(f"{name} is sent as text; send it as a file", code="invalid_type", param=name)
        if name in form.files:
            code = "too_many_images" if name == "image" else "duplicate_parameter"
            raise EndpointError(f"there is more than one {name}; send one", code=code, param=name)
        form.files[name] = data
        return
    if _is_file(part):
        raise EndpointError(f"{name} is sent as a file; it is a text field", code="invalid_type", param=name)
    if name in form.texts:
        raise EndpointError(f"{name} is sent twice", code="duplicate_parameter", param=name)
    try:
        form.texts[name] = data.decode()
    except UnicodeDecodeError as error:
        raise EndpointError(f"{name} is not UTF-8", code="invalid_type", param=name) from error


def _is_file(part: MultipartSegment) -> bool:
    return part.filename is not None


def _field_name(name: str) -> str:
    return "image" if name == "image[]" else name


def _from_json(body: bytes) -> Form:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EndpointError("the body is not JSON", code="malformed_json") from error
    if not isinstance(data, dict):
        raise EndpointError("the body is not a JSON object", code="malformed_json")
    form = Form()
    images = data.pop("images", None)
    if images is not None:
        if not isinstance(images, list):
            raise EndpointError("images is not a list", code="invalid_type", param="images")
        if len(images) > 1:
            raise EndpointError("there is more than one image; send one", code="too_many_images", param="image")
        if images:
            form.files["image"] = _data_url(images[0], "image")
    if data.get("mask") is not None:
        form.files["mask"] = _data_url(data["mask"], "mask")
    data.pop("mask", None)
    for name, value in data.items():
        if value is not None:
            form.texts[name] = _as_text(name, value)
            form.json_kinds[name] = type(value)
    return form


def _data_url(value: Any, param: str) -> bytes:
    url = value.get("image_url") if isinstance(value, dict) and {*value} == {"image_url"} else None
    if not isinstance(url, str):
        raise EndpointError(f'{param} is not {{"image_url": "data:…"}}', code="invalid_type", param=param)
    head, found, encoded = url.partition(",")
    if not found or not head.startswith("data:image/") or not head.endswith(";base64"):
        # Nothing is ever fetched.
        raise EndpointError(
            f"{param}: only data URLs are read (data:image/png;base64,…)", code="invalid_value", param=param
        )
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EndpointError(f"{param}: the data URL is not base64", code="invalid_value", param=param) from error
    if len(data) > MAX_FILE_BYTES:
        raise EndpointError(f"a file has more than {MAX_FILE_BYTES} bytes", code="file_too_large", param=param)
    return data


def _as_text(name: str, value: Any) -> str:
    """A JSON value in the form's own spelling, so that both forms are checked by the same rules."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if name == "seeds" and isinstance(value, list) and all(type(seed) is int for seed in value):
        return ",".join(map(str, value))
    raise EndpointError(f"{name} is neither text nor a number", code="invalid_type", param=name)
