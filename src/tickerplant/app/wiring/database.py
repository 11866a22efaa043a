"""The embedded PostgreSQL of a data folder: which process owns it, and how other processes use it.

One process at a time owns the server: the holder of `store.lock`. The holder writes the server's address into the lock
file.

- `up`, and a command that finds no owner, own the server themselves while they run.
- `run NAME` never owns the server, so that any service can be killed without harm to the others. If there is no owner,
  it starts `run store --while-used` as a separate process, and restarts that process when it ends.
- That process stops when `store.users`, which every user holds shared, has been free for `IDLE_S`.

If an owner is killed, the next owner takes over its server or stops it (see `store.server.embedded`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from tickerplant.app.config.settings import Settings, access_variables, child_environment
from tickerplant.app.service_manager import ServiceManager
from tickerplant.app.wiring.locks import FolderLock, require_restored
from tickerplant.app.wiring.store import embedded_postgres, has_store
from tickerplant.core.errors import ConfigError, StoreUnavailable

IDLE_S: Final = 5.0
START_S: Final = 60.0  # initdb takes 0.3 s, and a start 0.04 s; recovery after a crash can take tens of seconds
POLL_S: Final = 0.5

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def database(
    settings: Settings, *, lasting: bool = False, make: bool = True, patience_s: float | None = None
) -> Iterator[str]:
    """Yield the address of the store for the block.

    `lasting`: True for a service, which must not own the server. `make`: False if a missing store must not be created.
    `patience_s`: maximum seconds to wait for another owner of the store. It is `START_S` if None, or if `lasting`.
    Raises StoreUnavailable if a store is missing and `make` is false, or if the store is not up in time.
    """
    if settings.embedded_store:
        require_restored(settings.data)
    if not settings.embedded_store:
        yield settings.store.get_secret_value()
    elif not make and not has_store(settings.data):
        raise no_store(settings)
    elif lasting:
        with _kept_up(settings) as dsn:
            yield dsn
    else:
        with _own_or_share(settings, START_S if patience_s is None else patience_s) as dsn:
            yield dsn


def running_dsn(settings: Settings) -> str:
    """Return the address of the store if it is another server, or if the embedded server runs; else ""."""
    if not settings.embedded_store:
        return settings.store.get_secret_value()
    lock = FolderLock(settings.data, "store.lock")
    return str(lock.holder().get("dsn", "")) if lock.is_held(exclusively=True) else ""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Addresses of the store: the plant's own address, and the embedded server's other addresses; "" means none."""

    dsn: str
    listen: str = ""
    socket: str = ""
    running: bool = True
    """False if the embedded server does not run. The addresses then apply to its next start."""


def store_address(settings: Settings) -> StoreAddress:
    """Return the addresses of the store without a connection to it. Raises StoreUnavailable if there is no store."""
    if not settings.embedded_store:
        return StoreAddress(settings.store.get_secret_value())
    if not has_store(settings.data):
        raise no_store(settings)
    lock = FolderLock(settings.data, "store.lock")
    holder = lock.holder() if lock.is_held(exclusively=True) else {}
    if holder.get("dsn"):
        return StoreAddress(str(holder["dsn"]), str(holder.get("listen", "")), str(holder.get("socket", "")))
    access = settings.store_access
    try:
        dsn = embedded_postgres(settings).dsn
    except FileNotFoundError:
        raise no_store(settings) from None
    return StoreAddress(dsn, access.listen, str(access.socket or ""), running=False)


def no_store(settings: Settings) -> StoreUnavailable:
    """Return the error for a data folder without a store."""
    return StoreUnavailable(
        f"there is no store in {settings.data} yet; create it with `{settings.command('up')}` or "
        f"`{settings.command('replay FILE')}`"
    )


@contextlib.contextmanager
def own(settings: Settings, lock: FolderLock) -> Iterator[str]:
    """Run the server for the block under `lock`, which this process holds. The server restarts itself after a crash."""
    lock.write_holder()
    server = embedded_postgres(settings)
    dsn = server.start()
    try:
        access = settings.store_access
        lock.write_holder(dsn=dsn, listen=access.listen, socket=str(access.socket or ""))
        yield dsn
    finally:
        lock.withdraw()
        server.stop()


def serve(settings: Settings, stop: threading.Event, manager: ServiceManager, *, while_used: bool) -> None:
    """Own the server until `stop`, or, with `while_used`, until it has had no user for `IDLE_S`."""
    require_restored(settings.data)
    lock = FolderLock(settings.data, "store.lock")
    if while_used:
        if not lock.acquire(wait_s=1.0):
            return  # another process was faster
    else:
        lock.acquire_or_raise()
    with lock, own(settings, lock):
        log.info("store is up", folder=str(settings.data))
        manager.ready("the embedded store serves")
        used_s = time.monotonic()
        users = FolderLock(settings.data, "store.users")
        while not stop.wait(POLL_S):
            manager.beat()
            if users.is_held():
                used_s = time.monotonic()
            elif while_used and time.monotonic() - used_s > IDLE_S and users.acquire():
                with users:  # a new user waits here, and then finds no address
                    lock.withdraw()
                return


@contextlib.contextmanager
def _own_or_share(settings: Settings, patience_s: float) -> Iterator[str]:
    lock = FolderLock(settings.data, "store.lock")
    users = FolderLock(settings.data, "store.users")
    users.acquire(shared=True, wait_s=1.0)
    with users:
        deadline = time.monotonic() + patience_s
        while True:
            if lock.acquire(wait_s=0.1):
                with lock, own(settings, lock) as dsn:
                    yield dsn
                return
            dsn = lock.holder().get("dsn", "")
            if dsn:
                yield dsn
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the process that owns the store in {settings.data} did not start it within {patience_s:g} s; "
                    "stop that process and try again"
                )


@contextlib.contextmanager
def _kept_up(settings: Settings) -> Iterator[str]:
    users = FolderLock(settings.data, "store.users")
    users.acquire(shared=True, wait_s=1.0)
    with users:
        watchdog = _OwnerWatchdog(settings)
        dsn = watchdog.wait()
        watchdog.start()
        try:
            yield dsn
        finally:
            watchdog.stop()


class _OwnerWatchdog:
    """Starts a process that owns the server if the server has no owner. It checks every `POLL_S` seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = FolderLock(settings.data, "store.lock")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-watchdog", daemon=True)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self) -> str:
        """Wait until a server is up and return its address. Raises StoreUnavailable after `START_S`."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._ensure_owner()
            dsn = self._lock.holder().get("dsn") if self._lock.is_held(exclusively=True) else None
            if dsn:
                return str(dsn)
            time.sleep(0.05)
        raise StoreUnavailable(
            f"the embedded store in {self._settings.data} did not start within {START_S:g} s; see {self._output_path()}"
        )

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._ensure_owner()

    def _ensure_owner(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        if not self._lock.is_held(exclusively=True):
            options = ["--data", str(self._settings.data), "--log-level", "warning"]
            with open(self._output_path(), "ab", opener=_open_private) as output:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "tickerplant.app", "run", "store", "--while-used", *options],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C in the terminal of one service must not stop the store of all
                    cwd="/",
                    env=child_environment() | access_variables(self._settings),
                )

    def _output_path(self) -> Path:
        return self._settings.data / "store.log"


def _open_private(path: str, flags: int) -> int:
    """Open a file for this user alone. A symbolic link is not followed: it could name a file of the user."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        advice = "check the disk and the rights, or remove the file"
        raise ConfigError(f"{path} cannot be written ({error.strerror}); {advice}") from None
