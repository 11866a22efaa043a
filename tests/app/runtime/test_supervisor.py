"""The supervisor, with real threads and event loops."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from tests.support.waiting import PATIENCE, until

from tickerplant.app import health
from tickerplant.app.component import DEGRADED, FAILED, OK
from tickerplant.app.runtime import supervisor as module
from tickerplant.app.runtime.supervisor import Service, Status, Supervisor
from tickerplant.core.errors import LogUnavailable, StoreUnavailable


def test_services_stop_in_the_order_of_their_rank() -> None:
    ended: list[str] = []
    feed_is_up = threading.Event()

    def sync(name: str) -> Callable[[threading.Event], None]:
        def body(stop: threading.Event) -> None:
            stop.wait()
            ended.append(name)

        return body

    async def feed(stop: asyncio.Event) -> None:
        feed_is_up.set()
        await stop.wait()
        await asyncio.sleep(0.05)
        ended.append("feed")

    supervisor = Supervisor(
        [Service("last", sync("last"), rank=9), Service("feed", asynchronous=feed), Service("mid", sync("mid"), rank=4)]
    )
    supervisor.start()
    until(lambda: feed_is_up.is_set() and all(status.state == "running" for status in supervisor.statuses()))
    assert supervisor.stop() == []
    assert ended == ["feed", "mid", "last"]
    assert [status.state for status in supervisor.statuses()] == ["stopped"] * 3


def test_a_crashed_service_restarts_without_effect_on_others() -> None:
    starts_s: list[float] = []
    crashed_thread_names: set[str] = set()

    def failing(stop: threading.Event) -> None:
        starts_s.append(time.monotonic())
        crashed_thread_names.add(threading.current_thread().name)
        if len(starts_s) < 4:
            raise RuntimeError("boom")
        stop.wait()

    steady_starts: list[int] = []

    async def steady(stop: asyncio.Event) -> None:
        steady_starts.append(1)
        await stop.wait()

    supervisor = Supervisor([Service("shaky", failing), Service("steady", asynchronous=steady)])
    supervisor.start()
    until(lambda: len(starts_s) == 4)
    failing_status, steady_status = supervisor.statuses()
    supervisor.stop()
    assert failing_status.restarts == 3
    assert failing_status.error == "RuntimeError: boom"
    assert steady_status.restarts == 0
    assert len(steady_starts) == 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts_s)]
    for gap, least in zip(gaps, [0.2, 0.4, 0.8], strict=True):
        assert least <= gap  # the next test checks the exact duration of each wait


def test_the_back_off_is_capped() -> None:
    waits = module._backoffs()
    assert [next(waits) for _ in range(9)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]


def test_a_service_with_a_limit_gives_up_with_the_reason() -> None:
    def broken(stop: threading.Event) -> None:
        raise ValueError("no way")

    supervisor = Supervisor([Service("broken", broken, max_restarts=0)])
    supervisor.start()
    supervisor.wait(threading.Event())
    assert isinstance(supervisor.failure(), ValueError)
    supervisor.stop()


def test_a_service_that_does_not_stop_is_reported_and_delays_no_other(monkeypatch) -> None:
    monkeypatch.setattr(module, "STOP_S", PATIENCE.seconds(1.0))
    began, release = threading.Event(), threading.Event()

    def deaf(stop: threading.Event) -> None:
        began.set()
        release.wait()

    supervisor = Supervisor([Service("deaf", deaf), Service("fine", lambda s: s.wait() and None)])
    supervisor.start()
    until(began.is_set, "the service runs")
    assert supervisor.stop() == ["deaf"]
    release.set()


def test_stopping_during_a_back_off_does_not_wait_for_it(monkeypatch) -> None:
    monkeypatch.setattr(module, "_backoffs", lambda: itertools.repeat(3_600.0))

    def broken(stop: threading.Event) -> None:
        raise ValueError("no way")

    supervisor = Supervisor([Service("broken", broken)])
    supervisor.start()
    until(lambda: supervisor.statuses()[0].state == "waiting")
    assert supervisor.stop() == [], "the service stopped before its back-off of an hour ended"


def test_an_outage_is_logged_once_and_its_error_and_start_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "LAST_BACKOFF_S", 0.01)
    attempts = itertools.count()
    began_s = time.time()

    def body(stop: threading.Event) -> None:
        raise StoreUnavailable(f"the database is unavailable: attempt {next(attempts)}")

    supervisor = Supervisor([Service("maintenance", body)])
    [status] = supervisor.statuses()
    with capture_logs() as lines:
        supervisor.start()
        until(lambda: status.restarts > 5)
        [part] = health.service_health([status])
        assert part.state == DEGRADED
        assert "the database is unavailable: attempt " in part.sentence
        assert " since 2" in part.sentence
        assert began_s <= status.error_since_s <= time.time()
        supervisor.stop()
    assert len([line for line in lines if line["event"] == "service crashed"]) == 1


def test_attempts_that_wait_for_the_log_are_one_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "HEALTHY_S", 0.001)
    attempts = itertools.count()

    def body(stop: threading.Event) -> None:
        stop.wait(0.01)  # as a client of Kafka waits for half a minute
        raise LogUnavailable(f"no answer for {next(attempts)} s")

    supervisor = Supervisor([Service("maintenance", body)])
    [status] = supervisor.statuses()
    with capture_logs() as lines:
        supervisor.start()
        until(lambda: status.restarts > 5)
        supervisor.stop()
    assert len([line for line in lines if line["event"] == "service crashed"]) == 1


def test_a_repeated_error_that_waiting_cannot_remove_is_failed() -> None:
    now_s = time.monotonic()
    status = Status("persistence", state="running", since_s=now_s, error="StoreError: no", error_since_s=1_000.0)
    status.permanent = True
    assert [part.state for part in health.service_health([status])] == [FAILED]
    status.permanent = False
    assert [part.state for part in health.service_health([status])] == [DEGRADED]
    status.since_s = now_s - module.HEALTHY_S - 1
    assert [(part.state, part.sentence) for part in health.service_health([status])] == [(OK, "running")]
