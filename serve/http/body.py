"""A request's body as named texts and files: multipart/form-data, or the JSON form with data URLs.

Limits are applied while the body arrives, and what will be refused is not kept; what fields mean is for
`serve.http.fields`. File names and types of parts are never looked at: clients send what they like.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Container
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Receive

from raygen.errors import EndpointError
from serve.http.connection import body_chunks, check_body_headers, whole_body
from serve.http.data_urls import bytes_of
from serve.http.limits import MAX_BODY_BYTES, MAX_FILE_BYTES, MAX_NUM_PARTS, MAX_PART_HEADER_BYTES, MAX_TEXT_BYTES

FILE_FIELDS = ("image", "mask")
_LINE_END = b"\r\n"
# Numbers that are written with a point or an exponent and still count as whole; no field's range is wider.
MAX_WHOLE, MAX_NUMBER_LENGTH = 1e20, 64
_PLAIN_ENCODINGS = {"7bit", "8bit", "binary"}


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


async def read_form(headers: Headers, receive: Receive, *, known: Container[str], lists: Container[str] = ()) -> Form:
    """The body of an edit.

    Args:
        headers: The request's.
        receive: The connection.
        known: Names of the text fields.
        lists: Those whose JSON value may be a list of whole numbers.

    Raises:
        EndpointError: unsupported_media_type, request_too_large, request_body_timeout, file_too_large,
            malformed_multipart, malformed_json, unknown_parameter, duplicate_parameter, too_many_images, invalid_type.
        ClientDisconnected: The client went away.
    """
    check_body_headers(headers, max_bytes=MAX_BODY_BYTES)
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind == "multipart/form-data":
        return await _read_multipart(options.get("boundary", ""), receive, known)
    if kind == "application/json":
        body = await whole_body(receive, max_bytes=MAX_BODY_BYTES)
        # 48 MiB of JSON and base64 take half a second: not on the event loop.
        return await asyncio.to_thread(_from_json, body, known, lists)
    raise EndpointError("send the body as a multipart form, or as JSON with data URLs", code="unsupported_media_type")


async def _read_multipart(boundary: str, receive: Receive, known: Container[str]) -> Form:
    if not boundary:
        raise EndpointError("the Content-Type names no boundary", code="malformed_multipart")
    parts = _Parts(known)
    limits = {"max_header_size": MAX_PART_HEADER_BYTES, "max_segment_count": MAX_NUM_PARTS}
    try:
        with PushMultipartParser(boundary, strict=True, **limits) as parser:
            async for chunk in _without_last_line_end(body_chunks(receive, max_bytes=MAX_BODY_BYTES)):
                for event in parser.parse(chunk):
                    parts.take(event)
    except ParserLimitReached as error:
        raise EndpointError(
            f"the form has more than {MAX_NUM_PARTS} parts, or a part's header is too long", code="malformed_multipart"
        ) from error
    except (MultipartError, UnicodeDecodeError) as error:
        raise EndpointError("the body is not a complete multipart form", code="malformed_multipart") from error
    if parts.unknown is not None:
        raise _unknown(parts.unknown)
    return parts.form


class _Parts:
    """The parts so far.

    Args:
        known: Names of the text fields.

    Attributes:
        form: What was complete.
        unknown: First name that no field has. It is told only after the whole body: a broken body is the worse news.
    """

    def __init__(self, known: Container[str]) -> None:
        self._known = known
        self._part: MultipartSegment | None = None
        self._data = bytearray()
        self.form = Form()
        self.unknown: str | None = None

    def take(self, event: MultipartSegment | bytes | None) -> None:
        """Takes what the parser found: the head of a part, a piece of its content, or its end."""
        if isinstance(event, MultipartSegment):
            self._part, self._data = self._accepted(event), bytearray()
        elif self._part is None:
            return
        elif event is not None:
            self._data += event
            _check_size(self._part, len(self._data))
        else:
            _add(self.form, self._part, bytes(self._data))

    def _accepted(self, part: MultipartSegment) -> MultipartSegment | None:
        name = _field_name(part.name or "")
        if name in FILE_FIELDS or name in self._known:
            _check_part(part, self.form)
            return part
        if self.unknown is None:
            self.unknown = name
        return None


async def _without_last_line_end(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, but for a line end at the very end.

    Clients send one after the last boundary, and the strict parser takes it for garbage when it comes as a chunk of
    its own, which is up to the network.
    """
    held = b""
    async for chunk in chunks:
        whole = held + chunk
        held = whole[-len(_LINE_END) :]
        if len(whole) > len(held):
            yield whole[: -len(held)]
    if held and held != _LINE_END:
        yield held


