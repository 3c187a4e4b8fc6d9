"""The endpoint on real Ray Serve: HTTP and handles paint the same, a killed replica loses nothing."""

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import ray
from openai import AsyncOpenAI
from paint_backend import wait_for
from PIL import Image
from ray import serve as ray_serve
from ray.serve._private.constants import SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.endpoint.connect import connect_endpoint
from raygen.endpoint.retry import ask_blocking
from raygen.errors import ConfigError, EndpointError
from raygen.images import encode_image, encode_mask
from raygen.stages.inpaint import InpaintStage
from raygen.stages.spec import Batch, object_column
from raygen.storage.parts import read_parts
from serve.address import check_host
from serve.app import build_app
from serve.client import Client, request_hash
from serve.http.headers import RAY_TIMEOUT_HEADER
from serve.metrics import METRICS

SIDE, STEPS = 64, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model"), scheduler="dpm")


@pytest.fixture(scope="module")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models and two ingresses."""
    inpainter = {"model": str(model), "num_inference_steps": STEPS, "guidance_scale": 2.0}
    return {
        "models": [{"id": "m", "inpainter": inpainter, "num_cpus": 0.5}, {"id": "tiny", "num_cpus": 0.25}],
        "tokens_folder": str(tmp_path_factory.mktemp("tokens")),
    }


@pytest.fixture(scope="module")
def url(ray_session: None, settings: dict[str, Any]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(build_app(settings), name="raygen", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    ray_serve.shutdown()


@pytest.fixture
def handle(url: str) -> Any:
    return ray_serve.get_deployment_handle("engine", "raygen")


def arguments(seed: int, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[16:48, 8:40] = True
    image_HWC = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    return {"image": image_HWC, "mask": mask_HW, "prompt": "a bird", "seed": seed, **changes}


def replicas(deployment: str) -> list[psutil.Process]:
    """Processes of this test's own Ray, which are its descendants: another endpoint may run on this machine."""
    name = f"ServeReplica:raygen:{deployment}"
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if name in " ".join(process.cmdline()) else []
    return found


def test_http_and_handle_paint_the_same_whatever_goes_on_beside(url: str, handle: Any) -> None:
    async def body() -> None:
        over_http, over_handle = Client(url), Client(handle)
        first = await over_http.edit(**arguments(5), n=2)
        mates = [asyncio.create_task(over_http.edit(**arguments(i), num_inference_steps=i + 1)) for i in range(4)]
        second = await over_handle.edit(**arguments(5), n=2)
        await asyncio.gather(*mates)
        assert np.array_equal(first.images, second.images)
        assert first.seeds == second.seeds == (5, 6)
        assert first.provenance == second.provenance
        assert first.request_hash == second.request_hash
        outside_HW = ~arguments(5)["mask"]
        assert np.array_equal(first.images[0][outside_HW], arguments(5)["image"][outside_HW])

    asyncio.run(body())


def test_errors_reach_both_kinds_of_clients_alike(url: str, handle: Any) -> None:
    async def body() -> None:
        for client in (Client(url), Client(handle)):
            with pytest.raises(EndpointError) as error:
                await client.edit(**arguments(1, prompt="x" * 40))
            assert (error.value.code, error.value.param, error.value.retryable) == ("prompt_too_long", "prompt", False)

    asyncio.run(body())


def test_map_is_bounded_ordered_and_goes_on_where_it_was(url: str, handle: Any) -> None:
    drawn: list[int] = []

    def requests() -> Iterator[dict[str, Any]]:
        for i in range(8):
            drawn.append(i)
            yield arguments(i, key=str(i))

    client = Client(handle)
    results = client.map(requests(), in_flight=2, ordered=True)
    first = next(results)
    assert first.key == "0"
    assert len(drawn) <= 5  # two under way, one handed over, one waiting to be, one being read
    rest = list(results)
    assert [edit.key for edit in rest] == [str(i) for i in range(1, 8)]
    done = {edit.request_hash for edit in [first, *rest[:3]]}
    again = list(Client(url).map(requests(), finished=done))
    assert sorted(edit.key or "" for edit in again) == ["4", "5", "6", "7"]
    by_key = {edit.key: edit for edit in rest}
    assert all(np.array_equal(edit.images, by_key[edit.key].images) for edit in again)


def test_map_stops_at_the_first_error_and_leaves_nothing_behind(url: str, handle: Any) -> None:
    requests = [arguments(0), arguments(1, prompt="x" * 40), arguments(2)]
    with pytest.raises(EndpointError, match="prompt"):
        list(Client(handle).map(requests, in_flight=1, ordered=True))
    results = Client(handle).map((arguments(i) for i in range(100)), in_flight=2)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert not [thread for thread in threading.enumerate() if thread.name == "raygen-map"]


