"""The command `coverage` on a plant without a log, and on a plant whose log contains a feed's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.store.rows import MINUTE_US, OPEN_US, bars
from tests.store.test_coverage import answer
from tests.store.test_coverage import put as put_answer
from tests.store.test_interval_status import write_bars, write_intervals
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant

from tickerplant.core.schemas import TOPICS
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.store import Store
from tickerplant.store.migrations import migrate

HOUR = ("--from", "2012-06-21T13:30", "--to", "2012-06-21T14:30")


async def fill(dsn: str) -> None:
    store = await Store.open(dsn)
    await migrate(store)
    for day in (0, 1):
        rows = [{"minute": day * 1440 + minute} for minute in range(390) if not (day == 0 and 10 <= minute < 16)]
        await write_bars(store, bars(*rows))
    await write_bars(store, bars({"symbol": "MSFT"}, {"interval": "1d", "time_us": OPEN_US - OPEN_US % DAY_US}))
    await write_intervals(store, [10], ["GOOG"])
    await put_answer(store, answer(12, 14, "quota", source="av", note="25 a day"), 1)
    await store.close()


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    plant = Plant(tmp_path_factory.mktemp("coverage") / "data")
    with plant.store() as dsn:
        asyncio.run(fill(dsn))
        yield plant


def test_coverage_prints_counts_a_chart_and_the_gaps_with_their_reasons(plant: Plant) -> None:
    shown = invoke(plant, "coverage", "goog", *HOUR)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.rstrip() for line in shown.out.splitlines()]
    assert lines[0] == "1m bars from 2012-06-21 13:30 to 2012-06-21 14:30 UTC"
    assert lines[1].split() == ["symbol", "expected", "have", "no", "trade", "quota", "missing", "covered"]
    assert lines[2].split() == ["GOOG", "60", "54", "1", "2", "3", "91.67%"]
    assert lines[4] == "GOOG " + "█" * 10 + "░?qq??" + "█" * 44
    assert lines[5].split() == ["2012-06-21", "13:30", "2012-06-21", "14:00", "2012-06-21", "14:29"]
    assert lines[6].split() == ["█", "have", "░", "no", "trade", "q", "quota", "?", "missing"]
    assert [line.split(maxsplit=6)[1:] for line in lines[9:]] == [
        ["2012-06-21", "13:41", "13:42", "1", "missing", "not requested from a vendor yet"],
        ["2012-06-21", "13:42", "13:44", "2", "quota", "av: 25 a day"],
        ["2012-06-21", "13:44", "13:46", "2", "missing", "not requested from a vendor yet"],
    ]


def test_one_symbol_has_a_line_per_day_and_several_symbols_have_a_line_each(plant: Plant) -> None:
    two_days = ("--from", "2012-06-21", "--to", "2012-06-23")
    days = invoke(plant, "coverage", "GOOG", *two_days).out.splitlines()
    assert [line[:14] for line in days if "█" in line][:2] == ["Thu 2012-06-21", "Fri 2012-06-22"]
    both = invoke(plant, "coverage", *two_days).out.splitlines()
    assert [line.split()[0] for line in both if "██" in line or "??" in line] == ["GOOG", "MSFT"]


def test_the_newest_gaps_are_listed_and_the_others_counted(plant: Plant) -> None:
    one = invoke(plant, "coverage", "GOOG", *HOUR, "-n", "1").out.splitlines()
    assert one[-2].split()[2:5] == ["13:44", "13:46", "2"]
    assert one[-1] == "2 gaps more"
    assert invoke(plant, "coverage", "GOOG", *HOUR, "-n", "0").out.splitlines()[-1] == "3 gaps"
    assert invoke(plant, "coverage", "GOOG", "--from", "2012-06-22", "--to", "2012-06-23").out.endswith("\nno gaps\n")


def test_objects_equal_the_answers_of_the_api(plant: Plant) -> None:
    goog, msft = objects(invoke(plant, "coverage", *HOUR, "--json"))
    assert (goog["symbol"], goog["interval"], goog["expected"], goog["have"]) == ("GOOG", "1m", 60, 54)
    assert (goog["counts"]["quota"], goog["share"]) == (2, round(55 / 60, 6))
    assert goog["stretches"][3] == {
        "from": "2012-06-21T13:42:00Z", "to": "2012-06-21T13:44:00Z", "status": "quota", "bars": 2, "source": "av",
        "note": "25 a day", "again_at": None,
    }  # fmt: skip
    assert msft["counts"]["missing"] == 59
    (day,) = objects(
        invoke(plant, "coverage", "GOOG", "-i", "1d", "--from", "2012-06-21", "--to", "2012-06-22", "--json")
    )
    assert [(one["status"], one["bars"]) for one in day["stretches"]] == [("have", 1)]


def test_invalid_requests_are_refused_in_one_sentence(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_refused(invoke(plant, "coverage", "GOOG", "-i", "15m"), 2, "1m, 5m, 1d")
    assert_refused(invoke(plant, "coverage", "--from", "2012-06-22", "--to", "2012-06-21"), 2, "not before --to")
    assert_refused(invoke(plant, "coverage", "--from", "2199-01-01"), 2, "in the future")
    assert_refused(invoke(plant, "coverage", "--from", "1999-01-01"), 2, "request a shorter range")
    unseen = invoke(plant, "coverage", "GOGO", *HOUR)
    assert (unseen.code, unseen.err) == (0, "the store has no data of GOGO\n")
    empty = Plant(tmp_path_factory.mktemp("empty"))
    assert_refused(invoke(empty, "coverage"), 1, "there is no plant")


def test_the_market_time_is_that_of_a_feed_with_its_own_clock(plant: Plant) -> None:
    """Check the market time. This must be the last test of the plant, because it creates a log beside the store."""
    with EmbeddedLog(plant.data / "market.log") as log:
        log.create_topics(TOPICS, 2)
        with FeedWriter(log, "sandbox", clock=lambda: OPEN_US + 20 * MINUTE_US) as feed:
            feed.start(["GOOG"], start_us=OPEN_US, live=True)
    goog, _ = objects(invoke(plant, "coverage", "--json"))
    assert (goog["from"], goog["to"]) == ("2012-06-15T00:00:00Z", "2012-06-21T13:51:00Z")
    assert (goog["expected"], goog["have"], goog["counts"]["pending"]) == (4 * 390 + 21, 15, 0)
