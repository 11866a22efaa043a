from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.api.support import MINUTE, T0, bar_batch, tick_batch, value_batch
from tests.core.samples import OPEN_US, samples
from tickerplant.api.positions import Position
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.outbox import Outbox, frames_of
from tickerplant.api.websockets.protocol import (
    Filter,
    Ping,
    Refusal,
    Subscribe,
    Unsubscribe,
    check_size,
    describe,
    pairs_of,
    parse_command,
)
from tickerplant.api.websockets.rows import DictionaryCache, StreamRecord, decode_record
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.version import make_version
from tickerplant.log.port import ConsumedRecord, Identity, TopicPartition

RAW0, BARS0 = TopicPartition(schemas.RAW, 0), TopicPartition(schemas.OHLCV, 0)


def log_record(topic: str, offset: int, header: records.Header, batch: object = None) -> StreamRecord:
    return decode_record(
        ConsumedRecord(topic, 0, offset, T0, memoryview(records.encode(header, batch))), DictionaryCache()
    )


def tick_record(offset: int, rows: list[tuple[int, str, float]], flags: int = 0) -> StreamRecord:
    header = records.Ticks(sent_at_us=T0, watermark_us=T0)
    return log_record(schemas.RAW, offset, header, tick_batch(rows, flags=flags))


def bar_record(offset: int, *rows: dict[str, object]) -> StreamRecord:
    return log_record(schemas.OHLCV, offset, records.Bars(sent_at_us=T0), bar_batch(list(rows)))


def make_hub(**options: int) -> Hub:
    return Hub(Identity("log", 1), {RAW0: 0, BARS0: 0}, **options)


def drain(client: Outbox) -> list[dict[str, Any]]:
    found = []
    while (text := client.pop()) is not None:
        found.append(json.loads(text))
    return found


def test_clients_with_equal_subscriptions_get_the_same_text() -> None:
    hub = make_hub()
    clients = [hub.join(lambda: None) for _ in range(3)]
    for client in clients:
        hub.subscribe(client, pairs_of(["ticks"], ["AAPL"]))
    hub.apply([tick_record(0, [(T0, "AAPL", 1.5), (T0, "MSFT", 2.5)])])
    texts = [client.pop() for client in clients]
    assert texts[0] is texts[1] is texts[2]
    frame = json.loads(texts[0] or "")
    assert frame["rows"] == [[T0, "AAPL", 1.5, 1.0, "test", None, 0, T0]]
    assert frame["offsets"] == {"0": 1}


def test_a_client_without_matching_rows_gets_no_message() -> None:
    hub = make_hub()
    client = hub.join(lambda: None)
    hub.subscribe(client, pairs_of(["bars.5m", "status"], ["AAPL"]))
    hub.apply([tick_record(0, [(T0, "AAPL", 1.0)]), bar_record(0, {"time": T0, "symbol": "AAPL"})])
    assert drain(client) == []
    hub.apply([bar_record(1, {"time": T0, "symbol": "AAPL", "interval": "5m"})])
    assert len(drain(client)) == 1


def test_a_slow_client_gets_every_closed_bar_and_the_newest_of_other_rows() -> None:
    hub = make_hub(soft_bytes=600)
    client = hub.join(lambda: None)
    hub.subscribe(client, pairs_of(["ticks", "bars"], ["*"]))
    for n in range(50):
        hub.apply([
            tick_record(n, [(T0 + n, "AAPL", float(n))]),
            bar_record(
                n,
                {"time": T0 + n * MINUTE, "symbol": "AAPL", "version": make_version(1, n)},
                {"time": T0 + (n + 1) * MINUTE, "symbol": "AAPL", "state": "forming", "version": make_version(1, n)},
            ),
        ])  # fmt: skip
    messages = drain(client)
    closed = [row[0] for m in messages if m["type"] == "bars" for row in m["rows"] if row[10] == "final"]  # type: ignore[attr-defined]
    assert closed == [T0 + n * MINUTE for n in range(50)]
    newest = json.loads(hub.conflated(client) or "")
    assert [row[2] for row in newest["ticks"]["rows"]] == [49.0]
    assert [row[0] for row in newest["bars"]["rows"]] == [T0 + 50 * MINUTE]
    assert newest["skipped"] > 40
    assert newest["position"]["offsets"][schemas.RAW] == {"0": 50}
    assert not client.conflating
    assert hub.conflated(client) is None


def test_a_client_that_never_reads_fails_and_uses_bounded_memory() -> None:
    hub = make_hub(soft_bytes=500, hard_bytes=5_000)
    client, other = hub.join(lambda: None), hub.join(lambda: None)
    for each in (client, other):
        hub.subscribe(each, pairs_of(["bars"], ["*"]))
    got = 0
    for n in range(100):
        hub.apply([bar_record(n, {"time": T0 + n * MINUTE, "symbol": "A"})])
        got += len(drain(other))
    assert client.failure is not None
    assert "too slow" in client.failure
    assert len(client) == 0
    assert got == 100


