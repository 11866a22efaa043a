"""A virtual clock for a whole plant, so that a test opens an old folder as if only a moment had passed.

Every Python process with this folder in `PYTHONPATH` reads its time from this clock. `UPGRADE_CLOCK` is
`instant:virtual:rate`. The clock shows `virtual` at the real time `instant` (both in ns since 1970), and runs `rate`
times as fast as real time. Rate 0 stops the clock. Pauses and timeouts use the monotonic clock, which is not changed.
"""

from __future__ import annotations

import os
import time

if "UPGRADE_CLOCK" in os.environ:
    _instant, _virtual, _rate = map(int, os.environ["UPGRADE_CLOCK"].split(":"))
    _real_ns = time.time_ns

    def _time_ns() -> int:
        return _virtual + (_real_ns() - _instant) * _rate

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time
