"""Factors that make prices before and after splits and dividends comparable.

Stored prices are as traded; readers adjust them. `effective` is the first instant at the new price: for daily bars the
session's date, for intraday bars the start of the session. Earlier times are adjusted. The factors of several events
multiply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import times_of
from tickerplant.core.currency import normal_currency, units_of
from tickerplant.core.errors import BadInput
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import DAY_US, NEVER_US, Float64Array, Int64Array

AS_TRADED, FOR_SPLITS, FOR_ALL = "none", "splits", "all"
USER: Final = "user"
"""Source of the splits and dividends that a user enters."""
ADJUSTMENTS: Final = (AS_TRADED, FOR_SPLITS, FOR_ALL)
"""Adjustments that a reader may request: none, for splits, or for splits and dividends."""
DIVIDED: Final = ("open", "high", "low", "close", "vwap")
MULTIPLIED: Final = ("volume",)
_LONGEST_BREAK_DAYS: Final = 15
"""Maximum days before a date that are searched for a session. Since 1980 only two exchanges paused longer: XNZE in 1986
and XSHG in 1999."""


def check_adjustment(text: str) -> str:
    """Return `text` if it is one of ADJUSTMENTS. Raises BadInput that lists them."""
    if text not in ADJUSTMENTS:
        raise BadInput(f"unknown adjustment {text[:64]!r}; use {', '.join(ADJUSTMENTS[:-1])} or {ADJUSTMENTS[-1]}")
    return text


def split_factors(times: Int64Array, effective: Int64Array, ratios: Float64Array) -> Float64Array:
    """Return the number of current shares that one share of each time has become: float64[times].

    Prices are divided by this factor, and sizes are multiplied by it. `ratios`: new shares per old share, 4 for a
    4-for-1 split, 0.1 for a reverse split of 1-for-10. The product begins with the newest split, so any order of splits
    gives the same bits.

    >>> split_factors(np.array([0, 5, 9]), np.array([9, 3]), np.array([4.0, 2.0])).tolist()
    [8.0, 4.0, 1.0]
    """
    return _products_from_newest(times, effective, ratios)


def dividend_factors(
    times: Int64Array, effective: Int64Array, amounts: Float64Array, closes_before: Float64Array
) -> Float64Array:
    """Return the price factor of each time: the product of 1 − amount / previous close over all later ex-dates.

    CRSP and the vendors use the same formula. `amounts` are as paid, and `closes_before` are in shares of the ex-date.
    A dividend has no effect if there is no positive previous close. A negative amount, or an amount not below that
    close, has no effect either.
    """
    usable = (closes_before > 0) & (amounts >= 0) & (amounts < closes_before)
    ratios = 1.0 - amounts[usable] / closes_before[usable]
    return _products_from_newest(times, effective[usable], ratios)


def closes_before(times: Int64Array, closes: Float64Array, effective: Int64Array) -> Float64Array:
    """Return the last close before each ex-date, NaN if there is none. `times` must ascend."""
    at = np.searchsorted(times, effective, side="left") - 1
    return np.where(at >= 0, closes[np.maximum(at, 0)] if len(closes) else np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class Closes:
    """The last close before each ex-date, as traded, and its session. The price is NaN if there is no such close."""

    price: Float64Array
    session_us: Int64Array


@dataclass(frozen=True, slots=True)
class Payments:
    """Dividends as readers apply them: for each row the amount in the unit of the prices (0: not applied).

    `reasons`: for each row the reason why the amount cannot be applied; None if it can. `prices_in`: the currency of
    the prices, or None if no vendor has reported it.
    """

    amounts: Float64Array
    reasons: list[str | None]
    prices_in: str | None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """The splits and dividends of one symbol.

    `sessions` are the dates of the splits, and `begins` are the starts of these sessions. `ex_dates` are the ex-dates
    of the dividends, and `ex_begins` are the starts of these sessions.
    """

    sessions: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    begins: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    ratios: Float64Array = field(default_factory=lambda: np.empty(0))
    """New shares per old share."""
    ex_dates: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    ex_begins: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    amounts: Float64Array = field(default_factory=lambda: np.empty(0))
    closes: Float64Array = field(default_factory=lambda: np.empty(0))
    """The close before each ex-date, in shares of the ex-date."""

    def bars(self, bars: pa.Table, *, daily: bool) -> pa.Table:
        """Return adjusted bars (`time` and any columns of `schemas.BARS`). Nulls and other columns stay unchanged.

        The time of `daily` bars is their session's date. The time of other bars is an instant.
        """
        times = times_of(bars.column("time"))
        splits = split_factors(times, self.sessions if daily else self.begins, self.ratios)
        paid = dividend_factors(times, self.ex_dates if daily else self.ex_begins, self.amounts, self.closes)
        for names, factors in ((DIVIDED, paid / splits), (MULTIPLIED, splits)):
            if (factors == 1.0).all():
                continue
            for name in names:
                at = bars.schema.get_field_index(name)
                if at >= 0:
                    made = pc.multiply(bars.column(at).cast(pa.float64()), pa.array(factors))
                    bars = bars.set_column(at, bars.schema.field(at).with_type(pa.float64()), made)
        return bars


def payments_of(dividends: pa.Table, reported: pa.Table) -> Payments:
    """Return the amounts of dividends (`schemas.DIVIDENDS`) in the unit of the prices.

    The currency of a vendor's dividend is that of the vendor's prices. `A/B` means that the dividend is paid in A and
    the prices are in B. The newest of the vendors' rows in `reported` therefore defines the currency of the prices. A
    minor unit is converted: 1 GBP is 100 GBp. An amount in another currency is not applied. If one of the two
    currencies is unknown, the amount is applied unchanged.
    """
    named = [
        (row["time"], row["currency"].rpartition("/")[2])
        for row in reported.to_pylist()
        if row["source"] != USER and row["currency"]
    ]
    prices_in = max(named)[1] if named else None
    amounts, reasons = dividends.column("amount").to_numpy().copy(), []
    for at, text in enumerate(dividends.column("currency").to_pylist()):
        paid_in, _, own = (text or "").partition("/")
        paid_in, wanted = normal_currency(paid_in) or paid_in, own or prices_in
        wanted = wanted and (normal_currency(wanted) or wanted)
        factor = units_of(paid_in, wanted) if paid_in and wanted else 1.0
        reasons.append(f"paid in {paid_in}, but prices are in {wanted}" if factor is None else None)
        amounts[at] *= factor or 0.0
    return Payments(amounts, reasons, prices_in)


def adjustment_for(
    splits: pa.Table, calendar: Calendar, now_us: int, dividends: pa.Table | None = None, closes: Closes | None = None,
    payments: Payments | None = None,
) -> Adjustment:  # fmt: skip
    """Return the adjustment for one symbol's splits (`schemas.SPLITS`), and for dividends (`schemas.DIVIDENDS`).

    `closes` are the closes before `ex_dates_of(dividends)`. `payments` are the converted amounts, by default
    `payments_of(dividends, dividends)`. Dividends have no effect if `dividends` or `closes` is None. All payments of
    one ex-date are one dividend. A split or an ex-date counts if its session has begun by `now_us`. Amounts are per
    share of the ex-date. If a split is between a close and the ex-date, the close is therefore converted to shares of
    the ex-date.
    """
    sessions = times_of(splits.column("time"))
    low = splits.column("denominator").to_numpy()
    ratios: Float64Array = splits.column("numerator").to_numpy() / np.where(low > 0, low, np.nan)
    begins = session_starts(calendar, sessions)
    good = (ratios > 0) & np.isfinite(ratios) & (begins <= now_us)
    sessions, begins, ratios = sessions[good], begins[good], ratios[good]
    if dividends is None or closes is None:
        return Adjustment(sessions, begins, ratios)
    ex_dates = ex_dates_of(dividends)
    amounts = np.zeros(len(ex_dates))
    at = np.searchsorted(ex_dates, times_of(dividends.column("time")))
    np.add.at(amounts, at, (payments or payments_of(dividends, dividends)).amounts)
    shares = split_factors(closes.session_us, sessions, ratios) / split_factors(ex_dates, sessions, ratios)
    ex_begins = session_starts(calendar, ex_dates)
    due = ex_begins <= now_us
    price = closes.price / shares
    return Adjustment(sessions, begins, ratios, ex_dates[due], ex_begins[due], amounts[due], price[due])


def reasons_not_applied(adjustment: Adjustment, dividends: pa.Table, payments: Payments) -> list[str | None]:
    """Return for each dividend the reason why no bar is adjusted for it; None for a dividend that is applied.

    `adjustment` must be built from `dividends` and `payments`.
    """
    result: list[str | None] = []
    for time, reason in zip(times_of(dividends.column("time")).tolist(), payments.reasons, strict=True):
        at = int(np.searchsorted(adjustment.ex_dates, time))
        if reason is None and (at == len(adjustment.ex_dates) or adjustment.ex_dates[at] != time):
            reason = "the ex-date has not begun"
        elif reason is None and not adjustment.closes[at] > 0:
            reason = "no positive close before the ex-date is stored"
        elif reason is None and not adjustment.amounts[at] >= 0:
            reason = "the amount is negative"
        elif reason is None and not adjustment.amounts[at] < adjustment.closes[at]:
            reason = f"the amount is not below the close before the ex-date, {adjustment.closes[at]:.10g}"
        result.append(reason)
    return result


def ex_dates_of(dividends: pa.Table) -> Int64Array:
    """Return the distinct ex-dates of dividends, ascending."""
    return np.unique(times_of(dividends.column("time")))


def session_starts(calendar: Calendar, sessions: Int64Array) -> Int64Array:
    """Return the starts of sessions, extended hours included. The start of a date without a session is 00:00 UTC."""
    begins = sessions.copy()
    for at, session in enumerate(sessions):
        try:
            begins[at] = calendar.bounds_of(np.array([session]))[0][0]
        except ValueError:
            continue
    return begins


def sessions_before(calendar: Calendar, dates: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the last session before each date, and the time of its close, in microseconds UTC.

    If the last `_LONGEST_BREAK_DAYS` days have no session, return the previous UTC day and its end.
    """
    before, closes = dates - DAY_US, dates.copy()
    for at, date in enumerate(dates.tolist()):
        for back in range(1, _LONGEST_BREAK_DAYS + 1):
            session = np.array([date - back * DAY_US])
            try:
                closes[at] = calendar.close_of(session)[0]
            except ValueError:
                continue
            before[at] = session[0]
            break
    return before, closes


def session_or_day(calendar: Calendar, times: Int64Array) -> Int64Array:
    """Return the session of each time, or its UTC day if it is in no session."""
    sessions = calendar.session_of(times)
    return np.where(sessions == NEVER_US, times - times % DAY_US, sessions)


def _products_from_newest(times: Int64Array, effective: Int64Array, ratios: Float64Array) -> Float64Array:
    order = np.argsort(effective, kind="stable")
    products = np.append(np.multiply.accumulate(ratios[order][::-1])[::-1], 1.0)
    factors: Float64Array = products[np.searchsorted(effective[order], times, side="right")]
    return factors
