"""Every row of the error table, over a real connection: status, code, param, and what must not be in a message."""

# H height and W width of the picture

import io
import re
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from edit_forms import (
    EDITS,
    alpha_mask,
    bomb,
    data_url,
    encoded,
    form,
    hole,
    json_form,
    picture,
    post,
    post_json,
    white_mask,
)
from paint_backend import Running
from PIL import Image
from raw_pictures import png16

from raygen.errors import EndpointError
from serve.http.errors import ERRORS, response_parts
from serve.http.limits import MAX_FILE_BYTES, MAX_TEXT_BYTES

PROMPT = "zebrafinch on a lake"
PNG = encoded(picture())


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def flipped() -> bytes:
    """A PNG with a byte of its pixels changed."""
    data = bytearray(PNG)
    data[len(data) // 2] ^= 255
    return bytes(data)


def cut(kind: str) -> bytes:
    data = encoded(picture(), kind)
    return data[: len(data) // 2]


FIELDS: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"image": None}, 400, "missing_required_parameter", "image"),
    ({"prompt": None}, 400, "missing_required_parameter", "prompt"),
    ({"prompt": ""}, 400, "invalid_value", "prompt"),
    ({"prompt": "a\0b"}, 400, "invalid_value", "prompt"),
    ({"prompt": "x" * 32_001}, 400, "prompt_too_long", "prompt"),
    ({"image": "text"}, 400, "invalid_type", "image"),
    ({"prompt": b"a file"}, 400, "invalid_type", "prompt"),
    ({"n": 0}, 400, "out_of_range", "n"),
    ({"n": 11}, 400, "out_of_range", "n"),
    ({"n": "1e3"}, 400, "invalid_type", "n"),
    ({"n": "2.0"}, 400, "invalid_type", "n"),
    ({"n": " 2"}, 400, "invalid_type", "n"),
    ({"n": "٢"}, 400, "invalid_type", "n"),
    ({"n": ""}, 400, "invalid_type", "n"),
    ({"n": "-0"}, 400, "invalid_type", "n"),
    ({"n": "9" * 20}, 400, "out_of_range", "n"),
    ({"n": "9" * 5000}, 400, "invalid_type", "n"),
    ({"size": "65x64"}, 400, "invalid_size", "size"),
    ({"size": "56x64"}, 400, "invalid_size", "size"),
    ({"size": "2056x64"}, 400, "invalid_size", "size"),
    ({"size": "64"}, 400, "invalid_size", "size"),
    ({"size": "64x64x64"}, 400, "invalid_size", "size"),
    ({"size": "AUTO"}, 400, "invalid_size", "size"),
    ({"response_format": "url"}, 400, "invalid_value", "response_format"),
    ({"output_format": "gif"}, 400, "invalid_value", "output_format"),
    ({"output_compression": 50}, 400, "conflicting_parameters", "output_compression"),
    ({"output_compression": 101}, 400, "out_of_range", "output_compression"),
    ({"output_compression": -1}, 400, "out_of_range", "output_compression"),
    ({"stream": 0}, 400, "invalid_type", "stream"),
    ({"stream": 1}, 400, "invalid_type", "stream"),
    ({"stream": "True"}, 400, "invalid_type", "stream"),
    ({"partial_images": 1}, 400, "conflicting_parameters", "partial_images"),
    ({"partial_images": 4, "stream": "true"}, 400, "out_of_range", "partial_images"),
    ({"quality": "hd"}, 400, "invalid_value", "quality"),
    ({"quality": "low", "num_inference_steps": 5}, 400, "conflicting_parameters", "quality"),
    ({"background": "transparent"}, 400, "invalid_value", "background"),
    ({"input_fidelity": "medium"}, 400, "invalid_value", "input_fidelity"),
    ({"user": "x" * 513}, 400, "out_of_range", "user"),
    ({"safety_identifier": "x" * 513}, 400, "out_of_range", "safety_identifier"),
    ({"seed": -2}, 400, "out_of_range", "seed"),
    ({"seed": 2**32}, 400, "out_of_range", "seed"),
    ({"seed": 2**32 - 1, "n": 2}, 400, "out_of_range", "seed"),
    ({"seed": 2**32 - 9, "n": 10}, 400, "out_of_range", "seed"),
    ({"seed": "7.5"}, 400, "invalid_type", "seed"),
    ({"seeds": "1,2,"}, 400, "invalid_type", "seeds"),
    ({"seeds": "-1"}, 400, "invalid_type", "seeds"),
    ({"seeds": ",".join("1" * 11)}, 400, "invalid_type", "seeds"),
    ({"seeds": 2**63}, 400, "out_of_range", "seeds"),
    ({"seeds": "1,2", "seed": 1}, 400, "conflicting_parameters", "seeds"),
    ({"seeds": "1,2", "n": 3}, 400, "conflicting_parameters", "n"),
    ({"num_inference_steps": 0}, 400, "out_of_range", "num_inference_steps"),
    ({"num_inference_steps": 151}, 400, "out_of_range", "num_inference_steps"),
    ({"strength": 0}, 400, "out_of_range", "strength"),
    ({"strength": 1.1}, 400, "out_of_range", "strength"),
    ({"strength": "1e-400"}, 400, "out_of_range", "strength"),
    ({"strength": 0.05, "num_inference_steps": 10}, 400, "out_of_range", "strength"),
    ({"strength": 0.05}, 400, "out_of_range", "strength"),
    ({"guidance_scale": "nan"}, 400, "invalid_type", "guidance_scale"),
    ({"guidance_scale": "inf"}, 400, "invalid_type", "guidance_scale"),
    ({"guidance_scale": "1e999"}, 400, "out_of_range", "guidance_scale"),
    ({"guidance_scale": -1}, 400, "out_of_range", "guidance_scale"),
    ({"guidance_scale": 30.5}, 400, "out_of_range", "guidance_scale"),
    ({"negative_prompt": "\0"}, 400, "invalid_value", "negative_prompt"),
    ({"mask_mode": "white"}, 400, "invalid_value", "mask_mode"),
    ({"mask_blur": 65}, 400, "out_of_range", "mask_blur"),
    ({"preserve_unmasked": "yes"}, 400, "invalid_type", "preserve_unmasked"),
    ({"padding_mask_crop": 257}, 400, "out_of_range", "padding_mask_crop"),
    ({"scheduler": "os.system"}, 400, "invalid_value", "scheduler"),
    ({"prompt_overflow": "ignore"}, 400, "invalid_value", "prompt_overflow"),
    ({"literal_tokens": "no"}, 400, "invalid_type", "literal_tokens"),
    ({"mask_image": "x"}, 400, "unknown_parameter", "mask_image"),
    ({"guidance": b"a file"}, 400, "unknown_parameter", "guidance"),
    ({"model": "sdxl"}, 404, "model_not_found", "model"),
]


