"""One plant: locks of its data folder, health, metrics, retention, and the rules of its log."""

import contextlib
import re
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from tests.market_data.support import ticks

from tickerplant.app import health
from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth, check
from tickerplant.app.config.settings import Settings
from tickerplant.app.metrics import CATALOGUE, PlantCollector, ServiceCounts, registry_of
from tickerplant.app.runtime.plant import Plant, folder_alone, folder_is_held, folder_shared
from tickerplant.app.runtime.supervisor import Status
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.app.wiring.log import open_log
from tickerplant.app.wiring.rules import ensure_rules
from tickerplant.core import records
from tickerplant.core.errors import FolderHeld, StoreUnavailable
from tickerplant.core.rules import DEFAULT_RULES, FX_CALENDARS, Rules, values_of
from tickerplant.core.schemas import RAW, STALE_FEED_US, STATUS
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import DAY_US, SECOND_US, iso
from tickerplant.log.port import TopicPartition
from tickerplant.log.processor import ProcessorCounters
from tickerplant.log.rules_in_force import rules_in_force
from tickerplant.market_data.feed.commands import ensure_settings
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.files.replay import ReplayOptions, replay
from tickerplant.persistence.reporter import PersistenceCounters


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, partitions=2)


def test_a_folder_belongs_to_one_plant_or_to_services_with_different_names(settings: Settings) -> None:
    assert not folder_is_held(settings)
    with folder_shared(settings, "api"), folder_shared(settings, "aggregation"):
        assert folder_is_held(settings)
        with pytest.raises(FolderHeld, match="in use by process"), folder_alone(settings):
            pass
        with pytest.raises(FolderHeld), folder_shared(settings, "api"):
            pass
        with folder_shared(settings.model_copy(update={"instance": "1"}), "api"):
            pass
    with folder_alone(settings), pytest.raises(FolderHeld), folder_shared(settings, "api"):
        pass


def test_topics_keep_their_initial_number_of_partitions(settings: Settings) -> None:
    with open_log(settings) as event_log:
        identity = event_log.identity()
    with open_log(settings.model_copy(update={"partitions": 7})) as event_log:
        assert event_log.partitions(RAW) == 2
        assert event_log.identity() == identity


def test_the_log_drops_applied_records_while_the_store_is_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    later_ns = time.time_ns() + 100 * DAY_US * 1_000
    with open_log(settings) as event_log:
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            for text in (b"a", b"b", b"c"):
                transaction.append(RAW, 0, text)
        plant = Plant(settings, event_log, f"postgresql:///x?host={tmp_path}")

        def maintain() -> tuple[int, int]:
            with monkeypatch.context() as patch:
                patch.setattr("time.time_ns", lambda: later_ns)
                with pytest.raises(StoreUnavailable):
                    plant.maintain(threading.Event())
            return tuple(event_log.offsets(RAW)[TopicPartition(RAW, 0)])

        assert maintain() == (0, 3), "persistence has not read the log, so all records are kept for the store"
        with event_log.reader([RAW], group="persistence", member="one") as reader:
            reader.poll(timeout_s=1.0)
            reader.commit({TopicPartition(RAW, 0): 2, TopicPartition(RAW, 1): 0})
        assert maintain() == (2, 3), "the store has not applied the last record"


def test_rules_are_appended_only_when_they_differ(settings: Settings) -> None:
    def ends(chosen: Settings, **how: bool) -> int:
        with open_log(chosen) as event_log:
            ensure_rules(event_log, chosen, **how)
            return sum(end for _, end in event_log.offsets(RAW).values())

    assert ends(settings, only_first=True) == 2
    assert ends(settings) == 2
    later = settings.model_copy(update={"rules": settings.rules.model_copy(update={"allowed_lateness_ms": 5})})
    assert ends(later, only_first=True) == 2, "a command that only feeds a running plant does not change its rules"
    assert ends(later) == 4