def _check_part(part: MultipartSegment, form: Form) -> None:
    """Refuses by its header a part that would not be used."""
    name = _field_name(part.name or "")
    if (part.header("Content-Transfer-Encoding") or "binary").lower() not in _PLAIN_ENCODINGS:
        # RFC 7578, 4.7: not used in forms. Taking base64 for the bytes themselves would be a silent misreading.
        raise EndpointError("a part has a Content-Transfer-Encoding", code="malformed_multipart", param=name)
    if _is_file(part) != (name in FILE_FIELDS):
        kind, right = ("a file", "a text field") if _is_file(part) else ("text", "a file")
        raise EndpointError(f"{name} is sent as {kind}; it is {right}", code="invalid_type", param=name)
    if name in form.files:
        code = "too_many_images" if name == "image" else "duplicate_parameter"
        raise EndpointError(f"there is more than one {name}; send one", code=code, param=name)
    if name in form.texts:
        raise EndpointError(f"{name} is sent twice", code="duplicate_parameter", param=name)


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
        form.files[name] = data
        return
    try:
        form.texts[name] = data.decode()
    except UnicodeDecodeError as error:
        raise EndpointError(f"{name} is not UTF-8", code="invalid_type", param=name) from error


def _is_file(part: MultipartSegment) -> bool:
    return part.filename is not None


def _field_name(name: str) -> str:
    return "image" if name == "image[]" else name


def _unknown(name: str) -> EndpointError:
    # The name is the caller's own text: it goes into `param`, shortened, never into the message.
    return EndpointError("there is no such field; the capabilities list all", code="unknown_parameter", param=name[:64])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise EndpointError("a key stands twice in the JSON", code="duplicate_parameter", param=name[:64])
        data[name] = value
    return data


def _no_constant(text: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


def _from_json(body: bytes, known: Container[str], lists: Container[str]) -> Form:
    try:
        data = json.loads(body.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise EndpointError("the body is not JSON", code="malformed_json") from error
    if not isinstance(data, dict):
        raise EndpointError("the body is not a JSON object", code="malformed_json")
    images = data.pop("images", [])
    if not isinstance(images, list):
        raise EndpointError("images is not a list", code="invalid_type", param="images")
    if len(images) > 1:
        raise EndpointError("there is more than one image; send one", code="too_many_images", param="image")
    form = Form()
    if images:
        form.files["image"] = _data_url(images[0], "image")
    if "mask" in data:
        form.files["mask"] = _data_url(data.pop("mask"), "mask")
    for name, value in data.items():
        if name not in known:
            raise _unknown(name)
        form.texts[name], form.json_kinds[name] = _as_text(name, value, lists), type(value)
    return form


def _number(text: str) -> int | float:
    """A JSON number with a point or an exponent: 2.0 is 2 and 1e3 is 1000, as for JSON Schema.

    (A form has texts, where "2.0" is no whole number.)
    """
    value = float(text)
    if not 1 <= abs(value) < MAX_WHOLE or len(text) > MAX_NUMBER_LENGTH:
        return 0 if value == 0 else value
    exact = Decimal(text)  # a float keeps 53 bits; a seed has 63
    return int(exact) if exact == exact.to_integral_value() else value


def _data_url(value: Any, param: str) -> bytes:
    url = value.get("image_url") if isinstance(value, dict) and {*value} == {"image_url"} else None
    if not isinstance(url, str):
        raise EndpointError(f'{param} is not {{"image_url": "data:…"}}', code="invalid_type", param=param)
    try:
        data = bytes_of(url)
    except ValueError as error:
        raise EndpointError(f"{param}: {error}", code="invalid_value", param=param) from error
    if len(data) > MAX_FILE_BYTES:
        raise EndpointError(f"a file has more than {MAX_FILE_BYTES} bytes", code="file_too_large", param=param)
    return data


def _as_text(name: str, value: Any, lists: Container[str]) -> str:
    """A JSON value in the form's own spelling, so that both forms are checked by the same rules."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            # JSON can spell half a character, which no encoder further on takes.
            raise EndpointError(f"{name} is not valid Unicode", code="invalid_value", param=name)
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if name in lists and isinstance(value, list) and all(type(seed) is int for seed in value):
        return ",".join(map(str, value))
    raise EndpointError(f"{name} is neither text nor a number", code="invalid_type", param=name)
