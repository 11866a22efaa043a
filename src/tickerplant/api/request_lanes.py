"""Lanes: groups of requests with limits of their own. Most lanes run their requests outside the server's event loop.

The server's loop parses HTTP, sends bytes and serves the stream. It also runs reads of at most 500 rows (lane `small`)
and changes of alert rules (`WRITING`). Each other lane has a thread with an event loop. `reading` is for a few thousand
rows, `computing` for more, and `stream` for the stored rows of `snapshot` messages. A request in such a lane cannot
delay another lane or the server's loop for longer than the interpreter needs to switch threads.

Admission happens on the server's loop (`fair_places`). A lane runs at most a fixed number of requests at a time.
Further requests wait. `LaneLimits` contains the limits. A request gets 429 if its client has too many requests. It gets
503 if all clients together have too many, or if it takes too long.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import uvloop

from tickerplant.api.blocking import lower_priority
from tickerplant.api.fair_places import FairPlaces, PlaceLimits
from tickerplant.api.http.errors import ApiError
from tickerplant.api.load import LoadCounters

T = TypeVar("T")

STOP_S: Final = 10.0
"""Maximum seconds to wait for the end of a lane's requests, and then for the end of its thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits(PlaceLimits):
    """Limits of a lane: its places, the time of a request in seconds, and the priority of its thread.

    `rest`: while the server's loop is late, a place rests after each request for this multiple of the request's time.
    """

    budget_s: float
    has_low_priority: bool = False
    rest: float = 0.0


SMALL: Final = LaneLimits(running=4, reserved=1, waiting=256, waiting_of_client=128, budget_s=15.0)
"""Limits of requests of at most 500 rows. Such requests run on the server's loop (`run_here`), and wait only for each
other."""
READING: Final = LaneLimits(running=3, reserved=1, waiting=256, waiting_of_client=128, budget_s=15.0)
STREAM: Final = LaneLimits(running=1, waiting=1_000, waiting_of_client=1_000, budget_s=60.0)
COMPUTING: Final = LaneLimits(
    running=2, reserved=1, waiting=64, waiting_of_client=32, budget_s=60.0, has_low_priority=True, rest=1.0
)
LATE_S: Final = 0.005
"""Mean delay of the server's loop in seconds above which places rest. All lanes share one interpreter, so a lane that
always computes delays the small requests."""
MAX_REST_S: Final = 1.0
"""Maximum seconds for which a place rests."""
WRITING: Final = PlaceLimits(running=4, reserved=1, waiting=64, waiting_of_client=32)
"""Limits of changes of alert rules. Such changes run on the server's loop, because they are few and small."""


class _Work:
    """A coroutine of a request in the lane's loop. `cancel` and `start` are called in the lane's loop."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Any]], finished: Callable[[asyncio.Task[Any]], object]):
        self._make = make
        self._finished = finished
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._make(), context=self._context)
        self._task.add_done_callback(self._finished)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class RequestLane:
    """One lane. `run`, `run_here` and `stop` belong to the server's loop. `run` uses the lane's own loop."""

    def __init__(self, name: str, limits: LaneLimits, counters: LoadCounters) -> None:
        self.name = name
        self.limits = limits
        self._counters = counters
        self._places = FairPlaces(limits, counters)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> int:
        """Return the count of requests that run."""
        return self._places.running

    @property
    def waiting(self) -> int:
        """Return the count of requests that wait for a place."""
        return self._places.waiting

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]], client: str) -> T:
        """Return the result of the coroutine that `make` returns, run in the lane for `client`.

        Raises ApiError if the lane refuses the request or its time is over. Exceptions of the coroutine are re-raised.
        If the caller is cancelled, the coroutine is cancelled too. It occupies its place until it has ended.
        """
        try:
            async with asyncio.timeout(self.limits.budget_s):
                await self._places.admit(client)
                return await self._run(make, client)
        except TimeoutError:
            raise self._too_slow() from None

    async def run_here(self, make: Callable[[], Coroutine[Any, Any, T]], client: str) -> T:
        """Run a small request's coroutine on the server's loop within the lane's limits; return its result."""
        try:
            async with asyncio.timeout(self.limits.budget_s), self._places.place(client):
                return await make()
        except TimeoutError:
            raise self._too_slow() from None

    def _too_slow(self) -> ApiError:
        self._counters.refuse("too_slow")
        return ApiError(
            503, "too_slow", f"the answer took longer than {self.limits.budget_s:.0f} s",
            "ask for fewer rows or a shorter range, or try again later",
        )  # fmt: skip

    async def _run(self, make: Callable[[], Coroutine[Any, Any, T]], client: str) -> T:
        server_loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = server_loop.create_future()
        finish = partial(self._finish, answer, client, time.monotonic())
        work = _Work(make, partial(server_loop.call_soon_threadsafe, finish))
        try:
            lane_loop = self._started_loop()
        except BaseException:  # no thread, or no file descriptor
            self._places.release(client, 0.0)
            raise
        lane_loop.call_soon_threadsafe(work.start)
        try:
            return await answer
        except asyncio.CancelledError:
            lane_loop.call_soon_threadsafe(work.cancel)
            raise
        finally:
            # An error of the task refers to this frame: otherwise only the garbage collector would free both.
            del answer, finish, work

    def _finish(self, answer: asyncio.Future[T], client: str, began_s: float, task: asyncio.Task[T]) -> None:
        """Release the place of a task that has ended, and set its result as the answer."""
        self._release(client, time.monotonic() - began_s)
        if answer.done():
            if not task.cancelled():
                task.exception()  # no caller waits: reading it prevents asyncio's log line
        elif task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    def _release(self, client: str, seconds: float) -> None:
        """Release the place of a client's request that took these seconds; after a rest, if the loop is late."""
        rest_s = min(MAX_REST_S, self.limits.rest * seconds)
        if rest_s and self._counters.mean_delay_s > LATE_S:
            asyncio.get_running_loop().call_later(rest_s, self._places.release, client, seconds)
        else:
            self._places.release(client, seconds)

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        """Return the lane's loop. The first call starts its thread."""
        if self._loop is None:
            loop = uvloop.new_event_loop()

            def serve() -> None:
                if self.limits.has_low_priority:
                    lower_priority()
                asyncio.set_event_loop(loop)
                loop.run_forever()
                loop.close()

            thread = threading.Thread(target=serve, name=f"api-{self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                loop.close()
                raise
            self._loop = loop
            self._thread = thread
        return self._loop

    async def stop(self, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel the lane's requests, run `finish` in its loop, and end its thread, if the lane has started one."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await finish()

        ending = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(end(), loop))
        await asyncio.wait([ending], timeout=STOP_S)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join, STOP_S)
        self._loop = self._thread = None
