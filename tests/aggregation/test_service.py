"""The service on a real log commits the outputs of the pure stage."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.aggregation.plant import at, end, run, start, ticks
from tests.support.waiting import until
from tickerplant.aggregation.service import Aggregation
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import schemas
from tickerplant.core.times import MINUTE_US
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog

OPEN = at("2026-01-05T14:30")


def test_the_service_commits_the_outputs_of_the_stage_across_a_restart(tmp_path: Path) -> None:
    raw = [start(start_us=OPEN, symbols=["A"], whole=True)]
    raw += [ticks([(OPEN + i * MINUTE_US, "A", 10.0 + i, 1)], OPEN + i * MINUTE_US) for i in range(20)]
    raw += [end()]
    log = open_log("embedded:", data=tmp_path)
    try:
        log.create_topics(schemas.TOPICS, 1)
        for part in (raw[:9], raw[9:]):
            with log.writer("feed") as writer, writer.transaction() as transaction:
                for value in part:
                    transaction.append(schemas.RAW, 0, value)
            _run_until_read(Aggregation(log), log)
        with log.reader([schemas.OHLCV]) as reader:
            found = [bytes(delivery.value) for delivery in reader.poll(timeout_s=1.0)]
        expected = run(raw, AggregationStage(log.identity().generation))
        assert found == [bytes(out.value) for step in expected for out in step if out.topic == schemas.OHLCV]
    finally:
        log.close()


def _run_until_read(service: Aggregation, log: EventLog) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    try:
        until(lambda: _is_read(log), "the service to read the log")
    finally:
        stop.set()
        thread.join()


def _is_read(log: EventLog) -> bool:
    lag = log.lag("aggregation", [schemas.RAW])
    return bool(lag) and not any(lag.values())
