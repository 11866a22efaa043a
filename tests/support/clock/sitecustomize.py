"""A clock that runs faster, for a whole plant: minutes that must pass pass in seconds.

With this folder in `PYTHONPATH` every Python process reads its time from here, so that feeds, the made-up vendor and
the log agree. `TEST_CLOCK` is `instant:rate`: since that instant (ns since 1970) time goes `rate` times as fast. Pauses
and timeouts go by the monotonic clock, and stay as they are.
"""

from __future__ import annotations

import os
import time

if "TEST_CLOCK" in os.environ:
    _instant, _rate = map(int, os.environ["TEST_CLOCK"].split(":"))
    _real_ns = time.time_ns

    def _time_ns() -> int:
        return _instant + (_real_ns() - _instant) * _rate

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time
