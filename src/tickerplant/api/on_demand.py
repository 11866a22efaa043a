"""Indicators computed on request: the interface of the calculator.

The API does not import the indicators; `app` passes an object with this interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from tickerplant.core.bar_request import BarRequest
from tickerplant.core.interval import Interval

ReadBars: TypeAlias = Callable[[int | None, int | None, int], Awaitable[pa.Table]]
"""Function (start_us, end_us, count) that returns at most `count` bars of `[start_us, end_us)`, in ascending order of
time. A bound of None is open. If `start_us` is None, the function returns the newest bars, otherwise the oldest."""


class InputBars(Protocol):
    """Bars from which indicator values are computed."""

    @property
    def computed_from_us(self) -> int | None:
        """Return the time (µs) of the first bar; None if there are no bars."""

    @property
    def limited(self) -> bool:
        """Return True if older bars that influence the values may exist, but were not read."""


class IndicatorCalculator(Protocol):
    """Computes indicators.

    `choose` returns an opaque object for the other methods. The text of this object is the indicator with its
    parameters.
    """

    def choose(self, name: str, parameters: Mapping[str, str]) -> Any:
        """Return the indicator with this name and these parameters. Raises UnknownIndicator, BadInput."""

    async def gather(self, read_bars: ReadBars, chosen: Any, request: BarRequest) -> Any:
        """Return the `InputBars` for the values of the requested bars. Splits after the request's clock are ignored."""

    def values(self, inputs: Any, chosen: Any) -> pa.Table:
        """Return `time`, `state` and a column per output, one row per requested bar. Slow: run it in a thread."""

    def remaining(self, inputs: Any, chosen: Any, beyond: int) -> Mapping[str, int]:
        """Return the count of bars that each column without a value at the last bar still needs, by column.

        The newest `beyond` bars are ignored. {} if no column needs more bars, or there are no bars.
        """
        ...

    def warmups(self, interval: Interval) -> Mapping[str, int]:
        """Return the ordinal, from 1, of the first bar with a value, by column of the analytics service.

        {} if the service computes no indicator in this interval.
        """
        ...

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Return the description of every indicator."""
        ...

    def describe(self, name: str) -> Mapping[str, Any]:
        """Return the description of one indicator. Raises UnknownIndicator."""
        ...
