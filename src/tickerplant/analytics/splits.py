"""The splits of a partition's symbols, and the adjustment of bars for them. Indicators run on adjusted bars.

A split takes effect when log time reaches the start of the split's session. Until then the split is pending, and
indicators use traded prices. The newest ratio of a symbol and session counts, regardless of its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tickerplant.core.adjustment import DIVIDED, MULTIPLIED, split_factors
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import FOREVER_US, NEVER_US, Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class Split:
    """One split. `session_us`: 00:00 UTC of the first session at the new price. `ratio`: new shares per old share."""

    symbol: str
    session_us: int
    ratio: float


class Splits:
    """The splits of one partition's symbols: those in effect, and those of future sessions."""

    def __init__(self) -> None:
        self.effective: dict[str, dict[int, float]] = {}
        self.pending: dict[tuple[str, int], float] = {}
        self.next_us = FOREVER_US
        """Log time at which the next pending split takes effect."""
        self._calendars = Calendars(Rules())
        self._starts: dict[tuple[str, int], int] = {}
        self.changes = 0
        """Count of changes that can alter the adjustment of a bar."""

    def set_calendars(self, rules: Rules) -> None:
        """Replace the calendars with those of the rules."""
        self._calendars = Calendars(rules)
        self._starts.clear()
        self.changes += 1
        self._set_next()

    def add(self, splits: Sequence[Split], clock_us: int) -> list[str]:
        """Add splits and return the symbols whose adjustment changes now.

        Ignores a split whose ratio is not positive and finite. `clock_us` is log time, or the current time for splits
        that are read from the store.
        """
        changed = []
        for split in splits:
            if not (split.ratio > 0 and np.isfinite(split.ratio)):
                continue
            known = self.effective.get(split.symbol, {})
            if known.get(split.session_us) == split.ratio:
                continue
            if split.session_us in known or self.start_of(split.symbol, split.session_us) <= clock_us:
                self._put(split)
                changed.append(split.symbol)
            else:
                self.pending[split.symbol, split.session_us] = split.ratio
        self._set_next()
        return list(dict.fromkeys(changed))

    def contains(self, symbol: str, session_us: int) -> bool:
        """Return whether a split of this session is in effect or pending."""
        return session_us in self.effective.get(symbol, {}) or (symbol, session_us) in self.pending

    def activate_due(self, clock_us: int) -> list[str]:
        """Put into effect the pending splits whose session has started by `clock_us`; return their symbols."""
        if clock_us < self.next_us:
            return []
        due = [key for key in self.pending if self.start_of(*key) <= clock_us]
        for symbol, session_us in due:
            self._put(Split(symbol, session_us, self.pending.pop((symbol, session_us))))
        self._set_next()
        return list(dict.fromkeys(symbol for symbol, _ in due))

    def restore(self, effective: Mapping[str, Mapping[int, float]], pending: Sequence[tuple[str, int, float]]) -> None:
        """Replace all splits with these."""
        self.effective = {symbol: dict(ratios) for symbol, ratios in effective.items()}
        self.pending = {(symbol, session_us): ratio for symbol, session_us, ratio in pending}
        self.changes += 1
        self._set_next()

    def unadjusted_from(self, symbols: Sequence[str]) -> Int64Array:
        """Return for each symbol the time from which no bar needs adjustment: int64[n]; `NEVER_US` without splits."""
        return np.array([self._unadjusted_from(symbol) for symbol in symbols], dtype=np.int64)

    def adjust(
        self, columns: Mapping[str, Float64Array], times: Int64Array, rows: Int64Array, names: Sequence[str],
        which: Int64Array, *, daily: bool,
    ) -> dict[str, Float64Array]:  # fmt: skip
        """Return the columns with the bars at the indices `which` adjusted.

        `rows` contains each bar's symbol as an index into `names`. The time of `daily` bars is the date of their
        session.
        """
        factors = np.ones(len(times))
        for row in np.unique(rows[which]).tolist():
            own = which[rows[which] == row]
            factors[own] = self.factors(names[row], times[own], daily=daily)
        return {
            name: values / factors if name in DIVIDED else values * factors if name in MULTIPLIED else values
            for name, values in columns.items()
        }

    def factors(self, symbol: str, times: Int64Array, *, daily: bool) -> Float64Array:
        """Return the factors that divide the prices of a symbol's bars: float64[n] (`adjustment.split_factors`)."""
        known = self.effective.get(symbol, {})
        starts = [session if daily else self.start_of(symbol, session) for session in known]
        return split_factors(times, np.array(starts, dtype=np.int64), np.array(list(known.values()), dtype=np.float64))

    def start_of(self, symbol: str, session_us: int) -> int:
        """Return the start of a session, with extended hours, in microseconds; 00:00 UTC for a date without session."""
        key = (symbol, session_us)
        if key not in self._starts:
            try:
                starts, _ = self._calendars.of(symbol).bounds_of(np.array([session_us]))
                self._starts[key] = int(starts[0])
            except (ValueError, ConfigError):
                self._starts[key] = session_us
        return self._starts[key]

    def _put(self, split: Split) -> None:
        self.effective.setdefault(split.symbol, {})[split.session_us] = split.ratio
        self.pending.pop((split.symbol, split.session_us), None)
        self.changes += 1

    def _unadjusted_from(self, symbol: str) -> int:
        sessions = self.effective.get(symbol, {})
        return max((max(session, self.start_of(symbol, session)) for session in sessions), default=NEVER_US)

    def _set_next(self) -> None:
        self.next_us = min((self.start_of(*key) for key in self.pending), default=FOREVER_US)


def splits_of(batch: pa.RecordBatch | pa.Table) -> list[Split]:
    """Return the splits in rows of `schemas.SPLITS`. The ratio of a split is NaN if its denominator is not positive."""
    denominators = batch.column("denominator").to_numpy()
    ratios = batch.column("numerator").to_numpy() / np.where(denominators > 0, denominators, np.nan)
    return [
        Split(symbol, session_us, ratio)
        for symbol, session_us, ratio in zip(
            batch.column("symbol").to_pylist(), times_of(batch.column("time")).tolist(), ratios.tolist(), strict=True
        )
    ]
