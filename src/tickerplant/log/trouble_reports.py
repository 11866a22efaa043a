"""Reports of repeating errors as state keys of the log, so that `health` in any process shows them.

A *trouble* is an error that repeats: a service that crashes repeatedly, or a vendor that floods its connection. Each
trouble is one JSON object in partition 0 of `STATE_FEEDS`, so that health reads one partition.
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import EventLog

PREFIX: Final = "trouble:"
MEMORY_S: Final = 600.0
"""Age in seconds after which a report is ignored. A process that is restarted from outside may pause for minutes."""
MAX_ERROR_CHARS: Final = 500
"""Maximum characters of the error in a report."""


class Trouble(msgspec.Struct):
    """An error that repeats.

    `times` is the count of consecutive errors. `since_s` and `reported_s` are in seconds since 1970.
    """

    error: str
    since_s: float
    times: int
    reported_s: float
    permanent: bool = True
    """True if waiting cannot remove the cause."""


def service_key(service: str, instance: str) -> str:
    """Return the key of a service's crashes."""
    return f"service:{service}:{instance}"


def feed_key(feed: str) -> str:
    """Return the key of the trouble with a feed's vendor."""
    return f"feed:{feed}"


def report(log: EventLog, key: str, error: str, now_s: float, *, permanent: bool = True, times: int = 1) -> None:
    """Store that the error happened `times` more times. A report of the last ten minutes is continued.

    Raises LogError.
    """
    known = _decoded(log.get_state(STATE_FEEDS, 0, PREFIX + key))
    former = known if known is not None and 0 <= now_s - known.reported_s < MEMORY_S else Trouble("", now_s, 0, now_s)
    new = Trouble(error[:MAX_ERROR_CHARS], former.since_s, former.times + times, now_s, permanent)
    _put(log, key, msgspec.json.encode(new))


def withdraw(log: EventLog, key: str) -> None:
    """Delete a report, if there is one. Raises LogError."""
    if log.get_state(STATE_FEEDS, 0, PREFIX + key) is not None:
        _put(log, key, None)


def read(log: EventLog, now_us: int) -> dict[str, Trouble]:
    """Return the recent troubles by key. Raises LogError.

    Ignores reports whose time differs from `now_us` by `MEMORY_S` or more. A wrong clock can set a future time.
    """
    found = {}
    for key in sorted(log.state_keys(STATE_FEEDS, 0)):
        if key.startswith(PREFIX):
            trouble = _decoded(log.get_state(STATE_FEEDS, 0, key))
            if trouble is not None and abs(now_us / SECOND_US - trouble.reported_s) < MEMORY_S:
                found[key.removeprefix(PREFIX)] = trouble
    return found


def _put(log: EventLog, key: str, value: bytes | None) -> None:
    with log.writer(f"{PREFIX}{key}") as writer, writer.transaction() as transaction:
        transaction.put_state(STATE_FEEDS, 0, PREFIX + key, value)


def _decoded(value: bytes | None) -> Trouble | None:
    with contextlib.suppress(msgspec.MsgspecError):
        return None if value is None else msgspec.json.decode(value, type=Trouble)
    return None  # written by a newer version