@pytest.mark.parametrize("over", ["http", "handle"])
def test_cancelling_a_call_frees_its_rows(over: str, url: str, handle: Any) -> None:
    """Six thousand steps, which would take far longer than the wait for them to be gone."""

    async def wait_for(num_requests: int) -> None:
        async with asyncio.timeout(5):
            while await handle.num_requests.remote() != num_requests:
                await asyncio.sleep(0.01)

    async def ask_and_leave() -> None:
        client = Client(url if over == "http" else handle)
        calls = [client.edit(**arguments(i, n=10, num_inference_steps=150)) for i in range(4)]
        tasks = [asyncio.create_task(call) for call in calls]
        await wait_for(4)
        for task in tasks:
            task.cancel()
        await wait_for(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask_and_leave())


def test_the_error_of_a_deadline_is_ours_whichever_header_tells_it(url: str) -> None:
    """Ray Serve's proxy obeys the second one itself: plain text with status 408, and streams that end in the middle."""
    request = arguments(3)
    files = {"image": encode_image(request["image"]), "mask": encode_mask(request["mask"])}
    fields = {"prompt": "a bird", "mask_mode": "luminance", "n": "10", "num_inference_steps": "150"}
    with httpx2.Client(base_url=url, timeout=60) as client:
        job = client.post("/v1/images/edits", data=fields, files=files, headers={"prefer": "respond-async"}).json()
        for name in ("x-raygen-timeout-seconds", "x-request-timeout-seconds"):
            headers = {name: "1", "x-request-id": "mine"}
            late = client.post("/v1/images/edits", data=fields, files=files, headers=headers)
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded"), name
            assert late.headers["x-should-retry"] == "false"
            assert late.headers.get_list("x-request-id") == ["mine"]
            streamed = client.post("/v1/images/edits", data={**fields, "stream": "true"}, files=files, headers=headers)
            assert streamed.status_code == 200
            last = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
            assert last["error"]["code"] == "deadline_exceeded", name
        waited = client.get(f"/v1/jobs/{job['id']}?wait=30", headers={"x-request-timeout-seconds": "1"})
        assert (waited.status_code, waited.json()["error"]["code"]) == (504, "deadline_exceeded")
        client.post(f"/v1/jobs/{job['id']}/cancel")
        assert RAY_TIMEOUT_HEADER == SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER


def test_health_and_models_and_unknown_paths(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=30) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert ready.status_code == 200, ready.text
        entry, other = client.get("/v1/models").json()["data"]
        assert (entry["id"], other["id"]) == ("m", "tiny")
        assert entry["digest"].startswith("sha256:")
        missing = client.get("/nope")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "not_found"


def batch(num_rows: int) -> Batch:
    rows = [arguments(i) for i in range(num_rows)]
    return {
        "key": object_column([f"k{i}" for i in range(num_rows)]),
        "image_id": object_column([f"i{i}" for i in range(num_rows)]),
        # 75 px: both sides have to bring it to the model's 64 px and back.
        "image_png": object_column(
            [encode_image(np.asarray(Image.fromarray(row["image"]).resize((75, 75)))) for row in rows]
        ),
        "repaint_png": object_column([encode_mask(np.pad(row["mask"], ((0, 11), (0, 11)))) for row in rows]),
        "prompt": object_column(["a bird"] * (num_rows - 1) + ["x" * 40]),
        "seed": np.array([2**62 + i for i in range(num_rows)]),
        "status": object_column(["ok"] * num_rows),
        "error": object_column([None] * num_rows),
    }


@pytest.mark.parametrize("scheme", ["http", "serve"])
def test_a_pool_that_asks_the_endpoint_paints_what_its_own_model_would(url: str, model: Path, scheme: str) -> None:
    sampling = {"num_inference_steps": 3, "guidance_scale": 3.0, "resolution_px": 64}
    own = InpaintStage(inpainter={"model": str(model), **sampling}, num_rows=1, device="cpu")(batch(4))
    address = url if scheme == "http" else "serve://raygen/engine"
    config = {"kind": "served", "url": address, "model": "m", **sampling}
    asked = InpaintStage(inpainter=config, num_rows=1, device="cpu", connect=connect_endpoint)(batch(4))
    for result in (own, asked):
        assert result["status"].tolist() == ["ok"] * 3 + ["failed"]
    pixels = [
        [np.asarray(Image.open(io.BytesIO(data))).tobytes() for data in result["generated_png"][:3]]
        for result in (own, asked)
    ]
    assert pixels[0] == pixels[1]
    for column in ("model_revision", "unet_rows"):
        assert own[column].tolist() == asked[column].tolist()