@pytest.mark.parametrize(("fields", "status", "code", "param"), FIELDS, ids=lambda value: str(value)[:40])
def test_field(endpoint: Running, fields: dict[str, Any], status: int, code: str, param: str | None) -> None:
    response = post(endpoint.url, **{"prompt": PROMPT, **fields})
    expect(response, status, code, param)
    assert not re.search(r"\de[+-]?\d", response.json()["error"]["message"]), "no number as 4.29497e+09"
    assert not endpoint.backend.requests


MESSAGES = [
    ({"prompt": None}, "there is no prompt"),
    ({"model": ""}, "model is empty"),
    ({"user": "x" * 513}, "user has 513 characters; at most 512"),
    ({"prompt": "\N{BIRD}" * 32_001}, "prompt has 32001 characters; at most 32000"),
    ({"user": "\0"}, "user holds a NUL character"),
    ({"n": 11}, "n is out of range: from 1 to 10"),
    ({"seed": 2**32}, "seed is out of range: from -1 to 4294967295"),
    ({"strength": "0"}, "strength is out of range: above 0 to 1"),
    ({"n": "2.0"}, "n is not a whole number"),
    ({"strength": "nan"}, "strength is not a finite number"),
    ({"stream": "yes"}, "stream is neither true nor false"),
    ({"mask_mode": "white"}, "mask_mode is none of auto, alpha, luminance, luminance_inverted, full"),
    ({"seeds": "1,"}, "seeds is not a list of 1 to 10 whole numbers with commas between"),
    ({"seeds": 2**63}, "seeds: a seed is at most 9223372036854775807"),
    ({"size": "64"}, "size is neither auto nor WIDTHxHEIGHT, such as 512x512"),
    ({"size": "65x64"}, "sides of size are multiples of 8 from 64 to 2048; the nearest is 64x64"),
    # Of several the first, in the order of the capabilities.
    ({"strength": "x", "n": 0, "size": "64", "seeds": ""}, "n is out of range: from 1 to 10"),
]


