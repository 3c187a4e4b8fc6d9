"""Asking again: callers with and without an event loop, over HTTP and by a handle, obey one policy."""

import asyncio
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from scripted_endpoints import IMAGE, MASK, PAINTED, REQUEST, RESULT, Handle, Script, over_http, reached, refusal

from raygen.endpoint.handle import HandleTransport
from raygen.endpoint.http import connect_http
from raygen.endpoint.retry import ask, ask_blocking
from raygen.errors import EndpointError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.served import ServedInpainter
from serve.client import Client


def ask_it(caller: str, endpoint: Any, patience_s: float) -> np.ndarray:
    """One edit, by each of the ways that there are; the picture."""
    client = Client(endpoint, patience_s=patience_s)
    request: dict[str, Any] = {"image": IMAGE, "mask": MASK, "prompt": "a", "seed": 1}
    if caller == "client":
        return asyncio.run(client.edit(**request)).images[0]
    if caller == "map":
        (edit,) = client.map([request])
        return edit.images[0]
    transport = HandleTransport(endpoint) if isinstance(endpoint, Handle) else connect_http(endpoint)
    if caller == "blocking":
        painted = ask_blocking(transport.edit, REQUEST, "m", patience_s=patience_s).images[0].image_HWC
        assert painted is not None
        return painted
    config = InpainterConfig(kind="served", url="http://127.0.0.1:1", model="m")
    (row,) = ServedInpainter(config, transport).inpaint([IMAGE], [MASK], prompts=["a"], seeds=[1])
    assert isinstance(row, np.ndarray)
    return row


CALLERS = [(caller, way) for caller in ("client", "map", "blocking", "pool") for way in ("http", "handle")]
HAVE_PATIENCE = [(caller, way) for caller, way in CALLERS if caller in ("client", "blocking")]


@pytest.mark.parametrize(("caller", "way"), CALLERS)
def test_who_is_told_when_to_come_again_comes_then(caller: str, way: str) -> None:
    script = Script(*[refusal(retry_after_s=0.1)] * 4, RESULT)
    with reached(way, script) as endpoint:
        assert np.array_equal(ask_it(caller, endpoint, patience_s=60), PAINTED)
    assert len(script.asked_at) == 5
    # Half to one and a half times what the endpoint said; nobody who doubles 0.5 s instead is done before 3.75 s.
    assert min(script.pauses_s) >= 0.05
    assert sum(script.pauses_s) < 3.75


def test_who_is_told_nothing_comes_ever_more_rarely() -> None:
    script = Script(*[refusal(retry_after_s=None)] * 2, RESULT)
    with reached("http", script) as url:
        ask_it("client", url, patience_s=60)
    first_s, second_s = script.pauses_s
    assert first_s >= 0.25
    assert second_s >= 0.5


@pytest.mark.parametrize(("caller", "way"), HAVE_PATIENCE)
@pytest.mark.parametrize("patience_s", [0.0, 0.3])
def test_patience_ends(caller: str, way: str, patience_s: float) -> None:
    script = Script(refusal())
    start_s = time.monotonic()
    with reached(way, script) as endpoint, pytest.raises(EndpointError, match="no") as caught:
        ask_it(caller, endpoint, patience_s)
    assert caught.value.code == "service_unavailable"
    assert (len(script.asked_at) > 1) == (patience_s > 0)
    assert script.asked_at[-1] - start_s >= patience_s


def test_who_was_refused_together_does_not_come_back_together() -> None:
    script = Script(*[refusal(retry_after_s=0.2)] * 20, RESULT)
    transport = HandleTransport(Handle(script))

    async def all_at_once() -> None:
        await asyncio.gather(*(ask(transport.edit, REQUEST, "m", patience_s=60) for _ in range(20)))

    asyncio.run(all_at_once())
    # The second asks fall anywhere from 0.1 to 0.3 s; that 20 of them lie within 0.05 s has a chance of 1e-10.
    back_at = script.asked_at[20:]
    assert len(back_at) == 20
    assert max(back_at) - min(back_at) > 0.05


def test_nobody_waits_longer_than_patience_lasts() -> None:
    script, start_s = Script(refusal(retry_after_s=60)), time.monotonic()
    with reached("handle", script) as endpoint, pytest.raises(EndpointError, match="no"):
        ask_it("blocking", endpoint, patience_s=0.3)
    assert time.monotonic() - start_s < 10
    assert len(script.asked_at) == 2


@pytest.mark.parametrize(("caller", "way"), HAVE_PATIENCE)
def test_what_would_not_help_is_not_tried(caller: str, way: str) -> None:
    script = Script(refusal(retryable=False), RESULT)
    with reached(way, script) as endpoint, pytest.raises(EndpointError, match="no"):
        ask_it(caller, endpoint, patience_s=60)
    assert len(script.asked_at) == 1


def test_calls_without_a_loop_keep_their_connection_and_those_with_one_do_not() -> None:
    script = Script(RESULT)
    with over_http(script) as url:
        transport, client = connect_http(url), Client(url)
        for _ in range(3):
            ask_blocking(transport.edit, REQUEST, "m")
        assert (len(script.peers), len(set(script.peers))) == (3, 1)
        for _ in range(2):  # each of another loop, which is closed when it is over
            asyncio.run(client.edit(image=IMAGE, mask=MASK, prompt="a", seed=1))
        assert len(set(script.peers)) == 3


def test_a_wait_that_is_interrupted_stops_the_call() -> None:
    """As Ctrl-C does it in the main thread."""
    stopped = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask_blocking(forever)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped.wait(5)
