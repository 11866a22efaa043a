"""Quotas are parsed from text and formatted as text."""

from __future__ import annotations

import doctest

import pytest

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.vendors import port
from tickerplant.market_data.vendors.port import Quota


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("8/minute", Quota(8, MINUTE_US)),
        (" 2000 / hour ", Quota(2_000, HOUR_US)),
        ("25/day@America/New_York", Quota(25, DAY_US, "America/New_York")),
        ("5/rolling-minute", Quota(5, MINUTE_US, rolling=True)),
    ],
)
def test_a_quota_is_parsed_and_formatted(text: str, quota: Quota) -> None:
    assert Quota.parse(text) == quota
    assert Quota.parse(str(quota)) == quota


@pytest.mark.parametrize(
    "text", ["8", "8/", "0/day", "-1/day", "8.5/day", "8/fortnight", "x/day", "8/day@Mars/One", "8/day@/"]
)
def test_an_invalid_quota_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Quota.parse(text)


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(port).failed == 0
