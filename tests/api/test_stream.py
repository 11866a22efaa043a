from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.api.support import MINUTE, PARTITIONS, T0, MemoryStore, bar_batch, bars, serving, tick_batch, ticks
from tests.support.waiting import PATIENCE, eventually
from tickerplant.api.websockets.endpoint import Connection
from tickerplant.api.websockets.hub import Hub
from tickerplant.core import records, schemas
from tickerplant.core.symbols import partition_of
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.store.repositories.coverage import FEEDS


async def receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message with type `kind`; skip other messages."""
    async with asyncio.timeout(PATIENCE.seconds(10)):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] == kind:
                return message


async def to_the_end(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def send(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def prices(socket: ClientConnection, count: int) -> list[float]:
    found: list[float] = []
    while len(found) < count:
        found += [row[2] for row in (await receive(socket, "ticks"))["rows"]]
    return found


async def test_a_subscription_gets_a_snapshot_and_then_the_stream(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket, connect(address) as other:
            await receive(socket, "welcome")
            await send(other, action="subscribe", symbols=["*"], channels=["ticks", "bars"])
            await receive(other, "snapshot")
            ticks(log, [(T0, "AAPL", 1.0), (T0, "MSFT", 9.0)])
            bars(log, [{"time": T0, "symbol": "AAPL", "state": "forming"}])
            sent: set[str] = set()  # the server has read all records that another client received
            while not {"ticks", "bars"} <= sent:
                async with asyncio.timeout(PATIENCE.seconds(10)):
                    sent.add(json.loads(await other.recv())["type"])
            await send(socket, action="subscribe", symbols=["AAPL"], channels=["ticks", "bars"], id=1)
            state = await receive(socket, "subscription")
            assert state == {
                "type": "subscription", "id": 1, "channels": {"ticks": ["AAPL"], "bars": ["AAPL"]},
            }  # fmt: skip
            snapshot = await receive(socket, "snapshot")
            assert [row[1:3] for row in snapshot["ticks"]["rows"]] == [["AAPL", 1.0]]
            assert [row[10] for row in snapshot["bars"]["rows"]] == ["forming"]
            ticks(log, [(T0 + 1, "AAPL", 2.0), (T0 + 1, "MSFT", 9.0)])
            assert await prices(socket, 1) == [2.0]
            await send(socket, action="unsubscribe", symbols=["AAPL"], channels=["ticks"])
            assert (await receive(socket, "subscription"))["channels"] == {"bars": ["AAPL"]}
            await send(socket, action="ping", id="x")
            assert await receive(socket, "pong") == {"type": "pong", "id": "x"}


async def test_an_error_in_the_server_closes_the_connection_with_a_code(
    log: EventLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Connection, text: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Connection, "_handle", fail)
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            await receive(socket, "welcome")
            await send(socket, action="ping")
            with pytest.raises(ConnectionClosed) as closed:
                await to_the_end(socket)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "connect again" in closed.value.rcvd.reason


async def test_a_snapshot_contains_rows_of_the_store(log: EventLog, store: MemoryStore) -> None:
    store.tables["prices"] = pa.Table.from_batches([tick_batch([(T0, "OLD", 7.0)])])
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            await send(socket, action="subscribe", symbols=["OLD"])
            assert [row[2] for row in (await receive(socket, "snapshot"))["ticks"]["rows"]] == [7.0]


async def test_a_snapshot_has_feeds_whose_state_changed_before_the_api_started(
    log: EventLog, store: MemoryStore
) -> None:
    """Check feeds without an event in the log. An event in the log replaces the state in the store."""
    states = {"a": "up", "b": "down", "c": "ended", "d": "up", "file:of-a-killed-replay": "up"}
    rows = [
        {
            "feed": feed, "partition": 0, "state": state, "since": T0, "reason": "mute" if state == "down" else "",
            "late_ticks": 3, "unsupported": 0, "differences": 0, "sent_at": T0 + 1,
        }
        for feed, state in states.items()
    ]  # fmt: skip
    store.tables["feeds"] = pa.Table.from_pylist(rows, FEEDS)
    with serving(log, store) as (_, address, _):
        header = records.FeedState(sent_at_us=T0 + 2, feed="d", state="ended", since_us=T0 + 2)
        with log.writer("s") as out, out.transaction() as transaction:
            transaction.append(schemas.STATUS, 0, records.encode(header))
        async with connect(address) as socket:
            await send(socket, action="subscribe", symbols=["*"], channels=["status"])
            found = (await receive(socket, "snapshot"))["status"]
            events = {event["feed"]: event for event in found}
            if "d" in events:  # the stream had not read the event yet: it follows
                assert [event["state"] for event in (await receive(socket, "status"))["events"]] == ["ended"]
                del events["d"]
            assert events == {
                feed: {
                    "event": "feed", "feed": feed, "partition": 0, "state": states[feed], "since_us": T0,
                    "reason": reason, "count": 0, "at_us": T0 + 1,
                }
                for feed, reason in (("a", ""), ("b", "mute"))
            }  # fmt: skip


async def test_a_snapshot_has_stored_activity_bars(log: EventLog, store: MemoryStore) -> None:
    rows = [{"time": T0 + n, "symbol": "OLD", "interval": "100t", "open": float(n)} for n in range(3)]
    store.tables["ohlcv"] = pa.Table.from_batches([bar_batch(rows)])
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            for symbol in ("OLD", "*"):
                await send(socket, action="subscribe", symbols=[symbol], channels=["bars.100t"])
                assert [row[:4] for row in (await receive(socket, "snapshot"))["bars"]["rows"]] == [
                    [T0 + 2, "OLD", "100t", 2.0]
                ]


async def test_a_resume_from_the_log_does_not_repeat_records_that_the_tail_reads_later(
    log: EventLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow the tail down, so that the catch-up reads 100 records from the log before the hub applies them."""
    monkeypatch.setattr("tickerplant.api.service.Hub", partial(Hub, ring_records=50))
    monkeypatch.setattr("tickerplant.api.websockets.tail.PACE_S", 1.0)
    with serving(log, store) as (client, address, _):
        position = client.get("/v1/status").json()["end"]
        for n in range(100):
            ticks(log, [(T0 + n, "AAPL", float(n))])
        async with connect(address) as first:
            await send(first, action="subscribe", symbols=["*"], channels=["ticks"], since=position)
            assert await prices(first, 100) == [float(n) for n in range(100)]
        for n in range(100, 200):
            ticks(log, [(T0 + n, "AAPL", float(n))])
        async with connect(address) as socket:
            await send(socket, action="subscribe", symbols=["*"], channels=["ticks"], since=position)
            assert await prices(socket, 200) == [float(n) for n in range(200)]
            ticks(log, [(T0 + 200, "AAPL", 200.0)])
            assert await prices(socket, 1) == [200.0]


