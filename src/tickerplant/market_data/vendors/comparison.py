"""Comparison of the bars of two sources, before one replaces the other. Pure.

The four prices of each common bar are compared; volumes are only reported, because vendors count different venues.
Differences are measured against the moves from bar to bar. Flat prices do not show a shift, so a flat range or a small
count of bars gives `too_few`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import Float64Array, Int64Array

SAME, STAMPED_AT_END, ADJUSTED, DIFFERENT, TOO_FEW = "same", "stamped_at_end", "adjusted", "different", "too_few"

MIN_BARS: Final = 20
"""Minimum common bars for a verdict."""
MIN_MOVES: Final = 10
"""Minimum common bars that moved by more than twice the rounding, for a verdict."""
NOISE: Final = 5e-4
"""Usual relative difference of two vendors of one market (odd lots, late prints, bid or mid): five basis points."""
NOISE_MAX: Final = 2e-3
NOISE_OF_MOVE: Final = 0.25
"""Noise of coarser bars as a share of the usual move, up to `NOISE_MAX`: vendors use different auctions and last
prints."""
SHARE: Final = 0.10
"""Maximum share of bars that may differ by more than noise."""
BETTER: Final = 0.3
"""Maximum share of the difference that may remain after a shift; otherwise the shift is not accepted."""
_CUTS: Final = 3
_PART: Final = 5
_UNITS: Final = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of one source, oldest first: starts in microseconds, and `prices` with four rows: open, high, low, close."""

    times: Int64Array
    prices: Float64Array
    volumes: Float64Array

    @staticmethod
    def of(batch: pa.RecordBatch | pa.Table) -> Bars:
        """Return the bars of a batch (`schemas.VENDOR_BARS` or `BARS`) of one symbol and interval."""
        names = ("open", "high", "low", "close")
        prices = np.stack([_floats(batch[name]) for name in names]) if len(batch) else np.empty((4, 0))
        return Bars(times_of(batch["time"]), prices, _floats(batch["volume"]) if len(batch) else np.empty(0))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison: the candidate relative to the reference.

    `ratio`: the candidate's prices divided by the reference's; if it has several levels (a dividend in between), the
    oldest level. It is 1.0 unless the verdict is `ADJUSTED`. `shift`: count of intervals by which the candidate's times
    are later; -1 if they are earlier. `bars`: count of common bars. `share`: share of these bars that differ by more
    than noise. `worst`: largest relative difference. `volume_ratio`: median ratio of volumes; 0.0 if there are no
    volumes.
    """

    verdict: str
    bars: int
    ratio: float = 1.0
    shift: int = 0
    share: float = 0.0
    worst: float = 0.0
    volume_ratio: float = 0.0

    @property
    def usable(self) -> bool:
        """Return True if the candidate may replace the reference: the bars are the same, or too few to decide."""
        return self.verdict in (SAME, TOO_FEW)

    def __str__(self) -> str:
        if self.verdict == TOO_FEW:
            return f"too few common bars that move ({self.bars}) for a comparison"
        if self.verdict == STAMPED_AT_END:
            which = "end" if self.shift > 0 else "start, and the reference at the end"
            return f"the same bars stamped at the {which}"
        if self.verdict == ADJUSTED:
            return f"prices are {self.ratio:.6g} times the reference's: adjusted differently"
        if self.verdict == DIFFERENT:
            return f"{self.share:.0%} of {self.bars} common bars differ, by {self.worst:.2%} at the most"
        return f"{self.bars} common bars are the same ({self.share:.0%} differ by more than noise)"


@dataclass(frozen=True, slots=True)
class _Side:
    """Logarithms of the prices of the common bars at one shift: `a` of the reference, `b` of the candidate.

    `rounding`: the difference of each bar that rounding may cause.
    """

    a: Float64Array
    b: Float64Array
    rounding: Float64Array
    volumes: tuple[Float64Array, Float64Array]

    @property
    def bars(self) -> int:
        return int(self.a.shape[1])

    @property
    def excess(self) -> Float64Array:
        """Return the excess of the candidate over the reference by bar: the median of its four prices."""
        return np.asarray(np.median(self.b - self.a, axis=0))

    def left(self, level: Float64Array | float) -> Float64Array:
        """Return the largest difference of each bar's four prices after the level is subtracted."""
        return np.asarray(np.abs(self.b - self.a - level).max(axis=0))

    def moves(self) -> Float64Array:
        """Return the moves of the reference's close from bar to bar that exceed twice the rounding."""
        moved = np.abs(np.diff(self.a[3]))
        return np.asarray(moved[moved > 2 * self.rounding[1:]])


def compare(reference: Bars, candidate: Bars, interval_us: int) -> Comparison:
    """Return the comparison of the common bars; the times of the two sources may differ by one interval."""
    straight = _side(reference, candidate, 0)
    sides = {shift: _side(reference, candidate, shift * interval_us) for shift in (1, -1)}
    best, side = 0, straight
    for shift, other in sides.items():
        if _enough(other) and (not _enough(side) or _closer(other, side)):
            best, side = shift, other
    if not _enough(side):
        return Comparison(TOO_FEW, max(straight.bars, side.bars))
    if best and not _fits(side, _level(side)):  # the shift does not explain the difference
        best, side = 0, straight if _enough(straight) else side
    return _judged(side, best)