def test_last_tick_is_the_newest_that_may_set_a_price() -> None:
    hub = make_hub()
    hub.apply([tick_record(0, [(T0 + 5, "A", 5.0), (T0 + 3, "A", 3.0)])])
    hub.apply([tick_record(1, [(T0 + 9, "A", 9.0)], flags=int(TickFlag.NO_OHLC)), tick_record(2, [(T0, "A", 1.0)])])
    rows = hub.snapshot(Filter(pairs_of(["ticks"], ["A"])))["ticks"]["rows"]
    assert [row[2] for row in rows] == [5.0]


def test_snapshot_has_the_newest_bar_of_each_interval_and_no_withdrawn_one() -> None:
    hub = make_hub()
    hub.apply([
        bar_record(0, {"time": T0, "symbol": "A"}, {"time": T0 + MINUTE, "symbol": "A", "state": "forming"}),
        bar_record(1, {"time": T0, "symbol": "A", "interval": "5m", "state": "withdrawn", "version": 7}),
        bar_record(2, {"time": T0, "symbol": "B/C", "trades": None, "open": None}),
    ])  # fmt: skip
    found = hub.snapshot(Filter(pairs_of(["bars"], ["*"])))["bars"]["rows"]
    assert {(row[1], row[2], row[10]) for row in found} == {("A", "1m", "forming"), ("B/C", "1m", "final")}
    assert [row[9] for row in found if row[1] == "B/C"] == [None]


def test_a_withdrawn_bar_is_sent_once_and_the_bar_before_is_the_newest() -> None:
    hub = make_hub()
    client = hub.join(lambda: None)
    hub.subscribe(client, pairs_of(["bars"], ["A"]))
    base = {"symbol": "A", "version": make_version(1, 1)}
    nothing = {"open": None, "high": None, "low": None, "close": None, "volume": 0.0, "trades": 0, "state": "withdrawn"}
    hub.apply([
        bar_record(0, base | {"time": T0}, base | {"time": T0, "interval": "1d"}),
        bar_record(1, base | {"time": T0 + MINUTE, "state": "forming"}),
        bar_record(2, base | nothing | {"time": T0 + MINUTE, "version": make_version(1, 2)}),
    ])  # fmt: skip
    rows = [row for message in drain(client) for row in message["rows"]]
    assert rows[-1][:11] == [T0 + MINUTE, "A", "1m", None, None, None, None, 0.0, None, 0, "withdrawn"]

    def present(*channels: str) -> set[tuple[object, ...]]:
        found = hub.snapshot(Filter(pairs_of(channels, ["A"])))["bars"]["rows"]
        return {(row[0], row[2], row[10]) for row in found}

    assert present("bars") == {(T0, "1m", "final"), (T0, "1d", "final")}
    assert present("bars.1m") == {(T0, "1m", "final")}
    # The store is behind the log. Its older state changes nothing.
    hub.seed([bar_record(0, base | {"time": T0 + MINUTE, "state": "forming"})])
    assert present("bars.1m") == {(T0, "1m", "final")}
    hub.apply([bar_record(3, base | nothing | {"time": T0, "version": make_version(1, 3)})])
    assert present("bars.1m") == set()
    hub.apply([bar_record(4, base | {"time": T0 + MINUTE, "state": "forming", "version": make_version(1, 4)})])
    assert present("bars.1m") == {(T0 + MINUTE, "1m", "forming")}


def test_a_slow_client_gets_a_withdrawal_and_no_forming_state_after_it() -> None:
    hub = make_hub(soft_bytes=1)
    client = hub.join(lambda: None)
    hub.subscribe(client, pairs_of(["bars"], ["A"]))
    for n, state in enumerate(("forming", "forming", "withdrawn")):
        row = {"time": T0, "symbol": "A", "state": state, "version": make_version(1, n)}
        hub.apply([bar_record(n, row)])
    states = [row[10] for message in drain(client) for row in message["rows"]]
    assert states == ["forming", "withdrawn"]
    assert json.loads(hub.conflated(client) or "")["bars"]["rows"] == []


