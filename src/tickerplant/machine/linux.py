"""Linux: unnamed files, capabilities, the state of the clock, `/proc`, glibc's allocator, and cores of threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tickerplant.core.digits import is_digits

LAUNCHER: Final = Path(__file__).with_name("launch_linux.py")
"""Script that executes a program that must end with this process; see `launch_linux`."""
LAUNCHER_NEEDS_PIPE: Final = False
"""True if the launcher's standard input must be a pipe that this process keeps open. Linux sends a signal instead."""
SOCKET_PATH_BYTES: Final = 107
"""Maximum bytes of the path of a Unix socket, without the closing zero byte."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ARENAS: Final = 2
LARGE_BYTES: Final = 256 * 1024
"""Minimum bytes of blocks that glibc maps one by one and unmaps when freed: records of the log, entire columns."""

TIME_ERROR: Final = 5
TIMEX_BYTES: Final = 512
"""Bytes of the buffer for `adjtimex`. The kernel's structure has 208 bytes."""


def sync_data(fd: int) -> None:
    """Block until the content of an open file would survive a power failure."""
    os.fdatasync(fd)


def return_freed_memory() -> None:
    """Configure glibc to return freed memory to the kernel. Do nothing with another C library.

    By default almost every thread has its own arena, which retains the memory of the thread's largest batch: 150 MB
    unused with a dozen threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_ARENA_MAX, ARENAS)
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)  # if not set, glibc raises it to up to 32 MB when it frees a block
    mallopt(M_TRIM_THRESHOLD, 16 * LARGE_BYTES)


def trim_memory() -> None:
    """Return the free pages of glibc's arenas to the system. glibc itself returns only those at the end of an arena."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def allocate_unnamed(folder: Path, count: int) -> None:
    """Allocate `count` bytes in a file without a name, and release them. Raises OSError."""
    handle = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, count)
    finally:
        os.close(handle)


def capabilities() -> int:
    """Return the permitted capabilities of this process as a mask; 0 if they cannot be read."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def clock_is_corrected() -> bool | None:
    """Return whether a time service corrects the clock, as the kernel reports; None if this is unknown."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # mode 0: read only
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR


def is_process_in(pid: int, program: bytes, folder: Path) -> bool:
    """Return whether the process `pid` is alive, runs `program` (the end of its path), and has this current folder."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_here = os.path.samestat(os.stat(f"/proc/{pid}/cwd"), folder.stat())
    except (OSError, IndexError):
        return False
    return state not in "ZX" and arguments[0].endswith(program) and is_here


def cores() -> list[int]:
    """Return the numbers of the cores on which this process may run, sorted."""
    return sorted(os.sched_getaffinity(0))


def place_thread(core: int) -> None:
    """Move the calling thread to a core. No effect if the kernel refuses."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})


def move_threads(former: int, core: int) -> None:
    """Move the threads of this process that are placed on the core `former` to another core."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended
            if os.sched_getaffinity(int(task)) == {former}:
                os.sched_setaffinity(int(task), {core})


def set_thread_priority(nice: int) -> None:
    """Set the nice value of the calling thread. No effect if the kernel refuses."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def busy_seconds(wanted: Collection[int]) -> dict[int, float]:
    """Return the seconds for which each of these cores has been busy since the machine's start; 0 if unknown."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = dict.fromkeys(wanted, 0.0)
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and is_digits(name[3:]) and int(name[3:]) in used:
                user, nice, system, _idle, _iowait, irq, soft = map(int, fields[:7])
                used[int(name[3:])] = (user + nice + system + irq + soft) / ticks
    return used
