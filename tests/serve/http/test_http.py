"""What is around an edit: keys, limits, jobs, idempotency, tokens, health, logs, lost clients."""

# H height and W width of the picture

import asyncio
import dataclasses
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from edit_forms import (
    EDITS,
    alpha_mask,
    data_url,
    encoded,
    form,
    hole,
    images_of,
    json_form,
    picture,
    post,
    post_json,
    token_file,
)
from paint_backend import PaintBackend, Running, colour_of, running, wait_for
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from raygen.endpoint.edits import EditRequest
from raygen.endpoint.wire import form_of, headers_of, result_of
from raygen.errors import EndpointError
from serve.client import Client
from serve.config import ServeConfig
from serve.http.fields import FIELDS
from serve.http.headers import answer_within_s
from serve.http.limits import MAX_BODIES_AT_ONCE
from serve.http.readiness import Readiness
from serve.ray_proxy import CALLBACK, middlewares

NEEDS_KEY = [
    ("POST", EDITS),
    ("POST", "/v1/images/generations"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/capabilities"),
    ("GET", "/v1/tokens"),
    ("GET", "/v1/tokens/%3Ca%3E"),
    ("PUT", "/v1/tokens/%3Ca%3E"),
    ("DELETE", "/v1/tokens/%3Ca%3E"),
    ("GET", "/v1/jobs/job_0"),
    ("POST", "/v1/jobs/job_0/cancel"),
]


@pytest.mark.parametrize(("method", "path"), NEEDS_KEY)
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", "rg_edit", "Basic rg_edit", "Bearer " + "x" * 600])
def test_no_or_a_wrong_key(keyed: Running, method: str, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    response = httpx2.request(method, keyed.url + path, headers=headers, timeout=30)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_a_key_is_checked_before_the_body_is_read(keyed: Running) -> None:
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=5) as connection:
        connection.sendall(f"POST {EDITS} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_two_keys_are_none(keyed: Running, edit_key: dict[str, str], other_key: dict[str, str]) -> None:
    headers = [*edit_key.items(), *other_key.items()]
    assert httpx2.get(f"{keyed.url}/v1/models", headers=headers).status_code == 401


def test_scopes(keyed: Running, edit_key: dict[str, str], admin_key: dict[str, str]) -> None:
    url = f"{keyed.url}/v1/tokens/%3Cscoped%3E"
    for method in ("PUT", "DELETE"):
        response = httpx2.request(method, url, headers=edit_key, content=token_file())
        assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")
    assert httpx2.put(url, headers=admin_key, content=token_file()).status_code == 201
    assert post(keyed.url, headers=admin_key).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/openapi.json"])
def test_what_needs_no_key(keyed: Running, path: str) -> None:
    assert httpx2.get(keyed.url + path).status_code == 200
    assert httpx2.head(keyed.url + path).status_code == 200


def test_requests_a_minute(keyed: Running, slow_key: dict[str, str]) -> None:
    first, second, third = (post(keyed.url, headers=slow_key) for _ in range(3))
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second, third)] == ["1", "0", "0"]
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.headers["x-ratelimit-reset-requests"].endswith("s")
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert len(keyed.backend.requests) == 2


def test_no_cors(endpoint: Running) -> None:
    origin = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for response in (
        httpx2.options(endpoint.url + EDITS, headers=origin),
        httpx2.get(f"{endpoint.url}/v1/models", headers=origin),
        post(endpoint.url, headers=origin),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    """An address, and who connected to it."""
    hits: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    hits.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.png", hits
        over.set()
        thread.join()


def test_no_url_is_ever_fetched(endpoint: Running, listener: tuple[str, list[Any]]) -> None:
    url, hits = listener
    for name in FIELDS:
        field: dict[str, Any] = {name: url}
        assert post(endpoint.url, **field).status_code in {200, 400, 404}
    for name in ("image", "mask"):
        for sent in (url, url.encode()):
            field = {name: sent}
            assert post(endpoint.url, **field).status_code == 400
    for fields in ({"images": [{"image_url": url}]}, {"mask": {"image_url": url}}):
        assert post_json(endpoint.url, json_form(**fields)).status_code == 400
    assert post_json(endpoint.url, json_form(images=[{"image_url": f"data:{url};base64,"}])).status_code == 400
    time.sleep(0.3)
    assert not hits
    httpx2.Client(timeout=0.2)  # the listener itself hears:
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url, timeout=0.2)
    assert wait_for(lambda: hits)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\\b", "x" * 4000, "%00", "ü"])
