"""A batch contains the newest version of each bar and value. Closed rows never wait; forming rows are conflated.

A batch also contains all bars of history, and the last forming values of a bar beside its closed values.
"""

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from tests.core.samples import samples
from tests.store.rows import OPEN_US, bars, ticks, values
from tickerplant.core import records, schemas
from tickerplant.core.times import micros_of
from tickerplant.core.version import make_version
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.persistence.batching import OFFSET, PartitionBuffer, PositionChange, WriteBatch

SECOND_US = 1_000_000
OHLCV = TopicPartition(schemas.OHLCV, 3)
VALUES = TopicPartition(schemas.ANALYTICS, 3)
RAW = TopicPartition(schemas.RAW, 3)


def record(
    source: TopicPartition, offset: int, header: records.Header, table: pa.Table | None = None
) -> ConsumedRecord:
    batch = None if table is None else table.combine_chunks().to_batches()[0]
    return ConsumedRecord(source.topic, source.partition, offset, 0, bytes(records.encode(header, batch)))


def bar(offset: int, *rows: dict[str, Any]) -> ConsumedRecord:
    """Return a record of bars. The version of a bar is the offset, unless its row has a `version`."""
    table = bars(*({"version": offset, **row} for row in rows))
    return record(OHLCV, offset, records.Bars(sent_at_us=OPEN_US, cause=offset), table)


def value(offset: int, *rows: dict[str, Any], names: Sequence[str] = ("sma_20",)) -> ConsumedRecord:
    table = values(*({"version": offset, **row} for row in rows), names=names)
    return record(VALUES, offset, records.Values(sent_at_us=OPEN_US, cause=offset), table)


def buffer(source: TopicPartition = OHLCV, position: int = 0) -> PartitionBuffer:
    return PartitionBuffer(source, 1, position)


