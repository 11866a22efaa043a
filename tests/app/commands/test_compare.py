"""The command `compare` lists differences between two sources from the status topic."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant

from tickerplant.core import records
from tickerplant.core.schemas import DIFFERENCES, STATUS, TOPICS
from tickerplant.log.open import open_log

PRICES = ("open", "high", "low", "close")


def row(
    symbol: str, minute: int, source: str = "tape", other: str = "vendor", interval: str = "1m", **values: float | None
) -> dict[str, Any]:
    """Return a difference: two bars with price 100 and volume 50, except the given values."""
    time = dt.datetime(2026, 1, 5, 14, 30, tzinfo=dt.UTC) + dt.timedelta(minutes=minute)
    plain = {**dict.fromkeys(PRICES, 100.0), "volume": 50.0}
    return {
        "time": time, "symbol": symbol, "interval": interval, "source": source, "other_source": other, **plain,
        **{f"other_{name}": value for name, value in plain.items()}, **values,
    }  # fmt: skip


def differences(*rows: dict[str, Any]) -> bytes:
    batch = pa.RecordBatch.from_pylist(list(rows), schema=DIFFERENCES)
    return records.encode(records.Differences(sent_at_us=0), batch).to_pybytes()


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    plant = Plant(tmp_path / "data")
    plant.data.mkdir()
    log = open_log("embedded:", data=plant.data)
    try:
        log.create_topics(TOPICS, 2)
        with log.writer("w") as writer, writer.transaction() as transaction:
            transaction.append(STATUS, 0, differences(row("B", 3, other_high=101.0), row("B", 5, other_volume=60.0)))
            transaction.append(STATUS, 0, b"rubbish")
            transaction.append(STATUS, 0, records.encode(records.FeedState(sent_at_us=0, state="up", since_us=0)))
            # The same bar differs again. The command lists the newest difference.
            transaction.append(STATUS, 0, differences(row("B", 3, other_high=100.5, other_low=99.0)))
            transaction.append(
                STATUS,
                1,
                differences(row("A", 0, interval="5m", volume=0.0), row("A", 4, other="feed", other_close=None)),
            )
    finally:
        log.close()
    return plant


def times(*arguments: str, plant: Plant) -> list[tuple[str, str]]:
    found = objects(invoke(plant, "compare", *arguments, "--json"))
    return [(one["symbol"], one["time"][11:16]) for one in found]


def test_differences_are_listed_newest_last_and_each_bar_once(plant: Plant) -> None:
    found = objects(invoke(plant, "compare", "--json"))
    assert [(one["symbol"], one["time"][11:16]) for one in found] == [
        ("A", "14:30"), ("B", "14:33"), ("A", "14:34"), ("B", "14:35")
    ]  # fmt: skip
    assert found[0]["time"] == "2026-01-05T14:30:00Z"
    assert [one["price_bp"] for one in found] == [0.0, 100.0, 0.0, 0.0]
    assert [one["volume_percent"] for one in found] == [None, 0.0, 0.0, 20.0]
    assert found[2]["other_close"] is None


def test_a_table_for_people_ends_with_counts_by_pair_and_interval(plant: Plant) -> None:
    result = invoke(plant, "compare", "-n", "2")
    assert (result.code, result.err) == (0, "")
    heading, *lines, summary = result.out.splitlines()
    assert heading.split() == [
        "time", "symbol", "interval", "source", "other", "close", "other", "close", "price", "bp", "volume", "%"
    ]  # fmt: skip
    assert [line.split() for line in lines] == [
        ["2026-01-05T14:34:00Z", "A", "1m", "tape", "feed", "100", "0.00", "+0.00"],
        ["2026-01-05T14:35:00Z", "B", "1m", "tape", "vendor", "100", "100", "0.00", "+20.00"],
    ]
    assert summary == (
        "4 bars differ (the newest 2 are shown): tape / feed 1m: 1, tape / vendor 1m: 2, tape / vendor 5m: 1"
    )


def test_symbols_interval_and_times_filter_the_list(plant: Plant) -> None:
    assert times("b", plant=plant) == [("B", "14:33"), ("B", "14:35")]
    assert times("A", "B", "-i", "5m", plant=plant) == [("A", "14:30")]
    assert times("--from", "2026-01-05T14:33Z", "--to", "2026-01-05T14:35", plant=plant) == [
        ("B", "14:33"), ("A", "14:34")
    ]  # fmt: skip
    assert times("-n", "1", plant=plant) == [("B", "14:35")]


def test_invalid_requests_are_refused_in_one_sentence(plant: Plant) -> None:
    assert_refused(invoke(plant, "compare", "NONE"), 0, "no two sources differ in this range")
    assert_refused(invoke(plant, "compare", "-i", "7m"), 2, "unknown interval")
    assert_refused(invoke(plant, "compare", "--from", "2026-01-02", "--to", "2026-01-01"), 2, "not before --to")
