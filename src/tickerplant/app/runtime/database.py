"""Who owns the embedded PostgreSQL of a data folder, and how others come to use it.

One process at a time owns the server: whoever holds `store.lock`. It notes the address in the lock's file.

- `up`, and a command that finds nobody there, own it themselves for as long as they run.
- `run NAME` never owns it, so that any of them can be killed without harm to the others. It starts `run store
  --while-used`, a process of its own, if nobody holds the lock, looks after it, and starts it again when it has died.
- That process stops when `store.users`, which every user holds shared, has been free for `IDLE_S`.

A server whose owner was killed is taken over or stopped by the next owner's start (see `store.embedded`).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from tickerplant.app.config.settings import Settings, child_environment
from tickerplant.app.runtime.locks import FolderLock
from tickerplant.app.wiring import parts
from tickerplant.core.errors import StoreUnavailable

IDLE_S: Final = 5.0
START_S: Final = 60.0  # initdb takes 0.3 s, a start 0.04 s; recovery after a crash can take tens of seconds
LOOK_S: Final = 0.5

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def database(
    settings: Settings, *, lasting: bool = False, make: bool = True, patience_s: float | None = None
) -> Iterator[str]:
    """Give the address of the store for as long as the block runs.

    `lasting`: for a service that must not own the server. `make` False: a folder that has no store is left without.
    Raises StoreUnavailable when there is none, or nobody brings it up in `START_S`, or `patience_s`.
    """
    if not settings.embedded_store:
        yield settings.store.get_secret_value()
    elif not make and not parts.has_store(settings.data):
        raise StoreUnavailable(f"there is no store in {settings.data} yet; `tickerplant up` or `replay` makes it")
    elif lasting:
        with _kept_up(settings) as dsn:
            yield dsn
    else:
        with _own_or_share(settings, START_S if patience_s is None else patience_s) as dsn:
            yield dsn


def is_up(settings: Settings) -> bool:
    """Whether somebody owns a running embedded server, or the store is none of ours to start."""
    return not settings.embedded_store or FolderLock(settings.data, "store.lock").is_held(alone=True)


@contextlib.contextmanager
def own(settings: Settings, lock: FolderLock) -> Iterator[str]:
    """Run the server under `lock`, which is held already; it starts itself again if it dies."""
    lock.note()
    server = parts.embedded_postgres(settings.data)
    dsn = server.start()
    lock.note(dsn=dsn)
    try:
        yield dsn
    finally:
        lock.note()
        server.stop()


def serve(settings: Settings, stop: threading.Event, *, while_used: bool) -> None:
    """Own the server until `stop`, or, with `while_used`, until nobody has used it for `IDLE_S`."""
    lock = FolderLock(settings.data, "store.lock")
    if while_used:
        if not lock.take(wait_s=1.0):
            return  # somebody was faster
    else:
        lock.take_or_refuse()
    with lock, own(settings, lock):
        log.info("store is up", folder=str(settings.data))
        used_s = time.monotonic()
        users = FolderLock(settings.data, "store.users")
        while not stop.wait(LOOK_S):
            if users.is_held():
                used_s = time.monotonic()
            elif while_used and time.monotonic() - used_s > IDLE_S and users.take():
                with users:  # who comes now waits here, and finds no address to go to
                    lock.note()
                return


@contextlib.contextmanager
def _own_or_share(settings: Settings, patience_s: float) -> Iterator[str]:
    lock = FolderLock(settings.data, "store.lock")
    users = FolderLock(settings.data, "store.users")
    users.take(shared=True, wait_s=1.0)
    with users:
        deadline = time.monotonic() + patience_s
        while True:
            if lock.take(wait_s=0.1):
                with lock, own(settings, lock) as dsn:
                    yield dsn
                return
            dsn = lock.holder().get("dsn", "")
            if dsn:
                yield dsn
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"the process that owns the store in {settings.data} does not bring it up")


@contextlib.contextmanager
def _kept_up(settings: Settings) -> Iterator[str]:
    users = FolderLock(settings.data, "store.users")
    users.take(shared=True, wait_s=1.0)
    with users:
        keeper = _Keeper(settings)
        dsn = keeper.wait()
        keeper.start()
        try:
            yield dsn
        finally:
            keeper.stop()


class _Keeper:
    """Sees to it that somebody owns the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = FolderLock(settings.data, "store.lock")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-keeper", daemon=True)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self) -> str:
        """Return the address once a server is up."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._look()
            dsn = self._lock.holder().get("dsn") if self._lock.is_held(alone=True) else None
            if dsn:
                return str(dsn)
            time.sleep(0.05)
        raise StoreUnavailable(
            f"the embedded store in {self._settings.data} does not come up; see {self._output_path()} for why"
        )

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        if not self._lock.is_held(alone=True):
            options = ["--data", str(self._settings.data), "--log-level", "warning"]
            with open(self._output_path(), "ab") as output:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "tickerplant.app", "run", "store", "--while-used", *options],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C in the terminal of one service must not stop the store of all
                    cwd="/",
                    env=child_environment(),
                )

    def _output_path(self) -> Path:
        return self._settings.data / "store.log"
