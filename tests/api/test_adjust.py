"""The parameter `adjust` of REST bars, with bars, splits and dividends in a real database."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.api.support import PARTITIONS, serving
from tests.api.test_indicators import get, table
from tests.support.postgres import Postgres
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.rules import Rules
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, micros_of
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.store import Store
from tickerplant.store.repositories.actions import Actions
from tickerplant.store.repositories.ohlcv import Ohlcv

SPLIT = micros_of(dt.datetime(2026, 3, 11, tzinfo=dt.UTC))
"""Time of a 4:1 split. The day is a Wednesday."""
DAYS = SPLIT + DAY_US * np.array([-7, -6, -5, -2, -1, 0, 1, 2, 5])
CLOSES = np.array([400.0, 404.0, 396.0, 400.0, 408.0, 103.0, 102.0, 101.0, 104.0])
EX_DATE = DAYS[7]
PAID = 0.51
FACTOR = 1 - PAID / CLOSES[6]
SHARES = np.where(DAYS < SPLIT, 4.0, 1.0)
FIVES = SPLIT + 7 * HOUR_US + np.arange(24) * 5 * MINUTE_US
"""Start times of 5-minute bars, from 03:00 to 05:00 in New York. The session begins at 04:00, before the open."""


def columns(closes: np.ndarray, volumes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "open": closes * 0.99, "high": closes * 1.01, "low": closes * 0.98, "close": closes, "volume": volumes,
    }  # fmt: skip


async def fill(dsn: str) -> None:
    store = await Store.open(dsn, max_size=1)
    fives = np.where(FIVES < SPLIT + 8 * HOUR_US, 408.0, 103.0)
    tables = [
        table("ACME", "1d", DAYS, columns(CLOSES, 1_000.0 / SHARES)),
        table("ACME", "5m", FIVES, columns(fives, np.full(len(FIVES), 10.0))),
        table("BTC/USD", "1d", DAYS, columns(CLOSES, np.full(len(DAYS), 5.0))),
    ]
    split = {"time": timestamps(np.array([SPLIT])), "symbol": ["ACME"], "source": ["user"]}
    dividend = {"time": timestamps(np.array([EX_DATE])), "symbol": ["ACME"], "amount": [PAID], "currency": ["USD"]}
    async with store.session() as session:
        actions, ohlcv = Actions(session), Ohlcv(session)
        for bars in tables:
            await ohlcv.prepare(bars)
            async with session.transaction():
                await ohlcv.upsert(bars, 0)
        async with session.transaction():
            await actions.put_splits(
                pa.table(split | {"numerator": [4.0], "denominator": [1.0]})
                .select(schemas.SPLITS.names)
                .cast(schemas.SPLITS),
                1,
            )
            for version, source in enumerate(("yahoo", "polygon"), 2):  # both sources report the same dividend
                rows = pa.table(dividend | {"source": [source]}).select(schemas.DIVIDENDS.names).cast(schemas.DIVIDENDS)
                await actions.put_dividends(rows, version)
    await store.close()


@pytest.fixture(scope="module")
def client(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    name = postgres.new("tables")
    dsn = postgres.dsn_of(name)
    asyncio.run(fill(dsn))
    path: Path = tmp_path_factory.mktemp("log") / "log.sqlite"
    with EmbeddedLog(path) as log:
        log.create_topics(schemas.TOPICS, PARTITIONS)
        with serving(log, StoreReader(dsn, log.identity()), indicators=OnDemand(Rules())) as (client, _, _):
            yield client
    postgres.drop(name)


def column(client: httpx.Client, path: str, name: str = "close") -> list[Any]:
    return [row[name] for row in get(client, path)["bars"]]


def test_daily_bars_are_as_traded_by_default(client: httpx.Client) -> None:
    plain, none = (get(client, f"/v1/historical/ACME{query}") for query in ("", "?adjust=none"))
    assert plain == none
    assert plain["adjust"] == "none"
    assert [row["close"] for row in plain["bars"]] == CLOSES.tolist()


def test_daily_bars_are_adjusted_for_splits(client: httpx.Client) -> None:
    response = get(client, "/v1/historical/ACME?adjust=splits")
    assert response["adjust"] == "splits"
    for name, factor in (("open", 0.99), ("high", 1.01), ("low", 0.98), ("close", 1.0), ("vwap", 1.0)):
        expected = CLOSES * factor / SHARES
        np.testing.assert_allclose([row[name] for row in response["bars"]], expected, rtol=1e-12)
    assert [row["volume"] for row in response["bars"]] == [1_000.0] * len(DAYS)
    assert [row["trades"] for row in response["bars"]] == [1] * len(DAYS)


def test_daily_bars_are_adjusted_for_dividends_and_a_dividend_of_two_sources_counts_once(client: httpx.Client) -> None:
    expected = CLOSES / SHARES * np.where(DAYS < EX_DATE, FACTOR, 1.0)
    np.testing.assert_allclose(column(client, "/v1/historical/ACME?adjust=all"), expected, rtol=1e-12)
    assert column(client, "/v1/historical/ACME?adjust=all", "volume") == [1_000.0] * len(DAYS)


def test_a_page_is_adjusted_for_actions_after_its_end(client: httpx.Client) -> None:
    complete = column(client, "/v1/historical/ACME?adjust=all")
    assert column(client, "/v1/historical/ACME?adjust=all&start=2026-03-04&limit=2") == complete[:2]
    assert column(client, "/v1/historical/ACME?adjust=all&end=2026-03-07") == complete[:3]


def test_a_week_across_a_split_is_built_from_adjusted_days(client: httpx.Client) -> None:
    weeks = get(client, "/v1/historical/ACME?interval=1w&adjust=splits")["bars"]
    adjusted = CLOSES / SHARES
    expected = [adjusted[:3], adjusted[3:8], adjusted[8:]]
    assert [row["high"] for row in weeks] == [pytest.approx(days.max() * 1.01) for days in expected]
    assert [row["low"] for row in weeks] == [pytest.approx(days.min() * 0.98) for days in expected]
    assert [row["open"] for row in weeks] == [pytest.approx(days[0] * 0.99) for days in expected]
    assert [row["volume"] for row in weeks] == [3_000.0, 5_000.0, 1_000.0]
    assert weeks[1]["vwap"] == pytest.approx(adjusted[3:8].mean())
    as_traded = get(client, "/v1/historical/ACME?interval=1w")["bars"]
    assert as_traded[1]["high"] == pytest.approx(408 * 1.01)


def test_intraday_bars_are_adjusted_from_the_session_start(client: httpx.Client) -> None:
    fives = column(client, "/v1/intraday/ACME?interval=5m&adjust=splits")
    assert fives == [102.0] * 12 + [103.0] * 12
    assert column(client, "/v1/intraday/ACME?interval=5m&adjust=splits", "volume") == [40.0] * 12 + [10.0] * 12
    hours = get(client, "/v1/intraday/ACME?interval=1h&adjust=all")["bars"]
    assert [row["close"] for row in hours] == [pytest.approx(102 * FACTOR), pytest.approx(103 * FACTOR)]
    assert [row["volume"] for row in hours] == [480.0, 120.0]


def test_bars_of_a_symbol_without_actions_are_as_traded(client: httpx.Client) -> None:
    response = get(client, "/v1/historical/BTC/USD?adjust=all")
    assert response["adjust"] == "all"
    assert [row["close"] for row in response["bars"]] == CLOSES.tolist()


def test_indicators_run_on_weeks_built_from_adjusted_days(client: httpx.Client) -> None:
    weeks = get(client, "/v1/historical/ACME?interval=1w&adjust=splits")["bars"]
    values = get(client, "/v1/indicators/TA_MEDPRICE/ACME?interval=1w")["values"]
    expected = [(row["high"] + row["low"]) / 2 for row in weeks]
    assert [row["ta_medprice"] for row in values] == pytest.approx(expected, rel=1e-12)


def test_csv_has_the_adjustment_in_a_header(client: httpx.Client) -> None:
    response = client.get("/v1/historical/ACME?adjust=splits&format=csv")
    assert response.headers["X-Adjust"] == '"splits"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    np.testing.assert_allclose([float(row["close"]) for row in rows], CLOSES / SHARES, rtol=1e-12)


def test_an_unknown_adjustment_is_refused(client: httpx.Client) -> None:
    for path in ("historical", "intraday"):
        response = client.get(f"/v1/{path}/ACME?adjust=back")
        assert response.status_code == 400
        assert "adjust" in response.json()["error"]["message"]
    assert get(client, "/v1/ticks/ACME?adjust=splits", 400)["error"]