def test_values_of_a_withdrawn_bar_are_removed_and_earlier_ones_stay() -> None:
    hub = make_hub()

    def publish(offset: int, time: int, state: str, outputs: tuple[str, ...] = ("rsi_14", "sma_20")) -> None:
        row = {"time": time, "symbol": "A", "state": state, "version": make_version(1, offset), "rsi_14": 50.0 + offset}
        if state == "withdrawn":
            row["rsi_14"] = None
        header = records.Values(sent_at_us=T0)
        hub.apply([log_record(schemas.ANALYTICS, offset, header, value_batch([row], outputs))])

    def present() -> list[tuple[object, ...]]:
        tables = hub.snapshot(Filter(pairs_of(["analytics"], ["A"])))["analytics"]
        return [(row[0], row[3], row[5]) for table in tables for row in table["rows"]]

    publish(0, T0, "forming", ("rsi_14",))
    publish(1, T0, "final")
    publish(2, T0 + MINUTE, "forming", ("rsi_14",))
    assert present() == [(T0, "final", 51.0), (T0 + MINUTE, "forming", 52.0)]
    publish(3, T0 + MINUTE, "withdrawn")
    assert present() == [(T0, "final", 51.0)]
    publish(4, T0, "withdrawn")
    assert present() == []
    publish(5, T0, "final")
    assert present() == [(T0, "final", 55.0)]


def test_values_with_other_columns_are_in_separate_messages() -> None:
    parts = [
        log_record(
            schemas.ANALYTICS, n, records.Values(sent_at_us=T0), value_batch([{"time": T0, "symbol": "A"}], outputs)
        )
        for n, outputs in enumerate([("rsi_14",), ("rsi_14",), ("sma_20",), ("rsi_14",)])
    ]
    frames = [json.loads(frame.text) for frame in frames_of(Filter(pairs_of(["analytics"], ["*"])), parts)]
    assert [frame["offsets"]["0"] for frame in frames] == [2, 3, 4]
    assert [frame["columns"][-1] for frame in frames] == ["rsi_14", "sma_20", "rsi_14"]
    assert frames[0]["rows"][0][-1] is None


def test_status_has_source_differences_and_late_ticks_keep_the_feed_state() -> None:
    hub, status = make_hub(), Filter(pairs_of(["status"], ["*"]))
    differing = samples()["differences"]
    up = records.FeedState(sent_at_us=T0, feed="f", state="up", since_us=T0)
    late = records.FeedState(sent_at_us=T0, feed="f", state="late", since_us=T0, count=4)
    parts = [
        log_record(schemas.STATUS, n, header, batch)
        for n, (header, batch) in enumerate([(up, None), (late, None), (differing.header, differing.batch)])
    ]
    client = hub.join(lambda: None)
    hub.subscribe(client, pairs_of(["status"], []))
    hub.apply(parts)
    events = drain(client)[0]["events"]
    assert [(event["event"], event.get("count")) for event in events] == [
        ("feed", 0), ("feed", 4), ("differences", 2),
    ]  # fmt: skip
    first = events[2]["bars"][0]
    assert [first[name] for name in ("symbol", "interval", "source", "other_source")] == [
        "GOOG", "1m", "vendor", "ticks",
    ]  # fmt: skip
    assert (first["time_us"], first["high"], first["other_high"]) == (OPEN_US, 12.0, 12.5)
    assert [feed["state"] for feed in hub.snapshot(status)["status"]] == ["up"]


def test_recent_returns_all_records_from_a_position_or_none() -> None:
    hub = make_hub(ring_records=3)
    hub.apply([tick_record(n, [(T0 + n, "A", 1.0)]) for n in range(10)])
    assert [p.offset for p in hub.recent({RAW0: 8}) or []] == [8, 9]
    assert hub.recent({RAW0: 6}) is None
    hub.apply([tick_record(9, [(T0, "A", 1.0)])])
    assert hub.counters.records == 10  # a repeated record is applied once


