"""The endpoint against the bare model: what HTTP, the queue, deaths and neighbours cost. Ratios, measured in one run.

Starts the endpoint on this machine with the model that ships with raygen, drives it over loopback and through a handle,
checks every picture that comes back against the same request painted alone, and prints one line a ratio.

    python benchmarks/serving.py                     # about fourteen minutes on two cores
    python benchmarks/serving.py --only R1 R6
"""

import argparse
import asyncio
import base64
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx2
import numpy as np
import psutil
import ray
from openai import AsyncOpenAI
from ray import serve as ray_serve

from raygen import cluster
from raygen.datasets.scene_rendering import render_scene
from raygen.errors import EndpointError
from raygen.images import decode_image, encode_image, encode_mask
from raygen.inpainters import InpainterConfig
from raygen.maskers.truth import dilate
from serve.app import build_app
from serve.client import Client, Edit

STEPS = 30
PROMPT = "a photo of a landbird"
BARE = """
import sys, time, torch, numpy as np
from PIL import Image
from diffusers import StableDiffusionInpaintPipeline
from raygen.model_files import find_model
torch.set_num_threads(1)
folder = find_model("tiny", tiny="weights").name
pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
side, steps = map(int, sys.argv[1:])
image = Image.fromarray(np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8))
mask = Image.new("L", (side, side)); mask.paste(255, (side // 4, side // 4, side // 2, side // 2))
for line in sys.stdin:
    start = time.perf_counter()
    pipe(prompt="a photo of a landbird", image=image, mask_image=mask, height=side, width=side,
         num_inference_steps=steps, guidance_scale=3.0, generator=torch.Generator().manual_seed(int(line)))
    print(time.perf_counter() - start, flush=True)
"""


class Bench:
    """A running endpoint and what its requests should give.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.handle = ray_serve.get_deployment_handle("engine", "raygen")
        self.http = Client(self.url, patience_s=0)
        self.direct = Client(self.handle, patience_s=0)
        self._alone: dict[tuple[int, int, int], bytes] = {}
        self.num_checked = 0

    def request(self, seed: int, *, steps: int = STEPS, side: int = 64) -> dict[str, Any]:
        """Arguments of `Client.edit`."""
        image_HWC, mask_HW = picture(seed % 7, side)
        return {"image": image_HWC, "mask": mask_HW, "prompt": PROMPT, "seed": seed, "num_inference_steps": steps}

    async def learn(self, seeds: range, *, steps: int = STEPS) -> None:
        """Paints requests alone, one after the other: what they must give ever after."""
        for seed in seeds:
            if (seed, steps, 64) not in self._alone:
                edit = await self.direct.edit(**self.request(seed, steps=steps))
                self._alone[seed, steps, 64] = edit.images.tobytes()

    def alone(self, seed: int) -> bytes:
        """What a request that was learned must give."""
        return self._alone[seed, STEPS, 64]

    async def edit(self, client: Client, seed: int, *, steps: int = STEPS, side: int = 64, **options: Any) -> float:
        """Seconds of one request whose picture is right.

        Raises:
            AssertionError: Another picture than alone.
        """
        start = time.perf_counter()
        edit: Edit = await client.edit(**self.request(seed, steps=steps, side=side), **options)
        seconds = time.perf_counter() - start
        expected = self._alone.get((seed, steps, side))
        assert expected in (None, edit.images.tobytes()), f"seed {seed}: another picture than alone"
        self.num_checked += expected is not None
        return seconds


class BarePipeline:
    """The bare diffusers pipeline in a process of its own, idle between two calls.

    Args:
        side: Of its pictures, in px.
    """

    def __init__(self, side: int) -> None:
        command = [sys.executable, "-c", BARE, str(side), str(STEPS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        for seed in range(2):  # the first calls are slower
            self.paint(seed)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def paint(self, seed: int) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(seed, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def picture(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene and its repaint mask, tiled to a size."""
    scene = render_scene(number, label=1, attribute=1)
    mask_HW = dilate(scene.object_HW | scene.counterpart_HW, radius_px=4)
    times = side // 64
    return np.tile(scene.image_HWC, (times, times, 1)), np.tile(mask_HW, (times, times))


