"""Faults of streamed trades and of responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from tickerplant.core.times import SECOND_US
from tickerplant.protocols.market import TradeBatch
from tickerplant.sandbox.fault_injector import TradeFaults, malform
from tickerplant.sandbox.fault_script import FaultSchedule, parse_fault
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket

NOW = 1_790_000_000_000_000
MARKET = SimulatedMarket(MarketSettings(("AAPL", "MSFT", "SPY"), 100.0))


def run(text: str, seconds: int = 10, calm: int = 1) -> tuple[TradeBatch, list[TradeBatch]]:
    """Return the trades of `seconds`, and the faulty trades of each second. The last seconds (`calm`) have no fault."""
    schedule = FaultSchedule(NOW, iter(()))
    schedule.apply(parse_fault(f"{text}&seconds={seconds - calm + 0.5}"), NOW)
    injector = TradeFaults("twelvedata", 1, 3)
    found = []
    for at in range(NOW, NOW + seconds * SECOND_US, SECOND_US):
        found.append(injector.apply(MARKET.trades(at, at + SECOND_US), schedule, at + SECOND_US))
    return MARKET.trades(NOW, NOW + seconds * SECOND_US), found


def keys(parts: list[TradeBatch]) -> list[tuple[int, int]]:
    return [pair for part in parts for pair in zip(part.codes.tolist(), part.times_us.tolist(), strict=True)]


def test_duplicates_are_sent_twice_and_no_trade_is_lost() -> None:
    truth, found = run("do=duplicate&share=0.3")
    counts = Counter(keys(found))
    assert counts.keys() == set(keys([truth]))
    assert 0.2 < sum(count == 2 for count in counts.values()) / len(counts) < 0.4


@pytest.mark.parametrize("text", ["do=reorder&share=0.5&by=1", "do=late&share=0.2&by=3"])
def test_delayed_trades_arrive(text: str) -> None:
    truth, found = run(text, 15, 5)
    after = keys(found)
    assert sorted(after) == sorted(keys([truth]))
    assert [us for _, us in after] != sorted(us for _, us in after)
    assert keys(run(text, 15, 5)[1]) == after


def test_late_trades_are_delayed_by_the_given_time() -> None:
    truth, found = run("do=late&share=1&by=3")
    trades = [int((truth.times_us // SECOND_US == NOW // SECOND_US + at).sum()) for at in range(10)]
    assert [len(part.codes) for part in found] == [0, 0, 0, *trades[:6], trades[6] + trades[9]]


def few(which: np.ndarray) -> bool:
    return bool(0.05 < which.mean() < 0.15)


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("absent", lambda before, after: (after == -1).all()),
        ("reset", lambda before, after: after[0] == 0 and (after < before).all() and (after >= 0).all()),
        ("back&share=0.1", lambda before, after: few(after < before)),
        ("jump&share=0.1", lambda before, after: few(after > 2 * before)),
    ],
)
def test_volumes_are_changed_by_each_variant(how: str, check: Callable[..., bool]) -> None:
    truth, found = run(f"do=volume&how={how}")
    after = np.concatenate([part.day_volumes for part in found])
    affected = truth.times_us < NOW + 9 * SECOND_US
    assert check(truth.day_volumes[affected], after[affected])
    assert (after[~affected] == truth.day_volumes[~affected]).all()


def test_time_stamps_are_shifted() -> None:
    truth, found = run("do=skew&by=-2.5")
    after = np.concatenate([part.times_us for part in found])
    affected = truth.times_us < NOW + 9 * SECOND_US
    assert (after == np.where(affected, truth.times_us - 2_500_000, truth.times_us)).all()


def test_malformed_bodies_have_invalid_json_or_other_types() -> None:
    body = msgspec.json.encode({"a": "1.5", "b": [2, True], "c": "text"})
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(malform(body, "json"))
    assert msgspec.json.decode(malform(body, "types")) == {"a": ["1.5"], "b": ["n/a", "maybe"], "c": "text"}
