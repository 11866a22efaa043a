"""A service whose members work one at a time.

The others wait, and one of them takes over when the active member ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from tickerplant.core.errors import Fenced, LogError, LogUnavailable
from tickerplant.core.schemas import STATE_FEEDS

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog

T = TypeVar("T")

POLL_S: Final = 0.2
SLICE_S: Final = 0.05
RETRY_S: Final = 1.0
QUIET_S: Final = 3.0
"""Seconds of waiting after which a log line reports that another member works."""
JOIN_S: Final = 5.0

log = structlog.get_logger(__name__)


class Leader:
    """One member of a service, and its wait for the leadership.

    The log stores the name of the instance that worked last. If that instance is started again, it works at once. Its
    former process is dead, or a writer of the new process fences it. Call `run` once.
    """

    def __init__(self, event_log: EventLog, service: str, instance: str) -> None:
        self._log, self._service, self._instance = event_log, service, instance
        self._key = f"leader:{service}"
        self._is_leading = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"{service}-leader", daemon=True)

    async def run(self, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Await the work when this member leads. The work must end at `stop`.

        If another member takes over, which fences the work, waits for the leadership again. Raises other errors of the
        work.
        """
        self._thread.start()
        try:
            last = await self._retried(self._last_instance, stop)
            may_begin = last in (None, self._instance)
            while not stop.is_set():
                if not may_begin and not await self._wait(stop):
                    return
                may_begin = False
                try:
                    await self._retried(self._put_instance, stop)
                    await work()
                    return
                except Fenced as error:
                    log.warning("another member took over", service=self._service, error=str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            self._ending.set()
            await asyncio.to_thread(self._thread.join, JOIN_S)

    async def _wait(self, stop: asyncio.Event) -> bool:
        """Wait until this member leads; return False at `stop`."""
        waited_s = 0.0
        while not self._is_leading:
            if stop.is_set():
                return False
            await asyncio.sleep(SLICE_S)
            if waited_s < QUIET_S <= waited_s + SLICE_S:
                log.info("another member works; this member waits", service=self._service, instance=self._instance)
            waited_s += SLICE_S
        return True

    async def _retried(self, call: Callable[[], T], stop: asyncio.Event) -> T | None:
        """Return the result of a call to the log, repeated while the log is unavailable; None at `stop`."""
        while not stop.is_set():
            with contextlib.suppress(LogUnavailable):
                return await asyncio.to_thread(call)
            await asyncio.sleep(RETRY_S)
        return None

    def _last_instance(self) -> str | None:
        stored = self._log.get_state(STATE_FEEDS, 0, self._key)
        return None if stored is None else stored.decode()

    def _put_instance(self) -> None:
        if self._last_instance() != self._instance:
            with self._log.writer(self._key) as writer, writer.transaction() as transaction:
                transaction.put_state(STATE_FEEDS, 0, self._key, self._instance.encode())

    def _follow(self) -> None:
        """Update `_is_leading` until the end. Runs in its own thread, because a poll blocks."""
        while not self._ending.is_set():
            try:
                with self._log.lead(self._service, f"{self._service}-{self._instance}") as leadership:
                    while not self._ending.is_set():
                        self._is_leading = leadership.poll(timeout_s=POLL_S)
            except (LogError, OSError) as error:
                log.warning("the leadership cannot be read; trying again", service=self._service, error=str(error))
                self._ending.wait(RETRY_S)
            finally:
                self._is_leading = False
