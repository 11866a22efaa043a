"""A bar whose prints are all cancelled disappears from tables, REST, stream and indicator values.

The log and the database are real.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.api.support import MINUTE, T0, bar_batch, serving
from tests.support.waiting import PATIENCE, eventually
from tickerplant.analytics import compute
from tickerplant.analytics.service import Analytics
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import records, schemas
from tickerplant.core.version import make_version
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.persistence.service import Persistence
from tickerplant.store import Store

DAY = T0 - T0 % (1440 * MINUTE)
INDICATORS = ("SMA(20)", "RSI(14)")
NOTHING = dict.fromkeys(("open", "high", "low", "close", "vwap")) | {
    "volume": 0.0, "trades": 0, "state": "withdrawn", "complete": False, "reason": "cancel",
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(tmp_path / "market.log") as opened:
        opened.create_topics(schemas.TOPICS, 2)
        yield opened


@pytest.fixture
def analytics(log: EmbeddedLog) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=Analytics(log).run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join(PATIENCE.seconds(20))


class Bars:
    """Writer of bars that replaces the aggregation service. Each record has the next version."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._writer = log.writer("aggregation")
        self._version = 0

    @property
    def version(self) -> int:
        """Return the version of the last record."""
        return make_version(1, self._version)

    def put_settings(self, **values: Any) -> None:
        """Append a settings record."""
        with self._writer.transaction() as transaction:
            transaction.append(schemas.OHLCV, 1, records.encode(records.Settings(sent_at_us=T0, values=values)))

    def put(self, *rows: dict[str, Any]) -> None:
        self._version += 1
        batch = bar_batch([{"symbol": "A", "version": self.version} | row for row in rows])
        with self._writer.transaction() as transaction:
            value = records.encode(records.Bars(sent_at_us=T0, cause=self.version), batch)
            transaction.append(schemas.OHLCV, 1, value)


def bar(n: int, price: float, interval: str = "1m", **more: Any) -> dict[str, Any]:
    length = {"1m": 1, "5m": 5}[interval] * MINUTE
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    return {"time": T0 + n * length, "interval": interval, **prices, **more}


async def snapshot(socket: ClientConnection) -> dict[str, Any]:
    """Subscribe and return the snapshot."""
    await socket.send(json.dumps({"action": "subscribe", "symbols": ["A"], "channels": ["bars", "analytics"]}))
    async with asyncio.timeout(PATIENCE.seconds(20)):
        while (message := json.loads(await socket.recv()))["type"] != "snapshot":
            pass
    found: dict[str, Any] = message
    return found


async def receive_row(socket: ClientConnection, kind: str, state: str, time_us: int) -> list[Any]:
    """Wait for the row with this state and time, and return it."""
    async with asyncio.timeout(PATIENCE.seconds(20)):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] != kind:
                continue
            at = message["columns"].index("state")
            for row in message["rows"]:
                if row[0] == time_us and row[at] == state:
                    return list(row)