def test_file_names_mean_nothing(endpoint: Running, name: str) -> None:
    files: Any = {"image": (name, encoded(picture()), "text/html"), "mask": (name, alpha_mask(hole()))}
    response = httpx2.post(endpoint.url + EDITS, data={"prompt": "x"}, files=files, timeout=30)
    assert response.status_code == 200, response.text


def test_json_and_form_are_the_same_request(endpoint: Running) -> None:
    fields: dict[str, Any] = {
        "n": 2,
        "seed": 5,
        "guidance_scale": 2.5,
        "strength": 1,
        "mask_blur": 3,
        "preserve_unmasked": False,
    }
    first = post_json(endpoint.url, json_form(**fields, size="64x64"))
    second = post(endpoint.url, **{**fields, "preserve_unmasked": "false"}, size="64x64")
    assert first.json()["data"] == second.json()["data"]
    one, other = endpoint.backend.requests
    for name in EditRequest.__slots__:
        if name not in {"image_HWC", "repaint_HW", "request_id"}:
            assert getattr(one, name) == getattr(other, name), name
    assert np.array_equal(one.image_HWC, other.image_HWC)
    assert np.array_equal(one.repaint_HW, other.repaint_HW)
    assert (one.guidance_scale, one.mask_blur, one.preserve_unmasked) == (2.5, 3, False)


def test_json_seeds_and_numbers(endpoint: Running) -> None:
    big = 2**63 - 1
    body = json.dumps(json_form(seeds=[0])).replace("[0]", f"[{big}.0, 1e3, 9.1e18]")  # JSON Schema's integers
    response = post_json(endpoint.url, body)
    assert [data["seed"] for data in response.json()["data"]] == [big, 1000, 9_100_000_000_000_000_000]
    response = post_json(endpoint.url, json_form(seeds=[big, 1], mask=data_url(alpha_mask(hole()), "x/y")))
    assert [data["seed"] for data in response.json()["data"]] == [big, 1]
    assert len(post_json(endpoint.url, json_form(n=2.0)).json()["data"]) == 2  # in JSON, 2.0 is 2