def got(work: WriteBatch | None) -> dict[int, tuple[str, int]]:
    assert work is not None
    rows = work.bars.to_pylist() if work.bars is not None else []
    return {int((row["time"].timestamp() * 1e6 - OPEN_US) // 60e6): (row["state"], row["version"]) for row in rows}


def test_the_newest_of_many_versions_of_a_bar_is_written() -> None:
    one = buffer()
    one.add(bar(4, {"state": "forming"}, {"minute": 1, "state": "forming"}))
    one.add(bar(5, {}))
    one.add(bar(7, {"state": "withdrawn"}))
    work = one.flush(0)
    assert got(work) == {0: ("withdrawn", 7), 1: ("forming", 4)}
    assert work is not None
    assert work.change == PositionChange(0, 8, 6, 8), "a later record may have the same cause, raw record 7"
    assert not one.moved
    assert one.flush(10 * SECOND_US) is None


def test_a_withdrawal_replaces_the_forming_row() -> None:
    bar_rows, value_rows = buffer(), buffer(VALUES)
    bar_rows.add(bar(4, {"interval": "100t", "time_us": OPEN_US + 17, "state": "forming"}))
    bar_rows.add(bar(5, {"minute": 1, "state": "forming"}))
    value_rows.add(value(4, {"minute": 1, "state": "forming", "rsi_14": 1.0}, names=["rsi_14"]))
    for one in (bar_rows, value_rows):
        assert one.flush(0) is not None
    bar_rows.add(bar(6, {"minute": 1, "state": "forming"}))
    value_rows.add(value(6, {"minute": 1, "state": "forming", "rsi_14": 2.0}, names=["rsi_14"]))
    bar_rows.add(bar(7, {"minute": 1, "state": "withdrawn", "volume": 0.0, "trades": 0, "vwap": None}))
    value_rows.add(value(7, {"minute": 1, "state": "withdrawn"}, names=["rsi_14", "sma_20"]))
    assert got(bar_rows.flush(10)) == {1: ("withdrawn", 7)}
    work = value_rows.flush(10)
    assert work is not None
    assert [table.column("state").to_pylist() for table in work.values] == [["withdrawn"]]
    assert bar_rows.due_us is None
    assert value_rows.due_us is None


def test_forming_bars_are_written_once_per_second_and_closed_bars_at_once() -> None:
    one = buffer()
    one.add(bar(0, {"state": "forming"}))
    assert got(one.flush(0)) == {0: ("forming", 0)}
    one.add(bar(1, {"state": "forming"}, {"minute": 1}))
    work = one.flush(SECOND_US // 2)
    assert got(work) == {1: ("final", 1)}
    assert work is not None
    assert work.change == PositionChange(1, 2, 0, resume=1)
    assert one.due_us == SECOND_US
    one.add(bar(2, {"state": "forming"}))
    assert got(one.flush(SECOND_US)) == {0: ("forming", 2)}
    assert one.due_us is None


def test_forming_bars_that_are_due_soon_are_written_with_other_rows() -> None:
    one = buffer()
    one.add(bar(0, {"state": "forming"}))
    one.flush(0)
    one.add(bar(1, {"state": "forming"}))
    assert got(one.flush(SECOND_US * 3 // 4 - 1)) == {}
    one.add(bar(2, {"state": "forming"}, {"minute": 1}))
    assert got(one.flush(SECOND_US * 3 // 4)) == {0: ("forming", 2), 1: ("final", 2)}


def test_a_pending_forming_bar_is_written_without_further_records() -> None:
    one = buffer()
    for offset in (0, 1):
        one.add(bar(offset, {"state": "forming"}))
        one.flush(0)
    assert one.flush(SECOND_US - 1) is None
    work = one.flush(SECOND_US)
    assert got(work) == {0: ("forming", 1)}
    assert work is not None
    assert work.change == PositionChange(2, 2, 0, 2)


def test_a_closed_bar_replaces_the_pending_forming_bar() -> None:
    one = buffer()
    one.add(bar(0, {"minute": 9, "state": "forming"}))
    one.flush(0)
    one.add(bar(1, {"state": "forming"}))
    one.flush(0)
    one.add(bar(2, {}))
    work = one.flush(0)
    assert got(work) == {0: ("final", 2)}
    assert work is not None
    assert work.change.resume == 3
    assert one.flush(SECOND_US) is None


def test_pending_rows_are_restored_after_a_crash_at_any_position() -> None:
    source = random.Random(7)
    consumed_records = [
        bar(
            offset, *({"minute": m, "state": source.choice(["forming", "forming", "final", "withdrawn"])} for m in some)
        )
        for offset in range(24)
        if (some := [m for m in range(4) if source.random() < 0.5])
    ]

    def apply(store: dict[int, tuple[str, int]], work: WriteBatch | None) -> int:
        if work is None:
            return -1
        for minute, (state, version) in got(work).items():
            if store.get(minute, ("", -1))[1] < version:
                store[minute] = (state, version)
        return work.change.resume

    for crash in range(1, len(consumed_records)):
        store: dict[int, tuple[str, int]] = {}
        position, resume = 0, 0
        one = buffer()
        for consumed in consumed_records[:crash]:
            one.add(consumed)
            work = one.flush(0 if source.random() < 0.8 else SECOND_US * 100 * consumed.offset)
            if work is not None:
                assert work.change.expected == position
                position, resume = work.change.position, apply(store, work)
        one = buffer(position=position)
        for consumed in consumed_records:
            if consumed.offset >= resume:
                one.add(consumed)
                if source.random() < 0.3:
                    apply(store, one.flush(0))
        apply(store, one.flush(0, last=True))
        uninterrupted = buffer()
        for consumed in consumed_records:
            uninterrupted.add(consumed)
        assert store == got(uninterrupted.flush(0, last=True)), f"crash at {crash}"


def test_the_last_values_of_a_forming_bar_are_written_after_the_bar_closed() -> None:
    one = buffer(VALUES)
    one.add(value(0, {"state": "forming", "sma_20": 1.0}))
    one.add(value(1, {"state": "forming", "sma_20": 2.0}))
    one.add(value(2, {"state": "final", "sma_20": 3.0}, {"minute": 1, "state": "final", "sma_20": 4.0}))
    work = one.flush(0)
    assert work is not None
    found = [(r["state"], r["sma_20"]) for t in work.values for r in t.to_pylist()]
    assert sorted(found) == [("final", 3.0), ("final", 4.0), ("forming", 2.0)]
    assert all(OFFSET not in table.schema.names for table in work.values)


def test_values_with_other_columns_are_separate_and_a_withdrawal_drops_pending_values() -> None:
    one = buffer(VALUES)
    one.add(value(0, {"state": "forming", "sma_20": 1.0}))
    one.flush(0)
    one.add(value(1, {"state": "forming", "sma_20": 1.0}, {"minute": 1, "state": "forming", "sma_20": 1.0}))
    one.add(value(2, {"state": "withdrawn"}, names=["rsi_14"]))
    work = one.flush(0)
    assert work is not None
    assert [t.schema.names[-1] for t in work.values] == ["rsi_14"]
    work = one.flush(SECOND_US)
    assert work is not None
    assert [t.column("version").to_pylist() for t in work.values] == [[1]]


def test_all_bars_of_history_are_written() -> None:
    one = buffer()
    one.add(bar(1, {"history": True, "source": "a"}))
    one.add(bar(2, {"history": True, "source": "b"}))
    work = one.flush(0)
    assert work is not None
    assert work.bars is not None
    assert work.bars.column("source").to_pylist() == ["a", "b"]


def test_a_cause_is_complete_after_its_end_record() -> None:
    one = buffer()
    one.add(bar(4, {}))
    one.add(record(OHLCV, 5, records.End(sent_at_us=OPEN_US, cause=4)))
    work = one.flush(0)
    assert work is not None
    assert work.change == PositionChange(0, 6, 4, 6)


def test_the_cause_of_a_raw_record_is_the_version_of_its_offset() -> None:
    one = buffer(RAW)
    one.add(record(RAW, 5, records.Ticks(sent_at_us=1, watermark_us=2), ticks(10)))
    one.add(record(RAW, 9, records.Mark(sent_at_us=1, watermark_us=2)))
    work = one.flush(0)
    assert work is not None
    assert work.change == PositionChange(0, 10, make_version(1, 9), 10)
    assert work.ticks is not None
    assert work.ticks.num_rows == 10


def test_an_unreadable_record_moves_the_position_and_is_counted() -> None:
    one = buffer()
    one.add(ConsumedRecord(OHLCV.topic, OHLCV.partition, 0, 0, b"nonsense"))
    work = one.flush(0)
    assert work is not None
    assert (work.unreadable, work.rows, work.change.position) == (1, 0, 1)


def test_rows_outside_the_accepted_years_are_omitted_and_counted() -> None:
    one = buffer(RAW)
    odd = pa.concat_tables([ticks(3), ticks(2, start_us=253_000_000_000_000_000)])
    one.add(record(RAW, 0, records.Ticks(sent_at_us=1, watermark_us=2), odd))
    work = one.flush(0)
    assert work is not None
    assert work.ticks is not None
    assert (work.ticks.num_rows, work.out_of_range) == (3, 2)


def test_ticks_carry_the_version_of_their_record_and_their_row_in_it() -> None:
    one = buffer(RAW)
    odd = pa.concat_tables([ticks(2, start_us=253_000_000_000_000_000), ticks(2)])
    for offset, table in ((4, odd), (6, ticks(3))):
        one.add(record(RAW, offset, records.Ticks(sent_at_us=1, watermark_us=2), table))
    work = one.flush(0)
    assert work is not None
    assert work.ticks is not None
    four, six = make_version(1, 4), make_version(1, 6)
    assert work.ticks.column("version").to_pylist() == [four, four, six, six, six]
    assert work.ticks.column("row").to_pylist() == [2, 3, 0, 1, 2], "an omitted row has a number, too"


@pytest.mark.parametrize("name", sorted(samples()))
def test_every_kind_of_record_is_accepted_on_every_topic(name: str) -> None:
    sample = samples()[name]
    value = bytes(records.encode(sample.header, sample.batch))
    for topic in (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS, schemas.STATUS, schemas.DEADLETTER):
        one = PartitionBuffer(TopicPartition(topic, 0), 1, 1)
        one.add(ConsumedRecord(topic, 0, 0, 0, value))
        one.add(ConsumedRecord(topic, 0, 1, 0, value))
        work = one.flush(0, last=True)
        assert work is not None
        assert work.change.position == 2
        assert work.unreadable == 0


def test_the_order_of_sources_follows_the_rules() -> None:
    one = buffer()
    one.add(record(OHLCV, 0, records.Settings(sent_at_us=1, values={"sources": ["a", "b*"]})))
    one.add(record(OHLCV, 1, records.Settings(sent_at_us=1, values={"no_such": 1})))
    one.add(record(OHLCV, 2, records.Settings(sent_at_us=1, values={"sources": ["a:candles"]})))
    work = one.flush(0)
    assert work is not None
    assert (work.sources, work.unreadable) == (("a", "b*"), 2)


@pytest.mark.parametrize("date", ["1800-01-01", "1899-12-29", "2199-12-31", "2260-12-31"])
def test_every_date_that_aggregation_accepts_is_written(date: str) -> None:
    one = buffer(OHLCV)
    day_us = micros_of(dt.datetime.fromisoformat(f"{date}T00:00:00+00:00"))
    rows = bars({"interval": "1d", "time_us": day_us}, {"interval": "1d", "time_us": day_us, "history": True})
    one.add(record(OHLCV, 0, records.Bars(sent_at_us=1), rows))
    work = one.flush(0)
    assert work is not None
    assert work.bars is not None
    assert (work.bars.num_rows, work.out_of_range) == (2, 0)
