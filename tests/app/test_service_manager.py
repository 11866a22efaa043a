"""Readiness, watchdog and stop on a real Unix socket, as systemd receives them, and the probes of a process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until

from tickerplant.app.service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Yield the socket on which a service manager receives messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(PATIENCE.seconds(60))
        yield receiver


def lines_of(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


def address_of(receiver: socket.socket) -> str:
    name: str = receiver.getsockname()
    return name


def is_empty(receiver: socket.socket) -> bool:
    receiver.setblocking(False)
    try:
        receiver.recv(4096)
    except BlockingIOError:
        return True
    return False


def test_messages_are_datagrams_of_lines(manager: socket.socket) -> None:
    service = ServiceManager(address_of(manager))
    service.ready("the plant\nis up")
    assert lines_of(manager) == ["READY=1", "STATUS=the plant is up"]
    service.stopping()
    assert lines_of(manager) == ["STOPPING=1", "STATUS=stopping"]


def test_a_socket_in_the_abstract_namespace_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # Linux chooses a name
        receiver.settimeout(PATIENCE.seconds(60))
        name = receiver.getsockname()
        ServiceManager(f"@{name[1:].decode()}").ready("up")
        assert lines_of(receiver) == ["READY=1", "STATUS=up"]


def test_the_variables_are_removed_so_that_no_child_process_has_them(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": address_of(manager), "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid()),
                   "PATH": "/bin"}  # fmt: skip
    service = ServiceManager.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    service.beat()
    assert lines_of(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environment", [{"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, {}, {"WATCHDOG_USEC": "x"}]
)
def test_no_signal_is_sent_without_a_watchdog_for_this_process(
    manager: socket.socket, environment: dict[str, str]
) -> None:
    ServiceManager.from_environment({"NOTIFY_SOCKET": address_of(manager), **environment}).beat()
    assert is_empty(manager)


def test_the_signal_is_sent_twice_in_the_watchdogs_time(manager: socket.socket) -> None:
    now_s = [100.0]
    service = ServiceManager(address_of(manager), watchdog_s=20.0, clock=lambda: now_s[0])
    sent = []
    for now_s[0] in (100.0, 100.2, 109.9, 110.0, 119.9, 120.1):
        service.beat()
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sent.append((now_s[0], lines_of(manager)))
    assert sent == [(at_s, ["WATCHDOG=1"]) for at_s in (100.0, 110.0, 120.1)]


def test_troubles_that_a_restart_removes_withhold_the_signal(manager: socket.socket) -> None:
    now_s = [0.0]
    service = ServiceManager(address_of(manager), watchdog_s=2.0, clock=lambda: now_s[0])
    troubles: list[str] = []
    service.beat(lambda: troubles)
    assert lines_of(manager) == ["WATCHDOG=1"]
    troubles.append("the thread of api has ended")
    with capture_logs() as lines:
        for now_s[0] in (1.0, 2.0, 3.0):
            service.beat(lambda: list(troubles))
            assert lines_of(manager) == ["STATUS=the thread of api has ended"]
    assert [line["why"] for line in lines] == [["the thread of api has ended"]], "logged once"
    troubles.clear()
    now_s[0] = 4.0
    service.beat(lambda: troubles)
    assert lines_of(manager) == ["WATCHDOG=1"]
    service.stopping()
    assert lines_of(manager)[0] == "STOPPING=1"
    now_s[0] = 9.0
    service.beat(lambda: troubles)
    assert is_empty(manager), "systemd expects no signal of a process that stops"


def test_nothing_is_sent_and_nothing_fails_without_a_manager(tmp_path: Path) -> None:
    alone = ServiceManager.from_environment({})
    alone.ready("up")
    alone.beat()
    alone.stopping()
    gone = ServiceManager(str(tmp_path / "none"), watchdog_s=1.0)
    with capture_logs() as lines:
        gone.ready("up")
        gone.beat()
        gone.stopping()
    assert [line["event"] for line in lines] == ["the service manager cannot be reached"]


def address_in(output: Path) -> str:
    """Return the address of the metrics from the log lines of a process; "" until a line contains it."""
    found = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return next((line["address"] for line in found if line["event"] == "metrics and probes"), "")


def test_a_service_reports_readiness_watchdog_and_stop_and_serves_probes(
    tmp_path: Path, manager: socket.socket
) -> None:
    plant = Plant(tmp_path / "data", {"TICKERPLANT_MONITORING__PORT": "0", "TICKERPLANT_PARTITIONS": "1"})
    output = tmp_path / "output.log"
    process = plant.start(
        "run", "aggregation", output=output, NOTIFY_SOCKET=address_of(manager), WATCHDOG_USEC="200000",
        TICKERPLANT_VENDORS__TWELVE_DATA_KEY="hush-hush",
    )  # fmt: skip
    try:
        assert lines_of(manager) == ["READY=1", "STATUS=tickerplant aggregation is up"]
        for _ in range(3):
            assert lines_of(manager) == ["WATCHDOG=1"]
        url = address_in(output).removesuffix("/metrics")
        with httpx.Client(base_url=url, timeout=PATIENCE.seconds(30)) as client:
            assert client.get("/health/live").json() == {"status": "ok", "wrong": []}
            until(lambda: client.get("/health/ready").status_code == 200, "the service to run")
            assert 'tickerplant_service_up{service="aggregation"} 1.0' in client.get("/metrics").text
            assert client.head("/metrics").content == b""
            assert client.get("/v1/symbols").status_code == 404
            assert client.post("/metrics").status_code == 405
        process.terminate()
        assert process.wait(PATIENCE.seconds(60)) == 0
        while (found := lines_of(manager)) == ["WATCHDOG=1"]:
            pass
        assert found == ["STOPPING=1", "STATUS=stopping"]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    events = [json.loads(line)["event"] for line in output.read_text().splitlines()]
    assert "tickerplant aggregation is up" in events
    assert "hush-hush" not in output.read_text()