def test_a_log_keeps_its_calendars_until_the_user_sets_others(settings: Settings) -> None:
    # The version before the calendar FX wrote no calendars that were defaults.
    def calendar_of(symbol: str, chosen: Settings) -> str:
        with open_log(chosen) as event_log:
            ensure_rules(event_log, chosen)
            return Calendars(rules_in_force(event_log, DEFAULT_RULES)).of(symbol).name

    def with_calendars(calendars: dict[str, str]) -> Settings:
        rules = settings.rules.model_copy(update={"calendars": calendars})
        return settings.model_copy(update={"rules": rules})

    with open_log(settings) as event_log:
        ensure_settings(event_log, values_of(Rules(calendar_version="4.5")))
    assert calendar_of("EUR/USD", settings) == "24/7"
    assert calendar_of("EUR/USD", settings) == "24/7", "the record of the new calendar data does not change this"
    assert calendar_of("EUR/USD", with_calendars(dict(FX_CALENDARS))) == "FX"
    assert calendar_of("AAPL", with_calendars({"A*": "XLON", "*": "XNYS"})) == "XLON"
    assert calendar_of("AAPL", with_calendars({"*": "XNYS", "A*": "XLON"})) == "XNYS"


def test_a_new_log_has_the_calendar_of_foreign_exchange(settings: Settings) -> None:
    with open_log(settings) as event_log:
        ensure_rules(event_log, settings)
        calendars = Calendars(rules_in_force(event_log, DEFAULT_RULES))
    assert [calendars.of(symbol).name for symbol in ("EUR/USD", "BTC/USD", "AAPL")] == ["FX", "24/7", "XNYS"]


def test_health_reports_the_newest_state_of_each_feed(settings: Settings) -> None:
    with open_log(settings) as event_log:
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            for second, (feed, state, reason) in enumerate(
                [("a", "down", ""), ("a", "up", ""), ("b", "up", ""), ("b", "down", "mute"), ("b", "late", "")]
            ):
                header = records.FeedState(
                    sent_at_us=second * 1_000_000, feed=feed, state=state, since_us=0, reason=reason
                )
                transaction.append(STATUS, 1, records.encode(header))
            transaction.append(STATUS, 1, b"rubbish")
        found = {part.name: part for part in check("feeds", lambda: health.feed_health(event_log, 0))}
        assert found["feed a"].state == OK
        assert found["feed b"].state == DEGRADED
        assert found["feed b"].sentence == "down since 1970-01-01T00:00:00Z: mute"
        assert {p.name for p in health.log_health(event_log)} == {
            "log", "lag aggregation", "lag analytics", "lag persistence"
        }  # fmt: skip


def test_health_reports_a_silent_live_feed_as_down(settings: Settings) -> None:
    sent_at_us = time.time_ns() // 1_000
    with open_log(settings) as event_log:
        with FeedWriter(event_log, "vendor") as live, FeedWriter(event_log, "file:1") as file:
            live.start(["A"], start_us=sent_at_us, live=True)
            live.mark(sent_at_us)
            file.start(["A"], start_us=0)
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            for feed in ("vendor", "file:1"):
                header = records.FeedState(sent_at_us=sent_at_us, feed=feed, state="up", since_us=0)
                transaction.append(STATUS, 0, records.encode(header))

        def states(now_us: int) -> dict[str, tuple[str, str]]:
            return {part.name: (part.state, part.sentence) for part in health.feed_health(event_log, now_us)}

        assert states(sent_at_us) == {"feed vendor": (OK, "up"), "feed file:1": (OK, "up")}
        later = states(sent_at_us + STALE_FEED_US + 5 * SECOND_US)
        assert later["feed file:1"] == (OK, "up")
        assert later["feed vendor"] == (DEGRADED, f"down since {iso(sent_at_us)}: no record for 90 s")


