"""The service on a real log commits the outputs of the pure stage."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.analytics.support import T0, Bar, bars
from tests.support.waiting import until
from tickerplant.analytics.service import Analytics
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import MINUTE_US
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog


def test_the_service_commits_the_outputs_of_the_stage_across_restarts(tmp_path: Path) -> None:
    values = [
        bytes(
            records.encode(records.Bars(sent_at_us=T0, cause=i + 1), bars([Bar(T0 + i * MINUTE_US, "A", 1.0 + i % 7)]))
        )
        for i in range(40)
    ]
    values += [b"garbage", bytes(records.encode(records.End(sent_at_us=T0, cause=50)))]
    log = open_log("embedded:", data=tmp_path)
    try:
        log.create_topics(schemas.TOPICS, 1)
        for part in (values[:23], values[23:]):
            with log.writer("aggregation") as writer, writer.transaction() as transaction:
                for value in part:
                    transaction.append(schemas.OHLCV, 0, value)
            _run_until_read(Analytics(log), log)
        stage = AnalyticsStage()
        produced = [out for value in values for out in stage.step(ConsumedRecord(schemas.OHLCV, 0, 0, T0, value))]
        with log.reader([schemas.ANALYTICS]) as reader:
            found = [bytes(consumed.value) for consumed in reader.poll(timeout_s=1.0)]
        assert found == [bytes(out.value) for out in produced if out.topic == schemas.ANALYTICS]
        with log.reader([schemas.DEADLETTER]) as reader:
            (dead,) = reader.poll(timeout_s=1.0)
        assert records.decode(dead.value).batch.to_pylist()[0]["payload"] == b"garbage"
    finally:
        log.close()


def _run_until_read(service: Analytics, log: EventLog) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    try:
        until(lambda: _is_read(log), "the service to read the log")
    finally:
        stop.set()
        thread.join()


def _is_read(log: EventLog) -> bool:
    lag = log.lag("analytics", [schemas.OHLCV])
    return bool(lag) and not any(lag.values())
