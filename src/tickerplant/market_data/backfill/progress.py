"""How far the backfill is, and what a user has ordered of it: both kept state, for other processes to see and say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tickerplant.core.errors import LogError
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.log.port import EventLog

PROGRESS_KEY: Final = "backfill:progress"
ORDER_KEY: Final = "backfill:order"
_ORDERS: Final = "backfill-orders"


class Progress(msgspec.Struct, kw_only=True):
    """How far the backfill is. Times are microseconds UTC by the clock of market_data.

    `working`: something is left that can be fetched now. `missing`: bars that are to be fetched; `later`: those of them
    for which nobody can be asked yet, because of what `blocked` says, until `again_us`. `request`: what was asked last.
    `order`: the last of the users' orders of which nothing is left that could be fetched now.
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
    order: str = ""
    at_us: int = 0


class Order(msgspec.Struct, kw_only=True):
    """What a user wants to have, beyond the depths of the settings. Empty `intervals` and `symbols` stand for all."""

    id: str
    symbols: Sequence[str] = ()
    intervals: Sequence[str] = ()
    from_us: int = 0
    to_us: int = 0


def read_progress(log: EventLog) -> Progress | None:
    """Return how far the backfill on this log was lately, or None if there has been none."""
    kept = log.get_state(STATE_FEEDS, 0, PROGRESS_KEY)
    try:
        return None if kept is None else msgspec.json.decode(kept, type=Progress)
    except msgspec.MsgspecError:
        return None  # of another version, and soon written anew


def place_order(log: EventLog, order: Order) -> None:
    """Leave an order for the backfill that runs on this log; it replaces one that was not yet taken."""
    with log.writer(_ORDERS) as writer, writer.transaction() as transaction:
        transaction.put_state(STATE_FEEDS, 0, ORDER_KEY, msgspec.json.encode(order))


def read_order(log: EventLog) -> Order | None:
    """Return the last order, or None. Raises LogError for one that cannot be read."""
    kept = log.get_state(STATE_FEEDS, 0, ORDER_KEY)
    try:
        return None if kept is None else msgspec.json.decode(kept, type=Order)
    except msgspec.MsgspecError as error:
        raise LogError(f"the order of the backfill cannot be read: {error}") from error