async def test_a_withdrawn_bar_disappears_everywhere(log: EmbeddedLog, analytics: None, store: Store, dsn: str) -> None:
    stop = asyncio.Event()
    persistence = asyncio.create_task(Persistence(log, dsn).run(stop))
    prices = np.random.default_rng(1).uniform(90, 110, 40).tolist()
    feed = Bars(log)
    feed.put_settings(indicators=dict.fromkeys(("1m", "5m", "1d"), INDICATORS))
    feed.put(*(bar(n, price) for n, price in enumerate(prices)))
    feed.put(*(bar(n, 100.0 + n, "5m") for n in range(8)), bar(0, 1.0) | {"time": DAY, "interval": "1d"})
    feed.put(bar(40, 120.0, state="forming"), bar(8, 121.0, "5m", state="forming"))
    seconds = {"time": T0 + 17, "interval": "100t", "state": "forming"}
    feed.put(bar(0, 5.0) | seconds)

    async def count(table: str, condition: str = "true") -> int:
        async with store.session() as session:
            return int(await session.value(f"SELECT count(*) FROM {table} WHERE {condition}"))

    async def arrived() -> bool:
        return await count("intraday_ohlcv", "state = 'forming'") == 3 and await count("realtime_analytics") == 2

    await eventually(arrived)
    source = StoreReader(dsn, log.identity())
    with serving(log, source) as (client, address, _):

        def closes(interval: str) -> dict[str, float]:
            body = client.get("/v1/intraday/A", params={"interval": interval}).json()
            return {row["time"][11:16]: row["close"] for row in body["bars"]}

        assert len(closes("1m")) == 41
        assert closes("15m") == {"13:30": 102.0, "13:45": 105.0, "14:00": 121.0}
        async with connect(address) as socket:
            await snapshot(socket)
            # Withdraw the forming bars, then the last closed bars and a closed bar in the middle.
            feed.put(bar(40, 0.0) | NOTHING, bar(8, 0.0, "5m") | NOTHING, bar(0, 0.0) | seconds | NOTHING)
            gone = await receive_row(socket, "bars", "withdrawn", T0 + 40 * MINUTE)
            assert gone[3:10] == [None, None, None, None, 0.0, None, 0]
            feed.put(bar(39, 0.0) | NOTHING, bar(10, 0.0) | NOTHING, bar(7, 0.0, "5m") | NOTHING)
            await receive_row(socket, "bars", "withdrawn", T0 + 10 * MINUTE)

        async def left() -> bool:
            return await count("intraday_ohlcv") == 38 + 7 and await count("intraday_analytics") == 38 + 7

        async def revised() -> bool:  # a withdrawn bar deletes its values; analytics revises later values
            return await count("intraday_analytics", f"\"interval\" = '1m' AND version = {feed.version}") == 28

        await eventually(left)
        await eventually(revised)
        assert await count("realtime_analytics") == 0

        # REST: stored bars and bars derived from them no longer contain the withdrawn bars.
        found = closes("1m")
        assert list(found.values()) == [price for n, price in enumerate(prices) if n not in (10, 39)]
        assert closes("15m") == {"13:30": 102.0, "13:45": 105.0, "14:00": 106.0}
        assert closes("1h") == {"13:00": 105.0, "14:00": 106.0}
        state = client.get("/v1/realtime/A").json()
        assert (state["bars"]["1m"]["close"], state["analytics"]) == (prices[38], [])
        (symbol,) = client.get("/v1/symbols").json()["symbols"]
        assert symbol["last_price"] == prices[38]

        # Values of later bars equal a batch over the remaining bars.
        rows = client.get("/v1/analytics/A", params={"interval": "1m", "indicators": "sma_20,rsi_14"}).json()["values"]
        kept = np.array(list(found.values()))
        for text, column in zip(INDICATORS, ("sma_20", "rsi_14"), strict=True):
            expected = compute(kept, text)[column]
            shown = np.array([np.nan if row[column] is None else row[column] for row in rows])
            np.testing.assert_allclose(shown, expected, rtol=1e-9)

        # The stream: a later snapshot contains neither the bars nor their values.
        async with connect(address) as socket:
            message = await snapshot(socket)
        states = [row[10] for row in message["bars"]["rows"]] + [r[3] for t in message["analytics"] for r in t["rows"]]
        assert set(states) <= {"final"}
        assert all(row[0] < T0 + 39 * MINUTE for row in message["bars"]["rows"] if row[2] == "1m")

        # New prints restore the bar.
        feed.put(bar(39, 101.5))

        async def again() -> bool:
            return await count("intraday_analytics", "\"interval\" = '1m'") == 39

        await eventually(again)
        assert closes("1m")["14:09"] == 101.5

        # Withdraw the only daily bar of a week.
        def days(interval: str) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = client.get(f"/v1/historical/A?interval={interval}").json()["bars"]
            return rows

        assert (len(days("1d")), len(days("1w"))) == (1, 1)
        feed.put(bar(0, 0.0) | NOTHING | {"time": DAY, "interval": "1d"})

        async def without_day() -> bool:
            return await count("historical_ohlcv") == await count("daily_analytics") == 0

        await eventually(without_day)
        assert (days("1d"), days("1w")) == ([], [])
    stop.set()
    await asyncio.wait_for(persistence, PATIENCE.seconds(30))