async def r1(bench: Bench) -> str:
    """R1: seconds of a request over HTTP and over a handle / of the bare diffusers pipeline (medians, in turn)."""
    lines = []
    for side, rounds in ((64, 30), (256, 6)):
        bare, http, handle = list[float](), list[float](), list[float]()
        with BarePipeline(side) as pipeline:
            for seed in range(rounds):
                bare.append(await asyncio.to_thread(pipeline.paint, seed))
                for client, seconds in ((bench.http, http), (bench.direct, handle)):
                    start = time.perf_counter()
                    await client.edit(**bench.request(seed, side=side), guidance_scale=3.0)
                    seconds.append(time.perf_counter() - start)
        parts = []
        for name, seconds in (("HTTP", http), ("handle", handle)):
            ratio = statistics.median(one / other for one, other in zip(seconds, bare, strict=True))
            parts.append(
                f"{name} {ratio:.2f} ({1000 * (statistics.median(seconds) - statistics.median(bare)):+.0f} ms)"
            )
        spread = f"{1000 * min(bare):.0f} to {1000 * max(bare):.0f} ms"
        lines.append(f"{side} px, bare {1000 * statistics.median(bare):.0f} ms ({spread}): {', '.join(parts)}")
    return "; ".join(lines)


async def r2(bench: Bench) -> str:
    """R2: saturated throughput / that of the bare pipeline, picture after picture (in turn, four times each)."""
    lines = []
    for side, num_bare, num_requests in ((64, 15, 30), (256, 2, 5)):
        bare, rates = [], []
        with BarePipeline(side) as pipeline:
            for _ in range(4):
                seconds = [await asyncio.to_thread(pipeline.paint, seed) for seed in range(num_bare)]
                bare.append(1 / statistics.mean(seconds))
                rates.append(await closed_loop(bench, num_clients=6, num_requests=num_requests, side=side))
        ratios = [rate / other for rate, other in zip(rates, bare, strict=True)]
        pair = f"{statistics.mean(rates):.2f} against {statistics.mean(bare):.2f} pictures a second"
        lines.append(f"{side} px {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; {pair})")
    return "; ".join(lines)


async def r3_r4(bench: Bench) -> str:
    """R3, R4: goodput at twice the load that saturates / at saturation; slowest accepted / what the queue explains."""
    saturated = await closed_loop(bench, num_clients=6, num_requests=40)
    num, gap_s = 160, 1 / (2 * saturated)
    accepted: list[float] = []
    refused: list[float] = []

    async def one(i: int) -> None:
        start = time.perf_counter()
        try:
            accepted.append(await bench.edit(bench.http, i % 40))
        except EndpointError as error:
            if error.code != "server_is_overloaded":
                raise
            refused.append(time.perf_counter() - start)

    start = time.perf_counter()
    tasks = []
    for i in range(num):
        tasks.append(asyncio.create_task(one(i)))
        await asyncio.sleep(max(0.0, start + (i + 1) * gap_s - time.perf_counter()))
    offered_s = time.perf_counter() - start
    await asyncio.gather(*tasks)
    goodput = len(accepted) / (time.perf_counter() - start)
    explained = MAX_QUEUE / saturated + 1 / saturated
    slowest = f"R4 {quantile(accepted, 0.99) / explained:.2f} of what the full queue explains"
    refusals = (
        f"{len(refused)} of {num} refused, p99 {1000 * quantile(refused, 0.99):.0f} ms" if refused else "none refused"
    )
    return f"R3 {goodput / saturated:.2f}; {slowest}; {refusals}; offered {num / offered_s / saturated:.1f} x"