@pytest.mark.parametrize(("fields", "message"), MESSAGES, ids=[message[:40] for _, message in MESSAGES])
def test_a_message_says_what_would_be_right(endpoint: Running, fields: dict[str, Any], message: str) -> None:
    assert post(endpoint.url, **fields).json()["error"]["message"] == message


PICTURES: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "empty_file"),
    (lambda: b"hello", "invalid_image"),
    (lambda: encoded(picture(), "GIF"), "invalid_image"),
    (lambda: encoded(picture(), "TIFF"), "invalid_image"),
    (lambda: encoded(picture(), "BMP"), "invalid_image"),
    (lambda: encoded(picture(), "EPS"), "invalid_image"),
    (lambda: encoded(picture(), "PPM"), "invalid_image"),
    (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "invalid_image"),
    (lambda: PNG[:40], "invalid_image"),
    (lambda: cut("PNG"), "truncated_image"),
    (lambda: cut("JPEG"), "truncated_image"),
    (lambda: cut("WEBP"), "truncated_image"),
    (flipped, "truncated_image"),
    (lambda: bomb(9000, 9000), "image_too_large"),
    (lambda: bomb(30_000, 30_000), "image_too_large"),
    (lambda: bomb(4096, 1025), "image_too_large"),
    (lambda: bomb(4104, 64), "image_too_large"),
    (lambda: encoded(picture(0, 64, 63)), "image_too_small"),
    (lambda: animated("PNG"), "animated_image"),
    (lambda: animated("WEBP"), "animated_image"),
]


@pytest.mark.parametrize("param", ["image", "mask"])
@pytest.mark.parametrize(("make", "code"), PICTURES, ids=[f"{i}-{code}" for i, (_, code) in enumerate(PICTURES)])
def test_picture(endpoint: Running, make: Callable[[], bytes], code: str, param: str) -> None:
    file: dict[str, Any] = {param: make()}
    expect(post(endpoint.url, prompt=PROMPT, **file), 400, code, param)
    assert not endpoint.backend.requests


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_twelve_bits_in_sixteen_are_no_black_picture(endpoint: Running, shape: tuple[int, ...]) -> None:
    response = post(endpoint.url, image=png16(np.full(shape, 4095)))
    expect(response, 400, "invalid_image", "image")
    assert "from 4095 to 4095, far below 65535" in response.json()["error"]["message"]


def opaque() -> bytes:
    return alpha_mask(np.zeros((64, 64), dtype=bool))


