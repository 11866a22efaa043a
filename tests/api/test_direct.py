"""Requests that skip FastAPI's solver get the same answers as requests that use it."""

from __future__ import annotations

import pytest

from tests.api.support import T0, MemoryStore, bar_batch, serving, tick_batch
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.http.direct import DirectCall
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.main import ROUTES
from tickerplant.core.rules import Rules
from tickerplant.log.embedded.log import EmbeddedLog

MINUTE = 60_000_000
PATHS = (
    "/v1/intraday/AAPL", "/v1/intraday/aapl?limit=3&tz=America/New_York", "/v1/intraday/AAPL?limit=2&format=csv",
    "/v1/intraday/AAPL?limit=2&times=ms&adjust=all", "/v1/intraday/EUR/USD?limit=5", "/v1/intraday/EUR%2FUSD",
    f"/v1/intraday/AAPL?start={T0}&end={T0 + 3 * MINUTE}&limit=2", "/v1/intraday/AAPL?interval=15m",
    "/v1/historical/AAPL?interval=1w", "/v1/historical/AAPL", "/v1/ticks/AAPL?limit=2&skip=1", "/v1/realtime/AAPL",
    "/v1/realtime/AAPL?limit=2", "/v1/realtime/AAPL?format=csv", "/v1/indicators", "/v1/indicators/RSI",
    "/v1/indicators/SMA/AAPL?interval=1m&limit=2", "/v1/indicators/SMA/AAPL?interval=1m&period=2",
    "/v1/coverage/AAPL?from=2026-03-09&to=2026-03-10", "/v1/symbols?prefix=AA",
    # invalid requests
    "/v1/intraday/AAPL?limit=0", "/v1/intraday/AAPL?limit=many", "/v1/intraday/AAPL?limit=2.0",
    "/v1/intraday/AAPL?limit=%C2%B2", "/v1/intraday/AAPL?limit=", "/v1/intraday/AAPL?limit=1&limit=2",
    "/v1/intraday/AAPL?format=xml", "/v1/intraday/AAPL?times=", "/v1/intraday/AAPL?lmit=2", "/v1/intraday/AAPL?tz=Mars",
    "/v1/intraday/AAPL?interval=1d", "/v1/intraday/NONE", "/v1/intraday/", "/v1/indicators/NONE/AAPL",
    "/v1/indicators/SMA/AAPL?period=2&period=3", "/v1/alerts/none", "/v1/nothing",
)  # fmt: skip


def test_both_ways_give_the_same_answer(log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"time": T0 + n * MINUTE, "symbol": symbol, "close": None if n == 2 else 1.5 + n, "interval": interval}
        for symbol in ("AAPL", "EUR/USD")
        for interval in ("1m", "5m")
        for n in range(0, 10, 5 if interval == "5m" else 1)
    ]
    daily = [{"time": T0 - T0 % 86_400_000_000, "symbol": "AAPL", "interval": "1d"}]
    store.tables["ohlcv"] = store.tables["ohlcv"].from_batches([bar_batch(rows + daily)])
    ticks = tick_batch([(T0 + n, "AAPL", 1.0 + n) for n in range(5)])
    store.tables["prices"] = store.tables["prices"].from_batches([ticks])
    with serving(log, store, indicators=OnDemand(Rules()), now_us=lambda: T0 + 20 * MINUTE) as (client, _, _):

        def answers() -> dict[str, tuple[int, bytes, list[tuple[str, str]]]]:
            got = {path: client.get(path) for path in PATHS}
            return {
                path: (one.status_code, one.content, [item for item in one.headers.items() if item[0] != "date"])
                for path, one in got.items()
            }

        direct = answers()
        monkeypatch.setattr(DirectCall, "bind", lambda *_: None)
        assert direct == answers()
        assert {status for status, _, _ in direct.values()} >= {200, 400, 404}


def test_every_reading_route_can_be_called_directly() -> None:
    routes = [route for module in ROUTES for route in module.router.routes if isinstance(route, LaneRoute)]
    for route in routes:
        if "GET" in route.methods:
            DirectCall(route)
