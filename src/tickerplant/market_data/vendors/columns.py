"""Batches of bars, splits and dividends, from columns of a vendor's answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.schemas import DIVIDENDS, SMALL_TEXT, SPLITS, TEXT, VENDOR_BARS
from tickerplant.core.shown import quoted
from tickerplant.core.times import BoolArray, Float64Array, Int64Array
from tickerplant.market_data.feed.validation import EARLIEST_BAR_US, MAX_PRICE, is_plausible
from tickerplant.market_data.vendors.errors import Malformed

MAX_RATIO: Final = 1e6
"""Maximum ratio of a split, in either direction. The largest known split is 1 for 100,000."""
MAX_ACTIONS: Final = 10_000
"""Maximum splits per requested symbol of an answer, on average, and maximum dividends. A fund with a daily dividend has
3,650 in ten years."""
MAX_CURRENCY_CHARS: Final = 16
"""Maximum characters of a dividend's currency: `USD`, or `EUR/GBp` if prices are in another currency."""
_MOST_SHARES: Final = 1_000
"""Maximum denominator of a split: terms are small (20 for 1, 3 for 2, 1 for 100). If no denominator fits, the ratio is
kept."""


def repeated(text: str, rows: int, kind: pa.DataType = TEXT) -> pa.Array:
    """Return a column with the same text in every row."""
    index = pa.array(np.zeros(rows, np.int8)).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(index, pa.array([text], pa.utf8()))


def bars_batch(
    symbol: str, interval: str, time: Int64Array, prices: tuple[Float64Array, ...], volume: Float64Array, source: str
) -> pa.RecordBatch:
    """Return bars (`schemas.VENDOR_BARS`), oldest first; rows of one time keep their order.

    `prices` are open, high, low and close. All bars are marked complete: the caller has removed forming bars.
    """
    rows = np.argsort(time, kind="stable")
    count = len(rows)
    return pa.RecordBatch.from_arrays(
        [
            timestamps(time[rows]),
            repeated(symbol, count),
            repeated(interval, count, SMALL_TEXT),
            *(pa.array(column[rows], pa.float64()) for column in (*prices, volume)),
            pa.nulls(count, pa.float64()),
            pa.nulls(count, pa.int64()),
            repeated(source, count),
            pa.array(np.ones(count, dtype=np.bool_)),
        ],
        schema=VENDOR_BARS,
    )


def no_bars(symbol: str, interval: str, source: str) -> pa.RecordBatch:
    """Return an empty batch of bars."""
    nothing = np.empty(0)
    return bars_batch(symbol, interval, np.empty(0, np.int64), (nothing,) * 4, nothing, source)


def splits_batch(symbol: str, time: Int64Array, ratios: Float64Array, source: str, *, error: float) -> pa.RecordBatch:
    """Return splits (`schemas.SPLITS`), oldest first; `ratios`: new shares per old share, exact to `error`."""
    for ratio in ratios.tolist():
        check_terms(ratio, 1.0)
    order = np.argsort(time, kind="stable")
    terms = [terms_of(ratio, error) for ratio in ratios[order].tolist()]
    return pa.RecordBatch.from_arrays(
        [
            timestamps(time[order]),
            repeated(symbol, len(terms)),
            pa.array([numerator for numerator, _ in terms], pa.float64()),
            pa.array([denominator for _, denominator in terms], pa.float64()),
            repeated(source, len(terms)),
        ],
        schema=SPLITS,
    )


def dividends_batch(
    symbol: str, time: Int64Array, amounts: Float64Array, currency: str | Sequence[str], source: str
) -> pa.RecordBatch:
    """Return dividends (`schemas.DIVIDENDS`), oldest first.

    `currency`: the currency of all dividends, or one per dividend; "" if unknown.
    """
    check_amounts(amounts)
    order = np.argsort(time, kind="stable")
    names = [currency] * len(order) if isinstance(currency, str) else [currency[at] for at in order.tolist()]
    return pa.RecordBatch.from_arrays(
        [
            timestamps(time[order]),
            repeated(symbol, len(order)),
            pa.array(amounts[order], pa.float64()),
            pa.array([name or None for name in names], pa.utf8()).dictionary_encode().cast(TEXT),
            repeated(source, len(order)),
        ],
        schema=DIVIDENDS,
    )


def check_actions(symbols: Sequence[str], splits: pa.RecordBatch | None, dividends: pa.RecordBatch | None) -> None:
    """Raise Malformed for splits or dividends of symbols outside `symbols`, for too many, and for wrong values."""
    for name, batch in (("splits", splits), ("dividends", dividends)):
        if batch is None or not batch.num_rows:
            continue
        if batch.num_rows > MAX_ACTIONS * len(symbols):
            raise Malformed(
                f"the answer has {batch.num_rows:,} {name}; at most {MAX_ACTIONS:,} per symbol are accepted"
            )
        times = times_of(batch["time"])
        if not is_plausible(times, EARLIEST_BAR_US).all():
            raise Malformed(f"the answer has {name} with a time outside the years 1800 to 2200")
        other = set(batch["symbol"].unique().to_pylist()) - set(symbols)
        if other:
            raise Malformed(f"the answer has {name} of {quoted(min(other))}, which was not requested")
    if splits is not None:
        for numerator, denominator in zip(
            splits["numerator"].to_pylist(), splits["denominator"].to_pylist(), strict=True
        ):
            check_terms(numerator, denominator)
    if dividends is not None and dividends.num_rows:
        check_amounts(dividends["amount"].to_numpy(zero_copy_only=False))
        for currency in dividends["currency"].unique().to_pylist():
            if currency is not None and not (
                len(currency) <= MAX_CURRENCY_CHARS and currency.isascii() and currency.isprintable()
            ):
                raise Malformed(f"{quoted(currency)} is not a currency")


def check_terms(numerator: float, denominator: float) -> None:
    """Raise Malformed for the terms of a split that cannot be right."""
    if not (numerator > 0 and denominator > 0 and 1 / MAX_RATIO <= numerator / denominator <= MAX_RATIO):
        raise Malformed(f"a split of {numerator:g} for {denominator:g} is not plausible")


def check_amounts(amounts: Float64Array) -> None:
    """Raise Malformed for an amount of a dividend that cannot be right."""
    wrong = ~(np.abs(amounts) <= MAX_PRICE)
    if wrong.any():
        raise Malformed(f"a dividend of {amounts[wrong][0]:g} is not plausible")


def terms_of(ratio: float, error: float) -> tuple[float, float]:
    """Return the smallest numerator and denominator of a split whose ratio differs from `ratio` by at most `error`.

    Returns the ratio and 1 if no denominator up to `_MOST_SHARES` fits, and for a ratio that is infinite, NaN or above
    a million.

    >>> terms_of(4.0, 1e-9), terms_of(1.5, 1e-9), terms_of(0.0667, 5e-5)
    ((4.0, 1.0), (3.0, 2.0), (1.0, 15.0))
    """
    if not math.isfinite(ratio) or ratio > 1e6:
        return ratio, 1.0
    for denominator in range(1, _MOST_SHARES + 1):
        numerator = round(ratio * denominator)
        if numerator and abs(numerator / denominator - ratio) <= error:
            return float(numerator), float(denominator)
    return ratio, 1.0


def on_the_grid(time: Int64Array, interval: str) -> BoolArray:
    """Return a mask of the times that are starts of the interval."""
    result: BoolArray = intervals.parse(interval).floor(time) == time
    return result