def test_health_reports_live_feeds_whose_state_changed_long_ago(settings: Settings) -> None:
    """Append the states of two feeds, and then more other records than health reads."""
    now_us = time.time_ns() // 1_000
    with open_log(settings) as event_log:
        with FeedWriter(event_log, "vendor") as live, FeedWriter(event_log, "stopped") as stopped:
            for feed in (live, stopped):
                feed.start(["A"], start_us=now_us, live=True)
                feed.mark(now_us)
            stopped.down(now_us, "closed")
        with FeedWriter(event_log, "file:1") as file:
            file.start(["A"], start_us=0)
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            up = records.FeedState(sent_at_us=now_us, feed="vendor", state="up", since_us=0)
            down = records.FeedState(sent_at_us=now_us, feed="stopped", state="down", since_us=now_us)
            late = records.FeedState(sent_at_us=now_us, feed="vendor", state="late", since_us=0, count=1)
            for header in (up, down, *[late] * (health.STATUS_TAIL + 1)):
                transaction.append(STATUS, 0, records.encode(header))

        def states(at_us: int) -> dict[str, tuple[str, str]]:
            return {part.name: (part.state, part.sentence) for part in health.feed_health(event_log, at_us)}

        stopped_since = (DEGRADED, f"down since {iso(now_us)}")
        assert states(now_us) == {"feed vendor": (OK, "up"), "feed stopped": stopped_since}
        later = states(now_us + STALE_FEED_US + 5 * SECOND_US)
        assert later["feed vendor"] == (DEGRADED, f"down since {iso(now_us)}: no record for 90 s")


def test_health_counts_the_conflicting_trades_of_a_feed(settings: Settings) -> None:
    now_us = time.time_ns() // 1_000
    trades = ticks(["A"] * 3, [now_us] * 3, [1.0, 2.0, 1.0], ["7"] * 3)
    with open_log(settings) as event_log:
        with FeedWriter(event_log, "vendor") as live:
            live.start(["A"], start_us=now_us, live=True)
            live.append_ticks(trades, now_us, b"1")
            live.commit()
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            header = records.FeedState(sent_at_us=now_us, feed="vendor", state="up", since_us=0)
            transaction.append(STATUS, 0, records.encode(header))
        (part,) = health.feed_health(event_log, now_us)
    assert (part.state, part.details) == (OK, {"state": "up", "conflicts": 1})
    assert "1 trades conflict with an earlier trade" in part.sentence


def test_health_counts_the_rows_of_bars_that_differ_from_an_earlier_row(settings: Settings, tmp_path: Path) -> None:
    now_us, path = time.time_ns() // 1_000, tmp_path / "f.csv"
    path.write_text("date,open,high,low,close\n2024-03-28,1,1,1,1\n2024-03-28,2,2,2,2\n2024-04-02,1,1,1,1\n")
    with open_log(settings) as event_log:
        done = replay(event_log, path, ReplayOptions(symbol="A", interval="1d"))
        again = replay(event_log, path, ReplayOptions(symbol="A", interval="1d"))
        with event_log.writer("test") as writer, writer.transaction() as transaction:
            header = records.FeedState(sent_at_us=now_us, feed=done.feed, state="ended", since_us=0)
            transaction.append(STATUS, 0, records.encode(header))
        (part,) = health.feed_health(event_log, now_us)
    assert (done.conflicts, again.conflicts, again.already) == (1, 1, True)
    assert (part.state, part.details) == (OK, {"state": "ended", "conflicts": 1})
    assert part.sentence == "ended; 1 rows of bars differ from an earlier row of their bar; the last row is kept"


def test_health_reports_whether_a_plant_runs_and_its_services(settings: Settings) -> None:
    with open_log(settings) as event_log:

        def plant_health(*, held: bool) -> tuple[str, str]:
            (part,) = health.plant_health(event_log, held=held)
            return part.state, part.sentence

        assert plant_health(held=False) == (FAILED, "not running; start it with `tickerplant up`")
        assert plant_health(held=True) == (
            DEGRADED,
            "runs without aggregation, analytics, persistence; start them with `tickerplant run NAME`",
        )
        with contextlib.ExitStack() as stack:
            for group, topics in health.GROUPS.items():
                stack.enter_context(event_log.reader(topics, group=group)).poll(timeout_s=0.1)
            assert plant_health(held=False) == (OK, "running")
        assert plant_health(held=False)[0] == FAILED


