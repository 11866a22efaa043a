"""Analytics that starts without a snapshot on a store with history computes the first live value correctly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.analytics.plant import Bench
from tests.analytics.support import T0
from tests.analytics.test_recompute import COLUMNS, DAYS, INDICATORS, RULES, check, day, days, live, prices
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
def _uninstall_faults() -> Iterator[None]:
    yield
    faults.install(None)


def adopted(folder: Path, dsn: str) -> Bench:
    """Return a bench with a new log and a store that contains the history of another log."""
    former = Bench(folder / "former", dsn)
    former.append(records.Settings, values=RULES)
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


def test_the_first_live_value_is_computed_from_all_stored_bars(tmp_path: Path, dsn: str) -> None:
    bench = adopted(tmp_path, dsn)
    try:
        bench.append(records.Settings, values=RULES)
        bench.bars("A", [day(DAYS)], [25.0])
        bench.bars("C", [day(DAYS)], [25.0])
        bench.run()
        assert bench.analytics is not None
        counts = bench.analytics.counters
        assert (counts.warm_series, counts.warm_of, counts.warm_bars) == (2, 2, DAYS + 30)
        expected = bench.expected("A", "1d", INDICATORS)
        assert bench.values("A", "1d", COLUMNS) == {day(DAYS): expected[day(DAYS)]}
        assert None not in expected[day(DAYS)]
        # The new log revises a bar that only the store contains.
        bench.bars("A", [day(300)], [500.0])
        bench.run()
        expected = bench.expected("A", "1d", INDICATORS)
        found = bench.values("A", "1d", COLUMNS)
        assert found == {time: row for time, row in expected.items() if time >= day(300)}
    finally:
        bench.close()


def test_a_bootstrap_stores_a_snapshot_before_any_record_is_read(tmp_path: Path, dsn: str) -> None:
    bench = adopted(tmp_path, dsn)
    try:

        def has_snapshot() -> bool:
            return snapshots.read(bench.log, schemas.STATE_ANALYTICS, 0, snapshots.SNAPSHOT_KEY) is not None

        bench.append(records.Settings, values=RULES)
        bench.run(until=has_snapshot)
        bench.bars("A", [day(DAYS)], [25.0])
        bench.run()
        assert bench.analytics is not None
        assert bench.analytics.counters.warm_series == 0
        assert bench.values("A", "1d", COLUMNS) == {day(DAYS): bench.expected("A", "1d", INDICATORS)[day(DAYS)]}
    finally:
        bench.close()


@pytest.mark.parametrize("store_is_behind", [False, True])
def test_values_of_records_that_only_the_store_has_applied_equal_those_of_a_batch(
    bench: Bench, *, store_is_behind: bool
) -> None:
    x = prices(DAYS)
    bench.append(records.Settings, values=RULES)
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
def test_a_lost_snapshot_is_restored_from_the_store(bench: Bench, after: str) -> None:
    x = prices(DAYS)
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS - 10, x)
    bench.run()
    with bench.log.writer("test") as writer, writer.transaction() as transaction:
        for key in bench.log.state_keys(schemas.STATE_ANALYTICS, 0):
            transaction.put_state(schemas.STATE_ANALYTICS, 0, key, None)
    bench.bars("A", [day(5)], [300.0])
    live(bench, DAYS - 10, DAYS, x)
    if after == "store ahead":
        bench.run(analytics=False)
    else:  # analytics has committed records that the store has not applied
        end = bench.log.offsets(schemas.OHLCV)[TopicPartition(schemas.OHLCV, 0)][1]
        with bench.log.reader([schemas.OHLCV], group=GROUP, member="analytics-0") as reader:
            reader.poll(timeout_s=1.0)
            reader.commit({TopicPartition(schemas.OHLCV, 0): end - 3})
    bench.run()
    if after == "store ahead":
        check(bench)
    else:  # values up to the committed offset count as published; only later values are published
        expected, found = bench.expected("A", "1d", INDICATORS), bench.values("A", "1d", COLUMNS)
        assert found[day(DAYS - 1)] == expected[day(DAYS - 1)]


@pytest.mark.parametrize("point", ["commit.before", "append.after", "snapshot.after", "commit.after"])
def test_a_kill_during_a_bootstrap_restarts_the_bootstrap(bench: Bench, point: str) -> None:
    bench.append(records.Settings, values=RULES)
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


def test_a_stop_ends_a_bootstrap(bench: Bench) -> None:
    bench.append(records.Settings, values=RULES)
    for number in range(50):
        bench.bars(f"S{number}", days(0, 5), prices(5))
    bench.run(analytics=False)
    analytics = Analytics(bench.log, bench.dsn)
    stop = threading.Event()
    stop.set()
    analytics._shared.stop = stop
    analytics.run(stop)
    assert analytics.counters.warm_series == 0
    bench.run()
    assert bench.analytics is not None
    assert bench.analytics.counters.warm_series == 50


def test_a_late_store_corrects_every_series(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickerplant.analytics.service.BOOTSTRAP_TIMEOUT_S", 0.0)
    bench.append(records.Settings, values=RULES)
    live(bench, 0, DAYS, prices(DAYS))

    def lacks_history() -> bool:
        """Return True if all records are read and the published count of series without history is 1."""
        return bench.read_all() and bench.analytics is not None and bench.analytics.counters.store_missing == 1

    bench.run(store=False, dsn="postgresql://nobody@127.0.0.1:9/nothing", until=lacks_history)
    assert bench.analytics is not None
    bench.bars("A", [day(DAYS)], [101.0])
    bench.run()
    check(bench)
    assert bench.analytics.counters.store_missing == 0


def test_a_late_store_supplies_splits_but_the_rules_come_from_the_log(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickerplant.analytics.service.BOOTSTRAP_TIMEOUT_S", 0.0)
    bench = adopted(tmp_path, dsn)
    try:
        with (
            bench.log.writer("control") as writer,
            writer.transaction() as transaction,
        ):  # appends no settings record
            transaction.put_state(schemas.STATE_FEEDS, 0, schemas.SETTINGS_KEY, msgspec.json.encode(RULES))
        bench.bars("A", [day(DAYS)], [25.0])
        bench.run(store=False, dsn="postgresql://nobody@127.0.0.1:9/nothing", until=bench.read_all)
        bench.bars("A", [day(DAYS + 1)], [26.0])
        bench.run()
        check(bench)
    finally:
        bench.close()


def test_a_bootstrap_uses_the_newest_rules(bench: Bench) -> None:
    bench.append(records.Settings, values=RULES)
    live(bench, 0, 100, prices(100))
    bench.bars("A", T0 + np.arange(50) * MINUTE_US, prices(50), "1m")
    bench.run(analytics=False)
    bench.run()
    assert bench.analytics is not None
    assert bench.analytics.counters.warm_of == 1
    check(bench)
