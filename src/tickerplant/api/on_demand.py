"""Indicators computed on request: the interface of the calculator, and the limit of concurrent requests.

The API does not import the indicators; `app` passes an object with this interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

import pyarrow as pa

from tickerplant.api.http.errors import ApiError
from tickerplant.core.bar_request import BarRequest
from tickerplant.core.interval import Interval

MAX_CONCURRENT: Final = 2
"""Maximum requests that compute at the same time. Each needs a thread, a connection, and about 10 MB at most."""
MAX_WAITING: Final = 32
"""Maximum requests that wait for their turn. A further request is refused with 503."""

ReadBars: TypeAlias = Callable[[int | None, int | None, int], Awaitable[pa.Table]]
"""Function (start_us, end_us, count) that returns at most `count` bars in ascending order of time. If `start_us` is
None, it returns the newest bars before `end_us`."""


class InputBars(Protocol):
    """Bars from which indicator values are computed."""

    @property
    def computed_from_us(self) -> int | None:
        """Return the time (µs) of the first bar; None if there is none."""

    @property
    def limited(self) -> bool:
        """Return True if older bars influence the values but were too many to read."""


class IndicatorCalculator(Protocol):
    """Computes indicators. `choose` returns an opaque object for the other methods; its text names the indicator."""

    def choose(self, name: str, parameters: Mapping[str, str]) -> Any:
        """Return the indicator with this name and these parameters. Raises UnknownIndicator, BadInput."""

    async def gather(self, read_bars: ReadBars, chosen: Any, request: BarRequest) -> Any:
        """Return the `InputBars` for the values of the requested bars. Splits after the request's clock are ignored."""

    def values(self, inputs: Any, chosen: Any) -> pa.Table:
        """Return `time`, `state` and a column per output, one row per requested bar. Slow: run it in a thread."""

    def remaining(self, inputs: Any, chosen: Any, beyond: int) -> Mapping[str, int]:
        """Return the columns that are not warm at the last bar, with the number of bars that each still needs.

        The newest `beyond` bars are ignored.
        """
        ...

    def warmups(self, interval: Interval) -> Mapping[str, int]:
        """Return the ordinal, from 1, of the first bar with a value, by column of the analytics service."""
        ...

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Return the description of every indicator."""
        ...

    def describe(self, name: str) -> Mapping[str, Any]:
        """Return the description of one indicator. Raises UnknownIndicator."""
        ...


class ConcurrencyLimiter:
    """Limits concurrent requests: a few run, some wait, and the others are refused (503)."""

    def __init__(self, max_concurrent: int = MAX_CONCURRENT, max_waiting: int = MAX_WAITING) -> None:
        self._slots = asyncio.Semaphore(max_concurrent)
        self._max_admitted = max_concurrent + max_waiting
        self._admitted = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it until the block ends. Raises ApiError if too many requests wait already."""
        if self._admitted >= self._max_admitted:
            raise ApiError(
                503, "busy", f"{self._admitted} requests for indicators run or wait already",
                "try again in a few seconds",
            )  # fmt: skip
        self._admitted += 1
        try:
            async with self._slots:
                yield
        finally:
            self._admitted -= 1
