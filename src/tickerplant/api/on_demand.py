"""Indicators computed when asked: what the API wants of whoever computes them, and the turns that requests take.

The API knows no indicators; `app` brings them.
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

AT_ONCE: Final = 2
"""Requests that compute at the same time: each takes a thread, a connection, and some ten megabytes at the most."""
WAITING: Final = 32
"""Requests that wait for that. One more is told to try again."""

ReadBars: TypeAlias = Callable[[int | None, int | None, int], Awaitable[pa.Table]]
"""(start, end, count) to bars in order of time; with no start the newest before `end`."""


class Stretch(Protocol):
    """The bars that values are computed from."""

    @property
    def computed_from_us(self) -> int | None:
        """The time of the first of them."""

    @property
    def limited(self) -> bool:
        """Whether older ones would count too, and were too many to be read."""


class Indicators(Protocol):
    """What can be computed. `choose` gives what `gather` and `values` take; only its text matters here."""

    def choose(self, name: str, parameters: Mapping[str, str]) -> Any:
        """Return the indicator. Raises UnknownIndicator for the name, BadInput for the parameters."""

    async def gather(self, read_bars: ReadBars, chosen: Any, request: BarRequest) -> Any:
        """Return the `Stretch` that the values of the asked bars need; splits that are still to come are none."""

    def values(self, stretch: Any, chosen: Any) -> pa.Table:
        """Return `time`, `state` and a column for each output, for the bars asked for. Takes long: for a thread."""

    def remaining(self, stretch: Any, chosen: Any, beyond: int) -> Mapping[str, int]:
        """Return how many bars more each column needs that is not warm at the last bar but `beyond`."""
        ...

    def warmups(self, interval: Interval) -> Mapping[str, int]:
        """Return for each column that the stream computes on an interval the bar, from 1, that has the first value."""
        ...

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Return all that there are."""
        ...

    def describe(self, name: str) -> Mapping[str, Any]:
        """Return the one of that name. Raises UnknownIndicator."""
        ...


class Turns:
    """Lets a few requests work at once, some wait, and refuses the others (503)."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._here = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn and have it for the block. Raises ApiError when too many wait already."""
        if self._here >= self._most:
            raise ApiError(
                503, "busy", f"{self._here} requests wait for indicators to be computed", "try again in a few seconds"
            )
        self._here += 1
        try:
            async with self._free:
                yield
        finally:
            self._here -= 1
