"""A market of a few constant values, independent of the sandbox: a minimal implementation of `Market`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, BoolArray, Int64Array, micros_of
from tickerplant.protocols.market import AS_TRADED, CRYPTO, STOCK, Bars, Dividend, Instrument, Split, Trades

OPEN_US = micros_of(dt.datetime(2026, 3, 9, 13, 30, tzinfo=dt.UTC))  # a Monday, 09:30 in New York
SPLIT = Split(OPEN_US // DAY_US * DAY_US - 30 * DAY_US, 4, 1)
DIVIDEND = Dividend(OPEN_US // DAY_US * DAY_US - 60 * DAY_US, 0.24)


class FixedMarket:
    """Each bar has open 10, high 12, low 9, close 11, volume 700. Each minute from `OPEN_US` has one trade at 11."""

    def __init__(self, now_us: int = OPEN_US + HOUR_US) -> None:
        self.now_us = now_us
        self.instruments = (
            Instrument("ACME", STOCK, "Acme Corporation", "NASDAQ", "XNAS", has_sessions=True),
            Instrument("BTC/USDT", CRYPTO, "Bitcoin", "Exchange"),
        )

    def find(self, symbol: str) -> Instrument | None:
        return next((found for found in self.instruments if found.symbol == symbol), None)

    def bars(self, symbol: str, start_us: int, end_us: int, length_us: int, adjustment: str = AS_TRADED) -> Bars:
        first = max(-(-start_us // length_us) * length_us, (OPEN_US - 3 * DAY_US) // length_us * length_us)
        return _bars(np.arange(first, min(end_us, self.now_us), length_us))

    def month_bars(self, symbol: str, start_us: int, end_us: int, months: int, adjustment: str = AS_TRADED) -> Bars:
        return _bars(np.array([micros_of(dt.datetime(2026, 3, 1, tzinfo=dt.UTC))]))

    def trades(self, symbol: str, start_us: int, end_us: int) -> Trades:
        times = np.arange(max(start_us, OPEN_US), end_us, MINUTE_US)
        return Trades(times, np.full(len(times), 11.0), np.full(len(times), 7))

    def price(self, symbol: str) -> float:
        return 11.0

    def splits(self, symbol: str, start_us: int = 0) -> Sequence[Split]:
        return [SPLIT] if symbol == "ACME" and start_us <= SPLIT.us else []

    def dividends(self, symbol: str, start_us: int = 0) -> Sequence[Dividend]:
        return [DIVIDEND] if symbol == "ACME" and start_us <= DIVIDEND.us else []

    def session_of(self, symbol: str, day_us: int) -> tuple[int, int]:
        opens = day_us + OPEN_US % DAY_US
        return opens, opens + 390 * MINUTE_US

    def in_session(self, symbol: str, times_us: Int64Array) -> BoolArray:
        within = (times_us - OPEN_US) % DAY_US < 390 * MINUTE_US
        return np.asarray(within, np.bool_)


def _bars(starts_us: Int64Array) -> Bars:
    count = len(starts_us)
    open_, high, low, close = (np.full(count, price) for price in (10.0, 12.0, 9.0, 11.0))
    return Bars(starts_us, open_, high, low, close, np.full(count, 700))
