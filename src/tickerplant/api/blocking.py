"""Blocking calls outside the event loops: thread pools with limits and time limits, and answers that are shared.

No call that can wait or compute for long runs on an event loop. Each kind of work has a pool of its own, so that one
kind cannot take the threads of another. Calls to the log may wait for an unavailable broker, and catch-ups of
stream clients may read millions of records. A health check must answer during that time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from tickerplant import machine
from tickerplant.core.errors import LogUnavailable

T = TypeVar("T")

LOG_WAIT_S: Final = 2.0
"""Maximum seconds that a request waits for one answer of the log."""
LOW_PRIORITY: Final = 10
"""Niceness of threads that compute. Expensive requests at normal niceness tripled the time of other requests."""


class Pools:
    """The thread pools of one API. They start threads when they are first used.

    - `log`: calls to the log, such as a read of its offsets
    - `compute`: calendars and computed indicators; with low priority
    - `catch_up`: records of the log for stream clients that resume; with low priority
    - `health`: health checks and metrics
    - `follow`: the start of the stream, which waits for the log
    """

    def __init__(self) -> None:
        self.log = ThreadPoolExecutor(4, "api-log")
        self.compute = ThreadPoolExecutor(2, "api-compute", lower_priority)
        self.catch_up = ThreadPoolExecutor(2, "api-catch-up", lower_priority)
        self.health = ThreadPoolExecutor(2, "api-health")
        self.follow = ThreadPoolExecutor(1, "api-follow")

    def close(self) -> None:
        """Cancel calls that have not begun. Running calls end by themselves.

        A running call that waits for the log ends within the log's `patience_s`.
        """
        for pool in (self.log, self.compute, self.catch_up, self.health, self.follow):
            pool.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Set the priority of the calling thread below that of the services. No effect on systems other than Linux."""
    machine.set_thread_priority(LOW_PRIORITY)


async def in_thread(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    """Return the result of `call`, run in the pool. Waits without a limit for a free thread."""
    return await asyncio.wrap_future(pool.submit(call))


async def ask_log(pool: ThreadPoolExecutor, call: Callable[[], T], wait_s: float = LOG_WAIT_S) -> T:
    """Return the result of a call to the log. Raises LogUnavailable after `wait_s` seconds."""
    try:
        async with asyncio.timeout(wait_s):
            return await in_thread(pool, call)
    except TimeoutError:
        raise LogUnavailable(f"the event log has not answered within {wait_s:g} s; try again later") from None


class Shared(Generic[T]):
    """The newest result of a blocking call that is slow and often requested. One call runs at a time.

    Callers share the running call. If it takes longer than they wait, they receive the last result and its age.
    Belongs to one event loop.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, call: Callable[[], T], *, fresh_s: float = 0.0, stale_s: float = 0.0
    ) -> None:
        self._pool = pool
        self._stale_s = stale_s
        self._call = call
        self._fresh_s = fresh_s
        self._running: Future[T] | None = None
        self._last: tuple[float, T] | None = None

    async def get(self, wait_s: float) -> tuple[T | None, float]:
        """Return (result, its age in seconds); (None, 0) if no call has succeeded within `wait_s` or before.

        A result younger than `fresh_s` is returned at once. A result younger than `stale_s` is returned at once too,
        while a new call runs. Re-raises the exception of a call that fails within `wait_s`.
        """
        now = time.monotonic()
        if self._last is not None and now - self._last[0] < self._fresh_s:
            return self._last[1], now - self._last[0]
        if self._running is None or self._running.done():
            self._running = self._pool.submit(self._timed)
        if self._last is not None and now - self._last[0] < self._stale_s:
            return self._last[1], now - self._last[0]
        try:
            async with asyncio.timeout(wait_s):
                result = await asyncio.shield(asyncio.wrap_future(self._running))
        except TimeoutError:
            last = self._last
            return (None, 0.0) if last is None else (last[1], time.monotonic() - last[0])
        return result, 0.0

    def _timed(self) -> T:
        began = time.monotonic()
        result = self._call()
        self._last = (began, result)
        return result
