"""Doorbells: a datagram socket for each reader, rung by whoever commits.

A bell wakes a sleeping reader in 0.1 to 0.2 ms and costs nothing while nobody rings. It promises nothing: a writer
killed between its commit and the bell rings none, so readers also look by themselves, slowly.

A reader of the ringer's own process that is awake is told by a flag. Each datagram lets go of the interpreter's lock,
and whoever is woken keeps it for a while: for a writer with six readers that was half of its time. Readers without a
group, which are streams to people, are rung for first.
"""

from __future__ import annotations

import contextlib
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

_SUN_PATH_CHARS = 107  # of a Linux socket address, less its closing zero
_NAME_CHARS = 40
_SETTLED_NS = 50_000_000  # folders' times move in steps of a few ms: a listing this young may already be out of date


def bells_folder(beside: Path) -> Path:
    """Return the folder of the bells: in `beside` if an address can be that long, else in the temporary folder."""
    folder = beside / "bells"
    if len(os.fsencode(folder)) + 1 + _NAME_CHARS > _SUN_PATH_CHARS:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"tickerplant-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


_here: dict[str, Bell] = {}
"""The bells of this process, by address."""


class Bell:
    """A reader's own bell. Where sockets cannot be bound it cannot be rung, and only `wake` and the slow look work."""

    def __init__(self, folder: Path, topic_ids: Collection[int], *, first: bool = False) -> None:
        name = f"{'0' if first else '1'}{uuid.uuid4().hex[:11]}." + "-".join(map(str, sorted(topic_ids)))
        self.rung = False
        self.waiting = False
        self._path: Path | None = folder / (name if len(name) <= _NAME_CHARS else name[:13])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._waker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # who closed the log last has taken it away
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
            _here[os.fspath(self._path)] = self

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it rings, at most `timeout_s`; return whether it rang. What rang before counts."""
        self.waiting = True  # before looking at the flag, as the ringer sets the flag before looking at this
        try:
            if not self.rung and not self._poll.poll(max(0.0, timeout_s) * 1000):
                return False
        finally:
            self.waiting = False
        self.hush()
        return True

    def hush(self) -> None:
        """Forget what rang until now."""
        self.rung = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def wake(self) -> None:
        """Ring our own bell, from any thread."""
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody waits
            self._waker.send(b"w")

    def close(self) -> None:
        """Take the bell down."""
        if self._path is not None:
            _here.pop(os.fspath(self._path), None)
            self._path.unlink(missing_ok=True)
        self._socket.close()
        self._waker.close()


class Ringer:
    """Rings the bells of a folder. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._guard = threading.Lock()
        self._listed_ns = -1
        self._bells: list[tuple[str, frozenset[int]]] = []

    def ring(self, topic_ids: Collection[int] | None = None) -> None:
        """Ring the bells of those who read one of these topics, or all. Never blocks; removes bells of the dead."""
        for path, topics in self._list():
            if topic_ids is not None and topics and topics.isdisjoint(topic_ids):
                continue
            bell = _here.get(path)
            if bell is not None:
                bell.rung = True
                if not bell.waiting:
                    continue
            try:
                self._socket.sendto(b"r", path)
            except (BlockingIOError, FileNotFoundError):
                continue  # rings already; or its reader has just gone
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)
            except OSError:
                return  # the log was closed; or this file system has no sockets, and readers look by themselves

    def _list(self) -> list[tuple[str, frozenset[int]]]:
        """Return (address, topics) of each bell, listed again only when the folder has changed."""
        with self._guard:
            try:
                changed_ns = self._folder.stat().st_mtime_ns
                if changed_ns != self._listed_ns:
                    self._bells = [
                        (entry.path, frozenset(int(i) for i in entry.name.partition(".")[2].split("-") if i))
                        for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name)
                    ]
                    self._listed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1
            except (FileNotFoundError, ValueError):
                return []
            return self._bells

    def close(self) -> None:
        """Close the socket to ring with, and take the folder away if no bell hangs in it."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
