"""Plug-ins of the previous version: streams with `read`, and old names of modules, classes, fields and arguments."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.market_data.support import OPEN_US, embedded, headers, rows, ticks
from tests.support.waiting import eventually
from tickerplant.core import records, schemas
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.service import MarketData, MarketDataConfig
from tickerplant.market_data.vendors import errors, port
from tickerplant.market_data.vendors.legacy_streams import Received, Said, adapt
from tickerplant.market_data.vendors.port import BarsRequest, Connected, Disconnected, StreamEvent, Ticks


class LegacyStream:
    """A stream of a plug-in of the previous version. It puts raw messages on the queue, and `read` parses them."""

    def __init__(self) -> None:
        self.connections = 0
        self.pauses = 0

    async def run(self, out: asyncio.Queue[Any]) -> None:
        for number in range(2):
            await out.put(Connected(OPEN_US))
            received = Received([b"1", b"bad"], OPEN_US)
            await out.put(received) if out.full() else out.put_nowait(received)
            await out.put(Received([b"2"], OPEN_US + number))
            self.pauses += out.full()
            await out.put(Disconnected(OPEN_US, "bye"))
        await asyncio.Event().wait()

    def read(self, event: Received) -> Said:
        prices = [float(text) for text in event.texts if text != b"bad"]
        dead = [DeadRow("not a number", bytes(text)) for text in event.texts if text == b"bad"]  # type: ignore[arg-type]
        batch = ticks(["AAPL"] * len(prices), prices=prices)
        return Said(ticks=batch, dead=dead, refused={"NIKK": "unknown"}, notes=["note"], messages=len(event.texts))

    def reconnected(self) -> None:
        self.connections += 1


async def test_a_legacy_stream_delivers_parsed_ticks_after_a_warning() -> None:
    legacy = LegacyStream()
    with pytest.warns(DeprecationWarning, match=r"LegacyStream\.read is deprecated.*vendors\.port\.Ticks"):
        stream = adapt(legacy)
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue(10)
    task = asyncio.create_task(stream.run(queue))
    await eventually(lambda: queue.qsize() == 8)
    events = [queue.get_nowait() for _ in range(8)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [type(event) for event in events] == [Connected, Ticks, Ticks, Disconnected] * 2
    first = events[1]
    assert isinstance(first, Ticks)
    assert first.batch is not None
    assert first.batch["price"].to_pylist() == [1.0]
    assert (first.dead[0].payload, first.rejected, first.notes) == (b"bad", {"NIKK": "unknown"}, ["note"])
    assert (first.messages, first.received_us, first.gap) == (2, OPEN_US, None)
    assert legacy.connections == 2


async def test_a_legacy_stream_blocks_while_the_queue_is_full() -> None:
    legacy = LegacyStream()
    with pytest.warns(DeprecationWarning, match="one more version|is now"):
        stream = adapt(legacy)
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue(3)
    task = asyncio.create_task(stream.run(queue))
    await eventually(queue.full)
    assert legacy.pauses == 1
    queue.get_nowait()
    await eventually(queue.full)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_service_runs_a_legacy_stream(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        with pytest.warns(DeprecationWarning, match="one more version|is now"):
            service = MarketData(log, MarketDataConfig(("AAPL", "NIKK"), "acme"), LegacyStream())
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.losses == 2)
        stop.set()
        await task
        assert [row["price"] for row in rows(log, records.Ticks)] == [1.0, 2.0, 1.0, 2.0]
        assert [row["payload"] for row in rows(log, records.Dead, schemas.DEADLETTER)] == [b"bad", b"bad"]
        assert [type(h) for h in headers(log)].count(records.Down) == 2


def test_a_stream_of_parsed_ticks_is_used_without_a_warning() -> None:
    class Stream:
        async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
            pass

    stream = Stream()
    assert adapt(stream) is stream


def test_old_field_names_of_a_request_work_with_a_warning() -> None:
    request = BarsRequest(("AAPL",), "1m", 1, 2)
    with pytest.warns(DeprecationWarning, match=r"BarsRequest\.from_us is now BarsRequest\.start_us"):
        assert request.from_us == 1  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"BarsRequest\.to_us is now BarsRequest\.end_us"):
        assert request.to_us == 2  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="one more version|is now"):
        former = BarsRequest(symbols=("AAPL",), interval="1m", from_us=1, to_us=2)  # type: ignore[call-arg]
    assert former == request


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tickerplant.market_data.providers.port", port),
        ("tickerplant.market_data.clients.errors", errors),
    ],
)
def test_old_modules_have_the_names_of_the_new_ones(old: str, new: Any) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {new.__name__}"):
        former = importlib.import_module(old)
    changed = {"Disconnected", "KeyRejected", "Ticks", "Provider", "StreamEvent", "TickStream"}
    for name, value in vars(new).items():
        if getattr(value, "__module__", "") == new.__name__ and name not in changed:
            assert getattr(former, name) is value, name


def test_old_names_of_stream_events_are_the_new_classes() -> None:
    sys.modules.pop("tickerplant.market_data.providers.port", None)
    with pytest.warns(DeprecationWarning, match="one more version|is now"):
        former = importlib.import_module("tickerplant.market_data.providers.port")
    assert (former.Lost, former.Refused) == (port.Disconnected, port.KeyRejected)
    assert (former.Received, former.Said) == (Received, Said)
