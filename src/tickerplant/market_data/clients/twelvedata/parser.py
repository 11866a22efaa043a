"""Converts parsed messages of the stream into batches of ticks, and detects the gaps of a live connection. Pure.

A connection may stay open while its ticks stop and later continue. Even if the pause is shorter than the time after
which the connection counts as dead, the ticks of the pause are lost. Such a gap is found by the times of the ticks.
"""

from __future__ import annotations

import numpy as np

from tickerplant.core.times import SECOND_US, Int64Array
from tickerplant.market_data.clients.liveness import PriceLiveness
from tickerplant.market_data.clients.twelvedata.quotes import ParsedMessages, QuoteDecoder
from tickerplant.market_data.clients.twelvedata.subscriptions import Subscriptions
from tickerplant.market_data.feed.validation import FUTURE_US
from tickerplant.market_data.vendors.port import Ticks


class MessageParser:
    """Converts the messages of a stream into events."""

    def __init__(self, quotes: QuoteDecoder, subscriptions: Subscriptions, liveness: PriceLiveness) -> None:
        self._quotes = quotes
        self._subscriptions = subscriptions
        self._liveness = liveness
        self._newest_us = 0

    def start_connection(self, at_us: int) -> None:
        """Reset the state for a new connection: remove the volumes of the day. Gaps are detected from `at_us` on."""
        self._quotes.forget_volumes()
        self._newest_us = at_us

    def add_symbols(self, symbols: list[str]) -> None:
        """Add symbols that are subscribed."""
        self._quotes.add_symbols(symbols)

    def ticks(self, messages: ParsedMessages, arrivals_us: Int64Array, now_s: float) -> Ticks:
        """Return the messages as one event. `arrivals_us`: arrival of each message; `now_s`: monotonic seconds."""
        control, received_us = len(messages.statuses) + messages.heartbeats + messages.others, int(arrivals_us[-1])
        event = Ticks(received_us, dead=messages.dead, messages=len(arrivals_us), control=control)
        for status in messages.statuses:
            rejected, notes = self._subscriptions.apply(status, now_s)
            event.rejected.update(rejected)
            event.notes += notes
        if messages.prices:
            columns, dead = self._quotes.columns(messages.prices)
            event.unwanted = self._quotes.take_unwanted()
            event.gap = self._gap(columns.times, received_us)
            if event.gap is not None:
                self._quotes.forget_volumes()
            is_each = len(columns.codes) == len(arrivals_us)  # otherwise some messages were no prices
            event.batch = self._quotes.ticks(columns, arrivals_us if is_each else received_us)
            event.dead = [*event.dead, *dead]
        return event

    def _gap(self, times: Int64Array, received_us: int) -> tuple[int, int] | None:
        """Return the range from the last tick to the first newer time if ticks were missed; otherwise None.

        The range is measured by the ticks' own times, because messages may wait in the socket.
        """
        if not len(times):
            return None
        newest_us, last_us = int(times.max()), self._newest_us
        if newest_us > received_us + FUTURE_US:
            newest_us = int(np.max(times, initial=0, where=(times <= received_us + FUTURE_US)))
        if newest_us <= last_us:
            return None
        self._newest_us = newest_us
        first_us = int(times[times > last_us].min())
        markets = self._subscriptions.hours.open_markets(first_us)
        if not last_us or self._subscriptions.hours.open_markets(last_us) != markets:
            return None
        is_gap = first_us - last_us > self._liveness.min_gap_s(markets) * SECOND_US
        return (last_us, first_us) if is_gap else None
