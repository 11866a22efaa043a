"""Every Unix: a pipe that closes instead of a death signal, and psutil instead of `/proc`.

Threads are not placed on cores, because macOS has no call that places a thread.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import psutil

LAUNCHER: Final = Path(__file__).with_name("launch_portable.py")
"""Script that executes a program that must end with this process; see `launch_portable`."""
LAUNCHER_NEEDS_PIPE: Final = True
"""True if the launcher's standard input must be a pipe that this process keeps open."""
SOCKET_PATH_BYTES: Final = 103
"""Maximum bytes of the path of a Unix socket on macOS and BSD, without the closing zero byte."""
_PIECE: Final = bytes(1 << 16)


def sync_data(fd: int) -> None:
    """Block until the content of an open file would survive a power failure.

    fsync of macOS leaves the content in the cache of the disk; F_FULLFSYNC writes it to the disk.
    """
    try:
        from fcntl import F_FULLFSYNC, fcntl  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        os.fsync(fd)
        return
    try:
        fcntl(fd, F_FULLFSYNC)
    except OSError:  # the file system does not support F_FULLFSYNC
        os.fsync(fd)


def return_freed_memory() -> None:
    """Do nothing: the allocator of macOS returns freed memory by itself."""


def trim_memory() -> None:
    """Do nothing: the allocator of macOS returns freed memory by itself."""


def allocate_unnamed(folder: Path, count: int) -> None:
    """Write `count` bytes to an unnamed temporary file, and release them. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        remaining = count
        while remaining > 0:
            remaining -= file.write(_PIECE[:remaining])


def capabilities() -> int:
    """Return 0: only Linux has these capabilities."""
    return 0


def clock_is_corrected() -> bool | None:
    """Return None: no portable call reports the state of the clock."""
    return None


def is_process_in(pid: int, program: bytes, folder: Path) -> bool:
    """Return whether the process `pid` is alive, runs `program` (the end of its path), and has this current folder."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        arguments, found = process.cmdline(), process.cwd()
        return bool(arguments) and os.fsencode(arguments[0]).endswith(program) and os.path.samefile(found, folder)
    except (psutil.Error, OSError):
        return False


def cores() -> list[int]:
    """Return []: threads cannot be placed."""
    return []


def place_thread(core: int) -> None:
    """Do nothing: threads cannot be placed."""


def move_threads(former: int, core: int) -> None:
    """Do nothing: threads cannot be placed."""


def set_thread_priority(nice: int) -> None:
    """Do nothing: no portable call sets the priority of one thread."""


def busy_seconds(wanted: Collection[int]) -> dict[int, float]:
    """Return 0 for each core: the load is not used, because threads cannot be placed."""
    return dict.fromkeys(wanted, 0.0)
