"""Checks of the machine: versions, port, disk, clock and limits. They send no request to another machine."""

from __future__ import annotations

import datetime as dt
import errno
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tickerplant.app.component import DEGRADED, FAILED
from tickerplant.app.disk import disk_health, intake_folders
from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding
from tickerplant.app.runtime.descriptors import WANTED
from tickerplant.core.free_space import MIB
from tickerplant.machine import clock_is_corrected

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings

OLDEST: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
"""Earliest plausible time of the machine's clock. This version did not exist before that time."""
LATEST: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
SAMPLE_S: Final = 0.2
DRIFT_S: Final = 0.02
"""Maximum difference in seconds between wall clock and monotonic clock over `SAMPLE_S`. Corrections by NTP are
smaller."""
LEAST_INODES: Final = 10_000
LEAST_DESCRIPTORS: Final = 1_024
PLENTY_BYTES: Final = 5 << 30
_STATES: Final = {DEGRADED: WARN, FAILED: FAIL}


def versions() -> Iterator[Finding]:
    """Yield the versions of Tickerplant, Python and the system."""
    text = f"Tickerplant {metadata.version('tickerplant')}, Python {platform.python_version()}, {platform.platform()}"
    old = sys.version_info < (3, 11)
    yield Finding("versions", FAIL if old else OK, text, "install Python 3.11 or newer" if old else "")


def port(settings: Settings, *, running: bool) -> Iterator[Finding]:
    """Yield a finding about the port of the API, free or in use. `running`: a plant runs on the data folder."""
    host, number = settings.api.host, settings.api.port
    if number == 0:
        yield Finding("port", OK, "the API chooses a free port (api.port is 0)")
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            advice = "correct api.host and api.port"
            if error.errno == errno.EADDRINUSE:
                if running:
                    yield Finding("port", OK, f"port {number} is in use, and a plant runs on this data folder")
                    return
                advice = "stop the program that uses it, or choose another port (api.port)"
            elif error.errno == errno.EACCES:
                advice = "choose a port of 1024 or above (api.port)"
            yield Finding("port", FAIL, f"the API cannot listen on {host}:{number}: {error.strerror or error}", advice)
        else:
            yield Finding("port", OK, f"{host}:{number} is free")


def disk(settings: Settings) -> Iterator[Finding]:
    """Yield the free space, the inodes and the permissions of the data folder and of the log's folder."""
    growing = intake_folders(settings)
    for folder in dict.fromkeys((settings.data, *growing)):
        place = _existing(folder)
        least_bytes = settings.min_free_mb * MIB if folder in growing else 0
        name = "disk" if folder == settings.data else f"disk {folder}"
        if not os.access(place, os.W_OK | os.X_OK):
            yield Finding(
                name, FAIL, f"{place} cannot be written by this user", "change its owner, or use another --data"
            )
            continue
        for part in disk_health(place, least_bytes=least_bytes):
            state, advice = _STATES.get(part.state, OK), ""
            sentence = part.sentence
            if state == OK and least_bytes and part.details["free_bytes"] < PLENTY_BYTES:
                state, advice = WARN, "a plant with many symbols writes gigabytes a day; plan for more space"
            yield Finding(name, state, sentence, advice or ("free some space" if state != OK else ""))
        yield from _inodes(place, name)
    if settings.data.exists() and (mode := settings.data.stat().st_mode & 0o777) & 0o066:
        sentence = f"other users of this machine can read {settings.data} (mode {mode:04o})"
        yield Finding("data folder", WARN, sentence, f"run chmod 700 {settings.data}")


def _inodes(place: Path, name: str) -> Iterator[Finding]:
    found = os.statvfs(place)
    if found.f_files == 0:  # file systems such as btrfs have no fixed number of inodes
        return
    few = found.f_favail < LEAST_INODES
    advice = "delete small files, or use a file system with more inodes" if few else ""
    yield Finding(f"{name} inodes", WARN if few else OK, f"{found.f_favail:,} inodes are free", advice)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def clock(newest_us: int | None) -> Iterator[Finding]:
    """Yield the state of the clock, checked without a network.

    `newest_us`: the greatest `sent_at_us` of the newest raw records; None without such records, and for a sandbox with
    its own clock.

    The check cannot detect a clock that is wrong by a constant time, unless the kernel reports it or the log is ahead.
    """
    now = dt.datetime.now(dt.UTC)
    set_it = "set the clock, and run a time service such as chrony or systemd-timesyncd"
    if not OLDEST <= now < LATEST:
        yield Finding("clock", FAIL, f"the clock shows {now:%Y-%m-%d %H:%M}, which cannot be right", set_it)
        return
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(SAMPLE_S)
    moved_s = (time.time() - wall) - (time.monotonic() - monotonic)
    ahead_s = (newest_us or 0) / 1e6 - time.time()
    if abs(moved_s) > DRIFT_S:
        sentence = f"the clock was moved by {moved_s:+.3f} s within {SAMPLE_S:g} s"
        yield Finding("clock", WARN, sentence, "check the time service; it should slew the clock, not step it")
    elif ahead_s > 1:
        sentence = f"the newest record of the log is {ahead_s:,.0f} s ahead of the clock: the clock was set back"
        yield Finding("clock", WARN, sentence, set_it)
    elif clock_is_corrected() is False:
        yield Finding("clock", WARN, "the kernel reports that no time service corrects the clock", set_it)
    else:
        sentence = f"{now:%Y-%m-%d %H:%M:%S} UTC, advances evenly; its error cannot be measured without a network"
        yield Finding("clock", OK, sentence)


def open_files(settings: Settings) -> Iterator[Finding]:
    """Yield the limit of open files, and whether the API needs a higher limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= WANTED:
        yield Finding("open files", OK, f"the limit is {'none' if hard == resource.RLIM_INFINITY else f'{hard:,}'}")
        return
    needed = settings.api.max_connections + 256
    state = FAIL if hard < LEAST_DESCRIPTORS else WARN if hard < needed else OK
    advice = f"raise the hard limit to {WANTED:,} (LimitNOFILE of systemd, or ulimit -Hn)" if state != OK else ""
    sentence = f"the hard limit is {hard:,}; api.max_connections needs {needed:,}"
    yield Finding("open files", state, sentence, advice)
