"""The limit of open file descriptors of this process."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

WANTED: Final = 65_536
"""Maximum soft limit that a service needs. The usual soft limit of 1,024 is less than the sockets of 1,000 clients."""


def raise_limit() -> int:
    """Raise the soft limit towards the hard limit, up to `WANTED`, and return it. Child processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= WANTED:
        return soft
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    with contextlib.suppress(OSError, ValueError):  # a container may forbid the change
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
