"""Run services in one process, each in its own thread, and restart crashed services.

A service is a function that runs until its stop event is set. Services run in threads, not in processes: the heavy work
(Arrow, NumPy, SQLite, sockets) releases the GIL, and one process needs a third of the memory. An asynchronous service
has its own event loop.

Restart: after a crash a service waits `FIRST_BACKOFF_S`. The wait doubles with each crash up to `LAST_BACKOFF_S`, and
is reset after the service has run for `HEALTHY_S`. Stop: services stop in the order of their `rank`, feeds first; the
supervisor waits at most `STOP_S` for each rank before the next rank stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
import uvloop

from tickerplant import machine
from tickerplant.app.runtime.cpu_affinity import CoreAffinity
from tickerplant.app.runtime.trouble_reporter import TroubleReporter
from tickerplant.core.errors import (
    ConfigError,
    Fenced,
    LogUnavailable,
    MigrationError,
    SnapshotRefused,
    StoreMismatch,
    StoreUnavailable,
    TickerplantError,
)
from tickerplant.core.outage import LONGEST_WAIT_S, Outage

FIRST_BACKOFF_S: Final = 0.2
LAST_BACKOFF_S: Final = 10.0
HEALTHY_S: Final = 30.0
CRASHES: Final = 3
"""Number of crashes within `CRASH_MEMORY_S` after which a service counts as failing, even if it runs for minutes
between crashes."""
CRASH_MEMORY_S: Final = 600.0
STOP_S: Final = 10.0
SETTLE_S: Final = 5.0
"""Seconds after the start until all modules that the services import are loaded."""

TRIM_S: Final = 60.0
"""Seconds between two returns of free memory to the system."""

STUCK_S: Final = 30.0
"""Seconds without a turn after which an event loop counts as stuck. A call that blocks a loop usually ends within a
second."""

SWITCH_INTERVAL_S: Final = 0.0001
"""Maximum seconds that a thread keeps the GIL while another thread waits. A tick that passes five threads waits 25 ms
with Python's default of 5 ms. On one core (see `cpu_affinity`) a hand-over is cheap: with 0.1 ms the stream's p99
latency is a fifth lower than with 0.5 ms."""

NOT_RESTARTABLE: Final = (ConfigError, MigrationError, SnapshotRefused, StoreMismatch)
"""Errors that a restart does not remove: the service fails at once, and the supervisor stops."""

log = structlog.get_logger(__name__)

SyncBody = Callable[[threading.Event], None]
AsyncBody = Callable[[asyncio.Event], Awaitable[None]]


@dataclass(slots=True)
class Status:
    """The state of a service. Its own thread writes it; any thread reads it."""

    name: str
    state: str = "new"
    """`new`, `running`, `waiting` (for its next start), `stopped`, or `failed` (no longer restarted)."""
    restarts: int = 0
    since_s: float = 0.0
    """Time at which the service last started, in seconds of the monotonic clock; 0 before the first start."""
    error: str = ""
    error_since_s: float = 0.0
    """Time in seconds since 1970 of the first crash of the present run of crashes; 0 before the first crash."""
    permanent: bool = False
    """True if waiting cannot remove the cause of the newest crash."""
    crashes_s: tuple[float, ...] = ()
    """Times of the last `CRASHES` crashes whose cause waiting cannot remove, in seconds of the monotonic clock."""

    def fails(self, now_s: float) -> bool:
        """Return True if the service counts as failing. `now_s`: the monotonic clock.

        Such a service has not run for `HEALTHY_S` since its last crash. Or it has crashed `CRASHES` times in
        `CRASH_MEMORY_S`; crashes because of an outage of the log or the store are not counted.
        """
        if len(self.crashes_s) == CRASHES and now_s - self.crashes_s[0] < CRASH_MEMORY_S:
            return True
        return self.error_since_s > 0 and (self.state != "running" or now_s - self.since_s < HEALTHY_S)


@dataclass(slots=True)
class Service:
    """One service, with exactly one of `sync` and `asynchronous`. A lower `rank` stops earlier."""

    name: str
    sync: SyncBody | None = None
    asynchronous: AsyncBody | None = None
    rank: int = 0
    max_restarts: int | None = None
    """Maximum restarts. None: no limit, except for `NOT_RESTARTABLE`. 0: the first crash stops the supervisor."""
    placed: bool = True
    """True if the thread runs on the services' core. False for a service that starts child processes, because child
    processes inherit the core."""


@dataclass(slots=True)
class _Runner:
    """A service's thread."""

    service: Service
    status: Status
    on_failed: Callable[[], None]
    affinity: CoreAffinity
    reporter: TroubleReporter | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    failure: BaseException | None = None
    outage: Outage = field(default_factory=Outage)
    settled: bool = False
    """True after the reporter was notified that the service is healthy."""
    asked_s: float | None = None
    """Time of the pending liveness check of the event loop, on the monotonic clock; None if no check is pending."""
    _loop: asyncio.AbstractEventLoop | None = None
    _loop_stop: asyncio.Event | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._main, name=self.service.name, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        loop, stop = self._loop, self._loop_stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(stop.set)

    def settle(self, now_s: float) -> None:
        """Withdraw the reports of crashes when the service is healthy."""
        status = self.status
        if self.settled or self.reporter is None or status.state != "running" or now_s - status.since_s < HEALTHY_S:
            return
        if not status.fails(now_s):
            self.settled = True
            self.reporter.healthy(self.service.name)

    def find_trouble(self, now_s: float) -> str:
        """Return the trouble that only a new process removes: a dead thread, a stuck event loop, used-up resources.

        Returns "" if there is none. Each call starts a liveness check of the event loop, and later calls expect the
        answer.
        """
        name, loop = self.service.name, self._loop
        if self.thread is None or self.stopping.is_set():
            return ""
        if not self.thread.is_alive() and self.status.state != "failed":
            return f"the thread of {name} has ended"
        if self.asked_s is not None and now_s - self.asked_s >= STUCK_S:
            return f"the event loop of {name} has been stuck for {now_s - self.asked_s:.0f} s"
        if loop is None:
            self.asked_s = None
        elif self.asked_s is None:
            self.asked_s = now_s
            try:
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                self.asked_s = None
        if self.status.fails(now_s) and _is_exhausted(self.failure):
            return f"{name} lacks memory, threads or file descriptors: {self.status.error}"
        return ""

    def _answer(self) -> None:
        self.asked_s = None

    def _main(self) -> None:
        if self.service.placed:
            self.affinity.join()
        backoffs = _backoffs()
        while not self.stopping.is_set():
            self.status.state, self.status.since_s = "running", time.monotonic()
            began = time.monotonic()
            try:
                self._run_once()
            except BaseException as error:  # every cause is reported, and the other services continue
                waited = isinstance(error, (StoreUnavailable, LogUnavailable))
                if time.monotonic() - began > (LONGEST_WAIT_S if waited else HEALTHY_S):
                    self.outage.end()
                self.failure = error
                if not self._will_restart(error):
                    return
            else:
                if not self.stopping.is_set():
                    log.warning("service ended without being stopped, and is restarted", service=self.service.name)
            if self.stopping.is_set():
                break
            if time.monotonic() - began > HEALTHY_S:
                backoffs = _backoffs()
            self.status.state = "waiting"
            self.status.restarts += 1
            self.stopping.wait(next(backoffs))
        self.status.state = "stopped"

    def _will_restart(self, error: BaseException) -> bool:
        limit = self.service.max_restarts
        final = isinstance(error, NOT_RESTARTABLE) or (limit is not None and self.status.restarts >= limit)
        text, before = f"{type(error).__name__}: {error}", self.outage.error
        first = self.outage.fail(text, time.time())
        status = self.status
        status.error, status.error_since_s = text, self.outage.since_s
        status.permanent = not isinstance(error, (StoreUnavailable, LogUnavailable, Fenced))
        if status.permanent:
            status.crashes_s = (*status.crashes_s, time.monotonic())[-CRASHES:]
        unreported = isinstance(error, LogUnavailable)  # a report needs the log
        if self.reporter is not None and not unreported and (status.permanent or self.outage.repeats):
            self.settled = False
            self.reporter.crashed(self.service.name, text, permanent=status.permanent)
        # One line per outage: while a database or log is unavailable, each attempt fails, with varying texts.
        if final or first or (status.permanent and text != before):
            # The plant's own errors have complete messages; a traceback is for unexpected errors.
            trace = None if isinstance(error, TickerplantError) else error
            name, restarts = self.service.name, status.restarts
            log.error("service crashed", service=name, error=text, restarts=restarts, again=not final, exc_info=trace)
        if final:
            self.status.state = "failed"
            self.on_failed()
        return not final

    def _run_once(self) -> None:
        if self.service.sync is not None:
            self.service.sync(self.stopping)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._on_loop())

    async def _on_loop(self) -> None:
        assert self.service.asynchronous is not None
        stop = asyncio.Event()
        self._loop, self._loop_stop, self.asked_s = asyncio.get_running_loop(), stop, None
        try:
            if self.stopping.is_set():
                return
            await self.service.asynchronous(stop)
        finally:
            self._loop = self._loop_stop = self.asked_s = None


