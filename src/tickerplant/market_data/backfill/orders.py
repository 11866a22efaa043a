"""Users' orders for bars: other processes store the orders in the log, and the manager requests the bars."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from tickerplant.core.clock import Clock
from tickerplant.core.errors import Fenced, LogError
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.progress import MAX_ORDERS, Progress
from tickerplant.market_data.backfill.targets import BackfillPlan, Lookback, Order, WantedRange

ORDERS_KEY: Final = "backfill:orders"
POLL_S: Final = 1.0
"""Minimum seconds between two reads of the orders during a round."""
_WRITER: Final = "backfill-orders"
_TRIES: Final = 20


def place_order(log: EventLog, order: Order) -> None:
    """Store an order for the backfill that runs on this log. Only the newest MAX_ORDERS orders remain stored.

    Blocks. Raises LogError if other writers fence every attempt, or if the stored orders cannot be decoded.
    """
    for _ in range(_TRIES):
        try:
            # Opening the writer fences other writers, so that two processes cannot overwrite each other's order.
            with log.writer(_WRITER) as writer:
                orders = [*read_orders(log), order][-MAX_ORDERS:]
                with writer.transaction() as transaction:
                    transaction.put_state(STATE_FEEDS, 0, ORDERS_KEY, msgspec.json.encode(orders))
            return
        except Fenced:
            time.sleep(random.uniform(0.05, 0.2))
    raise LogError("the backfill order was not stored: other processes store orders at the same time; try again")


def read_orders(log: EventLog) -> list[Order]:
    """Return the newest MAX_ORDERS orders, oldest first, finished or not. Raises LogError if they cannot be decoded."""
    stored = log.get_state(STATE_FEEDS, 0, ORDERS_KEY)
    try:
        return [] if stored is None else msgspec.json.decode(stored, type=list[Order])
    except msgspec.MsgspecError as error:
        raise LogError(
            f"the orders of the backfill cannot be decoded: {error}; run the version that wrote them"
        ) from error


class OpenOrders:
    """The orders that the manager has accepted and not finished, as ranges of bars.

    `read` returns the stored orders. A plan with its own order uses this order only: stored orders are not read, and
    the order stays open until `finish_all`.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[list[Order]]],
        plan: BackfillPlan,
        progress: Progress,
        clock: Clock,
        lookback_us: Lookback,
    ) -> None:
        self._read = read
        self._plan, self._progress, self._clock = plan, progress, clock
        self._lookback_us = lookback_us
        self._ranges: dict[str, list[WantedRange]] = {}
        self._read_s = 0.0
        if plan.order is not None:
            self._accept(plan.order)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def ranges(self) -> list[WantedRange]:
        """Return the ranges of all open orders."""
        return [one for ranges in self._ranges.values() for one in ranges]

    async def accept_new(self) -> bool:
        """Accept the stored orders that are new; return True if there was at least one."""
        new = await self._read_new()
        for order in new:
            self._accept(order)
        return bool(new)

    async def has_new(self) -> bool:
        """Return True if a new order is stored. Reads at most once in POLL_S, and returns False in between."""
        return time.monotonic() - self._read_s > POLL_S and bool(await self._read_new())

    def finish(self, is_filled: Callable[[WantedRange, int, int], bool]) -> None:
        """Close the orders for which no request is possible soon.

        `is_filled(range, now_us, patience_us)` returns True if no request for the range is possible within
        `patience_us`.
        """
        if self._plan.order is not None:
            return
        now_us, patience_us = self._clock.now_us(), int(self._plan.once_wait_s * SECOND_US)
        self._close([
            order for order, ranges in self._ranges.items()
            if all(is_filled(one, now_us, patience_us) for one in ranges)
        ])  # fmt: skip

    def finish_all(self) -> None:
        """Close all orders."""
        self._close(list(self._ranges))

    def _close(self, orders: Iterable[str]) -> None:
        orders = list(orders)
        self._progress.finish_orders(orders)
        for order in orders:
            del self._ranges[order]

    async def _read_new(self) -> list[Order]:
        self._read_s = time.monotonic()
        if self._plan.order is not None:
            return []
        orders = await self._read()
        return [order for order in orders if order.id not in self._ranges and order.id not in self._progress.orders]

    def _accept(self, order: Order) -> None:
        self._ranges[order.id] = self._plan.ranges_of(order, self._clock.now_us(), self._lookback_us)
        self._progress.working = True