# Three classes, as numbers.
CLASSES = np.repeat(np.arange(4, dtype=np.uint8) % 3, 16)[:, None] + np.zeros((64, 64), dtype=np.uint8)
MASKS: list[tuple[dict[str, Any], str]] = [
    ({"mask": None}, "mask_required"),
    ({"mask": None, "mask_mode": "alpha"}, "mask_required"),
    ({"mask": None, "mask_mode": "luminance"}, "mask_required"),
    ({"mask": alpha_mask(hole(64, 72))}, "mask_size_mismatch"),
    ({"mask": white_mask(hole()), "mask_mode": "alpha"}, "invalid_mask"),
    ({"mask": encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG")}, "invalid_mask"),
    ({"mask": opaque()}, "empty_mask"),
    ({"mask": encoded(CLASSES)}, "empty_mask"),
    ({"mask": png16(CLASSES)}, "empty_mask"),
    ({"mask": encoded(np.where(CLASSES == 2, 255, CLASSES).astype(np.uint8))}, "invalid_mask"),
    ({"mask": encoded(np.eye(3, dtype=np.uint8)[CLASSES] * 255)}, "invalid_mask"),
    ({"mask": png16(CLASSES.astype(np.uint16) * 1000)}, "invalid_mask"),
    ({"mask": white_mask(np.zeros((64, 64), dtype=bool))}, "empty_mask"),
    ({"mask": white_mask(np.ones((64, 64), dtype=bool)), "mask_mode": "luminance_inverted"}, "empty_mask"),
]


@pytest.mark.parametrize(("fields", "code"), MASKS, ids=[f"{i}-{code}" for i, (_, code) in enumerate(MASKS)])
def test_mask(endpoint: Running, fields: dict[str, Any], code: str) -> None:
    expect(post(endpoint.url, prompt=PROMPT, **fields), 400, code, "mask")


def test_a_mask_beside_mask_mode_full_is_refused_not_ignored(endpoint: Running) -> None:
    assert post(endpoint.url, mask_mode="full").status_code == 400
    assert post(endpoint.url, mask_mode="full", mask=None).json()["mask"]["edited_fraction"] == 1


def test_an_opaque_mask_is_told_of_luminance(endpoint: Running) -> None:
    assert "mask_mode=luminance" in post(endpoint.url, mask=opaque()).json()["error"]["message"]


@pytest.mark.parametrize(
    ("mask", "mode", "found"),
    [
        (np.zeros((64, 64), dtype=np.uint8), "auto", "brightest value is 0"),
        (CLASSES, "auto", "the brightest is 2 of 255"),
        (np.full((64, 64), 100, dtype=np.uint8), "auto", "the brightest is 100 of 255"),
        (np.full((64, 64), 255, dtype=np.uint8), "luminance_inverted", "darkest value is 255"),
    ],
)
def test_a_mask_that_selects_nothing_is_told_its_values_not_to_be_turned_round(
    endpoint: Running, mask: np.ndarray, mode: str, found: str
) -> None:
    """Turned round it would select everything."""
    error = post(endpoint.url, mask=encoded(mask), mask_mode=mode).json()["error"]
    assert error["code"] == "empty_mask"
    assert found in error["message"]
    assert "mask_mode" not in error["message"]


def test_a_mask_that_a_smaller_size_loses(endpoint: Running) -> None:
    mask_HW = np.zeros((128, 128), dtype=bool)
    mask_HW[0, 0] = True  # nearest neighbours are those of odd number
    response = post(endpoint.url, image=encoded(picture(0, 128, 128)), mask=white_mask(mask_HW), size="64x64")
    expect(response, 400, "empty_mask", "mask")
    assert "of the 1 pixels that the mask selects none is left" in response.json()["error"]["message"]


def test_the_nearest_valid_size_is_told(endpoint: Running) -> None:
    assert "512x520" in post(endpoint.url, size="511x518").json()["error"]["message"]


def test_a_size_above_the_models_budget(endpoint: Running) -> None:
    assert post(endpoint.url, size="2048x2048").status_code == 200  # 4,194,304 pixels, the default budget


def twice(name: str, files: bool) -> dict[str, Any]:
    whole = form()
    pairs = [*whole["files"].items()] + ([(name, ("again", PNG))] if files else [])
    data = {**whole["data"], **({} if files else {name: ["1", "2"]})}
    return {"data": data, "files": pairs}


@pytest.mark.parametrize(
    ("name", "files", "code", "param"),
    [
        ("image", True, "too_many_images", "image"),
        ("image[]", True, "too_many_images", "image"),
        ("mask", True, "duplicate_parameter", "mask"),
        ("seed", False, "duplicate_parameter", "seed"),
    ],
)
def test_twice(endpoint: Running, name: str, files: bool, code: str, param: str) -> None:
    expect(httpx2.post(endpoint.url + EDITS, **twice(name, files), timeout=30), 400, code, param)


def body(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value


MULTIPART = "multipart/form-data; boundary=b"
BODIES: list[tuple[str | None, bytes, int, str]] = [
    ("multipart/form-data", body(part("prompt", b"x")), 400, "malformed_multipart"),
    (MULTIPART, b"", 400, "malformed_multipart"),
    (MULTIPART, b"nothing of the kind", 400, "malformed_multipart"),
    (MULTIPART, body(part("prompt", b"x"), end=b""), 400, "malformed_multipart"),
    (MULTIPART, body(part("prompt", b"x"), end=b"--b"), 400, "malformed_multipart"),
    (MULTIPART, body(*[part(f"f{i}", b"x") for i in range(65)]), 400, "malformed_multipart"),
    (MULTIPART, body(part("prompt", b"x" * (MAX_TEXT_BYTES + 1))), 400, "malformed_multipart"),
    (MULTIPART, body(b"Content-Disposition: form-data\r\n\r\nx"), 400, "malformed_multipart"),
    (MULTIPART, body(part("prompt", b"\xff\xfe")), 400, "invalid_type"),
    (
        MULTIPART,
        body(part("image", b"iVBORw0KGgo=", '; filename="a.png"\r\nContent-Transfer-Encoding: base64')),
        400,
        "malformed_multipart",
    ),
    ("text/plain", b"x", 415, "unsupported_media_type"),
    ("application/x-www-form-urlencoded", b"prompt=x", 415, "unsupported_media_type"),
    (None, b"x", 415, "unsupported_media_type"),
    ("application/json", b"{", 400, "malformed_json"),
    ("application/json", b"[]", 400, "malformed_json"),
    ("application/json", b"[" * 100_000, 400, "malformed_json"),
    ("application/json", b"\xff", 400, "malformed_json"),
    ("application/json", b'{"prompt": "a", "prompt": "b"}', 400, "duplicate_parameter"),
]


@pytest.mark.parametrize(("kind", "content", "status", "code"), BODIES, ids=range(len(BODIES)))
def test_body(endpoint: Running, kind: str | None, content: bytes, status: int, code: str) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = httpx2.post(endpoint.url + EDITS, headers=headers, content=content, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    expect_clean(response)


def test_an_encoded_body(endpoint: Running) -> None:
    expect(post(endpoint.url, headers={"content-encoding": "gzip"}), 415, "unsupported_media_type", None)


JSON: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"images": ...}, 400, "missing_required_parameter", "image"),
    ({"images": []}, 400, "missing_required_parameter", "image"),
    ({"images": [data_url(PNG)] * 2}, 400, "too_many_images", "image"),
    ({"images": data_url(PNG)}, 400, "invalid_type", "images"),
    ({"images": ["x"]}, 400, "invalid_type", "image"),
    ({"images": [{"file_id": "file-1"}]}, 400, "invalid_type", "image"),
    ({"images": [{"image_url": "data:image/png;base64,!"}]}, 400, "invalid_value", "image"),
    ({"images": [{"image_url": "data:image/png,x"}]}, 400, "invalid_value", "image"),
    ({"images": [{"image_url": "file:///etc/passwd"}]}, 400, "invalid_value", "image"),
    ({"images": [{"image_url": ""}]}, 400, "invalid_value", "image"),
    ({"images": [{"image_url": "data:image/png;base64,"}]}, 400, "empty_file", "image"),
    ({"mask": {"image_url": "http://127.0.0.1:1/x"}}, 400, "invalid_value", "mask"),
    ({"n": 2.5}, 400, "invalid_type", "n"),
    ({"n": "2"}, 400, "invalid_type", "n"),
    ({"n": True}, 400, "invalid_type", "n"),
    ({"n": 10**30}, 400, "invalid_type", "n"),
    ({"stream": 0}, 400, "invalid_type", "stream"),
    ({"stream": "true"}, 400, "invalid_type", "stream"),
    ({"prompt": 5}, 400, "invalid_type", "prompt"),
    ({"n": None}, 400, "invalid_type", "n"),
    ({"images": None}, 400, "invalid_type", "images"),
    ({"mask": None}, 400, "invalid_type", "mask"),
    ({"prompt": ["a"]}, 400, "invalid_type", "prompt"),
    ({"prompt": "\ud800"}, 400, "invalid_value", "prompt"),
    ({"guidance_scale": float("nan")}, 400, "malformed_json", None),
    ({"seeds": [1, 2.5]}, 400, "invalid_type", "seeds"),
    ({"image": "x"}, 400, "unknown_parameter", "image"),
]


@pytest.mark.parametrize(("fields", "status", "code", "param"), JSON, ids=range(len(JSON)))
def test_json_form(endpoint: Running, fields: dict[str, Any], status: int, code: str, param: str | None) -> None:
    expect(post_json(endpoint.url, json_form(**{"prompt": PROMPT, **fields})), status, code, param)


def test_a_file_above_the_limit(endpoint: Running) -> None:
    for name in ("image", "mask"):
        file: dict[str, Any] = {name: PNG + b"\0" * (MAX_FILE_BYTES - len(PNG) + 1)}
        response = post(endpoint.url, **file)
        expect(response, 413, "file_too_large", name)


HEADERS = [
    *(
        ({name: value}, "invalid_value")
        for name in ("x-raygen-timeout-seconds", "x-request-timeout-seconds")
        for value in ("soon", "nan", "0.5", "-5", "86401")
    ),
    ({"x-raygen-priority": "urgent"}, "invalid_value"),
    ({"idempotency-key": "k" * 256}, "invalid_value"),
]


@pytest.mark.parametrize(("headers", "code"), HEADERS, ids=[str(headers)[:40] for headers, _ in HEADERS])
def test_header(endpoint: Running, headers: dict[str, str], code: str) -> None:
    response = post(endpoint.url, headers=headers)
    expect(response, 400, code, next(iter(headers)))


ANSWERS = [
    ("GET", "/nope", 404, "not_found"),
    ("GET", "/v1/models/", 404, "not_found"),
    ("GET", "/v1/models/nope", 404, "model_not_found"),
    ("GET", "/v2/models/nope/ready", 404, "model_not_found"),
    ("POST", "/v1/images/generations", 404, "unsupported_endpoint"),
    ("POST", "/v1/images/variations", 404, "unsupported_endpoint"),
    ("GET", "/v1/jobs/job_0", 404, "job_not_found"),
    ("POST", "/v1/jobs/job_0/cancel", 404, "job_not_found"),
    ("GET", "/v1/jobs/job_0?wait=61", 400, "out_of_range"),
    ("GET", "/v1/jobs/job_0?wait=1.5", 400, "out_of_range"),
    ("GET", "/v1/jobs/job_0?wati=1", 400, "unknown_parameter"),
    ("GET", "/v1/jobs/job_0?wait=1&wait=2", 400, "duplicate_parameter"),
    ("GET", "/v1/tokens/%3Cnope%3E", 404, "token_not_found"),
    ("GET", "/v1/tokens?model=nope", 404, "model_not_found"),
    ("DELETE", "/v1/tokens/%3Cnope%3E", 404, "token_not_found"),
    ("DELETE", "/v1/tokens/..%2F..%2Fx", 404, "not_found"),
    ("PUT", "/v1/tokens/%3CNOPE%3E", 400, "invalid_token"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), ANSWERS, ids=[f"{m} {p}" for m, p, _, _ in ANSWERS])
def test_other_routes(endpoint: Running, method: str, path: str, status: int, code: str) -> None:
    response = httpx2.request(method, endpoint.url + path, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    expect_clean(response)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", EDITS, {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("PATCH", "/v1/tokens/%3Ca%3E", {"GET", "HEAD", "PUT", "DELETE"}),
        ("POST", "/v1/tokens/%3Ca%3E", {"GET", "HEAD", "PUT", "DELETE"}),
        ("OPTIONS", EDITS, {"POST"}),
    ],
)
def test_wrong_method_lists_all_right_ones(endpoint: Running, method: str, path: str, allowed: set[str]) -> None:
    response = httpx2.request(method, endpoint.url + path, timeout=30)
    expect(response, 405, "method_not_allowed", None)
    assert {*re.split(r",\s*", response.headers["allow"])} == allowed


