"""Alert rules over REST, and alerts on the stream, with a real database and log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.alerts.support import T0, fire
from tests.api.support import PARTITIONS, serving
from tests.support.waiting import PATIENCE
from tickerplant.analytics.alerts.rule_operands import check_rule
from tickerplant.api.alert_rules import AlertLimits, check_webhook
from tickerplant.api.fair_places import PlaceLimits
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput
from tickerplant.log.port import EventLog

SECRET = "sixteen letters!"
RULE = {"symbol": "aapl", "interval": "5m", "left": "rsi(14)", "operator": "crosses_above", "right": 70}


@pytest.fixture
def client(log: EventLog, dsn: str) -> Iterator[httpx.Client]:
    with serving(log, StoreReader(dsn, log.identity()), check_rule=check_rule) as (client, url, _):
        client.headers["X-Stream"] = url
        yield client


def rules_in(log: EventLog) -> list[records.AlertRule]:
    with log.reader([schemas.RAW]) as reader:
        found = [records.decode(delivery.value).header for delivery in reader.poll(timeout_s=0.5)]
    return [header for header in found if isinstance(header, records.AlertRule)]


def test_a_rule_is_stored_published_changed_and_removed(client: httpx.Client, log: EventLog) -> None:
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
    published = rules_in(log)
    assert [one.rule.revision for one in published if not one.removed] == [1, 2, 3, 4]
    assert [one.rule.revision for one in published if one.removed] == [5] * PARTITIONS, (
        "the removal reaches every partition"
    )
    assert not any("example" in str(one) or SECRET in str(one) for one in published), (
        "the log contains neither webhook URL nor secret"
    )


def test_changes_of_rules_have_a_limit_of_their_own(log: EventLog, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickerplant.api.state.WRITING", PlaceLimits(running=0, waiting=0, waiting_of_client=1))
    with serving(log, StoreReader(dsn, log.identity()), check_rule=check_rule) as (client, _, _):
        answers = [
            client.post("/v1/alerts", json=RULE),
            client.patch("/v1/alerts/0123456789ab", json={"active": False}),
            client.delete("/v1/alerts/0123456789ab"),
        ]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert [answer.json()["error"]["code"] for answer in answers] == ["busy"] * 3
        assert client.get("/v1/alerts").json()["count"] == 0
        assert "3 requests refused, because too many waited" in client.get("/health").text


def test_symbol_and_interval_of_a_rule_cannot_change(client: httpx.Client, log: EventLog) -> None:
    rule = client.post("/v1/alerts", json=RULE).json()
    path = f"/v1/alerts/{rule['id']}"
    for other in ({"symbol": "MSFT"}, {"interval": "1m"}, {"symbol": "MSFT", "right": 5}):
        answer = client.patch(path, json=other)
        assert (answer.status_code, "create another rule" in answer.json()["error"]["message"]) == (400, True)
    assert client.get(path).json() == rule
    again = client.patch(path, json=RULE | {"symbol": "Aapl", "interval": "5min", "right": 60}).json()
    assert (again["revision"], again["right"]) == (2, "60"), "symbol and interval may be written in another way"
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
def test_an_invalid_rule_is_refused_with_a_reason(
    client: httpx.Client, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = client.post("/v1/alerts", json=RULE | body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]["message"]
    assert client.get("/v1/alerts").json()["count"] == 0


def test_other_sites_cannot_write_and_errors_name_the_allowed_methods(client: httpx.Client) -> None:
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


def test_the_number_of_rules_is_bounded(log: EventLog, dsn: str) -> None:
    reader = StoreReader(dsn, log.identity())
    with serving(log, reader, check_rule=check_rule, alert_limits=AlertLimits(max_rules=3)) as (client, _, _):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/alerts", json=RULE), range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [400] * 5
        refused = next(answer for answer in answers if answer.status_code == 400)
        assert "alerts.max_rules" in refused.json()["error"]["message"]
        rules = client.get("/v1/alerts").json()["alerts"]
        assert len(rules) == 3
        assert client.patch(f"/v1/alerts/{rules[0]['id']}", json={"right": 60}).status_code == 200
        assert client.delete(f"/v1/alerts/{rules[0]['id']}").status_code == 204
        assert client.post("/v1/alerts", json=RULE).status_code == 201


def test_a_fired_alert_is_sent_on_the_stream(client: httpx.Client, log: EventLog) -> None:
    with connect(client.headers["X-Stream"]) as socket:
        socket.send(json.dumps({"action": "subscribe", "symbols": ["AAPL"], "channels": ["alerts"]}))
        while json.loads(socket.recv(timeout=PATIENCE.seconds(10)))["type"] != "snapshot":
            pass
        fire(log, "rule", T0 + 7, symbol="MSFT")
        names = fire(log, "rule", T0, T0 + 1)
        frame = json.loads(socket.recv(timeout=PATIENCE.seconds(10)))
    assert (frame["type"], frame["topic"]) == ("alerts", "market.alerts")
    rows = [dict(zip(frame["columns"], row, strict=True)) for row in frame["rows"]]
    assert [(row["alert_id"], row["symbol"], row["left"]) for row in rows] == [(n, "AAPL", 71.0) for n in names]
    assert rows[0]["time_us"] == T0


def test_a_webhook_address_must_be_valid() -> None:
    for url in ("http:///x", "http://x:0/", "http://x y/", "http://[::1", "http://é/"):
        with pytest.raises(BadInput):
            check_webhook(url, None)
    check_webhook("http://[::1]:80/x?y=z", None)
