"""A vendor, a clock and a store in memory, which a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.clock import Clock
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.port import (
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Credits,
    Offer,
    Quota,
    TickStream,
)
from tickerplant.system_clock import SystemClock

NOON_US = 1_773_057_600_000_000  # 2026-03-09T12:00:00Z
OFFER = Offer(
    bars=(BarsOffer("1m", 5_000, lookback_us=30 * DAY_US, symbols=8), BarsOffer("1d", 5_000, symbols=8)),
    quotas=(Quota(8, MINUTE_US), Quota(800, DAY_US)),
    actions=True,
)


class ManualClock(SystemClock):
    """A clock that only `forward` and `sleep` advance. `slept` contains the seconds of each sleep."""

    def __init__(self, now_us: int = NOON_US) -> None:
        super().__init__()
        object.__setattr__(self, "_now_us", now_us)
        object.__setattr__(self, "slept", [])

    __slots__ = ("_now_us", "slept")
    _now_us: int
    slept: list[float]

    def now_us(self) -> int:
        return self._now_us

    def forward(self, us: int) -> None:
        object.__setattr__(self, "_now_us", self._now_us + us)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.forward(int(seconds * SECOND_US) + 1)
        await asyncio.sleep(0)


def bars_batch(symbol: str, from_us: int, n: int, source: str = "vendor") -> pa.RecordBatch:
    closes = 100.0 + np.cumsum(np.sin(np.arange(n) * 1.7))
    text = pa.array([symbol] * n, pa.utf8()).dictionary_encode().cast(schemas.TEXT)
    return pa.RecordBatch.from_arrays(
        [
            timestamps(from_us + np.arange(n, dtype=np.int64) * MINUTE_US),
            text,
            pa.array(["1m"] * n, pa.utf8()).dictionary_encode().cast(schemas.SMALL_TEXT),
            *(pa.array(closes + d) for d in (-0.1, 0.5, -0.5, 0.0)),
            pa.array(np.full(n, 10.0)),
            pa.nulls(n, pa.float64()),
            pa.nulls(n, pa.int64()),
            pa.array([source] * n, pa.utf8()).dictionary_encode().cast(schemas.TEXT),
            pa.array(np.ones(n, np.bool_)),
        ],
        schema=schemas.VENDOR_BARS,
    )


class Vendor:
    """A vendor whose requests cost one credit per symbol.

    `does` contains the answers to the next requests, in order. Later requests return bars.
    """

    def __init__(self, name: str, offer: Offer = OFFER, clock: Clock | None = None) -> None:
        self.name, self.offer = name, offer
        self.clock = clock or SystemClock()
        self.asked: list[BarsRequest] = []
        self.actions_asked: list[str] = []
        self.does: list[VendorError | BarsAnswer | Exception | Callable[[BarsRequest], object]] = []
        self.credits = Credits()
        self.closed = 0
        self.at_once = self.most_at_once = 0

    def cost(self, request: BarsRequest) -> int:
        return len(request.symbols)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        self.asked.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            does = self.does.pop(0) if self.does else None
            if callable(does):
                does = does(request)
                if asyncio.iscoroutine(does):
                    does = await does
            if isinstance(does, Exception):
                raise does
            if isinstance(does, BarsAnswer):
                return does
            return BarsAnswer({s: bars_batch(s, request.start_us, 3) for s in request.symbols}, credits=self.credits)
        finally:
            self.at_once -= 1

    async def actions(self, symbol: str, from_us: int, to_us: int) -> ActionsAnswer:
        self.actions_asked.append(symbol)
        does = self.does.pop(0) if self.does else None
        if isinstance(does, Exception):
            raise does
        empty = (schemas.SPLITS.empty_table(), schemas.DIVIDENDS.empty_table())
        splits, dividends = (pa.RecordBatch.from_pylist([], schema=table.schema) for table in empty)
        return ActionsAnswer(splits, dividends, self.credits)

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        return None

    async def close(self) -> None:
        self.closed += 1


class MemoryStore:
    """A `save` function that stores values in memory and counts its calls in `times`. It raises `error` if set."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.times = 0
        self.error: Exception | None = None

    async def __call__(self, values: Mapping[str, bytes]) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.times += 1
        self.values.update(values)
