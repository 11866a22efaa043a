"""A clock of its own for a whole plant, so that a folder made long ago can be opened as if a moment had passed.

With this folder in `PYTHONPATH` every Python process reads its time from here. `UPGRADE_CLOCK` is
`instant:virtual:rate`: at the real instant (ns since 1970) the clock shows `virtual`, and goes `rate` times as fast.
Rate 0 stops it. Pauses and timeouts use the monotonic clock, and stay as they are.
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
