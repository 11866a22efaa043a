"""Trades of an exchange's symbols: the state of each symbol, and new trades as ticks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tickerplant.core.arrow_values import timestamps
from tickerplant.core.schemas import TEXT, TICKS
from tickerplant.core.times import MILLISECOND_US
from tickerplant.market_data.vendors.columns import repeated

OVERLAP_MS: Final = 1_000
FULL_PAGE: Final = 50
"""Minimum trades in a full answer. If at least half of them are new, the next page is requested at once."""


@dataclass(slots=True)
class Trade:
    """A trade of a symbol."""

    symbol: str
    id: str
    time_ms: int
    price: float
    size: float


@dataclass(slots=True)
class SymbolTrades:
    """The known trades of a symbol.

    `seen`: recent ids with their times; `last_id`, `last_ms`: id and time of the newest trade.

    `overlap_ms`: time before the newest trade at which the next answer begins: `OVERLAP_MS`; 0, then -1, if full
    answers contain no new trade. `requested_us`: time of the last request that was answered.
    `rejected_until_us`: time until which the symbol gets no request, because the exchange rejected it.
    """

    symbol: str
    last_id: str = ""
    last_ms: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    overlap_ms: int = OVERLAP_MS
    requested_us: int = 0
    rejected_until_us: int = 0

    def add(self, page: Sequence[Trade]) -> None:
        """Add the trades of an answer, oldest first; remove known trades that are no longer recent."""
        if not page:
            return
        if page[-1].time_ms >= self.last_ms or not self.last_id:
            self.last_id, self.last_ms = page[-1].id, page[-1].time_ms
        oldest_ms = self.last_ms - 2 * OVERLAP_MS
        seen = {name: ms for name, ms in self.seen.items() if ms >= oldest_ms}
        seen.update((trade.id, trade.time_ms) for trade in page if trade.time_ms >= oldest_ms)
        self.seen = seen

    def new_of(self, page: Sequence[Trade]) -> list[Trade]:
        """Return the unknown trades of an answer that are at most `OVERLAP_MS` older than the newest known trade."""
        since_ms = self.last_ms - OVERLAP_MS
        return [trade for trade in page if trade.id not in self.seen and trade.time_ms >= since_ms]

    def is_gap_before(self, page: Sequence[Trade]) -> bool:
        """Return True if the answer contains no known trade; False if it is empty or no recent trade is known."""
        return bool(self.seen and page) and not any(trade.id in self.seen for trade in page)


def ticks_of(trades: Sequence[Trade], received_us: int, source: str) -> pa.RecordBatch:
    """Return trades as ticks (`schemas.TICKS`), in the order of their times."""
    times = np.array([trade.time_ms for trade in trades], np.int64) * MILLISECOND_US
    order = np.argsort(times, kind="stable")
    symbols = list(dict.fromkeys(trade.symbol for trade in trades))
    code_of = {symbol: code for code, symbol in enumerate(symbols)}
    codes = np.array([code_of[trade.symbol] for trade in trades], np.int32)
    rows = len(trades)

    def column(values: list[Any]) -> pa.Array:
        return pa.array(np.array(values, np.float64)[order])

    return pa.RecordBatch.from_arrays(
        [
            timestamps(times[order]),
            pa.DictionaryArray.from_arrays(pa.array(codes[order]), pa.array(symbols, pa.utf8())).cast(TEXT),
            column([trade.price for trade in trades]),
            column([trade.size for trade in trades]),
            repeated(source, rows),
            pa.array([trade.id for trade in trades], pa.utf8()).take(pa.array(order)),
            pa.array(np.zeros(rows, np.uint16)),
            timestamps(np.full(rows, received_us, np.int64)),
        ],
        schema=TICKS,
    )
