"""The first steps on the event log, which may be unavailable when a process starts: see `plant`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from tickerplant.app.runtime.supervisor import Service
from tickerplant.core.errors import LogUnavailable, StoreUnavailable

POLL_S: Final = 0.05
RETRY_S: Final = 1.0
KNOWN_S: Final = 2.0
"""Seconds without success after which a known error of the connection counts as an outage. Refused settings of the
client raise an error earlier."""
LATE_S: Final = 5.0
"""Seconds without success after which the log counts as unavailable. A busy broker takes seconds to create topics."""

log = structlog.get_logger(__name__)


class LogBinding:
    """Work that must succeed once before services use the log. `outage` returns why the log is unavailable, or ""."""

    def __init__(self, bind: Callable[[], None], outage: Callable[[], str]) -> None:
        self._bind, self._outage = bind, outage
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._done = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._warned = False

    def run(self) -> None:
        """Run the work, unless it is done. Blocks. Raises the error of the work."""
        with self._lock:
            if not self._done:
                self._bind()
                self._done = True

    def wait(self, stop: threading.Event, *, patient: bool = True) -> bool:
        """Wait until the work is done; return False at `stop`. A thread repeats the work while the log is unavailable.

        Logs a warning with the reason if the log is unavailable. If `patient` is false, then returns False. Raises any
        other error of the work; the next call tries again.
        """
        self._start()
        began = time.monotonic()
        while not self._is_done_after(POLL_S):
            if stop.is_set():
                return False
            reason = self._outage()
            if time.monotonic() - began > (KNOWN_S if reason else LATE_S):
                if not self._warned:
                    self._warned = True
                    log.warning("waiting for the event log", error=reason or "it does not answer")
                if not patient:
                    return False
        return True

    async def wait_on_loop(self, stop: asyncio.Event) -> bool:
        """Wait like `wait`, on an event loop."""
        self._start()
        while not self._is_done_after(0.0):
            if stop.is_set():
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _start(self) -> None:
        with self._starting:
            if self._done:
                self._ended.set()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._repeat, name="log-binding", daemon=True)
                self._thread.start()

    def _repeat(self) -> None:
        while True:
            try:
                self.run()
            except (LogUnavailable, StoreUnavailable):
                time.sleep(RETRY_S)
            except BaseException as error:  # `wait` raises it
                self._error = error
                break
            else:
                if self._warned:
                    log.info("the event log answers")
                break
        self._ended.set()

    def _is_done_after(self, seconds: float) -> bool:
        """Wait at most `seconds` and return whether the work is done.

        Raises the work's error to only one of the callers.
        """
        if self._ended.wait(seconds):
            with self._starting:
                error, self._error = self._error, None
                if error is not None:
                    self._thread = None
                    self._ended.clear()
                    raise error
            return self._done
        return False


def after_binding(binding: LogBinding, service: Service) -> Service:
    """Return the service with a body that first waits for the binding."""
    sync, asynchronous = service.sync, service.asynchronous

    def wait_and_run(stop: threading.Event) -> None:
        assert sync is not None
        if binding.wait(stop):
            sync(stop)

    async def wait_and_run_on_loop(stop: asyncio.Event) -> None:
        assert asynchronous is not None
        if await binding.wait_on_loop(stop):
            await asynchronous(stop)

    if sync is not None:
        return replace(service, sync=wait_and_run)
    return replace(service, asynchronous=wait_and_run_on_loop)
