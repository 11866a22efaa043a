"""How far the backfill is, and what a user has ordered of it: both kept state, for other processes to see and say."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tickerplant.core.errors import Fenced, LogError
from tickerplant.core.schemas import PROGRESS_KEY, STATE_FEEDS
from tickerplant.log.port import EventLog

ORDERS_KEY: Final = "backfill:orders"
MOST_ORDERS: Final = 50
_ORDERS: Final = "backfill-orders"
_TRIES: Final = 20


class Progress(msgspec.Struct, kw_only=True):
    """How far the backfill is. Times are microseconds UTC by the clock of market_data.

    `working`: something is left that can be fetched now. `missing`: bars that are to be fetched; `later`: those of them
    for which nobody can be asked yet, because of what `blocked` says, until `again_us`. `request`: what was asked last.
    `orders`: ids of users' orders of which nothing is left that could be fetched now, newest last.
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

    def finished(self, orders: Iterable[str]) -> None:
        """Take these orders as carried out."""
        self.orders = [*self.orders, *orders][-MOST_ORDERS:]


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
    """Leave an order for the backfill that runs on this log, behind those that others have left."""
    for _ in range(_TRIES):
        try:
            # The writer fences off who does the same at the same time, so that nobody's order is written over.
            with log.writer(_ORDERS) as writer:
                left = [*read_orders(log), order][-MOST_ORDERS:]
                with writer.transaction() as transaction:
                    transaction.put_state(STATE_FEEDS, 0, ORDERS_KEY, msgspec.json.encode(left))
            return
        except Fenced:
            time.sleep(random.uniform(0.05, 0.2))
    raise LogError("the order of the backfill could not be left: others leave theirs all the time; try again")


def read_orders(log: EventLog) -> list[Order]:
    """Return the last orders, oldest first, carried out or not. Raises LogError for what cannot be read."""
    kept = log.get_state(STATE_FEEDS, 0, ORDERS_KEY)
    try:
        return [] if kept is None else msgspec.json.decode(kept, type=list[Order])
    except msgspec.MsgspecError as error:
        raise LogError(f"the orders of the backfill cannot be read: {error}") from error