ENGINE = [
    ("prompt_too_long", 400, {}),
    ("unknown_learned_token", 400, {}),
    ("server_is_overloaded", 503, {"retry-after": "7"}),
    ("service_unavailable", 503, {"retry-after": "7"}),
    ("deadline_exceeded", 504, {"x-should-retry": "false"}),
    ("non_finite_output", 500, {"x-should-retry": "false"}),
    ("out_of_memory", 500, {"x-should-retry": "false"}),
    ("internal_error", 500, {}),
]


@pytest.mark.parametrize(("code", "status", "headers"), ENGINE, ids=[code for code, _, _ in ENGINE])
def test_what_the_back_end_raises(endpoint: Running, code: str, status: int, headers: dict[str, str]) -> None:
    wait_s = 6.2 if "retry-after" in headers else None
    endpoint.backend.failure = EndpointError("it did not go well", code=code, param="prompt", retry_after_s=wait_s)
    response = post(endpoint.url)
    expect(response, status, code, "prompt")
    for name in ("retry-after", "x-should-retry"):
        assert response.headers.get(name) == headers.get(name)


def test_a_bug_is_told_to_nobody(endpoint: Running, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.backend.failure = ValueError(f"cannot tokenise {PROMPT!r} of /home/me")
    response = post(endpoint.url, prompt=PROMPT)
    expect(response, 500, "internal_error", None)
    assert PROMPT not in caplog.text
    assert "ValueError" in caplog.text  # but where it happened is in the log
    assert "paint_backend.py" in caplog.text


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_code_has_the_four_keys_and_its_headers(code: str) -> None:
    status, response_body, headers = response_parts(EndpointError("m", code=code))
    assert {*response_body["error"]} == {"message", "type", "param", "code"}
    assert ("retry-after" in headers) == (status in {429, 503})
    assert ("www-authenticate" in headers) == (status == 401)
    assert not any(2 <= ord(letter) < 32 for letter in "".join(headers.values()))


def test_a_code_without_a_row_is_an_internal_error_and_tells_nothing() -> None:
    status, response_body, _ = response_parts(EndpointError("secret", code="what"))
    assert (status, response_body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in str(response_body)


def expect(response: httpx2.Response, status: int, code: str, param: str | None) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    expect_clean(response)


def expect_clean(response: httpx2.Response) -> None:
    """The form of every error, and nothing of the inside in it."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert {*response.json()} == {"error"}
    error = response.json()["error"]
    assert {*error} == {"message", "type", "param", "code"}
    status, _, _ = response_parts(EndpointError("m", code=error["code"]))
    assert status == response.status_code
    for forbidden in ("/", "\\", "Traceback", "zebrafinch", ".py", " 0x"):
        assert forbidden not in error["message"], error["message"]


def test_a_png_that_lacks_only_its_end_is_whole(endpoint: Running) -> None:
    end = PNG.index(b"IEND") - 4
    assert post(endpoint.url, image=PNG[:end]).status_code == 200


def test_refused_before_it_is_decoded(endpoint: Running) -> None:
    """81 megapixels take Pillow seconds and 250 MB; there are no pixels in this file, only its header."""
    data = bomb(9000, 9000)[:41]
    expect(post(endpoint.url, image=data), 400, "image_too_large", "image")
    assert Image.open(io.BytesIO(bomb(9000, 9000)), formats=["PNG"]).size == (9000, 9000)
