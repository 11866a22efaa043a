"""The place of each bar in the order of sources, on whole columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.rows import FROM_VENDOR, FROM_VENDOR_PARTS, INTERVALS, Names, Rows
from tickerplant.core.rules import Rules
from tickerplant.core.sources import BARS, TICKS, SourceOrder
from tickerplant.core.times import Int64Array

_KINDS = (TICKS, BARS)


class Ranking:
    """The order of sources by the engine's numbers. Grows with the names; follows from rules and names alone.

    `_scopes[symbol, interval]` says which entries speak of a bar; `_places[scope, source, kind]` its place among them.
    """

    def __init__(self, rules: Rules, symbols: Names, sources: Names) -> None:
        self._order = SourceOrder(rules.sources)
        self._symbols, self._sources = symbols, sources
        self._numbers: dict[tuple[int, ...], int] = {}
        self._scopes: npt.NDArray[np.int32] = np.empty((0, len(INTERVALS)), dtype=np.int32)
        self._places: npt.NDArray[np.int64] = np.empty((0, 0, len(_KINDS)), dtype=np.int64)

    def refresh(self) -> None:
        """Fit the tables to the names known now."""
        fresh = self._symbols.texts[len(self._scopes) :]
        if fresh:
            scopes = [[self._number(self._order.scope(text, i.name)) for i in INTERVALS] for text in fresh]
            self._scopes = np.concatenate((self._scopes, np.array(scopes, dtype=np.int32)))
        if self._places.shape[:2] != (len(self._numbers), len(self._sources)):
            place = self._order.rank
            self._places = np.array(
                [
                    [[place(scope, text, kind) for kind in _KINDS] for text in self._sources.texts]
                    for scope in self._numbers
                ],
                dtype=np.int64,
            ).reshape(len(self._numbers), len(self._sources), len(_KINDS))

    def _number(self, scope: tuple[int, ...]) -> int:
        return self._numbers.setdefault(scope, len(self._numbers))

    def places(self, rows: Rows, interval: int) -> Int64Array:
        """Return the place of each bar of an interval (code), 0 the best: int64[n]."""
        kind = ((rows["kind"] == FROM_VENDOR) | (rows["kind"] == FROM_VENDOR_PARTS)).astype(np.int8)
        found: Int64Array = self._places[self._scopes[rows["symbol"], interval], rows["source"], kind]
        return found

    def best_of_ticks(self, symbols: npt.NDArray[np.int32], sources: list[int]) -> Int64Array:
        """Return the best place that bars from ticks of any of these sources have, by symbol; at 1m: int64[n]."""
        found: Int64Array = self._places[self._scopes[symbols, 0]][:, sources, 0].min(axis=1)
        return found