def _is_exhausted(error: BaseException | None) -> bool:
    """Return True if an error, or an error that caused it, means that the process has used up its resources."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.EMFILE):
            return True
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _backoffs() -> Iterator[float]:
    for exponent in itertools.count():
        yield min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(exponent, 10))


class Supervisor:
    """Owns the threads of a set of services. `reporter` writes their crashes to the log; None disables the reports."""

    def __init__(self, services: Sequence[Service], reporter: TroubleReporter | None = None) -> None:
        self._failed = threading.Event()
        self._affinity = CoreAffinity()
        self._reporter = reporter
        self._runners = [
            _Runner(service, Status(service.name), self._failed.set, self._affinity, reporter) for service in services
        ]
        self._stopped = False

    def statuses(self) -> list[Status]:
        """Return the status of each service, in the given order."""
        return [runner.status for runner in self._runners]

    def failure(self) -> BaseException | None:
        """Return the error of a failed service, or None if no service has failed."""
        return next((r.failure for r in self._runners if r.status.state == "failed"), None)

    def troubles(self) -> list[str]:
        """Return the troubles of services that only a restart of the process removes. Neither blocks nor raises.

        An unavailable log or database, a full disk and refused records are not among them.
        """
        now_s = time.monotonic()
        return [trouble for runner in self._runners if (trouble := runner.find_trouble(now_s))]

    def start(self) -> None:
        """Start all services in the reverse order of `rank`, so that readers run before feeds."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._affinity.start()
        for runner in sorted(self._runners, key=lambda r: -r.service.rank):
            runner.start()

    def wait(self, stop: threading.Event, each_turn: Callable[[], None] = lambda: None) -> None:
        """Block until `stop` is set or a service has failed. Calls `each_turn` five times a second."""
        settled = time.monotonic() + SETTLE_S
        trimmed_s = time.monotonic()
        while not stop.wait(0.2):
            if self._failed.is_set():
                return
            each_turn()
            now_s = time.monotonic()
            for runner in self._runners:
                runner.settle(now_s)
            if now_s - trimmed_s > TRIM_S:
                trimmed_s = now_s
                machine.trim_memory()
            if settled and time.monotonic() > settled:
                settled = 0.0
                # The half million objects that exist now remain. Without this, each full garbage collection would scan
                # them and block all threads for 100 ms.
                gc.collect()
                gc.freeze()

    def stop(self) -> list[str]:
        """Stop all services in order; return the names of the services that did not end in time. Idempotent."""
        late: list[str] = []
        if self._stopped:
            return late
        self._stopped = True
        for _, group in itertools.groupby(
            sorted(self._runners, key=lambda r: r.service.rank), key=lambda r: r.service.rank
        ):
            members = list(group)
            for runner in members:
                runner.stop()
            deadline = time.monotonic() + STOP_S
            for runner in members:
                if runner.thread is None:
                    continue
                runner.thread.join(max(0.0, deadline - time.monotonic()))
                if runner.thread.is_alive():
                    late.append(runner.service.name)
        self._affinity.stop()
        if self._reporter is not None:
            self._reporter.end()
        if late:
            log.warning("services did not end in time", services=late, waited_s=STOP_S)
        return late
