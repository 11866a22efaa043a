"""Two members of market_data on Kafka: one feeds, and the other takes over when it ends or dies."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant, kill_trees
from tests.support.waiting import PATIENCE, until
from tickerplant.core.errors import LogError
from tickerplant.core.records import Down, Start, Ticks, decode
from tickerplant.core.schemas import RAW
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog, TopicPartition

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(300)]

WAITS = "another member works"


class Feeds:
    """Members of market_data by instance, their output, and the records of their feed."""

    def __init__(self, broker: KafkaBroker, folder: Path) -> None:
        url = f"kafka://{broker.bootstrap}?prefix=members{os.getpid()}."
        self.plant = Plant(
            folder / "data",
            {
                "TICKERPLANT_LOG": url,
                "TICKERPLANT_PARTITIONS": "1",
                "TICKERPLANT_SYMBOLS": "AAPL",
                "TICKERPLANT_HISTORY": "none",
                "TICKERPLANT_SANDBOX__RATE": "20",
                "TICKERPLANT_LOG_LEVEL": "info",
                "TICKERPLANT_KAFKA__SESSION_TIMEOUT_MS": "3000",
            },
        )
        self.folder = folder
        self.log: EventLog = open_log(url)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, instance: str) -> None:
        self.running[instance] = self.plant.start(
            "run", "market_data", "--instance", instance, output=self.output(instance)
        )

    def output(self, instance: str) -> Path:
        return self.folder / f"{instance}.log"

    def waits(self, instance: str, times: int = 1) -> None:
        """Wait until a member has logged `times` times that another member works."""
        until(lambda: self.output(instance).read_text().count(WAITS) >= times, f"the wait of member {instance}")

    def records(self) -> Counter[type]:
        """Return the counts of the feed's records by kind; an empty counter before the log has topics."""
        try:
            begin, end = self.log.offsets(RAW)[TopicPartition(RAW, 0)]
        except LogError:
            return Counter()
        found = [decode(record.value).header for record in self.log.read_range(TopicPartition(RAW, 0), begin, end)]
        return Counter(type(header) for header in found if getattr(header, "feed", "") == "sandbox")

    def grow(self, starts: int) -> None:
        """Wait until the feed has started `starts` times, and has then appended more than ten records of ticks."""
        until(lambda: self.records()[Start] >= starts, f"start {starts} of the feed")
        before = self.records()[Ticks]
        until(lambda: self.records()[Ticks] > before + 10, "ticks")

    def close(self) -> None:
        kill_trees(list(self.running.values()))
        self.log.close()


def test_one_member_of_market_data_feeds_and_another_takes_over(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    feeds = Feeds(kafka_broker, tmp_path)
    try:
        feeds.begin("0")
        feeds.grow(starts=1)
        feeds.begin("1")
        feeds.waits("1")
        feeds.running["0"].send_signal(signal.SIGKILL)
        feeds.running.pop("0").wait()
        feeds.grow(starts=2)
        feeds.begin("0")
        feeds.waits("0")
        feeds.running["1"].send_signal(signal.SIGTERM)
        assert feeds.running.pop("1").wait(PATIENCE.seconds(30)) == 0
        feeds.grow(starts=3)
        found = feeds.records()
        assert (found[Start], found[Down]) == (3, 2), found
        assert not any("took over" in feeds.output(instance).read_text() for instance in ("0", "1"))
    finally:
        feeds.close()
