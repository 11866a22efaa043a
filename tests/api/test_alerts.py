"""Alert rules over REST, alerts on the stream, and webhooks to a real receiver, with a real database and log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncpg
import httpx
import numpy as np
import pyarrow as pa
import pytest
from websockets.sync.client import connect

from tests.api.support import PARTITIONS, T0, serving
from tests.support.waiting import PATIENCE, until
from tickerplant.analytics.alerts.rule_operands import check_rule
from tickerplant.api.alert_rules import check_webhook
from tickerplant.api.store_reader import Source
from tickerplant.api.webhook_client import _is_public, signature
from tickerplant.api.webhooks import MAX_BACKOFF_S, WebhookOptions, backoff_s
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import timestamps
from tickerplant.log.port import EventLog

SECRET = "sixteen letters!"
RULE = {"symbol": "aapl", "interval": "5m", "left": "rsi(14)", "operator": "crosses_above", "right": 70}


@pytest.fixture
def client(log: EventLog, dsn: str) -> Iterator[httpx.Client]:
    source = Source(dsn, log.identity())
    options = WebhookOptions(timeout_s=1.0, hours=24.0)
    with serving(log, source, check_rule=check_rule, webhooks=options) as (client, url, _):
        client.headers["X-Stream"] = url
        yield client


def rules_in(log: EventLog) -> list[records.AlertRule]:
    with log.reader([schemas.RAW]) as reader:
        found = [records.decode(delivery.value).header for delivery in reader.poll(timeout_s=0.5)]
    return [header for header in found if isinstance(header, records.AlertRule)]


def fire(log: EventLog, rule: str, *times: int, symbol: str = "AAPL") -> list[str]:
    n, names = len(times), [f"{rule}.1.{at}.0" for at in times]

    def text(value: str, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * n).dictionary_encode().cast(kind)

    columns = [
        pa.array(names), pa.array([rule] * n), pa.array([1] * n, pa.int32()), timestamps(np.array(times)),
        text(symbol, schemas.TEXT), text("5m", schemas.SMALL_TEXT), pa.array(["RSI(14) crosses_above 70"] * n),
        pa.array([71.0] * n), pa.array([70.0] * n), text("final", schemas.SMALL_TEXT), pa.array([False] * n),
        pa.array([9] * n),
    ]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(columns, schema=schemas.ALERT)
    with log.writer("analytics") as writer, writer.transaction() as transaction:
        header = records.Alerts(sent_at_us=T0, cause=9)
        transaction.append(schemas.ALERTS, partition_of(symbol, PARTITIONS), records.encode(header, batch))
    return names


def query(dsn: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(run())


def failed(dsn: str) -> int:
    [(number,)] = query(dsn, "SELECT count(*) FROM alert_webhooks WHERE state = 'failed'")
    return int(number)


@contextmanager
def receiver(answer: Callable[[int], int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that answers the n-th POST (from 1) with a status, or never for 0; and what it got."""
    got: list[tuple[dict[str, str], bytes]] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            status = answer(len(got))
            if status:
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                over.wait()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_rule_is_kept_told_to_the_log_changed_and_removed(client: httpx.Client, log: EventLog) -> None:
    answer = client.post("/v1/alerts", json=RULE | {"webhook": "https://example.com/x", "secret": SECRET})
    assert answer.status_code == 201
    rule = answer.json()
    assert (rule["symbol"], rule["left"], rule["right"], rule["in_log"]) == ("AAPL", "RSI(14)", "70", True)
    assert (rule["rule"], rule["signed"]) == ("RSI(14) crosses_above 70", True)
    assert SECRET not in answer.text
    path = f"/v1/alerts/{rule['id']}"
    assert client.get(path).json() == rule
    assert client.get("/v1/alerts", params={"symbol": "AAPL"}).json()["alerts"] == [rule]
    assert client.get("/v1/alerts", params={"symbol": "MSFT"}).json()["count"] == 0
    changed = client.patch(path, json={"right": "SMA(5)", "left": "close"}).json()
    assert (changed["revision"], changed["rule"], changed["signed"]) == (2, "close crosses_above SMA(5)", True)
    same = client.patch(path, json={"webhook": None}).json()
    assert (same["revision"], same["webhook"], same["signed"]) == (2, None, False)
    assert client.patch(path, json={"active": False}).json()["revision"] == 3
    assert client.patch(path, json={"active": True}).json()["active"] is True
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == client.get(path).status_code == 404
    told = rules_in(log)
    assert [one.rule.revision for one in told if not one.removed] == [1, 2, 3, 4]
    assert [one.rule.revision for one in told if one.removed] == [5] * PARTITIONS, "gone wherever it may be known"
    assert not any("example" in str(one) or SECRET in str(one) for one in told), "the log knows no receiver"


