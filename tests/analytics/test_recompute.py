"""After series are recomputed from stored bars, the tables equal a batch over the whole history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.analytics.plant import Bench
from tests.analytics.support import T0
from tests.support.killed import Killed
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import faults, records, schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.streams import Output
from tickerplant.core.times import DAY_US, MINUTE_US

INDICATORS = ["SMA(20)", "EMA(12)", "RSI(14)", "BBANDS(20,2)", "ATR(14)", "MFI(14)", "OBV", "VWAP"]
COLUMNS = [column for text in INDICATORS for column in parse(text).columns]
RULES = {"indicators": {"1d": INDICATORS}, "forming_indicators": [], "calendars": {"*": "24/7"}}
DAYS = 800
FIRST = T0 // DAY_US * DAY_US - DAYS * DAY_US
POINTS = ("commit.before", "append.after", "snapshot.before", "snapshot.after", "commit.after", "again")


@pytest.fixture
def bench(tmp_path: Path, dsn: str) -> Iterator[Bench]:
    made = Bench(tmp_path, dsn)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _uninstall_faults() -> Iterator[None]:
    yield
    faults.install(None)


def prices(count: int, seed: int = 1) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, count)))


def day(number: int) -> int:
    return FIRST + number * DAY_US


def days(begin: int, end: int) -> np.ndarray:
    return FIRST + np.arange(begin, end) * DAY_US


def check(bench: Bench, symbol: str = "A", indicators: list[str] = INDICATORS, columns: list[str] = COLUMNS) -> None:
    expected = bench.expected(symbol, "1d", indicators)
    assert len(expected) > 0
    assert bench.values(symbol, "1d", columns) == expected


def live(bench: Bench, begin: int, end: int, x: np.ndarray, symbol: str = "A") -> None:
    """Append the daily bars `begin` to `end` of a symbol in six records of a live feed."""
    for part in np.array_split(np.arange(begin, end), 6):
        bench.bars(symbol, days(part[0], part[-1] + 1), x[part])


def test_a_series_is_recomputed_once_after_its_backfill_has_ended(bench: Bench) -> None:
    x = prices(2500 + DAYS)
    bench.append(records.Settings, values=RULES)
    bench.bars("A", days(0, DAYS), x[2500:])
    bench.bars("B", days(0, 300), prices(300, 2))
    bench.run()
    check(bench)
    for part in np.array_split(np.arange(2500), 10):
        bench.bars("A", days(part[0] - 2500, part[-1] + 1 - 2500), x[part], feed="backfill", history=True)
    bench.bars("B", days(300, 310), prices(10, 3))
    bench.run(until=bench.read_all)
    assert bench.analytics is not None
    assert bench.analytics.counters.computed_again == 0
    bench.append(records.End, feed="backfill")
    bench.run()
    assert bench.analytics.counters.computed_again == 1
    check(bench)
    check(bench, "B")
    # The values of later bars continue from the recomputed state.
    bench.bars("A", days(DAYS, DAYS + 5), prices(5, 4))
    bench.run()
    assert bench.analytics.counters.computed_again == 0
    check(bench)


def test_a_series_is_recomputed_after_a_bounded_log_time_if_its_backfill_does_not_end(bench: Bench) -> None:
    x = prices(DAYS)
    bench.append(records.Settings, values=RULES)
    live(bench, 300, DAYS, x)
    bench.bars("A", days(0, 300), x[:300], feed="backfill", history=True)
    bench.run(until=bench.read_all)
    bench.tick(120)
    bench.append(records.Mark, feed="live", watermark_us=T0)
    bench.run()
    check(bench)


def test_history_of_lower_source_priority_changes_nothing(bench: Bench) -> None:
    x = prices(100)
    bench.append(records.Settings, values=RULES)
    bench.bars("A", days(0, 100), x)
    bench.bars("A", days(10, 20), x[10:20] * 2, feed="backfill", history=True, complete=False)
    bench.bars("A", days(30, 31), x[30:31] * 2, feed="backfill", history=True)
    bench.append(records.End, feed="backfill")
    bench.run()
    check(bench)
    closes = bench.query_store(lambda session: session.ohlcv.read("A", "1d")).column("close").to_numpy()
    assert closes[10] == x[10]
    assert closes[30] == 2 * x[30]


@pytest.mark.parametrize("state", ["final", "withdrawn"])
def test_a_revision_older_than_the_retained_bars_revises_all_later_values(bench: Bench, state: str) -> None:
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))
    bench.run()
    bench.bars("A", [day(50)], [np.nan if state == "withdrawn" else 250.0], state=state)
    bench.bars("A", days(DAYS, DAYS + 3), prices(3, 7))
    bench.run()
    check(bench)
    assert (day(50) in bench.values("A", "1d", COLUMNS)) == (state == "final")


def test_a_split_revises_earlier_bars_including_those_that_arrive_later(bench: Bench) -> None:
    x = prices(DAYS)
    x[700:] /= 4
    bench.append(records.Settings, values=RULES)
    live(bench, 300, DAYS, x)
    bench.run()
    bench.split("A", day(700), 4.0)
    bench.run()
    check(bench)
    bench.bars("A", days(0, 300), x[:300], feed="backfill", history=True)
    bench.append(records.End, feed="backfill")
    bench.bars("A", [day(690)], [77.0 * 4])  # a retained bar before the split
    bench.split("A", day(100), 1.0, 10.0)
    bench.split("A", day(700), 4.0)
    bench.run()
    bench.splits.pop()
    check(bench)
    bench.bars("A", days(DAYS, DAYS + 3), prices(3, 7))
    bench.run()
    check(bench)


def test_an_announced_split_takes_effect_when_its_session_starts(bench: Bench) -> None:
    x = prices(DAYS)
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS, x)
    tomorrow = (T0 // DAY_US + 1) * DAY_US
    bench.split("A", tomorrow, 2.0)
    announced, bench.splits = bench.splits, []
    bench.run()
    check(bench)
    bench.splits = announced
    bench.tick((tomorrow - T0) / 1e6)
    bench.append(records.Mark, feed="live", watermark_us=T0)
    bench.bars("A", [tomorrow], [50.0])
    bench.run()
    check(bench)


def test_a_new_indicator_is_computed_over_the_stored_history(bench: Bench) -> None:
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))
    live(bench, 0, DAYS, prices(DAYS, 2), "B")
    bench.run()
    more = [*INDICATORS, "EMA(50)", "SMA(7)"]
    bench.append(records.Settings, values={**RULES, "indicators": {"1d": more}})
    bench.bars("A", days(DAYS, DAYS + 3), prices(3, 7))
    bench.run()
    for symbol in "AB":
        check(bench, symbol, more, [*COLUMNS, "ema_50", "sma_7"])


def disturb(bench: Bench) -> None:
    """Append a backfill, a late revision, a split, new settings and new bars."""
    x = prices(DAYS)
    bench.bars("A", days(0, 100), x[:100], feed="backfill", history=True)
    bench.bars("B", [day(350)], [99.0])
    bench.split("A", day(700), 4.0)
    bench.append(records.End, feed="backfill")
    bench.bars("A", days(DAYS, DAYS + 2), prices(2, 7))
    bench.append(records.Settings, values={**RULES, "indicators": {"1d": [*INDICATORS, "EMA(50)"]}})
    bench.bars("B", days(DAYS, DAYS + 2), prices(2, 8))


@pytest.mark.parametrize("point", POINTS)
def test_the_tables_are_equal_after_any_kill(bench: Bench, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill analytics at each effect of a commit, and at the point `again` between two recomputed series."""
    recompute = AnalyticsStage.recompute

    def computed(stage: AnalyticsStage, series: Series, history: pa.RecordBatch) -> Iterator[Output]:
        yield from recompute(stage, series, history)
        faults.reach("analytics.again")

    monkeypatch.setattr(AnalyticsStage, "recompute", computed)
    bench.append(records.Settings, values=RULES)
    for symbol, seed in (("A", 1), ("B", 2)):
        live(bench, 100, DAYS, prices(DAYS, seed), symbol)
    bench.run()
    disturb(bench)
    killed = 0
    for number in (1, 2, 3):
        left = number

        def kill(name: str) -> None:
            nonlocal left, killed
            if name == f"analytics.{point}":
                left -= 1
                if left == 0:
                    killed += 1
                    raise Killed

        faults.install(kill)
        bench.run()
        faults.install(None)
    assert killed
    bench.run()
    columns = [*COLUMNS, "ema_50"]
    check(bench, "A", [*INDICATORS, "EMA(50)"], columns)
    splits, bench.splits = bench.splits, []
    check(bench, "B", [*INDICATORS, "EMA(50)"], columns)
    bench.splits = splits


