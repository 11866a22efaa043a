"""A beginning without a snapshot, on a store that has history: the first live value is right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.analytics.plant import Bench
from tests.analytics.support import T0
from tests.analytics.test_again import COLUMNS, DAYS, INDICATORS, RULES, check, day, days, live, prices
from tests.support.killed import Killed
from tickerplant.analytics.service import GROUP, Analytics
from tickerplant.core import faults, records, schemas
from tickerplant.core.times import MINUTE_US
from tickerplant.log import snapshots
from tickerplant.log.port import TopicPartition


@pytest.fixture
def bench(tmp_path: Path, dsn: str) -> Iterator[Bench]:
    made = Bench(tmp_path, dsn)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_fault_stays() -> Iterator[None]:
    yield
    faults.install(None)


def adopted(folder: Path, dsn: str) -> Bench:
    """A plant whose store has the history of another log."""
    former = Bench(folder / "former", dsn)
    former.say(records.Settings, values=RULES)
    live(former, 0, DAYS, prices(DAYS))
    live(former, 0, 30, prices(30, 2), "B")
    former.split("A", day(700), 4.0)
    former.run(analytics=False)
    former.close()
    bench = Bench(folder / "next", dsn, generation=2)
    bench.splits = former.splits

    async def adopt() -> None:
        from tickerplant.store import Store

        store = await Store.open(dsn, max_size=1)
        await store.adopt(bench.log.identity().log_id, 2)
        await store.close()

    import asyncio

    asyncio.run(adopt())
    return bench


def test_the_first_live_value_counts_from_the_recorded_start(tmp_path: Path, dsn: str) -> None:
    bench = adopted(tmp_path, dsn)
    try:
        bench.say(records.Settings, values=RULES)
        bench.bars("A", [day(DAYS)], [25.0])
        bench.bars("C", [day(DAYS)], [25.0])
        bench.run()
        assert bench.analytics is not None
        counts = bench.analytics.counts
        assert (counts.warm_series, counts.warm_of, counts.warm_bars) == (2, 2, DAYS + 30)
        expected = bench.expected("A", "1d", INDICATORS)
        assert bench.values("A", "1d", COLUMNS) == {day(DAYS): expected[day(DAYS)]}
        assert None not in expected[day(DAYS)]
        # A revision deep in what only the store has had, from the new log.
        bench.bars("A", [day(300)], [500.0])
        bench.run()
        expected = bench.expected("A", "1d", INDICATORS)
        found = bench.values("A", "1d", COLUMNS)
        assert found == {time: row for time, row in expected.items() if time >= day(300)}
    finally:
        bench.close()


def test_what_it_made_is_its_snapshot_before_anything_comes(tmp_path: Path, dsn: str) -> None:
    bench = adopted(tmp_path, dsn)
    try:

        def kept() -> bool:
            return snapshots.read(bench.log, schemas.STATE_ANALYTICS, 0, snapshots.SNAPSHOT_KEY) is not None

        bench.say(records.Settings, values=RULES)
        bench.run(until=kept)
        bench.bars("A", [day(DAYS)], [25.0])
        bench.run()
        assert bench.analytics is not None
        assert bench.analytics.counts.warm_series == 0
        assert bench.values("A", "1d", COLUMNS) == {day(DAYS): bench.expected("A", "1d", INDICATORS)[day(DAYS)]}
    finally:
        bench.close()


@pytest.mark.parametrize("store_is_behind", [False, True])
def test_records_that_the_store_has_and_analytics_had_not_are_published_as_a_batch_sees_them(
    bench: Bench, *, store_is_behind: bool
) -> None:
    x = prices(DAYS)
    bench.say(records.Settings, values=RULES)
    live(bench, 0, DAYS - 10, x)
    bench.bars("A", [day(5)], [300.0])
    if store_is_behind:
        bench.run(analytics=False)
    bench.bars("A", [day(700)], [np.nan], state="withdrawn")
    live(bench, DAYS - 10, DAYS, x)
    bench.bars("A", [day(DAYS)], [130.0], state="forming")
    if not store_is_behind:
        bench.run(analytics=False)
    bench.run()
    check(bench)


@pytest.mark.parametrize("after", ["store ahead", "group ahead"])
def test_a_lost_snapshot_is_made_again_from_the_store(bench: Bench, after: str) -> None:
    x = prices(DAYS)
    bench.say(records.Settings, values=RULES)
    live(bench, 0, DAYS - 10, x)
    bench.run()
    with bench.log.writer("vandal") as writer, writer.transaction() as transaction:
        for key in bench.log.state_keys(schemas.STATE_ANALYTICS, 0):
            transaction.put_state(schemas.STATE_ANALYTICS, 0, key, None)
    bench.bars("A", [day(5)], [300.0])
    live(bench, DAYS - 10, DAYS, x)
    if after == "store ahead":
        bench.run(analytics=False)
    else:  # analytics has committed what the store has not applied
        end = bench.log.offsets(schemas.OHLCV)[TopicPartition(schemas.OHLCV, 0)][1]
        with bench.log.reader([schemas.OHLCV], group=GROUP, member="analytics-0") as reader:
            reader.poll(timeout_s=1.0)
            reader.commit({TopicPartition(schemas.OHLCV, 0): end - 3})
    bench.run()
    if after == "store ahead":
        check(bench)
    else:  # what it had committed it had published, in this tale: only what came after is
        expected, found = bench.expected("A", "1d", INDICATORS), bench.values("A", "1d", COLUMNS)
        assert found[day(DAYS - 1)] == expected[day(DAYS - 1)]


@pytest.mark.parametrize("point", ["commit.before", "append.after", "snapshot.after", "commit.after"])
def test_killed_while_it_begins_it_begins_again(bench: Bench, point: str) -> None:
    bench.say(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))
    bench.run(analytics=False)
    bench.bars("A", [day(DAYS)], [101.0])
    for _ in range(2):
        fallen = False

        def kill(name: str) -> None:
            nonlocal fallen
            if name == f"analytics.{point}" and not fallen:
                fallen = True
                raise Killed

        faults.install(kill)
        bench.run()
        faults.install(None)
        assert fallen
    bench.run()
    check(bench)


def test_a_stop_while_it_begins_is_heeded(bench: Bench) -> None:
    bench.say(records.Settings, values=RULES)
    for number in range(50):
        bench.bars(f"S{number}", days(0, 5), prices(5))
    bench.run(analytics=False)
    analytics = Analytics(bench.log, bench.dsn)
    stop = threading.Event()
    stop.set()
    analytics._plant.stop = stop
    analytics.run(stop)
    assert analytics.counts.warm_series == 0
    bench.run()
    assert bench.analytics is not None
    assert bench.analytics.counts.warm_series == 50


def test_a_store_that_comes_late_makes_all_right(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickerplant.analytics.service.PATIENCE_S", 0.0)
    bench.say(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))
    bench.run(store=False, dsn="postgresql://nobody@127.0.0.1:9/nothing", until=bench.read_all)
    assert bench.analytics is not None
    assert bench.analytics.counts.store_missing == 1
    bench.bars("A", [day(DAYS)], [101.0])
    bench.run()
    check(bench)
    assert bench.analytics.counts.store_missing == 0


def test_a_store_that_comes_late_brings_its_splits_and_the_rules_are_the_logs(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerplant.analytics.service.PATIENCE_S", 0.0)
    bench = adopted(tmp_path, dsn)
    try:
        with bench.log.writer("control") as writer, writer.transaction() as transaction:  # the record itself is gone
            transaction.put_state(schemas.STATE_FEEDS, 0, schemas.SETTINGS_KEY, msgspec.json.encode(RULES))
        bench.bars("A", [day(DAYS)], [25.0])
        bench.run(store=False, dsn="postgresql://nobody@127.0.0.1:9/nothing", until=bench.read_all)
        bench.bars("A", [day(DAYS + 1)], [26.0])
        bench.run()
        check(bench)
    finally:
        bench.close()


def test_rules_that_were_written_last_are_those_of_the_beginning(bench: Bench) -> None:
    bench.say(records.Settings, values=RULES)
    live(bench, 0, 100, prices(100))
    bench.bars("A", T0 + np.arange(50) * MINUTE_US, prices(50), "1m")
    bench.run(analytics=False)
    bench.run()
    assert bench.analytics is not None
    assert bench.analytics.counts.warm_of == 1
    check(bench)
