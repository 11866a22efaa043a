"""A faster clock for a whole plant: minutes pass in seconds.

Every Python process with this folder in `PYTHONPATH` uses this clock, so feeds, sandbox and log agree. `TEST_CLOCK` is
`instant:rate`: after that instant (ns since 1970) time runs `rate` times as fast. Pauses and timeouts use the monotonic
clock, which is unchanged.
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