def test_a_rule_stays_with_its_symbol_and_interval(client: httpx.Client, log: EventLog) -> None:
    rule = client.post("/v1/alerts", json=RULE).json()
    path = f"/v1/alerts/{rule['id']}"
    for other in ({"symbol": "MSFT"}, {"interval": "1m"}, {"symbol": "MSFT", "right": 5}):
        answer = client.patch(path, json=other)
        assert (answer.status_code, "make another rule" in answer.json()["error"]["message"]) == (400, True)
    assert client.get(path).json() == rule
    again = client.patch(path, json=RULE | {"symbol": "Aapl", "interval": "5min", "right": 60}).json()
    assert (again["revision"], again["right"]) == (2, "60"), "the same in other words is no other"
    assert [one.rule.symbol for one in rules_in(log)] == ["AAPL"] * 2


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"left": "FOO(1)"}, 400, "unknown indicator"),
        ({"operator": "over"}, 400, "crosses_above"),
        ({"webhook": "ftp://x/"}, 400, "http://"),
        ({"webhook": "http://u:p@x/"}, 400, "password"),
        ({"secret": SECRET}, 400, "webhook"),
        ({"webhook": "http://x/", "secret": "short"}, 400, "16 to 256"),
        ({"colour": "red"}, 400, "colour"),
        ({"bars": "x"}, 400, "bars"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_a_sentence(
    client: httpx.Client, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = client.post("/v1/alerts", json=RULE | body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]["message"]
    assert client.get("/v1/alerts").json()["count"] == 0


def test_a_page_of_another_site_cannot_write_and_paths_say_what_they_take(client: httpx.Client) -> None:
    text = client.post("/v1/alerts", content=json.dumps(RULE), headers={"Content-Type": "text/plain"})
    assert (text.status_code, text.json()["error"]["code"]) == (415, "not_json")
    large = client.post("/v1/alerts", content=b" " * 20_000, headers={"Content-Type": "application/json"})
    assert large.status_code == 413
    put = client.put("/v1/alerts", json=RULE)
    assert (put.status_code, put.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert client.post("/v1/alerts/x", json=RULE).headers["Allow"] == "GET, HEAD, PATCH, DELETE"
    assert client.post("/v1/alerts/x/firings", json=RULE).headers["Allow"] == "GET, HEAD"
    query = {"symbol": "AAPL", "start": "2026-03-09", "end": "2026-03-10", "limit": "5"}
    assert client.get("/v1/alerts/firings", params=query).json()["firings"] == []
    del query["symbol"]
    assert client.get("/v1/alerts/x/firings", params=query).json()["count"] == 0


def test_an_alert_is_on_the_stream_and_posted_signed_once(client: httpx.Client, log: EventLog) -> None:
    with receiver(lambda n: 200) as (url, got):
        rule = client.post("/v1/alerts", json=RULE | {"webhook": url, "secret": SECRET}).json()["id"]
        with connect(client.headers["X-Stream"]) as socket:
            socket.send(json.dumps({"action": "subscribe", "symbols": ["AAPL"], "channels": ["alerts"]}))
            while json.loads(socket.recv(timeout=PATIENCE.seconds(10)))["type"] != "snapshot":
                pass
            fire(log, rule, T0 + 7, symbol="MSFT")
            names = fire(log, rule, T0, T0 + 1)
            frame = json.loads(socket.recv(timeout=PATIENCE.seconds(10)))
            assert (frame["type"], frame["topic"]) == ("alerts", "market.alerts")
            rows = [dict(zip(frame["columns"], row, strict=True)) for row in frame["rows"]]
            assert [(row["alert_id"], row["symbol"], row["left"]) for row in rows] == [(n, "AAPL", 71.0) for n in names]
            assert rows[0]["time_us"] == T0
        until(lambda: len(got) == 3)
        fire(log, rule, T0)  # the same crossing again is the same alert
        fire(log, "unknown", T0)
        (marker,) = fire(log, rule, T0 + 9)
        until(lambda: marker in [one[0]["X-Tickerplant-Alert-Id"] for one in got], "the alert after those")
        assert len(got) == 4
    headers, body = next(one for one in got if one[0]["X-Tickerplant-Alert-Id"] == names[0])
    alert = json.loads(body)
    assert (alert["alert_id"], alert["symbol"], alert["left"]) == (names[0], "AAPL", 71.0)
    assert alert["time"] == "2026-03-09T13:30:00Z"
    stamp, digest = (part.split("=")[1] for part in headers["X-Tickerplant-Signature"].split(","))
    assert digest == hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert abs(int(stamp) - time.time()) < 60


def test_what_is_not_taken_is_tried_again_and_a_slow_receiver_delays_no_other(
    client: httpx.Client, log: EventLog, dsn: str
) -> None:
    statuses = {1: 500, 2: 302, 3: 204}
    with receiver(lambda n: 0) as (slow, asked), receiver(lambda n: statuses.get(n, 200)) as (url, got):
        hang = client.post("/v1/alerts", json=RULE | {"webhook": slow}).json()["id"]
        rule = client.post("/v1/alerts", json=RULE | {"webhook": url}).json()["id"]
        fire(log, hang, *(T0 + n for n in range(40)))
        fire(log, rule, T0)
        until(lambda: got)
        assert len(asked) < 40, "it waited for those that never answer"
        until(lambda: len(got) == 3)
        assert "X-Tickerplant-Signature" not in got[0][0]
    assert query(dsn, "SELECT count(*) FROM alert_webhooks WHERE state = 'pending'") == [(40,)]
    text = client.get("/metrics").text
    assert "tickerplant_alert_webhooks_delivered_total 1.0" in text


def test_a_receiver_that_is_gone_for_good_and_a_rule_that_is_removed_are_given_up(
    client: httpx.Client, log: EventLog, dsn: str
) -> None:
    with receiver(lambda n: 410) as (url, got):
        rule = client.post("/v1/alerts", json=RULE | {"webhook": url}).json()["id"]
        fire(log, rule, T0)
        until(lambda: got)
        until(lambda: failed(dsn) == 1)
    other = client.post("/v1/alerts", json=RULE | {"webhook": url}).json()["id"]
    fire(log, other, T0)
    until(lambda: "failed_attempts_total 2.0" in client.get("/metrics").text)
    client.delete(f"/v1/alerts/{other}")
    until(lambda: failed(dsn) == 2)


def test_private_addresses_are_refused_where_they_are_not_allowed(log: EventLog, dsn: str) -> None:
    options = WebhookOptions(timeout_s=1.0, private=False)
    with (
        receiver(lambda n: 200) as (url, got),
        serving(log, Source(dsn, log.identity()), check_rule=check_rule, webhooks=options) as (client, _, _),
    ):
        local = url.replace("127.0.0.1", "localhost")
        for one in (url, local):
            fire(log, client.post("/v1/alerts", json=RULE | {"webhook": one}).json()["id"], T0)
        errors = "SELECT error FROM alert_webhooks WHERE error <> ''"
        until(lambda: len(query(dsn, errors)) == 2)
        assert all("no public address" in error for (error,) in query(dsn, errors))
        assert got == []


def test_public_addresses_are_told_from_others() -> None:
    assert all(map(_is_public, ("93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8")))
    bad = ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1",
           "0.0.0.0", "224.0.0.1", "100.64.0.1", "x")  # fmt: skip
    assert not any(map(_is_public, bad))


def test_the_pauses_grow_and_are_capped() -> None:
    assert all(0.5 <= backoff_s(1) <= 1.0 for _ in range(20))
    assert all(8.0 <= backoff_s(5) <= 16.0 for _ in range(20))
    assert max(backoff_s(n) for n in range(1, 200)) <= MAX_BACKOFF_S


def test_a_signature_is_of_time_and_body() -> None:
    assert signature("k" * 16, b"{}", 7) == ("t=7,v1=" + hmac.new(b"k" * 16, b"7.{}", hashlib.sha256).hexdigest())
    for url in ("http:///x", "http://x:0/", "http://x y/", "http://[::1", "http://é/"):
        with pytest.raises(BadInput):
            check_webhook(url, None)
    check_webhook("http://[::1]:80/x?y=z", None)