async def r5(bench: Bench) -> str:
    """R5: p95 of interactive requests beside a saturating batch job / alone."""
    await bench.learn(range(60))
    alone = [await bench.edit(bench.http, seed, priority="interactive") for seed in range(20)]
    stop = asyncio.Event()

    async def batch(first: int) -> None:
        seed = first
        while not stop.is_set():
            await bench.edit(bench.direct, 20 + seed % 40, priority="batch")
            seed += 4

    jobs = [asyncio.create_task(batch(i)) for i in range(4)]
    await asyncio.sleep(1)
    beside = [await bench.edit(bench.http, seed, priority="interactive") for seed in range(20)]
    stop.set()
    await asyncio.gather(*jobs)
    return f"{quantile(beside, 0.95) / quantile(alone, 0.95):.2f} ({1000 * quantile(alone, 0.95):.0f} ms alone)"


async def r6_r10(bench: Bench) -> str:
    """R6, R10: requests lost when an engine is killed under load, no client retries; sent again / in flight in it."""
    before, in_flight = redispatched(), 0

    async def event() -> None:
        nonlocal in_flight
        in_flight = await bench.handle.num_requests.remote()
        await asyncio.to_thread(kill, "engine")

    lost = await under_load(bench, event, client_retries=0)
    await asyncio.sleep(METRICS_S)
    again = redispatched() - before
    return f"R6 {lost}; R10 {again:.0f} sent again by the ingresses, {in_flight} were in flight (one over a handle)"


async def r7(bench: Bench) -> str:
    """R7: requests lost when an ingress is killed under load; the unchanged openai client with its two retries."""
    return await under_load(bench, lambda: asyncio.to_thread(kill, "ingress"), client_retries=2)


async def r8(bench: Bench) -> str:
    """R8: requests lost while the endpoint is deployed anew with another setting."""

    async def event() -> None:
        await asyncio.to_thread(deploy, max_queue=MAX_QUEUE + 1)

    return await under_load(bench, event, client_retries=0)


async def r9(bench: Bench) -> str:
    """R9: seconds from a client's disconnect to the freed row, beyond one step."""
    waits = []
    for _ in range(5):
        task = asyncio.create_task(bench.http.edit(**bench.request(1, steps=150)))
        await wait_for_load(bench, 1)
        task.cancel()
        start = time.perf_counter()
        await wait_for_load(bench, 0)
        waits.append(time.perf_counter() - start)
    return f"median {1000 * statistics.median(waits):.0f} ms, worst {1000 * max(waits):.0f} ms"


async def r11(bench: Bench) -> str:
    """R11: a request of 3 steps beside one of 150 / alone."""
    alone = [await bench.edit(bench.http, seed, steps=3) for seed in range(10)]
    long = asyncio.create_task(bench.edit(bench.http, 0, steps=150))
    await asyncio.sleep(0.2)
    beside = [await bench.edit(bench.http, seed, steps=3) for seed in range(10)]
    was_running = not long.done()
    await long
    assert was_running, "the long request was done before the short ones"
    return f"{statistics.median(beside) / statistics.median(alone):.2f}"


async def under_load(bench: Bench, event: Callable[[], Awaitable[None]], *, client_retries: int) -> str:
    """Requests lost of 80, with an event in the middle."""
    await bench.learn(range(20))
    openai = AsyncOpenAI(base_url=f"{bench.url}/v1", api_key="none", max_retries=client_retries)
    lost: list[str] = []

    async def by_openai(seed: int) -> None:
        arguments = bench.request(seed)
        image, mask = encode_image(arguments["image"]), encode_mask(arguments["mask"])
        extra = {"seed": seed, "num_inference_steps": STEPS, "mask_mode": "luminance"}
        result = await openai.images.edit(image=image, mask=mask, prompt=PROMPT, extra_body=extra)
        painted = decode_image(base64.b64decode((result.data or [])[0].b64_json or ""))
        assert painted.tobytes() == bench.alone(seed), f"seed {seed}: another picture than alone"
        bench.num_checked += 1

    async def worker(number: int) -> None:
        for i in range(20):
            seed = (7 * i + number) % 20
            try:
                if number == 3 and client_retries == 0:
                    await bench.edit(bench.direct, seed)
                else:
                    await by_openai(seed)
            except Exception as error:  # whatever it is, it is a lost request
                lost.append(f"{type(error).__name__}: {error}"[:100])

    workers = [asyncio.create_task(worker(i)) for i in range(4)]
    await asyncio.sleep(3)
    await event()
    await asyncio.gather(*workers)
    await openai.close()
    return f"{len(lost)} of 80 lost{': ' + lost[0] if lost else ''}"


