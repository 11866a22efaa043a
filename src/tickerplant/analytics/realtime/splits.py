"""The splits that the log has said, and bars adjusted for them: what indicators run on.

A split takes effect when the log's clock reaches the begin of its session: until then it waits, and indicators stay in
the prices that are traded. Of one symbol and session the newest ratio counts, whoever said it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from tickerplant.core.adjustment import split_factors
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import FOREVER_US, NEVER_US, Float64Array, Int64Array, times_of

DIVIDED: Final = frozenset({"open", "high", "low", "close", "vwap"})
MULTIPLIED: Final = frozenset({"volume"})


@dataclass(frozen=True, slots=True)
class Split:
    """One split: `session_us` is 00:00 UTC of the first session at the new price, `ratio` new shares for an old one."""

    symbol: str
    session_us: int
    ratio: float


class Splits:
    """The splits of one partition's symbols."""

    def __init__(self) -> None:
        self.effective: dict[str, dict[int, float]] = {}
        self.waiting: dict[tuple[str, int], float] = {}
        self.next_us = FOREVER_US
        """When the next of those that wait takes effect, in log time."""
        self._calendars = Calendars(Rules())
        self._begins: dict[tuple[str, int], int] = {}
        self.changes = 0
        """Grows whenever bars may be adjusted otherwise."""

    def follow(self, rules: Rules) -> None:
        """Go by these rules' calendars from now on."""
        self._calendars = Calendars(rules)
        self._begins.clear()
        self.changes += 1
        self._set_next()

    def say(self, splits: Sequence[Split], clock_us: int) -> list[str]:
        """Take splits and return the symbols whose bars are adjusted otherwise from now on.

        One whose ratio is not a positive number is passed over. `clock_us` is the log's.
        """
        changed = []
        for split in splits:
            if not (split.ratio > 0 and np.isfinite(split.ratio)):
                continue
            known = self.effective.get(split.symbol, {})
            if known.get(split.session_us) == split.ratio:
                continue
            if split.session_us in known or self.begin_of(split.symbol, split.session_us) <= clock_us:
                self._put(split)
                changed.append(split.symbol)
            else:
                self.waiting[split.symbol, split.session_us] = split.ratio
        self._set_next()
        return list(dict.fromkeys(changed))

    def knows(self, symbol: str, session_us: int) -> bool:
        """Whether a split of this session is in effect, or waits."""
        return session_us in self.effective.get(symbol, {}) or (symbol, session_us) in self.waiting

    def due(self, clock_us: int) -> list[str]:
        """Let those take effect whose session has begun by `clock_us`, and return their symbols."""
        if clock_us < self.next_us:
            return []
        begun = [key for key in self.waiting if self.begin_of(*key) <= clock_us]
        for symbol, session_us in begun:
            self._put(Split(symbol, session_us, self.waiting.pop((symbol, session_us))))
        self._set_next()
        return list(dict.fromkeys(symbol for symbol, _ in begun))

    def restore(self, effective: Mapping[str, Mapping[int, float]], waiting: Sequence[tuple[str, int, float]]) -> None:
        """Know these alone."""
        self.effective = {symbol: dict(ratios) for symbol, ratios in effective.items()}
        self.waiting = {(symbol, session_us): ratio for symbol, session_us, ratio in waiting}
        self.changes += 1
        self._set_next()

    def latest(self, symbols: Sequence[str]) -> Int64Array:
        """Return for each symbol a time from which on nothing is adjusted."""
        return np.array([self._latest_of(symbol) for symbol in symbols], dtype=np.int64)

    def columns(
        self, columns: Mapping[str, Float64Array], times: Int64Array, rows: Int64Array, names: Sequence[str],
        which: Int64Array, *, daily: bool,
    ) -> dict[str, Float64Array]:  # fmt: skip
        """Return bars' columns, those of the bars `which` adjusted.

        `rows` are their symbols, numbers into `names`; `daily` bars are stamped with their session's date.
        """
        factors = np.ones(len(times))
        for row in np.unique(rows[which]).tolist():
            mine = which[rows[which] == row]
            factors[mine] = self.factors(names[row], times[mine], daily=daily)
        return {
            name: values / factors if name in DIVIDED else values * factors if name in MULTIPLIED else values
            for name, values in columns.items()
        }

    def factors(self, symbol: str, times: Int64Array, *, daily: bool) -> Float64Array:
        """Return `adjustment.split_factors` of a symbol's bars."""
        known = self.effective.get(symbol, {})
        begins = [session if daily else self.begin_of(symbol, session) for session in known]
        return split_factors(times, np.array(begins, dtype=np.int64), np.array(list(known.values()), dtype=np.float64))

    def begin_of(self, symbol: str, session_us: int) -> int:
        """Return when a session begins, extended hours included; its date at 00:00 UTC where it is none."""
        key = (symbol, session_us)
        if key not in self._begins:
            try:
                begins, _ = self._calendars.of(symbol).bounds_of(np.array([session_us]))
                self._begins[key] = int(begins[0])
            except (ValueError, ConfigError):
                self._begins[key] = session_us
        return self._begins[key]

    def _put(self, split: Split) -> None:
        self.effective.setdefault(split.symbol, {})[split.session_us] = split.ratio
        self.waiting.pop((split.symbol, split.session_us), None)
        self.changes += 1

    def _latest_of(self, symbol: str) -> int:
        known = self.effective.get(symbol)
        return (
            max((max(session, self.begin_of(symbol, session)) for session in known), default=NEVER_US)
            if known
            else NEVER_US
        )

    def _set_next(self) -> None:
        self.next_us = min((self.begin_of(*key) for key in self.waiting), default=FOREVER_US)


def splits_of(batch: pa.RecordBatch | pa.Table) -> list[Split]:
    """Return the splits of rows (`schemas.SPLITS`)."""
    ratios = batch.column("numerator").to_numpy() / np.where(
        (low := batch.column("denominator").to_numpy()) > 0, low, np.nan
    )
    return [
        Split(symbol, session_us, ratio)
        for symbol, session_us, ratio in zip(
            batch.column("symbol").to_pylist(), times_of(batch.column("time")).tolist(), ratios.tolist(), strict=True
        )
    ]
