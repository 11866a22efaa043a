"""The command `verify` on real logs: committed output equals recomputed output, and later changes are found."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from tests.aggregation.plant import at, end, mark, start, ticks
from tests.support.commands import assert_refused, invoke, objects
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant
from tests.support.waiting import until

from tickerplant.aggregation.service import Aggregation
from tickerplant.app.wiring.log import snapshot_retentions
from tickerplant.core import records
from tickerplant.core.schemas import DEADLETTER, OHLCV, RAW, STATE_AGGREGATION, STATUS, TOPICS
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, iso
from tickerplant.core.version import make_version
from tickerplant.log import snapshots
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog, TopicPartition

OPEN = at("2026-01-05T14:30")  # a Monday
SENT = at("2026-01-05T00:00")
MINUTES = 12
DAYS = 3
DAY_RECORDS = MINUTES + 1  # one tick record per minute, and a mark
RAW_0, OHLCV_0, DEAD_0 = (TopicPartition(topic, 0) for topic in (RAW, OHLCV, DEADLETTER))


def day(number: int) -> list[bytes]:
    """Return the records of a day: one tick per minute, one additional late tick, and a mark."""
    begin, sent = OPEN + number * DAY_US, SENT + number * DAY_US
    found = []
    for minute in range(MINUTES):
        now = begin + minute * MINUTE_US
        rows = [(now + SECOND_US, "A", 10.0 + number + minute, 3.0)]
        if minute == 6:
            rows.append((begin + 2 * MINUTE_US, "A", 99.0, 1.0))
        found.append(ticks(rows, now, sent=sent + minute * MINUTE_US))
    return [*found, mark(begin + MINUTES * MINUTE_US, sent=sent + MINUTES * MINUTE_US)]


def feed(log: EventLog, values: Sequence[bytes], partition: int = 0) -> None:
    time.sleep(0.003)  # so that each call has a different append time
    with log.writer("feed") as writer, writer.transaction() as transaction:
        for value in values:
            transaction.append(RAW, partition, value)


@contextlib.contextmanager
def aggregating(log: EventLog) -> Iterator[None]:
    stop = threading.Event()
    service = Aggregation(log, snapshot_interval_records=5)
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    try:
        yield
        until(lambda: (lag := log.lag("aggregation", [RAW])) and not any(lag.values()), "aggregation to read the log")
    finally:
        stop.set()
        thread.join()


def fill(log: EventLog, partitions: int = 2) -> None:
    """Append a start, an unreadable record and `DAYS` days to partition 0, and a mark to partition 1.

    A new aggregation service processes each day.
    """
    log.create_topics(TOPICS, partitions)
    feed(log, [start(start_us=OPEN, symbols=["A"], sent_at_us=SENT, whole=True)])
    feed(log, [b"rubbish"])
    feed(log, [mark(OPEN, feed="b", sent=SENT)], 1)
    for number in range(DAYS):
        feed(log, day(number))
        with aggregating(log):
            pass


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    made = Plant(tmp_path / "data")
    with opened(made) as log:
        fill(log)
    return made


@contextlib.contextmanager
def opened(plant: Plant) -> Iterator[EventLog]:
    plant.data.mkdir(exist_ok=True)
    log = open_log("embedded:", data=plant.data)
    try:
        yield log
    finally:
        log.close()


def appended_us(log: EventLog, offset: int) -> int:
    (found,) = log.read_range(RAW_0, offset, offset + 1)
    return found.appended_at_us


def labels() -> list[str]:
    return [iso(SENT + number * DAY_US)[:10] for number in range(DAYS)]


def replace_record(plant: Plant, topic: str, offset: int, value: bytes) -> None:
    """Overwrite a record of partition 0 in the SQLite file. No program of the plant does this."""
    with contextlib.closing(sqlite3.connect(plant.data / "market.log")) as connection, connection:
        changed = connection.execute(
            'UPDATE records SET value = ? WHERE "offset" = ? AND partition_id = (SELECT p.id FROM partitions p '
            "JOIN topics t ON t.id = p.topic_id WHERE t.name = ? AND p.partition = 0)",
            (value, offset, topic),
        )
        assert changed.rowcount == 1


def closed_bars(plant: Plant) -> list[tuple[int, records.Record, list[int]]]:
    """Return (offset, record, row numbers of closed bars) of each record of partition 0 with closed bars."""
    found = []
    with opened(plant) as log:
        for delivery in log.read_range(OHLCV_0, 0, log.offsets(OHLCV)[OHLCV_0][1]):
            record = records.decode(bytes(delivery.value))
            if isinstance(record.header, records.Bars):
                rows = [i for i, state in enumerate(record.batch["state"].to_pylist()) if state != "forming"]
                if rows:
                    found.append((delivery.offset, record, rows))
    return found


def test_committed_output_is_equal_after_restarts(plant: Plant) -> None:
    result = invoke(plant, "verify", "--json")
    one, other = objects(result)
    assert result.code == 0
    assert (one["equal"], one["snapshot"], one["begin"], one["records"]) == (True, "none", 0, 2 + DAYS * DAY_RECORDS)
    assert one["states"] == [*labels(), "the newest"]
    assert one["closed_bars"] == sum(len(rows) for _, _, rows in closed_bars(plant)) > DAYS * MINUTES
    assert one["compared"][DEADLETTER] == 1
    with opened(plant) as log:
        for topic in (OHLCV, STATUS):
            assert one["compared"][topic] == log.offsets(topic)[TopicPartition(topic, 0)][1]
    assert (other["equal"], other["records"], other["closed_bars"]) == (True, 1, 0)
    shown = invoke(plant, "verify")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[1] for line in shown.out.splitlines()[1:3]] == ["equal", "equal"]
    assert "byte for byte" in shown.out.splitlines()[-1]


@pytest.mark.kafka
def test_the_output_is_equal_on_kafka_too(tmp_path: Path, kafka_broker: KafkaBroker) -> None:
    url = f"kafka://{kafka_broker.bootstrap}?prefix=verify."
    log = open_log(url)
    try:
        fill(log)
        middle = [found.appended_at_us for found in log.read_range(RAW_0, 0, 1 << 40)][2 + 2 * DAY_RECORDS]
    finally:
        log.close()
    plant = Plant(tmp_path / "data")
    one, _ = objects(invoke(plant, "verify", "--json", "--log", url))
    assert (one["equal"], one["records"], one["states"]) == (
        True,
        2 + DAYS * DAY_RECORDS,
        [*labels(), "the newest"],
    )
    found = invoke(plant, "verify", "--json", "--partition", "0", "--from", iso(middle), "--log", url)
    (one,) = objects(found)
    assert (one["equal"], one["records"], one["snapshot"]) == (True, DAY_RECORDS, labels()[1])
    log = open_log(url)
    try:
        (retention, _) = snapshot_retentions(log)
        assert retention.run(middle) == 0
        assert log.trim(middle) == {}
        assert retention.run(middle + 100 * DAY_US) == DAYS - 1
        (left,) = snapshots.kept_snapshots(log, STATE_AGGREGATION, RAW, 0)
        assert left.label == labels()[-1], "the newest snapshot stays, because no record follows it"
    finally:
        log.close()


def test_a_range_is_replayed_from_the_newest_kept_snapshot_before_it(plant: Plant) -> None:
    begin = 2 + 2 * DAY_RECORDS
    with opened(plant) as log:
        from_ = iso(appended_us(log, begin))
        kept = {one.label: one.position for one in snapshots.kept_snapshots(log, STATE_AGGREGATION, RAW, 0)}
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0", "--from", from_))
    assert (one["equal"], one["snapshot"], one["begin"], one["records"]) == (True, labels()[1], begin, DAY_RECORDS)
    assert one["states"] == [labels()[2], "the newest"]
    assert one["compared"][DEADLETTER] == 0
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0", "--to", from_))
    assert (one["equal"], one["snapshot"], one["begin"], one["end"]) == (True, "none", 0, begin)
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0", "--snapshot", labels()[2]))
    assert (one["equal"], one["begin"], one["end"]) == (True, kept[labels()[2]], 2 + DAYS * DAY_RECORDS)
    assert_refused(invoke(plant, "verify", "--snapshot", "2020-01-01"), 2, "no kept snapshot", labels()[0])


def test_verify_is_read_only_and_stops_at_the_committed_position_of_a_running_plant(plant: Plant) -> None:
    with opened(plant) as log:
        before = log.committed("aggregation")[RAW_0]
        feed(log, day(DAYS))
        (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0"))
        assert (one["equal"], one["end"]) == (True, before)
        with aggregating(log):
            for _ in range(3):
                assert invoke(plant, "verify", "--json").code == 0
        (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0"))
        assert (one["equal"], one["end"]) == (True, before + DAY_RECORDS)


def test_a_changed_value_is_shown_with_its_row_and_column(plant: Plant) -> None:
    offset, record, rows = closed_bars(plant)[20]
    column = record.batch.schema.get_field_index("close")
    values = record.batch["close"].to_pylist()
    values[rows[0]] += 0.25
    forged = record.batch.set_column(column, record.batch.schema.field(column), pa.array(values, pa.float64()))
    replace_record(plant, OHLCV, offset, records.encode(record.header, forged).to_pybytes())
    result = invoke(plant, "verify", "--json", "--partition", "0")
    (one,) = objects(result)
    found = one["difference"]
    assert (result.code, one["equal"], found["kind"], found["topic"]) == (1, False, "differs", OHLCV)
    assert (found["log_offset"], make_version(1, found["raw_offset"])) == (offset, record.header.cause)
    (cell,) = found["cells"]
    was = record.batch["close"][rows[0]].as_py()
    assert (cell["column"], cell["logged"], cell["made"]) == ("close", repr(was + 0.25), repr(was))
    assert record.batch["symbol"][rows[0]].as_py() in cell["where"]
    shown = invoke(plant, "verify")
    assert shown.code == 1
    assert "DIFFERS" in shown.out
    assert f"raw offset {found['raw_offset']}" in shown.out
    assert "equal" in shown.out, "the other partition is compared too"


def test_a_dead_letter_with_the_reason_of_another_version_is_equal_and_one_with_another_payload_is_not(
    plant: Plant,
) -> None:
    with opened(plant) as log:
        (dead,) = log.read_range(DEAD_0, 0, log.offsets(DEADLETTER)[DEAD_0][1])
        record = records.decode(bytes(dead.value))
    (row,) = record.batch.to_pylist()
    for name, value, equal in (("reason", "no record: first bytes 'rubb'", True), ("payload", b"rubble", False)):
        changed = pa.RecordBatch.from_pylist([{**row, name: value}], schema=record.batch.schema)
        replace_record(plant, DEADLETTER, dead.offset, records.encode(record.header, changed))
        result = invoke(plant, "verify", "--json")
        assert all(line["equal"] for line in objects(result)) is equal
        assert result.code == (0 if equal else 1)


def test_additional_and_missing_records_are_found(plant: Plant) -> None:
    forged = records.encode(records.Mark(sent_at_us=SENT, feed="a", cause=make_version(1, 20), watermark_us=OPEN))
    with opened(plant) as log, log.writer("forger") as writer, writer.transaction() as transaction:
        transaction.append(OHLCV, 0, forged)
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0"))
    assert (one["difference"]["kind"], one["difference"]["raw_offset"]) == ("extra", 20)
    assert "a Mark record" in one["difference"]["sentence"]

    (offset, _, _), (_, later, _) = closed_bars(plant)[3:5]
    replace_record(plant, OHLCV, offset, records.encode(later.header, later.batch).to_pybytes())
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0"))
    assert one["difference"]["kind"] == "missing"


def test_a_state_that_differs_from_the_snapshot_is_found(plant: Plant) -> None:
    key = snapshots.KEPT_PREFIX + labels()[1]
    with opened(plant) as log:
        kept = snapshots.read(log, STATE_AGGREGATION, 0, key)
        assert kept is not None
        other = msgspec.structs.replace(kept, state=kept.state[:-1] + b"?")
        with log.writer("forger") as writer, writer.transaction() as transaction:
            transaction.put_state(STATE_AGGREGATION, 0, key, snapshots.encode(other))
    result = invoke(plant, "verify", "--json", "--partition", "0")
    (one,) = objects(result)
    assert (result.code, one["difference"]["kind"]) == (1, "state")
    assert one["difference"]["raw_offset"] == kept.positions[RAW]
    assert labels()[1] in one["difference"]["sentence"]


def test_verify_reports_the_earliest_possible_time_after_retention(plant: Plant) -> None:
    with opened(plant) as log:
        first_us = appended_us(log, 0)
        now_us = appended_us(log, 2 + 2 * DAY_RECORDS) + 5 * DAY_US + 1
        for retention in snapshot_retentions(log):
            retention.run(now_us)
        assert log.trim(now_us)[RAW] > DAY_RECORDS
        kept = snapshots.kept_snapshots(log, STATE_AGGREGATION, RAW, 0)
        assert [one.label for one in kept] == labels()[1:]
        assert log.offsets(RAW)[RAW_0][0] == kept[0].oldest < kept[0].position, (
            "the snapshot needs prints before its position"
        )
    (one,) = objects(invoke(plant, "verify", "--json", "--partition", "0"))
    assert (one["equal"], one["snapshot"], one["begin"]) == (True, labels()[1], kept[0].position)
    assert one["records"] == DAY_RECORDS
    assert "retention has deleted" in one["notes"][0], "retention has deleted output records too"
    for how in (["--from", iso(first_us)], ["--snapshot", "none"]):
        refused = invoke(plant, "verify", "--json", "--partition", "0", *how)
        assert_refused(refused, 1, "retention has deleted records", "The earliest possible start is --from")


def test_invalid_requests_are_refused_in_one_sentence(plant: Plant, tmp_path: Path) -> None:
    assert_refused(invoke(plant, "verify", "--partition", "7"), 2, "no partition 7", "has 2")
    assert_refused(invoke(plant, "verify", "--from", "2026-01-02", "--to", "2026-01-02"), 2, "not before --to")
    assert_refused(invoke(plant, "verify", "--from", "noon"), 2, "is not a time")
    assert_refused(invoke(Plant(tmp_path / "none"), "verify"), 1, "there is no plant in")


def test_records_with_equal_content_and_different_bytes_are_reported() -> None:
    from tickerplant.app.verify.differences import cells_of

    assert cells_of(end(), end())[0].startswith("End records with equal values")
    sentence, cells = cells_of(mark(1), mark(2))
    assert sentence == "a Mark record: its header differs"
    assert [tuple(cell) for cell in cells] == [("header", "watermark_us", "1", "2")]
