"""The progress of the backfill, stored in the event log for other processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tickerplant.core.schemas import PROGRESS_KEY, STATE_FEEDS
from tickerplant.log.port import EventLog

MAX_ORDERS: Final = 50
"""Maximum number of stored orders, and of finished orders in the progress; the oldest are removed."""


class Progress(msgspec.Struct, kw_only=True):
    """The progress of the backfill. Times are microseconds UTC by the clock of market_data.

    `working`: a request is possible now, or a range is not scanned yet. `missing`: count of missing bars. `later`:
    count of missing bars that cannot be requested now. `blocked`: the reason for which bars were last postponed.
    `again_us`: time of the next request for these bars; 0 if it is unknown. `requests`, `bars`: counts of sent
    requests and of appended bars. `failed`: count of vendors' errors. `request`: the last request, as text. `orders`:
    ids of the finished orders of users (no request for them is possible now), newest last. `at_us`: time of this
    progress.
    """

    working: bool = True
    missing: int = 0
    later: int = 0
    requests: int = 0
    bars: int = 0
    failed: int = 0
    request: str = ""
    blocked: str = ""
    again_us: int = 0
    orders: list[str] = []
    at_us: int = 0

    def finish_orders(self, orders: Iterable[str]) -> None:
        """Add orders to the finished orders; the newest MAX_ORDERS remain."""
        self.orders = [*self.orders, *orders][-MAX_ORDERS:]


def read_progress(log: EventLog) -> Progress | None:
    """Return the last progress of the backfill on this log; None if there is none or it cannot be decoded."""
    stored = log.get_state(STATE_FEEDS, 0, PROGRESS_KEY)
    try:
        return None if stored is None else msgspec.json.decode(stored, type=Progress)
    except msgspec.MsgspecError:
        return None  # a backfill of another version wrote it; a running backfill overwrites it
