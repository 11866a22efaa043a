"""The sandbox process of a plant: it stops with the plant, and restarts at the same address."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.support.waiting import PATIENCE, until

from tickerplant.app.config.settings import load
from tickerplant.app.runtime.plant import Plant
from tickerplant.app.wiring.sandbox import SandboxProcess, run_sandbox, sandbox_process
from tickerplant.core.errors import ConfigError


def test_a_sandbox_answers_restarts_at_its_port_and_stops(tmp_path: Path) -> None:
    settings = load({"data": tmp_path, "symbols": ("AAPL", "MSFT")}).settings
    with sandbox_process(settings) as (process, place):
        answer = httpx.get(f"{place.url}/price", params={"symbol": "AAPL", "apikey": "k"}, timeout=PATIENCE.seconds(10))
        assert float(answer.json()["price"]) > 0
        stop = threading.Event()
        watching = threading.Thread(target=process.watch, args=(stop,))
        watching.start()
        child = process._child
        assert child is not None
        child.kill()

        def answers() -> bool:
            with suppress(httpx.TransportError):
                httpx.get(f"{place.url}/price", params={"symbol": "MSFT", "apikey": "k"}, timeout=PATIENCE.seconds(5))
                return True
            return False

        until(answers, "the restarted sandbox")
        stop.set()
        watching.join()
        again = process._child
        assert again is not None
        assert again.pid != child.pid
    assert again.returncode == 0


def test_the_clock_of_the_sandbox_continues_after_a_restart(tmp_path: Path) -> None:
    sandbox = {"start": "2026-03-09T13:30:00Z", "speed": 60.0, "fault_script": ("0 do=slow&by=0.5",)}
    process = SandboxProcess(load({"data": tmp_path, "sandbox": sandbox}).settings)
    try:
        place = process.start()
        assert place.clock.speed == 60
        first = httpx.get(f"{place.url}/sandbox/clock", timeout=PATIENCE.seconds(10)).json()
        assert 1_773_063_000_000_000 <= first["now_us"] <= place.clock.now_us()
        process.stop()
        again = httpx.get(f"{process.start().url}/sandbox/clock", timeout=PATIENCE.seconds(10)).json()
        assert again["now_us"] > first["now_us"]
        assert [again[name] for name in ("origin_us", "epoch_us")] == [
            first[name] for name in ("origin_us", "epoch_us")
        ]
    finally:
        process.stop()


def test_an_unreadable_script_is_reported(tmp_path: Path) -> None:
    settings = load({"data": tmp_path, "sandbox": {"fault_script": ("0 do=nonsense",)}}).settings
    with pytest.raises(ConfigError, match="no fault 'nonsense'"), run_sandbox(settings):
        pass


def test_a_restarted_sandbox_may_use_every_core(tmp_path: Path) -> None:
    with sandbox_process(load({"data": tmp_path}).settings) as (process, _):
        supervisor = Plant(load({"data": tmp_path}).settings, None, "").supervise([], vendor=(process, _))  # type: ignore[arg-type]
        supervisor.start()
        former = process._child
        assert former is not None
        former.kill()
        until(lambda: process._child not in (former, None) and process._port, "the next process")
        child = process._child
        assert child is not None
        if sys.platform == "linux":
            assert os.sched_getaffinity(child.pid) == os.sched_getaffinity(0)
        supervisor.stop()


def test_a_sandbox_stops_after_its_last_user(tmp_path: Path) -> None:
    process = SandboxProcess(load({"data": tmp_path}).settings)
    process.start()
    child = process._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()  # a kill of the plant has the same effect
    assert child.wait(PATIENCE.seconds(10)) == 0
    process.stop()