@pytest.mark.parametrize("behind", [5, 300])
async def test_since_resumes_without_gap_or_repeat(
    log: EventLog, store: MemoryStore, behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume after 5 missed records from memory, which contains 50, and after 300 missed records from the log."""
    monkeypatch.setattr("tickerplant.api.service.Hub", partial(Hub, ring_records=50))
    with serving(log, store) as (client, address, _):
        ticks(log, [(T0, "AAPL", -1.0)])
        position = client.get("/v1/status").json()["end"]
        for n in range(behind):
            ticks(log, [(T0 + n, "AAPL", float(n))])
        async with connect(address) as first:  # the server has read all records that this client received
            await send(first, action="subscribe", symbols=["*"], channels=["ticks"], since=position)
            assert await prices(first, behind) == [float(n) for n in range(behind)]
        async with connect(address) as socket:
            writing = asyncio.create_task(asyncio.to_thread(
                lambda: [ticks(log, [(T0 + n, "AAPL", float(n))]) for n in range(behind, behind + 100)]
            ))  # fmt: skip
            await send(socket, action="subscribe", symbols=["*"], channels=["ticks"], since=position)
            assert await prices(socket, behind + 100) == [float(n) for n in range(behind + 100)]
            await writing
            # The connection stays open after the live records.
            await send(socket, action="ping")
            await receive(socket, "pong")


async def test_a_position_of_another_log_gets_resync(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            since = {"log_id": "other", "generation": 1, "offsets": {}}
            await send(socket, action="subscribe", symbols=["AAPL"], since=since)
            assert "another log" in (await receive(socket, "resync"))["message"]
            await receive(socket, "snapshot")
            ticks(log, [(T0, "AAPL", 1.0)])
            assert await prices(socket, 1) == [1.0]


async def test_hostile_messages_neither_close_the_connection_nor_fail(log: EventLog, store: MemoryStore) -> None:
    identity = log.identity()
    since = {"log_id": identity.log_id, "generation": identity.generation}
    offsets = ({schemas.RAW: {"0": 10**30}}, {schemas.RAW: {"0": -1}}, {schemas.RAW: {"9" * 30: 1}}, {"\0": {"0": 1}})
    commands: list[Any] = [
        {"action": "subscribe", "symbols": ["A"], "since": since | {"offsets": each}} for each in offsets
    ]
    commands += [
        {"action": "subscribe", "symbols": ["A"], "since": since | {"generation": 10**30, "offsets": {}}},
        {"action": "subscribe", "symbols": ["\0", "A"]},
        {"action": "subscribe", "symbols": ["A"], "channels": ["bars.\0"]},
        {"action": ["subscribe"]},
        {"action": "unsubscribe", "symbols": [["A"]]},
        {"action": "ping", "id": {"a": [10**30, "\0", "\u202e"]}},
    ]
    texts = [json.dumps(command) for command in commands]
    texts += [f'{{"action":"ping","id":{"[" * depth}{"]" * depth}}}' for depth in range(980, 1_000)]
    texts += [json.dumps({"action": "ping", "id": "x" * 200_000})]
    texts += ['{"action":"ping","id":"\\ud800"}', "[" * 100_000, '{"a":' * 50_000, "1e999", "\0", ""]
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            for text in texts:
                await socket.send(text)
                await socket.send(text.encode())
            await send(socket, action="ping", id="last")
            async with asyncio.timeout(PATIENCE.seconds(20)):
                while (text := await socket.recv()) != '{"type":"pong","id":"last"}':
                    assert len(text) < 2_000, "no answer repeats a large id"


async def test_the_commands_of_a_connection_have_a_bounded_sum(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            welcome = await receive(socket, "welcome")
            assert (welcome["max_channels"], welcome["max_pairs"]) == (64, 12_000)
            names = [f"S{number}" for number in range(600)]
            channels = [f"bars.{number + 1}t" for number in range(22)]
            await send(socket, action="subscribe", symbols=names, channels=channels[:20])
            await receive(socket, "snapshot")
            await send(socket, action="subscribe", symbols=names, channels=channels[20:])
            assert (await receive(socket, "error"))["code"] == "too_many_pairs"


async def test_the_stream_continues_at_the_position_of_a_rest_answer(log: EventLog, store: MemoryStore) -> None:
    ticks(log, [(T0, "AAPL", 1.0)])
    partition = partition_of("AAPL", PARTITIONS)
    store.at = {TopicPartition(schemas.RAW, partition): 1}
    with serving(log, store) as (client, address, _):
        ticks(log, [(T0 + 1, "AAPL", 2.0)])
        position = client.get("/v1/symbols").json()["position"]
        async with connect(address) as socket:
            await send(socket, action="subscribe", symbols=["AAPL"], channels=["ticks"], since=position)
            # The tick is after the position. It precedes `live`, unless the server's tail reads the tick later.
            found: list[dict[str, Any]] = []
            while {message["type"] for message in found} < {"ticks", "live"}:
                async with asyncio.timeout(PATIENCE.seconds(10)):
                    message = json.loads(await socket.recv())
                found += [message] if message["type"] in ("ticks", "live") else []
            assert [row[2] for message in found if message["type"] == "ticks" for row in message["rows"]] == [2.0]


async def test_an_invalid_message_gets_an_error_and_the_connection_stays_open(
    log: EventLog, store: MemoryStore
) -> None:
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            await socket.send("{")
            assert (await receive(socket, "error"))["code"] == "bad_json"
            await socket.send("[" * 2_000)
            assert (await receive(socket, "error"))["code"] == "bad_json"
            await send(socket, action="ping")
            await receive(socket, "pong")


async def test_a_client_that_does_not_read_is_dropped_without_effect_on_others(
    log: EventLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time is long enough for the client to read the reason.
    monkeypatch.setattr("tickerplant.api.websockets.server_protocol.ABORT_S", PATIENCE.seconds(30))
    batch = [(T0 + n, "AAPL", float(n)) for n in range(2_000)]
    with serving(log, store, stall_s=PATIENCE.seconds(1.0)) as (client, address, _):
        async with connect(address, max_queue=1, compression=None) as slow, connect(address) as fast:
            for socket in (slow, fast):
                await send(socket, action="subscribe", symbols=["*"], channels=["ticks", "bars"])
            await receive(fast, "snapshot")
            closed: list[int] = []
            for n in range(150):
                bars(log, [{"time": T0 + n * MINUTE, "symbol": "AAPL"}])
                await asyncio.to_thread(ticks, log, batch)
                while True:
                    async with asyncio.timeout(PATIENCE.seconds(10)):
                        message = json.loads(await fast.recv())
                    if message["type"] == "bars":
                        closed += [row[0] for row in message["rows"]]
                    if message["type"] == "ticks":
                        break
            while len(closed) < 150:  # bars and ticks are in two topics, so the order of the last rows varies
                closed += [row[0] for row in (await receive(fast, "bars"))["rows"]]
            await eventually(
                lambda: client.get("/v1/status").json()["stream"]["dropped"], "the slow client to be dropped"
            )
            await send(fast, action="ping")
            await receive(fast, "pong")
            assert closed == [T0 + n * MINUTE for n in range(150)]
            with pytest.raises(ConnectionClosed) as gone:
                await to_the_end(slow)
            assert gone.value.rcvd is not None
            assert gone.value.rcvd.code == 4008
            assert "too slow" in gone.value.rcvd.reason


async def test_a_wrong_key_closes_with_a_reason(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store, api_key="secret") as (_, address, _):
        async with connect(address) as socket:
            with pytest.raises(ConnectionClosed) as gone:
                await socket.recv()
            assert gone.value.rcvd is not None
            assert gone.value.rcvd.code == 4001
        async with connect(f"{address}?apikey=secret") as socket:
            await receive(socket, "welcome")


async def test_an_unreadable_record_is_skipped(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store) as (_, address, _):
        async with connect(address) as socket:
            await send(socket, action="subscribe", symbols=["*"], channels=["ticks", "status"])
            await receive(socket, "snapshot")
            with log.writer("x") as out, out.transaction() as transaction:
                transaction.append(schemas.RAW, 0, b"rubbish")
                header = records.FeedState(sent_at_us=T0, feed="f", state="down", since_us=T0, reason="mute")
                transaction.append(schemas.STATUS, 0, records.encode(header))
            event = (await receive(socket, "status"))["events"][0]
            assert (event["feed"], event["state"]) == ("f", "down")
            ticks(log, [(T0, "AAPL", 1.0)])
            assert await prices(socket, 1) == [1.0]
