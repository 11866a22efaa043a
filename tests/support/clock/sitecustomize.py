"""A clock for a whole plant: a fast clock, whose minutes pass in seconds, or a clock that a test moves.

Every Python process with this folder in `PYTHONPATH` uses this clock, so feeds, sandbox and log agree. `TEST_CLOCK` is
`instant:rate`: after that instant (ns since 1970) time runs `rate` times as fast. Pauses and timeouts use the monotonic
clock, which is unchanged.

Debian's libfaketime moves the clock of processes while they run, also for libraries in C. `moved_clock` returns its
environment. Its version 0.9.10 fails in `clock_nanosleep`, so `time.sleep` waits in `select` instead.
"""

from __future__ import annotations

import os
import select
import time

if "TEST_CLOCK" in os.environ:
    _instant, _rate = map(int, os.environ["TEST_CLOCK"].split(":"))
    _real_ns = time.time_ns

    def _time_ns() -> int:
        return _instant + (_real_ns() - _instant) * _rate

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time

if "FAKETIME_TIMESTAMP_FILE" in os.environ:

    def _sleep(seconds: float) -> None:
        select.select([], [], [], seconds)

    time.sleep = _sleep
