"""The server of metrics and probes, on real sockets, and the troubles that only a restart removes."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs
from tests.support.waiting import PATIENCE, until

from tickerplant.app.config.groups import MonitoringSettings
from tickerplant.app.runtime import monitoring as module
from tickerplant.app.runtime import supervisor as supervising
from tickerplant.app.runtime.monitoring import Monitoring, monitoring
from tickerplant.app.runtime.supervisor import Service, Status, Supervisor
from tickerplant.core.errors import ConfigError, StoreUnavailable


def supervisor_of(troubles: list[str], *statuses: Status) -> Any:
    return SimpleNamespace(troubles=lambda: troubles, statuses=lambda: list(statuses))


@pytest.fixture
def served() -> Iterator[tuple[Monitoring, httpx.Client]]:
    with capture_logs() as lines, monitoring(MonitoringSettings(port=0)) as answers:
        address = lines[0]["address"].removesuffix("/metrics")
        with httpx.Client(base_url=address, timeout=PATIENCE.seconds(30)) as client:
            yield answers, client


def test_a_process_that_waits_for_the_log_is_alive_and_not_ready(served: tuple[Monitoring, httpx.Client]) -> None:
    _, client = served
    assert client.get("/health/live").status_code == 200
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["wrong"] == ["the services have not started yet: they wait for the log or the database"]
    assert client.get("/metrics").status_code == 503


def test_a_waiting_service_is_not_ready_and_a_trouble_is_not_alive(served: tuple[Monitoring, httpx.Client]) -> None:
    answers, client = served
    waiting = Status("persistence", state="waiting", error="StoreUnavailable: gone")
    troubles: list[str] = []
    answers.supervisor = supervisor_of(troubles, Status("api", state="running"), waiting)
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").json() == {
        "status": "failed", "wrong": ["persistence is waiting after StoreUnavailable: gone"],
    }  # fmt: skip
    waiting.state = "running"
    assert client.get("/health/ready").status_code == 200
    troubles.append("the thread of api has ended")
    live = client.get("/health/live")
    assert (live.status_code, live.json()["wrong"]) == (503, troubles)


def test_metrics_are_those_of_the_registry(served: tuple[Monitoring, httpx.Client]) -> None:
    answers, client = served
    registry = CollectorRegistry()
    answers.registry = lambda: registry
    Counter("pings", "Pings.", registry=registry).inc(3)
    answer = client.get("/metrics")
    assert "pings_total 3.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_connections_above_the_maximum_are_closed(
    served: tuple[Monitoring, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = served
    address = (client.base_url.host, client.base_url.port)
    silent = [socket.create_connection(address) for _ in range(module.MAX_REQUESTS)]
    try:
        with socket.create_connection(address) as refused:
            refused.settimeout(PATIENCE.seconds(30))
            assert refused.recv(1) == b""
    finally:
        for one in silent:
            one.close()

    def answers() -> bool:
        try:
            return client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, "a free place")


def test_no_port_means_no_server_and_a_port_in_use_is_one_line() -> None:
    with capture_logs() as lines, monitoring(MonitoringSettings()):
        pass
    assert lines == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = MonitoringSettings(port=taken.getsockname()[1])
        refused = pytest.raises(ConfigError, match=r"in use\); correct monitoring.host and monitoring.port")
        with refused, monitoring(settings):
            pass


# Troubles -------------------------------------------------------------------------------------------------------------


def test_an_event_loop_that_does_not_run_is_a_trouble_until_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "STUCK_S", 0.05)
    blocked, release = threading.Event(), threading.Event()

    async def body(stop: asyncio.Event) -> None:
        await asyncio.sleep(0.01)
        blocked.set()
        release.wait()  # blocks the loop, as a deadlock does
        await stop.wait()

    supervisor = Supervisor([Service("api", asynchronous=body)])
    supervisor.start()
    assert blocked.wait(PATIENCE.seconds(60))
    until(lambda: "the event loop of api has been stuck for" in "".join(supervisor.troubles()), "the trouble")
    release.set()
    until(lambda: supervisor.troubles() == [], "the loop to run")
    assert supervisor.stop() == []
    assert supervisor.troubles() == []


def test_a_thread_that_ended_without_a_stop_is_a_trouble() -> None:
    supervisor = Supervisor([Service("maintenance", lambda stop: stop.wait() and None)])
    runner = supervisor._runners[0]
    runner.thread = threading.Thread(target=str)
    runner.thread.start()
    runner.thread.join()
    assert supervisor.troubles() == ["the thread of maintenance has ended"]
    runner.status.state = "failed"  # the supervisor ends the process by itself
    assert supervisor.troubles() == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no memory"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("no way"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (StoreUnavailable("the database is unavailable"), False),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_used_up_resources_are_a_trouble_and_other_causes_are_not(
    error: Exception, expected: bool, wrapped: bool
) -> None:
    supervisor = Supervisor([Service("persistence", lambda stop: stop.wait() and None)])
    supervisor.start()
    runner = supervisor._runners[0]
    runner.failure = error
    if wrapped:
        runner.failure = StoreUnavailable("gone")
        runner.failure.__cause__ = error
    status = runner.status
    until(lambda: status.state == "running")
    status.error, status.error_since_s, status.since_s = f"{error}", time.time(), time.monotonic()
    assert supervisor.troubles() == (
        [f"persistence lacks memory, threads or file descriptors: {error}"] if expected else []
    )
    status.error_since_s = 0.0  # the service has recovered
    assert supervisor.troubles() == []
    supervisor.stop()
