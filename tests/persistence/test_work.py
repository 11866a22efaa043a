"""What one transaction writes: the newest of each key, nothing closed held back, nothing forming lost."""

import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from tests.core.samples import samples
from tests.store.rows import OPEN_US, bars, ticks, values
from tickerplant.core import records, schemas
from tickerplant.core.version import make_version
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.persistence.batching import OFFSET, Gathering, Move, Work

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
    """A record of bars, each with the offset as version unless it says another."""
    table = bars(*({"version": offset, **row} for row in rows))
    return record(OHLCV, offset, records.Bars(sent_at_us=OPEN_US, cause=offset), table)


def value(offset: int, *rows: dict[str, Any], names: Sequence[str] = ("sma_20",)) -> ConsumedRecord:
    table = values(*({"version": offset, **row} for row in rows), names=names)
    return record(VALUES, offset, records.Values(sent_at_us=OPEN_US, cause=offset), table)


def gathering(source: TopicPartition = OHLCV, position: int = 0) -> Gathering:
    return Gathering(source, 1, position)


def got(work: Work | None) -> dict[int, tuple[str, int]]:
    assert work is not None
    rows = work.bars.to_pylist() if work.bars is not None else []
    return {int((row["time"].timestamp() * 1e6 - OPEN_US) // 60e6): (row["state"], row["version"]) for row in rows}


def test_of_many_versions_of_a_bar_the_newest_is_written() -> None:
    one = gathering()
    one.take(bar(4, {"state": "forming"}, {"minute": 1, "state": "forming"}))
    one.take(bar(5, {}))
    one.take(bar(7, {"state": "withdrawn"}))
    work = one.hand_over(0)
    assert got(work) == {0: ("withdrawn", 7), 1: ("forming", 4)}
    assert work is not None
    assert work.move == Move(0, 8, 6, 8), "more of what raw record 7 causes may come"
    assert not one.moved
    assert one.hand_over(10 * SECOND_US) is None


def test_what_is_withdrawn_while_forming_is_not_written_and_its_withdrawal_is() -> None:
    bar_rows, value_rows = gathering(), gathering(VALUES)
    bar_rows.take(bar(4, {"interval": "100t", "time_us": OPEN_US + 17, "state": "forming"}))
    bar_rows.take(bar(5, {"minute": 1, "state": "forming"}))
    value_rows.take(value(4, {"minute": 1, "state": "forming", "rsi_14": 1.0}, names=["rsi_14"]))
    for one in (bar_rows, value_rows):
        assert one.hand_over(0) is not None
    bar_rows.take(bar(6, {"minute": 1, "state": "forming"}))
    value_rows.take(value(6, {"minute": 1, "state": "forming", "rsi_14": 2.0}, names=["rsi_14"]))
    bar_rows.take(bar(7, {"minute": 1, "state": "withdrawn", "volume": 0.0, "trades": 0, "vwap": None}))
    value_rows.take(value(7, {"minute": 1, "state": "withdrawn"}, names=["rsi_14", "sma_20"]))
    assert got(bar_rows.hand_over(10)) == {1: ("withdrawn", 7)}
    work = value_rows.hand_over(10)
    assert work is not None
    assert [table.column("state").to_pylist() for table in work.values] == [["withdrawn"]]
    assert bar_rows.due_us is None
    assert value_rows.due_us is None


def test_forming_bars_wait_for_a_second_and_closed_ones_never() -> None:
    one = gathering()
    one.take(bar(0, {"state": "forming"}))
    assert got(one.hand_over(0)) == {0: ("forming", 0)}
    one.take(bar(1, {"state": "forming"}, {"minute": 1}))
    work = one.hand_over(SECOND_US // 2)
    assert got(work) == {1: ("final", 1)}
    assert work is not None
    assert work.move == Move(1, 2, 0, resume=1)
    assert one.due_us == SECOND_US
    one.take(bar(2, {"state": "forming"}))
    assert got(one.hand_over(SECOND_US)) == {0: ("forming", 2)}
    assert one.due_us is None


def test_a_waiting_forming_bar_goes_out_though_nothing_more_comes() -> None:
    one = gathering()
    for offset in (0, 1):
        one.take(bar(offset, {"state": "forming"}))
        one.hand_over(0)
    assert one.hand_over(SECOND_US - 1) is None
    work = one.hand_over(SECOND_US)
    assert got(work) == {0: ("forming", 1)}
    assert work is not None
    assert work.move == Move(2, 2, 0, 2)


def test_a_bar_that_closes_takes_the_place_of_the_one_that_waits() -> None:
    one = gathering()
    one.take(bar(0, {"minute": 9, "state": "forming"}))
    one.hand_over(0)
    one.take(bar(1, {"state": "forming"}))
    one.hand_over(0)
    one.take(bar(2, {}))
    work = one.hand_over(0)
    assert got(work) == {0: ("final", 2)}
    assert work is not None
    assert work.move.resume == 3
    assert one.hand_over(SECOND_US) is None


def test_what_waits_is_there_again_after_a_crash_at_any_position() -> None:
    source = random.Random(7)
    deliveries = [
        bar(
            offset, *({"minute": m, "state": source.choice(["forming", "forming", "final", "withdrawn"])} for m in some)
        )
        for offset in range(24)
        if (some := [m for m in range(4) if source.random() < 0.5])
    ]

    def apply(store: dict[int, tuple[str, int]], work: Work | None) -> int:
        if work is None:
            return -1
        for minute, (state, version) in got(work).items():
            if store.get(minute, ("", -1))[1] < version:
                store[minute] = (state, version)
        return work.move.resume

    for crash in range(1, len(deliveries)):
        store: dict[int, tuple[str, int]] = {}
        position, resume = 0, 0
        one = gathering()
        for delivery in deliveries[:crash]:
            one.take(delivery)
            work = one.hand_over(0 if source.random() < 0.8 else SECOND_US * 100 * delivery.offset)
            if work is not None:
                assert work.move.expected == position
                position, resume = work.move.position, apply(store, work)
        one = gathering(position=position)
        for delivery in deliveries:
            if delivery.offset >= resume:
                one.take(delivery)
                if source.random() < 0.3:
                    apply(store, one.hand_over(0))
        apply(store, one.hand_over(0, last=True))
        whole = gathering()
        for delivery in deliveries:
            whole.take(delivery)
        assert store == got(whole.hand_over(0, last=True)), f"crash at {crash}"


def test_the_last_values_on_a_forming_bar_are_written_though_it_has_closed() -> None:
    one = gathering(VALUES)
    one.take(value(0, {"state": "forming", "sma_20": 1.0}))
    one.take(value(1, {"state": "forming", "sma_20": 2.0}))
    one.take(value(2, {"state": "final", "sma_20": 3.0}, {"minute": 1, "state": "final", "sma_20": 4.0}))
    work = one.hand_over(0)
    assert work is not None
    found = [(r["state"], r["sma_20"]) for t in work.values for r in t.to_pylist()]
    assert sorted(found) == [("final", 3.0), ("final", 4.0), ("forming", 2.0)]
    assert all(OFFSET not in table.schema.names for table in work.values)


def test_values_of_other_columns_are_written_apart_and_a_withdrawal_ends_their_waiting() -> None:
    one = gathering(VALUES)
    one.take(value(0, {"state": "forming", "sma_20": 1.0}))
    one.hand_over(0)
    one.take(value(1, {"state": "forming", "sma_20": 1.0}, {"minute": 1, "state": "forming", "sma_20": 1.0}))
    one.take(value(2, {"state": "withdrawn"}, names=["rsi_14"]))
    work = one.hand_over(0)
    assert work is not None
    assert [t.schema.names[-1] for t in work.values] == ["rsi_14"]
    work = one.hand_over(SECOND_US)
    assert work is not None
    assert [t.column("version").to_pylist() for t in work.values] == [[1]]


def test_bars_of_history_all_go_to_the_store() -> None:
    one = gathering()
    one.take(bar(1, {"history": True, "source": "a"}))
    one.take(bar(2, {"history": True, "source": "b"}))
    work = one.hand_over(0)
    assert work is not None
    assert work.bars is not None
    assert work.bars.column("source").to_pylist() == ["a", "b"]


def test_a_cause_is_complete_with_the_record_that_is_passed_on() -> None:
    one = gathering()
    one.take(bar(4, {}))
    one.take(record(OHLCV, 5, records.End(sent_at_us=OPEN_US, cause=4)))
    work = one.hand_over(0)
    assert work is not None
    assert work.move == Move(0, 6, 4, 6)


def test_the_cause_of_raw_is_its_own_place_and_of_others_what_they_say() -> None:
    one = gathering(RAW)
    one.take(record(RAW, 5, records.Ticks(sent_at_us=1, watermark_us=2), ticks(10)))
    one.take(record(RAW, 9, records.Mark(sent_at_us=1, watermark_us=2)))
    work = one.hand_over(0)
    assert work is not None
    assert work.move == Move(0, 10, make_version(1, 9), 10)
    assert work.ticks is not None
    assert work.ticks.num_rows == 10


def test_an_unreadable_record_moves_the_position_and_is_counted() -> None:
    one = gathering()
    one.take(ConsumedRecord(OHLCV.topic, OHLCV.partition, 0, 0, b"nonsense"))
    work = one.hand_over(0)
    assert work is not None
    assert (work.unreadable, work.rows, work.move.position) == (1, 0, 1)


def test_rows_of_no_market_are_left_out_and_counted() -> None:
    one = gathering(RAW)
    odd = pa.concat_tables([ticks(3), ticks(2, start_us=253_000_000_000_000_000)])
    one.take(record(RAW, 0, records.Ticks(sent_at_us=1, watermark_us=2), odd))
    work = one.hand_over(0)
    assert work is not None
    assert work.ticks is not None
    assert (work.ticks.num_rows, work.out_of_range) == (3, 2)


@pytest.mark.parametrize("name", sorted(samples()))
def test_every_kind_of_record_can_come_by_every_topic(name: str) -> None:
    sample = samples()[name]
    value = bytes(records.encode(sample.header, sample.batch))
    for topic in (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS, schemas.STATUS, schemas.DEADLETTER):
        one = Gathering(TopicPartition(topic, 0), 1, 1)
        one.take(ConsumedRecord(topic, 0, 0, 0, value))
        one.take(ConsumedRecord(topic, 0, 1, 0, value))
        work = one.hand_over(0, last=True)
        assert work is not None
        assert work.move.position == 2
        assert work.unreadable == 0


def test_the_order_of_sources_comes_with_the_rules() -> None:
    one = gathering()
    one.take(record(OHLCV, 0, records.Settings(sent_at_us=1, values={"sources": ["a", "b*"]})))
    one.take(record(OHLCV, 1, records.Settings(sent_at_us=1, values={"no_such": 1})))
    one.take(record(OHLCV, 2, records.Settings(sent_at_us=1, values={"sources": ["a:candles"]})))
    work = one.hand_over(0)
    assert work is not None
    assert (work.sources, work.unreadable) == (("a", "b*"), 2)
