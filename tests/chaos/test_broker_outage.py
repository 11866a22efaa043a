"""Processes that ask a broker for groups and positions, as `health` does, survive an outage of any length."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.conftest import line
from tests.support.kafka import KafkaBroker
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(600)]

PROCESSES = 6
OUTAGE_S = 40.0
"""Seconds of the outage. A request to a group's coordinator aborted every process after 40 s, and none after 6 s."""


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