def test_without_a_store_analytics_continues_and_queued_series_wait(bench: Bench, tmp_path: Path) -> None:
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))
    bench.run()
    bench.bars("A", [day(50)], [250.0])
    nowhere = "postgresql://nobody@127.0.0.1:9/nothing"
    bench.bars("A", days(DAYS, DAYS + 1), [101.0])

    def missing() -> bool:
        return bench.read_all() and bench.analytics is not None and bench.analytics.counters.store_missing == 1

    bench.run(store=False, dsn=nowhere, until=missing)
    assert bench.analytics is not None
    assert bench.analytics.counters.pending == 1
    bench.run()
    check(bench)
    assert bench.analytics.counters.store_missing == 0


def test_intraday_bars_are_adjusted_by_session_not_by_utc_day(bench: Bench) -> None:
    # 2020-08-31 is a Monday. Its session starts at 04:00 in New York, which is 08:00 UTC.
    # The previous session ends at 00:00 UTC on Saturday.
    session = 1_598_832_000_000_000
    begin = session + 8 * 60 * MINUTE_US
    bench.append(records.Settings, values={"indicators": {"5m": ["SMA(3)"]}, "calendars": {"*": "XNYS"}})
    times = begin + np.arange(-6, 6) * 5 * MINUTE_US
    closes = np.where(times < begin, 400.0, 100.0)
    bench.bars("A", times, closes, "5m")
    bench.split("A", session, 4.0)
    bench.run()
    found = bench.values("A", "5m", ["sma_3"])
    assert {value for (value,) in found.values()} == {None, 100.0}
    assert len(found) == 12


