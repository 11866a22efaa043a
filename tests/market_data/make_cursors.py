"""Make the cursors of `golden/cursors` with an older version: `PYTHON -m tests.market_data.make_cursors`.

PYTHON is the Python of commit 2def005. Run it in this repository. Cursors of a later version would not show that those
of the older version are read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.market_data.support import OPEN_US, SECOND, Clock, embedded, ticks
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.market_data.feed.writer import FeedWriter

GOLDEN = Path(__file__).parent / "golden" / "cursors"


def make(name: str, *, live: bool) -> bytes:
    """Return the cursor of a feed that appended 40 trades and a cancel."""
    clock = Clock(OPEN_US + 60 * SECOND)
    symbols, ids = ["AAPL", "BRK.B"] * 20, [f"t{number // 2}" for number in range(40)]
    cancel = ticks(["AAPL"], [OPEN_US + 50 * SECOND], trade_ids=["t1"], flags=[int(TickFlag.CANCEL)])
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder), 1) as log:
        with FeedWriter(log, name, clock=clock) as feed:
            feed.start(["AAPL", "BRK.B"], start_us=OPEN_US, live=live)
            feed.append_ticks(ticks(symbols, trade_ids=list(ids)), OPEN_US + 39 * SECOND, b"7")
            feed.append_ticks(cancel, OPEN_US + 50 * SECOND, b"8")
        stored = log.get_state(STATE_FEEDS, 0, f"feed:{name}")
    assert stored is not None
    return stored


if __name__ == "__main__":
    for feed_name, file in (("vendor", "live.msgpack"), ("file:x", "file.msgpack")):
        (GOLDEN / file).write_bytes(make(feed_name, live=feed_name == "vendor"))
