"""Asking an endpoint, and asking again: the one place that decides whether and when.

`ask` is for callers with an event loop, `ask_blocking` for those without; both take a call of a `Transport`.
"""

import asyncio
import functools
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from raygen.errors import EndpointError

# Before the second ask where the endpoint names no time; twice as long before each further one.
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_starting = threading.Lock()


async def ask(call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts, patience_s: float) -> T:
    """What a call gives, made again while its errors say that this may help.

    Args:
        call: Such as `Transport.edit`.
        arguments: Of the call.
        patience_s: How long; 0: it is made once.

    Raises:
        EndpointError: It does not help, or not for so long.
    """
    give_up_s = time.monotonic() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call(*arguments)
        except EndpointError as error:
            if not error.retryable or time.monotonic() >= give_up_s:
                raise
            # Jitter: callers that were refused together must not come back together.
            wait_s = (error.retry_after_s or pause_s) * random.uniform(0.5, 1.5)
            await asyncio.sleep(min(wait_s, max(0.0, give_up_s - time.monotonic())))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


def ask_blocking(call: Callable[[*Ts], Awaitable[T]], *arguments: *Ts, patience_s: float = 0.0) -> T:
    """`ask`, for any thread without an event loop.

    All calls of a process run on one loop, so that a transport can keep its connections from call to call.
    """
    with _starting:
        loop = _loop()
    asked = asyncio.run_coroutine_threadsafe(ask(call, *arguments, patience_s=patience_s), loop)
    try:
        return asked.result()
    finally:
        asked.cancel()  # if the wait was interrupted: the endpoint then stops within a step


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="raygen-endpoint", daemon=True).start()
    return loop
