"""Differences between operating systems: `linux` for Linux, and `portable` for every other Unix.

Both modules define the same names, and no other module of the package uses functions that only Linux has. The
environment variable `_TICKERPLANT_PORTABLE=1` selects `portable` on Linux too, for tests.

In: descriptors, folders, process ids. Out: results of system calls. Begin reading at `portable`.
"""

import os
import sys

if sys.platform == "linux" and os.environ.get("_TICKERPLANT_PORTABLE") != "1":
    from tickerplant.machine.linux import (
        LAUNCHER,
        LAUNCHER_NEEDS_PIPE,
        SOCKET_PATH_BYTES,
        allocate_unnamed,
        busy_seconds,
        capabilities,
        clock_is_corrected,
        cores,
        is_process_in,
        move_threads,
        place_thread,
        return_freed_memory,
        set_thread_priority,
        sync_data,
        trim_memory,
    )
else:
    from tickerplant.machine.portable import (
        LAUNCHER,
        LAUNCHER_NEEDS_PIPE,
        SOCKET_PATH_BYTES,
        allocate_unnamed,
        busy_seconds,
        capabilities,
        clock_is_corrected,
        cores,
        is_process_in,
        move_threads,
        place_thread,
        return_freed_memory,
        set_thread_priority,
        sync_data,
        trim_memory,
    )

__all__ = [
    "LAUNCHER",
    "LAUNCHER_NEEDS_PIPE",
    "SOCKET_PATH_BYTES",
    "allocate_unnamed",
    "busy_seconds",
    "capabilities",
    "clock_is_corrected",
    "cores",
    "is_process_in",
    "move_threads",
    "place_thread",
    "return_freed_memory",
    "set_thread_priority",
    "sync_data",
    "trim_memory",
]
