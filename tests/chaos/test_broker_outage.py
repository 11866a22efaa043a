"""Processes that start or run while the broker is unavailable wait, and report the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import line
from tests.e2e.test_services import free_port
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant, kill_trees
from tests.support.waiting import PATIENCE, until
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(600)]

PROCESSES = 6
OUTAGE_S = 40.0
"""Seconds of the outage.

An earlier version aborted in an outage of 40 s when it sent a request to a group's coordinator, but not in 6 s.
"""


def test_processes_that_ask_during_a_long_outage_survive_it(kafka_broker: KafkaBroker) -> None:
    prefix = f"long{os.getpid()}-{time.monotonic_ns()}."
    url = f"kafka://{kafka_broker.bootstrap}?prefix={prefix}"
    with KafkaLog(kafka_broker.bootstrap, topic_prefix=prefix) as log:
        log.create_topics([TopicSpec(RAW, 5 * DAY_US), TopicSpec(STATE_AGGREGATION, None)], 1)
        with log.writer("w") as writer, writer.transaction() as transaction:
            transaction.append(RAW, 0, b"a")
        with log.reader([RAW], group="g") as reader:
            while not (taken := reader.poll(timeout_s=0.5)):
                pass
            reader.commit({taken[0].source: 1})
    command = [sys.executable, "-m", "tests.conformance.child", "poller", url, "g"]
    children = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, bufsize=0)
        for _ in range(PROCESSES)
    ]
    try:
        assert [line(child) for child in children] == ["0:1"] * PROCESSES
        kafka_broker.kill()
        time.sleep(OUTAGE_S)
        kafka_broker.start()
        assert [line(child) for child in children] == ["unavailable"] * PROCESSES
        assert [line(child) for child in children] == ["0:1"] * PROCESSES
        assert [child.poll() for child in children] == [None] * PROCESSES
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_commands_that_start_without_a_broker_wait_for_it(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    kafka_broker.kill()
    env = {
        "TICKERPLANT_LOG": f"kafka://{kafka_broker.bootstrap}?prefix=away{os.getpid()}.",
        "TICKERPLANT_PARTITIONS": "2",
        "TICKERPLANT_SYMBOLS": "AAPL",
        "TICKERPLANT_HISTORY": "none",
    }
    plant, port = Plant(tmp_path / "data", env), free_port()
    outputs = {name: tmp_path / f"{name}.log" for name in ("up", "aggregation", "persistence")}
    commands = {"up": ["up", "--sandbox", "--port", str(port)]}
    running = {name: plant.start(*commands.get(name, ["run", name]), output=path) for name, path in outputs.items()}

    def log_part() -> dict[str, Any]:
        parts = get(port, "/health").get("parts", [])
        return next((part for part in parts if part["name"] == "log"), {})

    try:
        for name, path in outputs.items():
            until(lambda path=path: "waiting for the event log" in path.read_text(), f"the warning of {name}")
            assert "Connection refused" in path.read_text()
        running["persistence"].send_signal(signal.SIGTERM)
        assert running.pop("persistence").wait(PATIENCE.seconds(30)) == 0
        until(lambda: log_part().get("state") == "failed", "the outage in health")
        assert "Connection refused" in log_part()["sentence"]
        assert get(port, "/v1/symbols")["error"]["code"] == "store_unavailable"  # a new store has no rows yet
        kafka_broker.start()
        until(lambda: log_part().get("state") == "ok", "the log")
        until(lambda: get(port, "/v1/realtime/AAPL").get("tick"), "a tick in the tables")
        until(lambda: "tickerplant aggregation is up" in outputs["aggregation"].read_text(), "aggregation")
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        assert [process.wait(PATIENCE.seconds(40)) for process in running.values()] == [0, 0]
    finally:
        kill_trees(list(running.values()))


def get(port: int, path: str) -> dict[str, Any]:
    """Return the JSON of an answer of any status; {} without an answer."""
    try:
        return dict(httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE.seconds(10)).json())
    except httpx.HTTPError:
        return {}
