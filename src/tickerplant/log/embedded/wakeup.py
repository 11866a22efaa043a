"""Wake-ups: a datagram socket for each reader, to which every committing writer sends.

A wake-up reaches a sleeping reader in 0.1 to 0.2 ms, and costs nothing while no writer commits. A wake-up is not
guaranteed: a writer that is killed between its commit and the notification sends none. Readers therefore also poll
slowly.

An awake reader in the notifier's own process gets a flag instead of a datagram. Sending a datagram releases the
interpreter's lock, which the woken thread then holds for a while. With six readers, a writer waited half of its time
for this lock. Readers without a group serve live streams, so they are notified first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from tickerplant import machine

_NAME_CHARS = 40
_SETTLED_NS = 50_000_000
"""Minimum age in nanoseconds of a directory's last change before its listing is cached. Directory times have steps of a
few ms."""


def sockets_directory(beside: Path) -> Path:
    """Create and return the sockets' directory: in `beside`, or in the temporary directory if the path is too long."""
    folder = beside / "bells"
    if len(os.fsencode(folder)) + 1 + _NAME_CHARS > machine.SOCKET_PATH_BYTES:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"tickerplant-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


_local: dict[str, WakeupSocket] = {}
"""The sockets of this process, by address."""


class WakeupSocket:
    """The socket that wakes one reader. If the socket cannot be bound, only `wake` and the reader's slow check work."""

    def __init__(self, folder: Path, topic_ids: Collection[int], *, first: bool = False) -> None:
        name = f"{'0' if first else '1'}{uuid.uuid4().hex[:11]}." + "-".join(map(str, sorted(topic_ids)))
        self.is_notified = False
        self.is_waiting = False
        self._path: Path | None = folder / (name if len(name) <= _NAME_CHARS else name[:13])
        self._socket = _datagram_socket()
        self._waker = _datagram_socket()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # the last process that closed the log has removed the directory
            self._socket.bind(os.fspath(self._path))
            self._waker.connect(os.fspath(self._path))
        except OSError:
            self._socket.close()
            self._waker.close()
            self._path = None
            self._socket, self._waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._waker.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        if self._path is not None:
            _local[os.fspath(self._path)] = self

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s`; return whether a notification has arrived since the last `drain`."""
        self.is_waiting = True  # set before reading the flag; the notifier sets the flag before it reads `is_waiting`
        try:
            if not self.is_notified and not self._poll.poll(max(0.0, timeout_s) * 1000):
                return False
        finally:
            self.is_waiting = False
        self.drain()
        return True

    def drain(self) -> None:
        """Discard all notifications so far."""
        self.is_notified = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def wake(self) -> None:
        """Notify this socket itself. Thread-safe."""
        with contextlib.suppress(OSError):  # full: a notification is pending; closed: no thread waits
            self._waker.send(b"w")

    def close(self) -> None:
        """Remove and close the socket."""
        if self._path is not None:
            _local.pop(os.fspath(self._path), None)
            self._path.unlink(missing_ok=True)
        self._socket.close()
        self._waker.close()


class Notifier:
    """Notifies the wake-up sockets of a directory. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = _datagram_socket()
        self._guard = threading.Lock()
        self._listed_ns = -1
        self._listing: list[tuple[str, frozenset[int]]] = []

    def notify(self, topic_ids: Collection[int] | None = None) -> None:
        """Wake the readers of these topics, or all readers if `topic_ids` is None. Never blocks.

        Removes the sockets of dead readers.
        """
        for path, topics in self._list():
            if topic_ids is not None and topics and topics.isdisjoint(topic_ids):
                continue
            reader = _local.get(path)
            if reader is not None:
                reader.is_notified = True
                if not reader.is_waiting:
                    continue
            try:
                self._socket.sendto(b"r", path)
            except (BlockingIOError, FileNotFoundError):
                continue  # a notification is pending, or the reader has just closed
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # BSD: a notification is pending
                    continue
                return  # the log was closed, or this file system has no sockets: readers check by themselves

    def _list(self) -> list[tuple[str, frozenset[int]]]:
        """Return (address, topic ids) of each socket. A listing is cached until the directory changes."""
        with self._guard:
            try:
                changed_ns = self._folder.stat().st_mtime_ns
                if changed_ns != self._listed_ns:
                    self._listing = [
                        (entry.path, frozenset(int(i) for i in entry.name.partition(".")[2].split("-") if i))
                        for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name)
                    ]
                    self._listed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1
            except (FileNotFoundError, ValueError):
                return []
            return self._listing

    def close(self) -> None:
        """Close the sending socket; remove the directory if no reader's socket is left in it."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
