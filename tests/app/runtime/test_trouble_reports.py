"""A service that crashes repeatedly is `failed` in the health of every process, with its last error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import until

from tickerplant.app import health
from tickerplant.app.component import DEGRADED, FAILED, OK
from tickerplant.app.config.settings import Settings
from tickerplant.app.runtime import supervisor as module
from tickerplant.app.runtime.supervisor import Service, Status, Supervisor
from tickerplant.app.runtime.trouble_reporter import TroubleReporter
from tickerplant.app.wiring.log import open_log
from tickerplant.core.errors import ConfigError, StoreUnavailable
from tickerplant.core.times import SECOND_US
from tickerplant.log import trouble_reports
from tickerplant.log.port import EventLog


@pytest.fixture
def event_log(tmp_path: Path) -> Iterator[EventLog]:
    with open_log(Settings(data=tmp_path, partitions=1)) as found:
        yield found


def troubles(event_log: EventLog, *own: str) -> list[tuple[str, str, str]]:
    """Return name, state and sentence of each trouble, as a process that runs the services `own` reports them."""
    found = health.trouble_health(event_log, time.time_ns() // 1_000, own)
    return [(part.name, part.state, part.sentence) for part in found]


def test_crashes_of_another_process_are_failed_until_the_service_is_healthy(
    event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "LAST_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "HEALTHY_S", 0.1)
    monkeypatch.setattr(module, "CRASH_MEMORY_S", 0.5)
    well = threading.Event()

    def body(stop: threading.Event) -> None:
        if not well.is_set():
            raise OverflowError("int too big to convert")
        stop.wait()

    supervisor = Supervisor([Service("market_data", body)], TroubleReporter(event_log, "0"))
    stop = threading.Event()
    waiting = threading.Thread(target=supervisor.wait, args=(stop,))
    supervisor.start()
    waiting.start()
    until(lambda: bool(troubles(event_log)))
    [(name, state, sentence)] = troubles(event_log)
    assert (name, state) == ("service market_data", FAILED)
    assert "OverflowError: int too big to convert" in sentence
    assert troubles(event_log, trouble_reports.service_key("market_data", "0")) == [], "its own status reports it"
    well.set()
    until(lambda: not troubles(event_log))
    stop.set()
    waiting.join()
    assert supervisor.stop() == []


def test_a_process_that_ends_with_its_first_crash_is_failed_with_the_count_of_all_processes(
    event_log: EventLog,
) -> None:
    def body(stop: threading.Event) -> None:
        raise ConfigError("vendors.stream contains acme, which needs a key")

    for times in (1, 2, 3):
        supervisor = Supervisor([Service("market_data", body)], TroubleReporter(event_log, "m2"))
        supervisor.start()
        supervisor.wait(threading.Event())
        supervisor.stop()
        [(name, state, sentence)] = troubles(event_log)
        assert (name, state) == ("service market_data of member m2", FAILED)
        assert f"crashed {times} times" in sentence
        assert "needs a key" in sentence


def test_a_wait_for_the_database_is_degraded_once_it_repeats(event_log: EventLog) -> None:
    reporter = TroubleReporter(event_log, "0")
    attempts = threading.Semaphore(0)

    def body(stop: threading.Event) -> None:
        attempts.release()
        raise StoreUnavailable("the database is unavailable")

    supervisor = Supervisor([Service("persistence", body)], reporter)
    supervisor.start()
    until(lambda: bool(troubles(event_log)))
    supervisor.stop()
    [(_, state, sentence)] = troubles(event_log)
    assert state == DEGRADED
    assert "the database is unavailable" in sentence


def test_a_report_is_continued_cut_and_forgotten_after_ten_minutes(event_log: EventLog) -> None:
    trouble_reports.report(event_log, "service:api:0", "x" * 100_000, 1_000.0)
    trouble_reports.report(event_log, "service:api:0", "y" * 100_000, 1_500.0)
    [trouble] = trouble_reports.read(event_log, 1_501 * SECOND_US).values()
    assert (trouble.since_s, trouble.times, trouble.error) == (1_000.0, 2, "y" * 500)
    assert trouble_reports.read(event_log, 2_101 * SECOND_US) == {}
    trouble_reports.report(event_log, "service:api:0", "z", 2_200.0)
    [trouble] = trouble_reports.read(event_log, 2_201 * SECOND_US).values()
    assert (trouble.since_s, trouble.times) == (2_200.0, 1), "an old report is another trouble"
    trouble_reports.withdraw(event_log, "service:api:0")
    trouble_reports.withdraw(event_log, "service:api:0")
    assert trouble_reports.read(event_log, 2_202 * SECOND_US) == {}


def test_a_report_of_a_clock_that_was_an_hour_ahead_is_ignored(event_log: EventLog) -> None:
    trouble_reports.report(event_log, "service:api:0", "x", 5_000.0)
    assert trouble_reports.read(event_log, 1_400 * SECOND_US) == {}
    trouble_reports.report(event_log, "service:api:0", "y", 1_500.0)
    [trouble] = trouble_reports.read(event_log, 1_501 * SECOND_US).values()
    assert (trouble.error, trouble.since_s, trouble.times) == ("y", 1_500.0, 1)


def test_a_service_that_runs_for_a_minute_between_its_crashes_is_failed() -> None:
    now_s = time.monotonic()
    status = Status(
        "market_data", state="running", since_s=now_s - 60, error="ValueError: no", error_since_s=time.time() - 61
    )
    status.permanent = True
    assert [part.state for part in health.service_health([status])] == [OK], "one crash, a minute ago"
    status.crashes_s = (now_s - 200, now_s - 130, now_s - 61)
    [part] = health.service_health([status])
    assert (part.state, "ValueError: no" in part.sentence) == (FAILED, True)
    status.crashes_s = tuple(at_s - 600 for at_s in status.crashes_s)
    assert [part.state for part in health.service_health([status])] == [OK]