def test_an_added_subscription_sends_only_new_rows() -> None:
    wanted = Filter(pairs_of(["ticks"], ["*"]), without=pairs_of(["ticks"], ["A"]))
    frames = frames_of(wanted, [tick_record(0, [(T0, "A", 1.0), (T0, "B", 2.0)])])
    assert [row[1] for row in json.loads(frames[0].text)["rows"]] == ["B"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "bad_json"),
        ("[]", "bad_json"),
        ('{"action":"buy"}', "unknown_action"),
        ('{"action":"subscribe"}', "no_symbols"),
        ('{"action":"subscribe","symbols":["A"],"channels":["quotes"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":["bars.5d"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":["bars.7m"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":["bars.15m"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":["analytics.1w"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":["ticks.100t"]}', "unknown_channel"),
        ('{"action":"subscribe","symbols":["A"],"channels":[]}', "bad_channels"),
        ('{"action":"subscribe","symbols":["a b"]}', "bad_symbols"),
        ('{"action":"subscribe","symbols":["A"],"since":5}', "bad_since"),
        (json.dumps({"action": "subscribe", "symbols": [f"S{n}" for n in range(1001)]}), "too_many_symbols"),
    ],
)
def test_an_invalid_message_gets_a_code_and_a_message(text: str, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_command(text)
    assert refused.value.code == code
    assert len(refused.value.message) > 10


@pytest.mark.parametrize(
    ("channels", "symbols", "code"),
    [
        ([f"bars.{number + 1}t" for number in range(300)], 1_000, "too_many_channels"),
        (["ticks"] * 60_000, 1_000, "too_many_channels"),
        ([f"bars.{number + 1}t" for number in range(64)], 1_000, "too_many_pairs"),
    ],
)
def test_a_command_has_a_bounded_number_of_pairs(channels: list[str], symbols: int, code: str) -> None:
    names = [f"S{number}" for number in range(symbols)]
    with pytest.raises(Refusal) as refused:
        parse_command(json.dumps({"action": "subscribe", "symbols": names, "channels": channels}))
    assert refused.value.code == code


def test_all_commands_of_a_connection_together_have_bounded_numbers() -> None:
    names = [f"S{number}" for number in range(200)]
    subscription = pairs_of([f"bars.{number + 1}t" for number in range(60)], names)
    check_size(subscription)
    with pytest.raises(Refusal, match="12,200 pairs"):
        check_size(subscription | pairs_of(["ticks"], names))
    few = pairs_of([f"bars.{number + 1}t" for number in range(60)], ["A"])
    with pytest.raises(Refusal, match="65 channels"):
        check_size(few | pairs_of([f"analytics.{number + 1}t" for number in range(5)], ["A"]))


def test_long_texts_of_a_refused_command_are_cut() -> None:
    long = "x" * 200_000
    for message in ({"action": long}, {"action": "subscribe", "symbols": [long]},
                    {"action": "subscribe", "symbols": ["A"], "channels": [long]}):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            parse_command(json.dumps(message))
        assert len(refused.value.message) < 600


def test_the_cost_of_a_subscription_is_linear() -> None:
    """Compare the CPU times of two sizes: 8 times the pairs must take less than 16 times as long."""
    hub = make_hub()
    rows = [{"time": T0, "symbol": f"S{n}", "interval": f"{k + 1}t"} for n in range(1_000) for k in range(8)]
    hub.apply([bar_record(0, *rows)])
    channels = [f"bars.{number + 1}t" for number in range(8)]

    def cost(symbols: int) -> float:
        text = json.dumps({
            "action": "subscribe", "symbols": [f"S{n}" for n in range(symbols)], "channels": channels,
        })  # fmt: skip
        times = []
        for _ in range(5):
            client = hub.join(lambda: None)
            began = time.thread_time()
            command = parse_command(text)
            assert isinstance(command, Subscribe)
            check_size(client.subscription | command.pairs)
            describe(command.pairs)
            hub.snapshot(Filter(command.pairs))
            hub.subscribe(client, command.pairs)
            times.append(time.thread_time() - began)
            hub.leave(client)
        return min(times)

    assert cost(1_000) < 16 * cost(125)


def test_a_channel_may_have_any_activity_interval() -> None:
    found = parse_command('{"action":"subscribe","symbols":["A"],"channels":["bars.100t","analytics.1000000d"]}')
    assert isinstance(found, Subscribe)
    hub = make_hub()
    client = hub.join(lambda: None)
    hub.subscribe(client, found.pairs)
    rows = [{"time": T0 + n, "symbol": "A", "interval": name} for n, name in enumerate(("100t", "1m", "10000v"))]
    hub.apply([bar_record(0, *rows)])
    (frame,) = drain(client)
    assert [row[:3] for row in frame["rows"]] == [[T0, "A", "100t"]]
    assert [row[2] for row in hub.snapshot(Filter(found.pairs))["bars"]["rows"]] == ["100t"]
    everything = hub.snapshot(Filter(pairs_of(["bars.100t"], ["*"])))
    assert [row[2] for row in everything["bars"]["rows"]] == ["100t"]
    left = parse_command('{"action":"unsubscribe","channels":["bars.100t"]}')
    assert isinstance(left, Unsubscribe)
    assert describe(left.apply(found.pairs)) == {"analytics.1000000d": ["A"]}


def test_commands_are_parsed() -> None:
    position = Position.of("log", 1, {RAW0: 5})
    found = parse_command(json.dumps({"action": "subscribe", "symbols": "aapl,EUR/USD", "since": position.json()}))
    assert isinstance(found, Subscribe)
    assert found.since == position
    assert describe(found.pairs)["ticks"] == ["AAPL", "EUR/USD"]
    message = {"action": "subscribe", "symbols": ["A"], "since": json.loads(position.json())}
    as_object = parse_command(json.dumps(message))
    assert isinstance(as_object, Subscribe)
    assert as_object.since == position
    assert parse_command('{"action":"ping","id":7}') == Ping(7)
    left = parse_command('{"action":"unsubscribe","channels":["bars"]}')
    assert isinstance(left, Unsubscribe)
    assert describe(left.apply(pairs_of(["bars.1m", "ticks"], ["A"]))) == {"ticks": ["A"]}
