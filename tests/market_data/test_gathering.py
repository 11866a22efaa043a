"""Gathering of slowly arriving ticks: nothing is lost or reordered, and nothing but ticks waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pyarrow as pa
import pytest

from tickerplant.core.schemas import TICKS, TICKS_OF_EXCHANGES
from tickerplant.market_data.vendors.gathering import FULL_MESSAGES, Gatherer
from tickerplant.market_data.vendors.port import Connected, Disconnected, StreamEvent, Ticks

LONG_S = 3_600.0
"""Seconds of a gathering time that never passes in a test."""


def ticks(first: int, count: int = 1, *, schema: pa.Schema = TICKS, **more: Any) -> Ticks:
    """Return an event with ticks whose prices are `first`, `first + 1`, …."""
    columns = {
        "time": list(range(first, first + count)),
        "symbol": [f"S{number % 3}" for number in range(first, first + count)],
        "price": [float(number) for number in range(first, first + count)],
    }
    arrays = [_column(field.type, columns.get(field.name, [None] * count)) for field in schema]
    return Ticks(1_000 + first, pa.RecordBatch.from_arrays(arrays, schema=schema), messages=count, **more)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.array([value or 0 for value in values], kind)
    return pa.array(values, kind)


def prices(event: StreamEvent) -> list[float]:
    assert isinstance(event, Ticks)
    assert event.batch is not None
    return list(event.batch["price"].to_pylist())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def queue_of(*events: StreamEvent) -> asyncio.Queue[StreamEvent]:
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue()
    for event in events:
        queue.put_nowait(event)
    return queue


def test_ticks_that_arrive_in_the_gathering_time_are_one_event_in_their_order() -> None:
    async def work() -> None:
        gatherer = Gatherer(queue_of(ticks(0), ticks(1, 2, unwanted=2), ticks(3, unwanted=1)), 0.001)
        event = await gatherer.get()
        assert prices(event) == [0.0, 1.0, 2.0, 3.0]
        assert isinstance(event, Ticks)
        assert event.batch is not None
        assert event.batch["symbol"].to_pylist() == ["S0", "S1", "S2", "S0"]
        assert (event.messages, event.unwanted, event.received_us) == (4, 3, 1_003)
        assert gatherer.empty()

    run(work())


def test_ticks_that_have_waited_in_the_stream_do_not_wait_again() -> None:
    async def work() -> None:
        assert prices(await Gatherer(queue_of(ticks(0, waited_s=LONG_S), ticks(1)), LONG_S).get()) == [0.0, 1.0]

    run(work())


def test_a_full_batch_does_not_wait() -> None:
    async def work() -> None:
        assert prices(await Gatherer(queue_of(ticks(0, FULL_MESSAGES)), LONG_S).get())[-1] == FULL_MESSAGES - 1

    run(work())


def test_gathering_ends_when_enough_ticks_have_arrived() -> None:
    async def work() -> None:
        queue = queue_of(ticks(0, FULL_MESSAGES - 1))
        gatherer = Gatherer(queue, LONG_S)
        waiting = asyncio.create_task(gatherer.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.put_nowait(ticks(FULL_MESSAGES - 1, 3))
        assert len(prices(await waiting)) == FULL_MESSAGES + 2

    run(work())


@pytest.mark.parametrize("event", [Connected(5), Disconnected(5, "gone")])
def test_other_events_do_not_wait_and_keep_their_place(event: StreamEvent) -> None:
    async def work() -> None:
        gatherer = Gatherer(queue_of(event, ticks(0), ticks(1), event, ticks(2, FULL_MESSAGES)), LONG_S)
        assert await gatherer.get() == event
        assert prices(await gatherer.get()) == [0.0, 1.0]  # the next event ends the gathering
        assert not gatherer.empty()
        assert await gatherer.get() == event
        assert len(prices(await gatherer.get())) == FULL_MESSAGES

    run(work())


@pytest.mark.parametrize(
    "special",
    [
        ticks(1, gap=(5, 9)),
        ticks(1, rejected={"NIKK": "unknown"}),
        ticks(1, schema=TICKS_OF_EXCHANGES),
        Ticks(7, None, notes=["a note"]),
    ],
    ids=["gap", "rejected", "other columns", "no ticks"],
)
def test_ticks_with_other_content_are_not_merged(special: Ticks) -> None:
    async def work() -> None:
        gatherer = Gatherer(queue_of(ticks(0), special, ticks(2, FULL_MESSAGES)), 0.001)
        assert prices(await gatherer.get()) == [0.0]
        assert await gatherer.get() is special
        assert len(prices(await gatherer.get())) == FULL_MESSAGES

    run(work())


def test_a_cancelled_call_loses_no_event() -> None:
    async def work() -> None:
        queue = queue_of(ticks(0))
        gatherer = Gatherer(queue, LONG_S)
        for _ in range(3):
            waiting = asyncio.create_task(gatherer.get())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not gatherer.empty()
        queue.put_nowait(ticks(1))
        assert prices(gatherer.get_nowait()) == [0.0]
        assert prices(gatherer.get_nowait()) == [1.0]
        assert gatherer.empty()

    run(work())


def test_without_a_gathering_time_each_event_is_returned_alone() -> None:
    async def work() -> None:
        gatherer = Gatherer(queue_of(ticks(0), ticks(1)), 0.0)
        assert prices(await gatherer.get()) == [0.0]
        assert prices(await gatherer.get()) == [1.0]

    run(work())
