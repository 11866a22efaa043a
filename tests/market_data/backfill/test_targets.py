"""The ranges of bars that a backfill plan requests."""

from __future__ import annotations

from tickerplant.core.times import DAY_US
from tickerplant.market_data.backfill.targets import Depth

NOW = 1_767_700_200_000_000


def test_depth_max_is_limited_by_lookback_and_retention() -> None:
    assert Depth("1d", 30).start_us(NOW, None) == NOW - 30 * DAY_US
    assert NOW - Depth("1m", None).start_us(NOW, None) == 731 * DAY_US
    reach = NOW - Depth("1m", None).start_us(NOW, 8 * DAY_US)
    assert 7 * DAY_US < reach < 8 * DAY_US, "the start must be within the lookback when the request is sent later"