@pytest.mark.parametrize("in_the_set", [True, False])
def test_the_indicator_of_an_alert_rule_is_computed_from_all_stored_bars_adjusted_for_splits(
    bench: Bench, *, in_the_set: bool
) -> None:
    indicators = {"1d": INDICATORS} if in_the_set else {"5m": INDICATORS}
    x = prices(DAYS)
    x[DAYS - 5 :] /= 4
    bench.append(records.Settings, values={**RULES, "indicators": indicators})
    live(bench, 0, DAYS, x)
    rule = Rule(id="r", symbol="A", interval="1d", left="close", operator="crosses_above", right="EMA(50)")
    bench.append(records.AlertRule, rule=rule)
    bench.run()
    bench.split("A", day(DAYS - 5), 4.0)
    bench.run()
    assert alerts(bench) == []
    bench.bars("A", days(DAYS, DAYS + 2), [x[-1] / 2, x[-1] * 2])
    bench.run()
    [row] = alerts(bench)
    [expected] = bench.expected("A", "1d", ["EMA(50)"])[day(DAYS + 1)]
    assert (row["left"], row["right"]) == (x[-1] * 2, expected)


def alerts(bench: Bench) -> list[dict[str, object]]:
    with bench.log.reader([schemas.ALERTS]) as reader:
        found = reader.poll(timeout_s=0.2)
    return [row for one in found for row in records.decode(one.value).batch.to_pylist()]