def test_health_reports_excluded_ticks_by_feed() -> None:
    (nothing,) = health.left_out_health([])
    assert (nothing.state, nothing.sentence) == (OK, "nothing")
    feeds = [
        {"feed": "a", "late_ticks": 3, "unsupported": 0, "differences": 7},
        {"feed": "b", "late_ticks": 0, "unsupported": 2, "differences": 0},
    ]
    (part,) = health.left_out_health(feeds)
    assert part.sentence == (
        "a: 3 ticks too late for any bar, 7 bars for which another source has different values; "
        "b: 2 ticks or bars that could not be used for some or all bars"
    )
    assert part.details["a"] == {"late_ticks": 3, "unsupported": 0, "differences": 7}


def test_a_check_that_raises_is_failed_and_hides_no_other_check() -> None:
    def gone() -> list[ComponentHealth]:
        raise StoreUnavailable("the database is unavailable")

    found = health.Health([*check("store", gone), ComponentHealth("log", OK, "fine")])
    assert found.state == FAILED
    assert found.as_dict()["parts"][0]["sentence"] == "the database is unavailable"


def test_a_scrape_contains_services_lags_and_counters(settings: Settings) -> None:
    counts = ServiceCounts()
    counts.recorder("aggregation")(ProcessorCounters(records=41))
    counts.recorder("persistence")(PersistenceCounters(refused_partitions=2, error_since_s=time.time() - 100))
    with open_log(settings) as event_log:
        ensure_rules(event_log, settings)
        statuses = [Status("api", state="running", restarts=2), Status("analytics", state="waiting")]
        registry = registry_of(
            PlantCollector(event_log=event_log, statuses=lambda: statuses, counts=counts, folder=settings.data)
        )
        text = generate_latest(registry).decode()
    assert 'tickerplant_service_up{service="api"} 1.0' in text
    assert 'tickerplant_service_up{service="analytics"} 0.0' in text
    assert 'tickerplant_service_restarts_total{service="api"} 2.0' in text
    assert 'tickerplant_service_events_total{event="records",service="aggregation"} 41.0' in text
    assert 'tickerplant_refused_partitions{service="persistence"} 2.0' in text
    assert 'tickerplant_service_error_seconds{service="api"} 0.0' in text
    assert re.search(r'tickerplant_service_error_seconds{service="persistence"} 1\d\d\.', text)
    assert 'tickerplant_group_lag_records{group="persistence",partition="0",topic="market.prices.raw"} 1.0' in text
    assert 'tickerplant_log_records_total{partition="1",topic="market.prices.raw"} 1.0' in text
    for topic in ("prices.raw", "prices.ohlcv", "analytics", "alerts", "status", "deadletter"):
        assert f'tickerplant_log_records_total{{partition="0",topic="market.{topic}"}}' in text
    for entry in CATALOGUE:
        assert entry.name in text
        assert len(entry.advice) > 20


def test_a_lock_is_free_again_after_its_block(settings: Settings) -> None:
    with folder_alone(settings):
        assert FolderLock(settings.data, "plant.lock").is_held()
    assert not folder_is_held(settings)


def test_health_reports_the_progress_of_indicators_over_stored_history() -> None:
    from tickerplant.analytics.service import AnalyticsCounters

    counts = ServiceCounts()
    assert list(health.indicator_health(counts.of("analytics"))) == []
    found = []
    for numbers in (
        {},
        {"warm_series": 3, "warm_of": 10},
        {"warm_series": 10, "warm_of": 10, "pending": 2},
        {"pending": 2, "store_missing": 1},
        {"store_missing": 1},
    ):
        counts.recorder("analytics")(AnalyticsCounters(**numbers))
        (part,) = health.indicator_health(counts.of("analytics"))
        found.append((part.state, part.sentence))
    assert found == [
        (OK, "up to date"),
        (OK, "reading stored history: 3 of 10 series"),
        (OK, "2 series will be recomputed from stored history"),
        (DEGRADED, "2 series will be recomputed from stored history, and the store is unavailable"),
        (DEGRADED, "the first bars lack stored history, and the store is unavailable"),
    ]