def _judged(side: _Side, shift: int) -> Comparison:
    tolerance = _tolerance(side)
    level: Float64Array | float = _level(side)
    left = side.left(level)
    share = float(np.mean(left > tolerance))
    if np.count_nonzero(left > tolerance) >= _PART:
        steps = _steps(side.excess, side.rounding)
        beside = side.left(steps)
        explained = float(np.mean(beside > tolerance))
        if np.ptp(steps) > float(np.median(tolerance)) and explained <= min(SHARE, share / 2):
            level, left, share = steps, beside, explained
    ratio = float(np.exp(np.atleast_1d(level)[0]))
    if share > SHARE:
        plain = side.left(0.0)
        share, left, verdict, ratio = float(np.mean(plain > tolerance)), plain, DIFFERENT, 1.0
    elif _is_adjusted(side, level):
        verdict = ADJUSTED
    else:
        verdict, ratio = (STAMPED_AT_END if shift else SAME), 1.0
    return Comparison(
        verdict, side.bars, ratio, shift, share, float(np.expm1(left.max())), _volume_ratio(*side.volumes)
    )


def _side(reference: Bars, candidate: Bars, later_us: int) -> _Side:
    a_ok, b_ok = (np.all(np.isfinite(x.prices) & (x.prices > 0), axis=0) for x in (reference, candidate))
    _, at_a, at_b = np.intersect1d(
        reference.times[a_ok] + later_us, candidate.times[b_ok], assume_unique=False, return_indices=True
    )
    a, b = reference.prices[:, a_ok][:, at_a], candidate.prices[:, b_ok][:, at_b]
    # Each side is rounded by up to half a unit; the sum is at most the coarser unit.
    unit = max(_unit(a), _unit(b))
    rounding = 1.01 * unit / a.min(axis=0) if a.size else np.empty(0)
    return _Side(
        np.log(a), np.log(b), rounding, (reference.volumes[a_ok][at_a], candidate.volumes[b_ok][at_b])
    )  # fmt: skip


def _unit(prices: Float64Array) -> float:
    """Return the coarsest unit (0.01 for example) that divides all prices; 0.0 if no known unit does."""
    for unit in _UNITS:
        scaled = prices / unit
        if np.all(np.abs(scaled - np.rint(scaled)) < 1e-6 * np.maximum(1.0, np.abs(scaled))):
            return unit
    return 0.0


def _enough(side: _Side) -> bool:
    return side.bars >= MIN_BARS and len(side.moves()) >= MIN_MOVES


def _closer(other: _Side, side: _Side) -> bool:
    was, now = (float(np.median(s.left(_level(s)))) for s in (side, other))
    return was > float(np.median(side.rounding)) and now <= max(BETTER * was, 1e-12)


def _fits(side: _Side, level: float) -> bool:
    return float(np.mean(side.left(level) > _tolerance(side))) <= SHARE


def _level(side: _Side) -> float:
    return float(np.median(side.b - side.a))


def _tolerance(side: _Side) -> Float64Array:
    moves = side.moves()
    usual = float(np.median(moves)) if len(moves) else 0.0
    return np.maximum(side.rounding, max(NOISE, min(NOISE_OF_MOVE * usual, NOISE_MAX)))


def _is_adjusted(side: _Side, level: Float64Array | float) -> bool:
    """Return True if a level exceeds both the noise between vendors and the level that chance explains."""
    chance = 4 * 1.4826 * float(np.median(np.abs(side.excess - level))) / np.sqrt(side.bars)
    return bool(float(np.abs(level).max()) > max(NOISE, chance))


def _steps(excess: Float64Array, rounding: Float64Array) -> Float64Array:
    """Return the excess as a few constant levels, which splits and dividends between the bars cause."""
    cuts = [0, len(excess)]
    for _ in range(_CUTS):
        best = max(((*_cut(excess[a:b]), a) for a, b in _pairs(cuts)), default=(0.0, 0, 0))
        if best[0] <= (NOISE + float(np.median(rounding))) ** 2:
            break
        cuts = sorted({*cuts, best[1] + best[2]})
    steps = np.empty_like(excess)
    for a, b in _pairs(cuts):
        steps[a:b] = np.median(excess[a:b])
    return steps


def _pairs(cuts: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(cuts)


def _cut(excess: Float64Array) -> tuple[float, int]:
    """Return the gain of the best cut into two levels (in squared differences), and its position."""
    n = len(excess)
    if n < 2 * _PART:
        return 0.0, 0
    sums: npt.NDArray[np.float64] = np.cumsum(excess)
    at = np.arange(_PART, n - _PART + 1)
    mean_left, mean_right = sums[at - 1] / at, (sums[-1] - sums[at - 1]) / (n - at)
    gains = at * (n - at) / n * (mean_left - mean_right) ** 2
    best = int(np.argmax(gains))
    return float(gains[best]), int(at[best])


def _volume_ratio(a: Float64Array, b: Float64Array) -> float:
    both = (a > 0) & (b > 0)
    return float(np.median(b[both] / a[both])) if both.any() else 0.0


def _floats(column: pa.Array | pa.ChunkedArray) -> Float64Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
