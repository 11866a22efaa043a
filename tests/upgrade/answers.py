"""Collect the answers of any version's API on the fixture: those of REST routes, and WebSocket messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import websockets

from tests.support.waiting import PATIENCE

SPAN = "start=2026-03-04T15:00:00Z&end=2026-03-04T15:12:00Z"
ROUTES = (
    "/openapi.json",
    "/v1/symbols",
    "/v1/symbols?prefix=FILE",
    "/v1/symbols?format=csv",
    "/v1/status",
    f"/v1/ticks/FILEA?{SPAN}&limit=200",
    f"/v1/ticks/AAPL?{SPAN}&limit=200&times=us",
    f"/v1/ticks/EUR/USD?{SPAN}&limit=20&format=csv",
    *(f"/v1/intraday/{symbol}?interval={interval}&{SPAN}" for symbol in ("FILEA", "AAPL", "BTC/USD")
      for interval in ("1m", "5m", "15m")),
    f"/v1/intraday/AAPL?interval=20t&{SPAN}",
    f"/v1/intraday/AAPL?interval=1m&{SPAN}&format=csv&tz=America/New_York",
    f"/v1/intraday/AAPL?interval=1m&{SPAN}&limit=3&adjust=all&times=ms",
    "/v1/historical/FILEDAYS?limit=100",
    "/v1/historical/FILEDAYS?interval=1w&adjust=splits",
    "/v1/historical/MSFT?interval=1d&limit=50",
    f"/v1/analytics/AAPL?interval=1m&{SPAN}",
    f"/v1/analytics/FILEB?interval=5m&{SPAN}",
    "/v1/analytics/FILEDAYS?interval=1d&limit=100",
    "/v1/analytics/FILEDAYS?interval=1d&limit=5&format=csv",
    "/v1/realtime/AAPL",
    "/v1/realtime/FILEC",
    "/v1/realtime/FILEC?format=csv",
    f"/v1/realtime/FILEC?{SPAN}&limit=5",
    "/v1/indicators",
    "/v1/indicators/RSI",
    "/v1/indicators/TA_STOCH",
    "/v1/indicators/RSI/FILEDAYS?period=21&limit=5",
    "/v1/indicators/TA_STOCH/FILEDAYS?fastk_period=14&slowk_matype=ema&format=csv",
    f"/v1/indicators/MACD/AAPL?interval=1m&{SPAN}",
    "/v1/coverage?interval=1m&from=2026-03-04T15:00:00Z&to=2026-03-04T15:12:00Z",
    "/v1/coverage?interval=1d&from=2025-12-01&to=2026-03-04&format=csv",
    *(f"/v1/coverage/{symbol}?interval={interval}&from=2026-03-03T15:00:00Z&to=2026-03-04T15:12:00Z"
      for symbol in ("AAPL", "FILEA", "EUR/USD") for interval in ("1m", "5m", "1d")),
    "/v1/alerts",
    "/v1/alerts?symbol=AAPL",
    "/v1/alerts/firings",
    "/v1/alerts/firings?limit=3&start=2026-03-04T15:02:00Z",
    "/v1/alerts/none",
    "/health",
    "/v1/none",
    "/v1/intraday/AAPL?interval=7m",
    "/v1/intraday/NOSUCH",
    "/v1/symbols?prefx=A",
)  # fmt: skip
TIMED = {"tail_lag_s"}
"""Keys with values that depend on the time of the request."""
CHANNELS = ["ticks", "bars", "analytics", "alerts", "status"]
FREE_TEXT = {"description", "summary", "message", "hint", "detail", "title", "text", "sentence", "wrong", "note"}
"""Keys with texts for people. Their values may change; their presence may not."""


def without_texts(value: Any) -> Any:
    """Return JSON with "…" in place of the texts for people."""
    if isinstance(value, Mapping):
        return {
            key: "…" if key in TIMED or (key in FREE_TEXT and _is_text(found)) else without_texts(found)
            for key, found in value.items()
        }
    return [without_texts(one) for one in value] if isinstance(value, list) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def rest(url: str) -> dict[str, Any]:
    """Return status, content type, `x-` headers and body of each route, and the names of the metrics.

    A JSON body keeps the order of its keys.
    """
    found = {}
    with httpx.Client(base_url=url, timeout=PATIENCE.seconds(60)) as client:
        rules = [rule["id"] for rule in client.get("/v1/alerts").json()["alerts"]]
        for route in (*ROUTES, *(f"/v1/alerts/{id}" for id in rules), *(f"/v1/alerts/{id}/firings" for id in rules)):
            answer = client.get(route)
            kind = answer.headers["content-type"]
            body = json.dumps(without_texts(answer.json())) if "json" in kind else answer.text
            headers = {name: value for name, value in answer.headers.items() if name.startswith("x-")}
            found[route] = {"status": answer.status_code, "type": kind, "headers": headers, "body": body}
        names = {line.split("{")[0].split(" ")[0] for line in client.get("/metrics").text.splitlines()}
        found["/metrics"] = sorted(name for name in names if name.startswith("tickerplant_"))
    return found


def stream(url: str) -> dict[str, Any]:
    """Return the WebSocket messages: the snapshot of a fresh subscription, and all rows after position 0."""
    return asyncio.run(_stream(url.replace("http", "ws", 1) + "/v1/stream"))


async def _stream(url: str) -> dict[str, Any]:
    async with websockets.connect(url, max_size=None) as socket:
        welcome = json.loads(await socket.recv())
        await socket.send(json.dumps({"action": "subscribe", "symbols": ["*"], "channels": CHANNELS, "id": 1}))
        fresh = [json.loads(await socket.recv()) for _ in range(2)]
    zero = {topic: dict.fromkeys(offsets, 0) for topic, offsets in welcome["position"]["offsets"].items()}
    async with websockets.connect(url, max_size=None) as socket:
        await socket.recv()
        since = {**welcome["position"], "offsets": zero}
        await socket.send(json.dumps({"action": "subscribe", "symbols": ["*"], "channels": CHANNELS, "since": since}))
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1]["type"] != "live":
            messages.append(json.loads(await socket.recv()))
        await socket.send(json.dumps({"action": "ping", "id": "p"}))
        await socket.send(json.dumps({"action": "subscribe", "symbols": ["?"], "channels": ["nothing"]}))
        last = [message for message in [json.loads(await socket.recv()) for _ in range(2)]]
    return {
        "welcome": welcome,
        "fresh": [{name: _sorted(value) for name, value in message.items()} for message in fresh],
        "since": _by_symbol(messages),
        "last": without_texts(last),
    }


def _sorted(value: Any) -> Any:
    """Return a part of a snapshot with sorted rows, because their order depends on the order of partitions."""
    if isinstance(value, Mapping) and "rows" in value:
        return {**value, "rows": sorted(value["rows"], key=json.dumps)}
    if isinstance(value, list):
        return sorted((_sorted(one) for one in value), key=json.dumps)
    return value


def _by_symbol(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of all messages by type and symbol, the sorted status events, and the end offsets of each topic.

    The rows keep their order. The number of rows in a message, and their partitions, depend on the time of reading.
    """
    found: dict[str, Any] = {}
    ends: dict[str, dict[str, int]] = {}
    for message in messages:
        kind = message["type"]
        for partition, offset in message.get("offsets", {}).items():
            topic = ends.setdefault(message["topic"], {})
            topic[partition] = max(offset, topic.get(partition, 0))
        if "rows" in message:
            rest = {name: value for name, value in message.items() if name not in ("rows", "offsets")}
            symbol = message["columns"].index("symbol")
            for row in message["rows"]:
                key = f"{json.dumps(rest)} {row[symbol]}"
                found.setdefault(key, []).append(row)
        elif "events" in message:
            found.setdefault(f"{kind} {message.get('topic')}", []).extend(map(json.dumps, message["events"]))
        else:
            found.setdefault(kind, []).append(message)
    for key, rows in found.items():
        if key.startswith("status"):
            rows.sort()
    return {**dict(sorted(found.items())), "ends": {topic: dict(sorted(ends[topic].items())) for topic in sorted(ends)}}
