"""The five services as separate processes on one data folder, as in a cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.plant import Plant, kill_trees
from tests.support.waiting import PATIENCE, until
from tickerplant.app.wiring.locks import FolderLock

pytestmark = [pytest.mark.slow]

SERVICES = ("market_data", "aggregation", "analytics", "persistence", "api")
STOP_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]]]]:
    env = {"TICKERPLANT_SYMBOLS": "AAPL", "TICKERPLANT_HISTORY": "none", "TICKERPLANT_API__PORT": str(free_port())}
    plant = Plant(tmp_path / "data", env)
    # All services start at once in an empty folder. The first one creates the database and the topics.
    running = {name: plant.start("run", name, output=tmp_path / f"{name}.log") for name in SERVICES}
    try:
        yield f"http://127.0.0.1:{env['TICKERPLANT_API__PORT']}", running
    finally:
        kill_trees(list(running.values()))
        # None of the services owns the store. It stops some seconds after its last user.
        store = FolderLock(plant.data, "store.lock")
        if store.is_held():
            os.kill(int(store.holder()["pid"]), signal.SIGTERM)
        until(lambda: not store.is_held(), "the store to stop")


def get(url: str, **params: Any) -> dict[str, Any]:
    """Return the API's answer, or {} if it is unavailable or its status is not 200."""
    try:
        answer = httpx.get(url, params=params, timeout=PATIENCE.seconds(10))
    except httpx.TransportError:
        return {}
    assert answer.status_code in (200, 404, 503), answer.text
    body = answer.json()
    return body if answer.status_code == 200 else {}


def test_five_separate_services_form_one_plant_and_stop_cleanly(
    services: tuple[str, dict[str, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    base, running = services

    def alive() -> None:
        ended = {name: (tmp_path / f"{name}.log").read_text() for name, p in running.items() if p.poll() is not None}
        assert not ended, ended

    def holds(condition: Any) -> Any:
        return lambda: (alive(), condition())[1]

    def newest() -> dict[str, Any]:
        rows = get(f"{base}/v1/intraday/AAPL", interval="1m", limit=1).get("bars", [])
        return rows[-1] if rows else {}

    until(holds(newest), "a live bar", 60)
    first = newest()
    until(holds(lambda: newest() != first), "the bar to change", 30)
    until(holds(lambda: get(f"{base}/health").get("status") == "ok"), "a healthy plant", 30)
    assert (first["source"], first["state"]) == ("sandbox", "forming")
    assert first["trades"] > 0
    for name, process in running.items():  # feeds stop first, as with `up`
        process.send_signal(signal.SIGTERM)
        log = tmp_path / f"{name}.log"
        assert process.wait(STOP_S) == 0, (name, log.read_text())
        assert "Traceback" not in log.read_text(), log.read_text()
