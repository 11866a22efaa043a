"""Adjustment against examples that others have worked."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tickerplant.core.adjustment import closes_before, dividend_factors, split_factors
from tickerplant.core.times import to_us


def day(text: str) -> int:
    return to_us(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def days(*texts: str) -> np.ndarray:
    return np.array([day(text) for text in texts], dtype=np.int64)


def test_the_vendors_own_example_of_a_split_and_a_dividend() -> None:
    # Yahoo Finance, "What is the adjusted close?": Microsoft's 2-for-1 split of 2003-02-18 and $0.08 of 2003-02-19.
    times = days("2003-02-13", "2003-02-14", "2003-02-18", "2003-02-19")
    closes = np.array([46.99, 48.30, 24.96, 24.53])
    split = split_factors(times, days("2003-02-18"), np.array([2.0]))
    ex = days("2003-02-19")
    dividend = dividend_factors(times, ex, np.array([0.08]), closes_before(times, closes, ex))
    assert dividend[0] == pytest.approx(0.9968, abs=5e-5)
    assert np.round(closes / split * dividend, 2).tolist() == [23.42, 24.07, 24.88, 24.53]


def test_apples_splits_multiply() -> None:
    # apple.com/investor: 2-for-1 on 1987-06-16, 2000-06-21 and 2005-02-28, 7-for-1 on 2014-06-09, 4-for-1 on
    # 2020-08-31: a share of the offering at $22.00 became 224, so it cost $0.098 on a split-adjusted basis.
    effective = days("2014-06-09", "1987-06-16", "2020-08-31", "2000-06-21", "2005-02-28")
    ratios = np.array([7.0, 2.0, 4.0, 2.0, 2.0])
    factors = split_factors(
        days("1980-12-12", "2014-06-06", "2014-06-09", "2020-08-28", "2020-08-31"), effective, ratios
    )
    assert factors.tolist() == [224.0, 28.0, 4.0, 4.0, 1.0]
    assert round(22.00 / factors[0], 2) == 0.10


def test_a_reverse_split_makes_prices_larger_and_sizes_smaller() -> None:
    # General Electric, 1-for-8 on 2021-08-02: $12.95 on 2021-07-30 is $103.60 of the new shares.
    [before, after] = split_factors(days("2021-07-30", "2021-08-02"), days("2021-08-02"), np.array([1 / 8]))
    assert (12.95 / before, 800 * before, after) == (103.6, 100.0, 1.0)


def test_the_order_in_which_splits_are_named_is_of_no_account() -> None:
    rng = np.random.default_rng(1)
    effective, ratios = rng.permutation(50), rng.uniform(0.1, 7, 50)
    times, order = np.arange(-5, 60), rng.permutation(50)
    one, other = split_factors(times, effective, ratios), split_factors(times, effective[order], ratios[order])
    assert one.tolist() == other.tolist()
    assert split_factors(times, np.array([], dtype=np.int64), np.array([])).tolist() == [1.0] * len(times)


def test_a_dividend_without_a_close_before_it_or_as_large_as_that_changes_nothing() -> None:
    times, closes = np.array([10, 20]), np.array([5.0, 5.0])
    ex = np.array([10, 20])
    before = closes_before(times, closes, ex)
    assert np.isnan(before[0])
    assert before[1] == 5.0
    assert dividend_factors(times, ex, np.array([1.0, 5.0]), before).tolist() == [1.0, 1.0]