def test_what_is_left_out_is_the_models(endpoint: Running) -> None:
    post(endpoint.url)
    (request,) = endpoint.backend.requests
    assert (request.guidance_scale, request.strength, request.negative_prompt, request.scheduler) == (None,) * 4
    assert request.num_inference_steps == 12  # the default of the configured model
    assert (request.priority, request.timeout_s, request.prompt_overflow) == ("interactive", 300, "error")
    assert 0 <= request.seeds[0] < 2**32


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 15), ("medium", 30), ("standard", 30), ("high", 50), ("auto", 12)]
)
def test_quality_is_steps(endpoint: Running, quality: str, steps: int) -> None:
    response = post(endpoint.url, quality=quality)
    assert endpoint.backend.requests[-1].num_inference_steps == steps
    expected = {15: "low", 30: "medium", 50: "high", 12: "low"}[steps]
    assert response.json()["quality"] == expected
    assert response.headers["x-raygen-steps"] == str(steps)


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"seed": 2**32 - 1, "n": 2}, (2**32 - 1, 2**32)),
        ({"seed": 2**63 - 1}, (2**63 - 1,)),
        ({"seeds": [2**63 - 1, 0]}, (2**63 - 1, 0)),
        ({"seed": 2**63 - 1, "n": 2}, "seed is 9223372036854775807 and n 2"),
        ({"seed": -1}, "seed is -1"),
        ({"seeds": [2**63]}, "seeds are"),
        ({"seeds": []}, "seeds are"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_seeds_of_the_python_client(endpoint: Running, fields: dict[str, Any], seeds: tuple[int, ...] | str) -> None:
    asked = {"image": picture(), "mask": hole(), "prompt": "a", **fields}
    if isinstance(seeds, str):
        with pytest.raises(EndpointError, match=seeds) as error:
            asyncio.run(Client(endpoint.url).edit(**asked))
        assert error.value.code == "out_of_range"
    else:
        assert asyncio.run(Client(endpoint.url).edit(**asked)).seeds == seeds


def test_seeds(endpoint: Running) -> None:
    response = post(endpoint.url, n=2, seed=2**32 - 2)
    assert [data["seed"] for data in response.json()["data"]] == [2**32 - 2, 2**32 - 1]
    assert response.headers["x-raygen-seed"] == f"{2**32 - 2},{2**32 - 1}"
    drawn = {post(endpoint.url, seed=-1).json()["data"][0]["seed"] for _ in range(5)}
    assert len(drawn) == 5
    again = drawn.pop()
    assert (images_of(post(endpoint.url, seed=again))[0][hole()] == colour_of(again)).all()


def test_the_200_body(endpoint: Running) -> None:
    body = post(endpoint.url, prompt="two words", n=2, seed=1, input_fidelity="high").json()
    assert {*body} == {
        "created", "size", "output_format", "background", "quality", "data", "mask", "usage", "provenance", "warnings",
    }  # fmt: skip
    assert body["usage"] == {
        "input_tokens": 2,
        "output_tokens": 2,
        "total_tokens": 4,
        "input_tokens_details": {"text_tokens": 2, "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 2},
    }
    assert body["provenance"]["model"] == "tiny"
    assert len(body["warnings"]) == 1
    assert "input_fidelity" in body["warnings"][0]


def test_the_wire_of_our_own_client(endpoint: Running) -> None:
    request = EditRequest(
        image_HWC=picture(),
        repaint_HW=hole(),
        prompt="a bird",
        seeds=(2**62, 3),
        num_inference_steps=4,
        guidance_scale=2.0,
        strength=0.5,
        negative_prompt="",
        scheduler="DDIMScheduler",
        preserve_unmasked=False,
        mask_blur=3,
        padding_mask_crop=5,
        prompt_overflow="truncate",
        literal_tokens=True,
        priority="interactive",
        timeout_s=77.0,
        request_id="mine",
    )
    unset = {field.name for field in dataclasses.fields(request) if getattr(request, field.name) is field.default}
    assert unset == {"num_partial_images"}, "each field is to be seen going over, but previews, which are for streams"
    data, files = form_of(request, "tiny")
    response = httpx2.post(endpoint.url + EDITS, data=data, files=files, headers=headers_of(request, None), timeout=30)
    assert response.headers["x-request-id"] == "mine"
    result = result_of(response.json(), response.headers, request)
    assert [image.seed for image in result.images] == [2**62, 3]
    assert result.num_inference_steps == 4
    (got,) = endpoint.backend.requests
    for name in EditRequest.__slots__:
        if name not in {"image_HWC", "repaint_HW"}:
            assert getattr(got, name) == getattr(request, name), name
    assert np.array_equal(got.image_HWC, request.image_HWC)
    assert np.array_equal(got.repaint_HW, request.repaint_HW)


def test_flagged_pictures(endpoint: Running) -> None:
    endpoint.backend.flagged = {1}
    data = post(endpoint.url, n=2, seed=0).json()["data"]
    assert [(item["flagged"], item["b64_json"] is None) for item in data] == [(False, False), (True, True)]
    for accept in ("application/json", "image/png"):
        response = post(endpoint.url, seed=1, headers={"accept": accept})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "content_policy_violation")
    events = post(endpoint.url, seed=1, stream="true").text
    assert "event: error" in events
    assert "content_policy_violation" in events


@pytest.mark.parametrize(
    ("fields", "headers", "code"),
    [
        ({"n": 2}, {"accept": "image/png"}, "not_acceptable"),
        ({"stream": "true"}, {"accept": "image/png"}, "not_acceptable"),
        ({"output_format": "jpeg"}, {"accept": "image/png"}, "not_acceptable"),
        ({}, {"accept": "image/gif"}, "not_acceptable"),
        ({}, {"accept": "image/png", "prefer": "respond-async"}, "not_acceptable"),
        ({"stream": "true"}, {"prefer": "respond-async"}, "conflicting_parameters"),
        ({"stream": "true"}, {"idempotency-key": "k"}, "conflicting_parameters"),
    ],
)
def test_one_answer_has_one_form(endpoint: Running, fields: dict[str, Any], headers: dict[str, str], code: str) -> None:
    response = post(endpoint.url, headers=headers, **fields)
    assert response.json()["error"]["code"] == code
    assert not endpoint.backend.requests


def test_timeouts(endpoint: Running) -> None:
    for headers, seconds in [
        ({}, 300),
        ({"x-raygen-timeout-seconds": "20.5"}, 20.5),
        ({"x-raygen-timeout-seconds": "8.64e4"}, 1800),
        ({"x-request-timeout-seconds": "8.64e4"}, 1800),
        ({"x-raygen-timeout-seconds": "50", "x-request-timeout-seconds": "60"}, 50),
        ({"x-stainless-read-timeout": "40"}, 40),
        ({"x-stainless-read-timeout": "0.1"}, 1),
        ({"x-stainless-read-timeout": "not-given"}, 300),
        ({"x-raygen-timeout-seconds": "50", "x-stainless-read-timeout": "40"}, 40),
        ({"x-stainless-read-timeout": "40", "idempotency-key": "timeouts"}, 300),
    ]:
        assert post(endpoint.url, headers=headers).status_code == 200
        assert endpoint.backend.requests[-1].timeout_s == seconds, headers


@pytest.mark.parametrize(
    ("sent", "within_s"),
    [
        ([], None),
        (["1"], 0.5),
        (["10"], 9),
        (["100"], 98),
        (["0.5"], 0.25),
        (["60", "20"], 18),  # which of two Ray Serve reads is its own business
        (["soon"], None),
        (["-1"], None),
        (["inf", "nan"], None),
    ],
)
def test_how_much_earlier_than_ray_serve_is_answered(sent: list[str], within_s: float | None) -> None:
    assert answer_within_s(Headers(raw=[(b"x-request-timeout-seconds", value.encode()) for value in sent])) == within_s


@pytest.mark.parametrize("stream", ["false", "true"])
def test_with_ray_serves_header_the_answer_comes_before_its_end(endpoint: Running, stream: str) -> None:
    endpoint.backend.delay_s = 30
    start = time.monotonic()
    response = post(endpoint.url, headers={"x-request-timeout-seconds": "1"}, stream=stream)
    assert "deadline_exceeded" in response.text
    assert response.status_code == (504 if stream == "false" else 200)
    assert 0.4 < time.monotonic() - start < 1
    assert endpoint.backend.requests[0].timeout_s < 1
    wait_for(lambda: endpoint.backend.cancelled_at)


def test_a_proxy_of_our_own_hides_the_header_from_ray_serve() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    assert f"{middlewares.__module__}:{middlewares.__name__}" == CALLBACK
    (middleware,) = middlewares()
    wrap: Any = middleware.cls
    sent = [(b"x-request-timeout-seconds", b"5"), (b"accept", b"*/*")]
    ignored: Any = None
    asyncio.run(wrap(app)({"type": "http", "headers": sent}, ignored, ignored))
    assert sorted(scopes[0]["headers"]) == [(b"accept", b"*/*"), (b"x-raygen-timeout-seconds", b"5")]


def test_a_body_that_does_not_come_is_not_waited_for_any_longer(endpoint: Running) -> None:
    head = f"POST {EDITS} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as connection:
        connection.sendall(f"{head}x-request-timeout-seconds: 1\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 504 ")


def test_a_job_has_all_of_its_time(endpoint: Running) -> None:
    headers = {"x-request-timeout-seconds": "20", "prefer": "respond-async"}
    assert post(endpoint.url, headers=headers).status_code == 202
    wait_for(lambda: endpoint.backend.requests)
    assert endpoint.backend.requests[0].timeout_s == 20


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_back_end_that_misses_its_deadline_is_not_waited_for(endpoint: Running, stream: str) -> None:
    endpoint.backend.delay_s = 30
    start = time.monotonic()
    response = post(endpoint.url, headers={"x-raygen-timeout-seconds": "1"}, stream=stream)
    assert "deadline_exceeded" in response.text
    if stream == "false":
        assert (response.status_code, response.headers["x-should-retry"]) == (504, "false")
    assert time.monotonic() - start < 15
    wait_for(lambda: endpoint.backend.cancelled_at)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_lost_client_stops_its_work(endpoint: Running, caplog: pytest.LogCaptureFixture, stream: str) -> None:
    caplog.set_level(logging.INFO)
    endpoint.backend.delay_s = 30
    with pytest.raises(httpx2.TimeoutException):
        post(endpoint.url, timeout_s=1, stream=stream)
    gone = time.monotonic()
    wait_for(lambda: endpoint.backend.cancelled_at)
    assert endpoint.backend.cancelled_at[0] - gone < 0.5
    wait_for(lambda: " 499 " in caplog.text or stream == "true")
    assert "Traceback" not in caplog.text


def test_a_lost_client_does_not_stop_a_job(endpoint: Running) -> None:
    endpoint.backend.delay_s = 1.5
    headers = {"idempotency-key": "lost"}
    fields = {"seed": 3}
    with pytest.raises(httpx2.TimeoutException):
        post(endpoint.url, timeout_s=0.7, headers=headers, **fields)
    assert images_of(post(endpoint.url, headers=headers, **fields))
    assert (len(endpoint.backend.requests), endpoint.backend.num_painted) == (1, 1)


def test_twenty_with_one_key_are_one_generation(endpoint: Running) -> None:
    endpoint.backend.delay_s = 0.5
    answers: list[httpx2.Response] = []
    headers = {"idempotency-key": "twenty"}
    threads = [
        threading.Thread(target=lambda: answers.append(post(endpoint.url, headers=headers, seed=1))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({answer.content for answer in answers}) == 1
    assert endpoint.backend.num_painted == 1
    later = post(endpoint.url, headers=headers, seed=1)
    assert later.content == answers[0].content
    assert later.headers["x-raygen-seed"] == "1"


def test_a_random_seed_with_a_key_is_drawn_once(endpoint: Running) -> None:
    first, second = (post(endpoint.url, headers={"idempotency-key": "drawn"}) for _ in range(2))
    assert first.content == second.content
    assert first.headers["x-raygen-seed"] == second.headers["x-raygen-seed"]
    assert first.headers["x-raygen-seed"] == str(first.json()["data"][0]["seed"])


def test_a_key_with_another_body(endpoint: Running) -> None:
    assert post(endpoint.url, headers={"idempotency-key": "other"}, seed=1).status_code == 200
    changes: list[dict[str, Any]] = [{"seed": 2}, {"image": encoded(picture(5))}, {"seed": 1, "n": 1}]
    for change in changes:
        response = post(endpoint.url, headers={"idempotency-key": "other"}, **{"seed": 1, **change})
        assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_failure_with_a_key_keeps_its_status(endpoint: Running) -> None:
    endpoint.backend.failure = EndpointError("no memory", code="out_of_memory")
    response = post(endpoint.url, headers={"idempotency-key": "failed"})
    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")


def test_a_job(endpoint: Running) -> None:
    endpoint.backend.delay_s = 0.4
    accepted = post(endpoint.url, headers={"prefer": "foo, respond-async; wait=5"}, n=2, seed=8)
    job = accepted.json()
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
    assert accepted.headers["preference-applied"] == "respond-async"
    assert job["status"] in {"queued", "running"}
    assert job["deadline_at"] - job["created_at"] == 300
    url = f"{endpoint.url}/v1/jobs/{job['id']}"
    assert httpx2.get(url).json()["result"] is None
    done = httpx2.get(url, params={"wait": 30}, timeout=40).json()
    assert (done["status"], done["error"]) == ("succeeded", None)
    assert done["result"]["data"] == post(endpoint.url, n=2, seed=8).json()["data"]


def test_a_job_that_fails(endpoint: Running) -> None:
    endpoint.backend.failure = EndpointError("no memory", code="out_of_memory")
    job = post(endpoint.url, headers={"prefer": "respond-async"}).json()
    done = httpx2.get(f"{endpoint.url}/v1/jobs/{job['id']}?wait=20", timeout=30)
    assert done.status_code == 200
    assert (done.json()["status"], done.json()["error"]["code"]) == ("failed", "out_of_memory")


def test_a_job_is_cancelled_by_its_owner_only(
    keyed: Running, edit_key: dict[str, str], other_key: dict[str, str]
) -> None:
    keyed.backend.delay_s = 30
    job = post(keyed.url, headers={**edit_key, "prefer": "respond-async"}).json()
    url = f"{keyed.url}/v1/jobs/{job['id']}"
    assert httpx2.get(url, headers=other_key).json()["error"]["code"] == "job_not_found"
    assert httpx2.post(f"{url}/cancel", headers=other_key).status_code == 404
    wait_for(lambda: keyed.backend.requests)
    assert not keyed.backend.cancelled_at
    assert httpx2.post(f"{url}/cancel", headers=edit_key).json()["status"] == "cancelled"
    assert keyed.backend.cancelled_at
    assert httpx2.get(url, headers=edit_key).json()["status"] == "cancelled"


def test_keys_of_two_callers_are_two(keyed: Running, edit_key: dict[str, str], other_key: dict[str, str]) -> None:
    for seed, caller in enumerate((edit_key, other_key)):
        response = post(keyed.url, headers={**caller, "idempotency-key": "same"}, seed=seed)
        assert response.json()["data"][0]["seed"] == seed


def test_priority(endpoint: Running) -> None:
    post(endpoint.url, headers={"x-raygen-priority": "batch"})
    assert endpoint.backend.requests[-1].priority == "batch"


def test_tokens(endpoint: Running) -> None:
    url = f"{endpoint.url}/v1/tokens"
    stored = httpx2.put(f"{url}/%3Cbird-1%3E", content=token_file(num_vectors=3))
    assert stored.status_code == 201
    token = stored.json()
    assert (token["name"], token["vectors"], token["dim"], token["model"]) == ("<bird-1>", 3, 4, "tiny")
    assert httpx2.get(f"{url}/%3Cbird-1%3E").json() == token
    assert token in httpx2.get(url, params={"model": "tiny"}).json()["data"]
    assert httpx2.delete(f"{url}/%3Cbird-1%3E").status_code == 204
    assert httpx2.get(f"{url}/%3Cbird-1%3E").status_code == 404
    assert httpx2.delete(f"{url}/%3Cbird-1%3E").status_code == 404


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"\x80\x04pickle", {}, 400, "invalid_token"),
        (token_file(num_vectors=65), {}, 400, "invalid_token"),
        (token_file(width=5), {}, 400, "invalid_token"),
        (token_file(value=float("nan")), {}, 400, "invalid_token"),
        (b"", {}, 400, "invalid_token"),
        (token_file(), {"content-type": "application/json"}, 415, "unsupported_media_type"),
        (token_file(), {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"x" * ((16 << 20) + 1), {}, 413, "request_too_large"),
    ],
)
def test_tokens_that_are_refused(
    endpoint: Running, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx2.put(f"{endpoint.url}/v1/tokens/%3Cbad%3E", content=content, headers=headers, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert httpx2.get(f"{endpoint.url}/v1/tokens/%3Cbad%3E").status_code == 404


def test_what_is_not_ready_says_why(tmp_path: Path) -> None:
    with running(tmp_path) as server:  # one that was never asked
        server.backend.reason = "stuck"
        paths = ("/health/ready", "/v2/health/ready", "/v2/models/tiny/ready")
        for response in [httpx2.get(server.url + path) for path in paths]:
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert "stuck" in response.json()["reason"]
            assert response.json()["error"]["code"] == "service_unavailable"
        assert server.backend.num_probes == 1
        assert httpx2.get(f"{server.url}/health/live").status_code == 200


def test_readiness_is_asked_once_for_many_and_again_after_a_while(tmp_path: Path) -> None:
    async def body() -> None:
        backend = PaintBackend(ServeConfig(tokens_folder=tmp_path))
        readiness = Readiness(backend, kept_s=0.2)
        assert await asyncio.gather(*[readiness.why_not("tiny") for _ in range(50)]) == [None] * 50
        assert backend.num_probes == 1
        backend.reason = "stuck"
        await asyncio.sleep(0.3)
        assert await readiness.why_not("tiny") == "stuck"
        assert backend.num_probes == 2

    asyncio.run(body())


# One of each kind.
CAPABILITIES = {
    "prompt": {"kind": "text", "low": 0, "high": 32_000, "is_exclusive": False},
    "seed": {"kind": "int", "default": -1, "low": -1, "high": 2**32 - 1, "is_exclusive": False},
    "strength": {"kind": "number", "low": 0, "high": 1, "is_exclusive": True},
    "stream": {"kind": "bool", "default": False},
    "size": {"kind": "size", "default": "auto"},
    "seeds": {"kind": "seeds"},
    "output_format": {"kind": "enum", "default": "png", "choices": ["png", "jpeg", "webp"]},
    "input_fidelity": {"kind": "enum", "choices": ["low", "high"]},
}


def test_capabilities_hold_every_field_and_limit(endpoint: Running) -> None:
    body = httpx2.get(f"{endpoint.url}/v1/capabilities").json()
    assert {*body["fields"]} == {*FIELDS}
    for name, expected in CAPABILITIES.items():
        assert body["fields"][name] == expected
    assert body["limits"]["max_file_bytes"] == 20 << 20
    assert {"max_body_bytes", "body_silence_s", "max_side_px", "max_num_images", "min_timeout_s"} <= {*body["limits"]}
    assert "DDIMScheduler" in body["schedulers"]
    assert body["models"]["tiny"]["defaults"]["num_inference_steps"] == 12


@pytest.mark.parametrize("given", ["abc-1.2_3:4", "x" * 128])
def test_a_request_id_comes_back(endpoint: Running, given: str) -> None:
    for response in (
        post(endpoint.url, headers={"x-request-id": given}),
        httpx2.get(f"{endpoint.url}/nope", headers={"x-request-id": given}),
    ):
        assert response.headers["x-request-id"] == given
    assert endpoint.backend.requests[-1].request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b"])
def test_another_request_id_is_replaced(endpoint: Running, given: str) -> None:
    got = httpx2.get(f"{endpoint.url}/v1/models", headers={"x-request-id": given}).headers["x-request-id"]
    assert got != given
    assert got.startswith("req_")


def test_the_log_holds_neither_prompt_nor_user_nor_key(
    keyed: Running, edit_key: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fields: dict[str, Any] = {
        "prompt": "zebrafinch",
        "negative_prompt": "ostrich",
        "user": "alice@example.com",
        "seed": 4711,
    }
    response = post(keyed.url, headers=edit_key, **fields)
    line = wait_for(lambda: [r.getMessage() for r in caplog.records if r.name == "serve.access"])[0]
    for part in (response.headers["x-request-id"], EDITS, " 200 ", "4711", '"user"'):
        assert part in line
    for secret in ("zebrafinch", "ostrich", "alice", "rg_edit"):
        assert secret not in caplog.text


def test_metrics(endpoint: Running) -> None:
    labels = (("code", "400"), ("model", ""), ("route", EDITS))
    before = endpoint.metrics.values["raygen_requests_total", labels]
    post(endpoint.url, prompt=None)
    wait_for(lambda: endpoint.metrics.values["raygen_requests_total", labels] == before + 1)
    post(endpoint.url)
    assert endpoint.metrics.observed["raygen_encode_seconds", (("format", "png"),)]


def test_bodies_are_bounded_in_number(endpoint: Running) -> None:
    head = f"POST {EDITS} HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=b\r\n".encode()
    open_ones = [socket.create_connection(("127.0.0.1", endpoint.port)) for _ in range(MAX_BODIES_AT_ONCE)]
    try:
        for connection in open_ones:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n--b\r\n")
        response = wait_for(lambda: (r := post(endpoint.url)).status_code == 503 and r)
        assert response.json()["error"]["code"] == "server_is_overloaded"
        assert response.headers["retry-after"]
    finally:
        for connection in open_ones:
            connection.close()
    wait_for(lambda: post(endpoint.url).status_code == 200)


def test_a_bug_in_the_middle_of_a_stream_is_an_event_and_tells_nothing(
    endpoint: Running, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.backend.failure = ValueError("zebrafinch")
    endpoint.backend.failure_after = 1
    text = post(endpoint.url, stream="true", n=2).text
    assert text.count("event: image_edit.completed") == 1
    error = json.loads(text.rpartition("event: error\ndata: ")[2])["error"]
    assert (error["code"], error["param"]) == ("internal_error", None)
    assert "zebrafinch" not in text + caplog.text


def test_a_stream_that_is_refused_has_a_status(endpoint: Running) -> None:
    endpoint.backend.failure = EndpointError("full", code="server_is_overloaded", retry_after_s=3)
    response = post(endpoint.url, stream="true")
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json()["error"]["code"] == "server_is_overloaded"


def test_form_helper_is_a_good_form(endpoint: Running) -> None:
    """All refusals of these tests start from this form: it must not be refused itself."""
    assert httpx2.post(endpoint.url + EDITS, **form(), timeout=30).status_code == 200