def test_an_endpoint_that_is_not_there_is_named(ray_session: None) -> None:
    with pytest.raises(EndpointError, match="does not answer"):
        ask_blocking(connect_endpoint("http://127.0.0.1:9").facts, "m")
    with pytest.raises(ConfigError, match="serve://raygen/nothing: no such deployment"):
        connect_endpoint("serve://raygen/nothing")


def test_a_killed_replica_loses_no_request_and_changes_no_byte(url: str, handle: Any) -> None:
    asked = [arguments(i, num_inference_steps=30) for i in range(12)]

    async def all_of_them() -> list[np.ndarray]:
        over_http, over_handle = Client(url), Client(handle)
        edits = [(over_http, over_handle)[i % 2].edit(**request) for i, request in enumerate(asked)]
        return [edit.images for edit in await asyncio.gather(*edits)]

    expected = asyncio.run(all_of_them())
    victims = replicas("engine")
    assert victims

    def kill() -> None:
        time.sleep(0.3)
        os.kill(victims[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    images = asyncio.run(all_of_them())
    killer.join()
    assert not psutil.pid_exists(victims[0].pid) or victims[0].status() == psutil.STATUS_ZOMBIE
    assert all(np.array_equal(*pair) for pair in zip(images, expected, strict=True))


async def under_load(url: str, event: Callable[[], Any], *, max_retries: int) -> None:
    """Forty requests by the openai client, with an event in the middle: all are answered, all with the same bytes."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=max_retries, timeout=120)

    async def paint(seed: int) -> str:
        request = arguments(seed % 5)
        result = await client.images.edit(
            image=encode_image(request["image"]),
            mask=encode_mask(request["mask"]),
            prompt="a bird",
            extra_body={"seed": seed % 5, "mask_mode": "luminance", "num_inference_steps": 20},
        )
        return str((result.data or [])[0].b64_json)

    expected = [await paint(seed) for seed in range(5)]
    tasks = []
    for seed in range(40):
        tasks.append(asyncio.create_task(paint(seed)))
        await asyncio.sleep(0.15)
        if seed == 10:
            happening = asyncio.create_task(asyncio.to_thread(event))
    assert await asyncio.gather(*tasks) == expected * 8
    await happening
    await client.close()


@pytest.mark.slow
def test_a_killed_ingress_loses_nothing_for_a_client_that_repeats(url: str) -> None:
    (victim, _) = replicas("ingress")
    asyncio.run(under_load(url, lambda: os.kill(victim.pid, signal.SIGKILL), max_retries=2))
    assert victim.pid not in {process.pid for process in replicas("ingress")}


@pytest.mark.slow
def test_deploying_anew_loses_nothing(url: str, settings: dict[str, Any]) -> None:
    before = {process.pid for process in replicas("engine")}
    first, *others = settings["models"]
    changed = {**settings, "models": [{**first, "max_queue": 33}, *others]}
    asyncio.run(under_load(url, lambda: ray_serve.run(build_app(changed), name="raygen"), max_retries=0))
    assert not before <= {process.pid for process in replicas("engine")}


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "learns"), [("http", False), ("serve", False), ("http", True), ("serve", True)])
def test_a_run_through_the_endpoint_has_the_candidates_of_a_run_with_its_own_pool(
    url: str, tmp_path: Path, scheme: str, learns: bool
) -> None:
    address = {"http": url, "serve": "serve://raygen/engine-tiny"}[scheme]
    pools = {name: {"num_cpus": 0.25} for name in ("scorer", "masker", "inpainter", "pruner")}
    pools["inpainter"] |= {"batch_size": 1}
    data = {
        "recipe": "dbb",
        "dataset": {"name": "scenes", "train_counts": [60, 6, 6, 30], "val_counts": [5] * 4, "test_counts": [5] * 4},
        "erm": {"epochs": 1},
        "algorithm": {"epochs": 1},
        "synthesis": {"k": 4, "source_probability_test": "off"},
        "inpainter": {"num_inference_steps": 3},
        "pools": pools,
        "fit": {"num_cpus": 1},
        "controls": [],
        "unit_rows": 4,
    }
    if learns:
        few = {"num_images": 4, "num_steps": 2, "batch_size": 2, "learning_rate": 0.1}
        data["textual_inversion"] = {**few, "words": "bird", "model": "tiny"}
    own = recipes.make_config(data, [], where="test")
    served = recipes.make_config(data, ["inpainter.kind=served", f"inpainter.url={address}"], where="test")
    tables = []
    for name, config in (("own", own), ("served", served)):
        recipes.run(config, tmp_path / name, fresh=False, command="test", say=lambda line: None)
        tables.append(read_parts(tmp_path / name / "candidates"))
    assert tables[0].num_rows == 8
    assert {"<landbird>" in prompt for prompt in tables[0]["prompt"].to_pylist()} == (
        {True, False} if learns else {False}
    )
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_a_model_that_nobody_asks_for_is_unloaded_and_loaded_again(
    url: str, settings: dict[str, Any], model: Path
) -> None:
    """Ray Serve has had releases that started one replica all the same, or never took the last one down."""

    def num_replicas() -> int:
        return sum(ray_serve.status().applications["zero"].deployments["engine"].replica_states.values())

    entry = {**settings["models"][0], "num_cpus": 0.25, "min_replicas": 0, "downscale_to_zero_delay_s": 2}
    ray_serve.run(build_app({**settings, "models": [entry], "num_ingress": 1}), name="zero", route_prefix="/zero")
    try:
        assert num_replicas() == 0
        # Whether it could be loaded is not asked: that would load it.
        assert httpx2.get(f"{url}/zero/health/ready", timeout=30).status_code == 200
        assert httpx2.get(f"{url}/zero/v1/models", timeout=30).json()["data"][0]["digest"]
        assert num_replicas() == 0
        images = []
        for _ in range(2):
            images.append(asyncio.run(Client(f"{url}/zero").edit(**arguments(5))).images)
            assert num_replicas() == 1
            wait_for(lambda: num_replicas() == 0, timeout_s=150)
        assert np.array_equal(images[0], images[1])
    finally:
        ray_serve.delete("zero")


def test_a_job_outlives_its_caller_and_is_joined_by_its_key(url: str) -> None:
    request = arguments(3)
    files = {"image": encode_image(request["image"]), "mask": encode_mask(request["mask"])}
    fields = {"prompt": "a bird", "seed": "3", "mask_mode": "luminance"}
    with httpx2.Client(base_url=url, timeout=60) as client:
        headers = {"prefer": "respond-async", "idempotency-key": "one"}
        started = client.post("/v1/images/edits", data=fields, files=files, headers=headers)
        assert started.status_code == 202, started.text
        job = client.get(f"/v1/jobs/{started.json()['id']}", params={"wait": 30}).json()
        assert job["status"] == "succeeded"
        again = client.post("/v1/images/edits", data=fields, files=files, headers={"idempotency-key": "one"})
        assert again.status_code == 200
        assert job["result"]["data"][0]["b64_json"] == again.json()["data"][0]["b64_json"]
        assert base64.b64decode(again.json()["data"][0]["b64_json"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org"])
def test_any_other_address_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="raygen key NAME"):
        check_host(host)


def test_a_wrong_config_is_refused_with_the_field(model: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'min_replicas'"):
        build_app({"models": [{"id": "m", "min_replica": 2}]})
    with pytest.raises(ConfigError, match="same id"):
        build_app({"models": [{"id": "m"}, {"id": "m"}]})


def test_request_hash_names_what_decides_the_pixels() -> None:
    from raygen.endpoint.edits import EditRequest

    def named(**changes: Any) -> str:
        image_HWC = np.zeros((4, 4, 3), np.uint8)
        base = {"image_HWC": image_HWC, "repaint_HW": np.ones((4, 4), bool), "prompt": "a", "seeds": (1,)}
        return request_hash(EditRequest(**{**base, **changes}))

    assert named() == named(priority="interactive") == named(timeout_s=3.0)
    assert len({named(), named(prompt="b"), named(seeds=(2,)), named(image_HWC=np.ones((4, 4, 3), np.uint8))}) == 4


def test_the_metrics_are_on_rays_port_under_their_names(url: str) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(Client(url).edit(**arguments(1), num_inference_steps=150))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(give_up())
    asyncio.run(Client(url).edit(**arguments(1)))
    with httpx2.Client(base_url=url) as client:
        client.get("/nope")
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    # Counters that nothing has happened for are not exported.
    wanted = METRICS.keys() - {"raygen_oom_total", "raygen_nonfinite_total", "raygen_redispatch_total"}
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        lines = httpx2.get(address, timeout=20).text.splitlines()
        found = {name for name in METRICS if any(line.startswith(f"ray_{name}") for line in lines)}
        requests = [line for line in lines if line.startswith("ray_raygen_requests_total")]
        if wanted <= found and any('code="404"' in line for line in requests):  # the last that was asked for
            break
        time.sleep(1)
    assert wanted <= found, wanted - found
    assert any('code="200"' in line and 'model="m"' in line for line in requests)
    assert any('code="404"' in line for line in requests)