async def closed_loop(bench: Bench, *, num_clients: int, num_requests: int, side: int = 64) -> float:
    """Pictures a second with so many clients that each wait for their answer; at 64 px they are compared."""
    await bench.learn(range(40) if side == 64 else range(0))
    seeds = iter(range(num_requests))

    async def worker() -> None:
        for seed in seeds:
            await bench.edit(bench.http, seed % 40, side=side)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(num_clients)))
    return num_requests / (time.perf_counter() - start)


async def wait_for_load(bench: Bench, number: int) -> None:
    while (await bench.handle.num_requests.remote()) != number:
        await asyncio.sleep(0.005)


def kill(deployment: str) -> None:
    """SIGKILL to a replica."""
    name = f"ServeReplica:raygen:{deployment}"
    for process in psutil.Process().children(recursive=True):  # of our own Ray: another may run on this machine
        if name in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise RuntimeError(f"no replica of {deployment} runs")


def deploy(*, max_queue: int) -> None:
    """The endpoint of this benchmark: two replicas of one row, two ingresses."""
    inpainter = InpainterConfig(guidance_scale=3.0).model_dump(mode="json")
    model = {"id": "tiny", "inpainter": inpainter, "num_cpus": 0.5, "max_queue": max_queue}
    args = {"models": [{**model, "min_replicas": NUM_REPLICAS, "max_replicas": NUM_REPLICAS}]}
    ray_serve.run(build_app(args), name="raygen", route_prefix="/")


def redispatched() -> float:
    """Requests that ingresses sent again so far, from the nodes' metrics ports."""
    total = 0.0
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for line in httpx2.get(address, timeout=20).text.splitlines():
            if line.startswith("ray_raygen_redispatch_total"):
                total += float(line.rsplit(" ", 1)[1])
    return total


def quantile(values: list[float], share: float) -> float:
    """The smallest value that a share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


MAX_QUEUE, NUM_REPLICAS = 8, 1
METRICS_S = 25  # Ray brings a counter to its port every ten seconds
RATIOS: dict[str, Callable[[Bench], Awaitable[str]]] = {
    "R1": r1,
    "R2": r2,
    "R3": r3_r4,
    "R5": r5,
    "R6": r6_r10,
    "R7": r7,
    "R8": r8,
    "R9": r9,
    "R11": r11,
}


async def measure(names: list[str], port: int) -> None:
    bench = Bench(port)
    await bench.learn(range(3))
    for name in names:
        ratio = RATIOS[name]
        print(f"{(ratio.__doc__ or '').splitlines()[0]}\n    {await ratio(bench)}", flush=True)
    print(f"{bench.num_checked} pictures were compared with the same request painted alone: all equal to the byte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RATIOS, default=list(RATIOS))
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray makes its workers nice; the bare pipeline is not, and on a machine that is not quite idle that would count.
    os.environ.setdefault("RAY_worker_niceness", "0")
    cluster.connect()
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    deploy(max_queue=MAX_QUEUE)
    try:
        asyncio.run(measure(arguments.only, port))
    finally:
        ray_serve.shutdown()


if __name__ == "__main__":
    main()
