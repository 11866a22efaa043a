"""Indicators computed on request from bars in a real database."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import talib

from tests.analytics.support import ohlcv, random_bars
from tests.api.support import MINUTE, PARTITIONS, T0, serving
from tests.support.postgres import Postgres
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.ondemand import query as on_demand
from tickerplant.analytics.ondemand.calculation import parse_calculation
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.rules import Rules
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.store import Store
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.repositories.ohlcv import Ohlcv

SETS = ("RSI(14)", "EMA(20)", "SMA(200)", "BBANDS(20,2)", "VWAP", "MACD")
RULES = Rules(indicators={"1d": SETS, "5m": SETS, "1m": ("SMA(20)",)})
FIRST_DAY = 7_300  # days since 1970: 1989-12-27
MISSING_ROWS = (30, 400, 1_999)


def table(symbol: str, interval: str, times: np.ndarray, columns: dict[str, np.ndarray]) -> pa.Table:
    count = len(times)

    def text(word: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array([word])).cast(kind)

    prices = [pa.array(columns[name], from_pandas=True) for name in ("open", "high", "low", "close")]
    return pa.Table.from_arrays(
        [
            timestamps(times), text(symbol, schemas.TEXT), text(interval, schemas.SMALL_TEXT), *prices,
            pa.array(columns["volume"]), prices[3], pa.array(np.ones(count, np.int64)),
            text("final", schemas.SMALL_TEXT), pa.array(np.ones(count, bool)), pa.array(np.zeros(count, bool)),
            pa.array(np.zeros(count, np.int32)), pa.array(np.ones(count, np.int64)), text("", schemas.SMALL_TEXT),
            text("test", schemas.TEXT), timestamps(times),
        ],
        schema=schemas.BARS,
    )  # fmt: skip


def daily() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    columns = ohlcv("real_days")
    return (FIRST_DAY + np.arange(len(columns["close"]))) * DAY_US, columns


def within_the_day() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return times and columns of 3,000 5-minute bars. Three of them have no prices."""
    columns = {name: values[:, 0].copy() for name, values in random_bars(3_000, 1, seed=4).items()}
    for name in ("open", "high", "low", "close"):
        columns[name][[*MISSING_ROWS]] = np.nan
    return T0 // (5 * MINUTE) * 5 * MINUTE + np.arange(3_000) * 5 * MINUTE, columns


TABLES = {("MSFT", "1d"): daily, ("EUR/USD", "5m"): within_the_day, ("ACME", "5m"): within_the_day}


def streamed(bars: pa.Table) -> pa.Table:
    """Return the values that the analytics engine computes from these bars."""
    (made,) = Engine(RULES).apply_bars(bars.combine_chunks().to_batches()[0])
    columns = {name: [] for name in made.columns}
    times = np.concatenate([chunk.times for chunk in made.chunks])
    for name, *parts in zip(made.columns, *(chunk.values for chunk in made.chunks), strict=True):
        columns[name] = np.concatenate(parts)
    count = len(times)
    keys = {
        "time": timestamps(times), "symbol": bars.column("symbol").combine_chunks()[:1].take(np.zeros(count, int)),
        "interval": bars.column("interval").combine_chunks()[:1].take(np.zeros(count, int)),
        "state": pa.array(["final"] * count).dictionary_encode().cast(schemas.SMALL_TEXT),
        "version": pa.array(np.ones(count, np.int64)),
    }  # fmt: skip
    return pa.table(keys | {name: pa.array(values, from_pandas=True) for name, values in columns.items()})


DOCS = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = re.findall(r"curl 'localhost:8000(/v1/(?:indicators|analytics)[^']*)'", DOCS.read_text())
MOVING = re.findall(r"`(\w+)`", re.findall(r"moving averages by number or name: (.*), … \|", DOCS.read_text())[0])


async def fill(dsn: str) -> None:
    store = await Store.open(dsn, max_size=1)
    async with store.session() as session:
        ohlcv_rows, analytics = Ohlcv(session), Analytics(session)
        few = {name: values[:150] for name, values in daily()[1].items()}
        all_bars = [table(symbol, step, *made()) for (symbol, step), made in TABLES.items()]
        all_bars.append(table("YOUNG", "1d", daily()[0][:150], few))
        for bars in all_bars:
            values = streamed(bars)
            await ohlcv_rows.prepare(bars)
            await analytics.prepare(values)
            async with session.transaction():
                await ohlcv_rows.upsert(bars, 0)
                await analytics.upsert(values, 0)
    await store.close()


@pytest.fixture(scope="module")
def client(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    name = postgres.new("tables")
    dsn = postgres.dsn_of(name)
    asyncio.run(fill(dsn))
    path: Path = tmp_path_factory.mktemp("log") / "log.sqlite"
    with EmbeddedLog(path) as log:
        log.create_topics(schemas.TOPICS, PARTITIONS)
        source = StoreReader(dsn, log.identity())
        with serving(log, source, indicators=on_demand.OnDemand(RULES)) as (client, _, _):
            yield client
    postgres.drop(name)


def get(client: httpx.Client, path: str, status: int = 200) -> Any:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if row[name] is None else row[name] for row in rows])


@pytest.mark.parametrize(
    ("symbol", "step", "path", "names"),
    [
        ("MSFT", "1d", "RSI", ["rsi_14"]),
        ("MSFT", "1d", "EMA?period=20", ["ema_20"]),
        ("MSFT", "1d", "SMA?time_period=200", ["sma_200"]),
        ("MSFT", "1d", "BBANDS?period=20&deviations=2", ["bbands_20_2_upper", "bbands_20_2_lower"]),
        ("EUR/USD", "5m", "EMA?period=20", ["ema_20"]),
        ("EUR/USD", "5m", "BBANDS?sd=2", ["bbands_20_2_middle"]),
        ("EUR/USD", "5m", "VWAP", ["vwap"]),
        ("ACME", "5m", "VWAP", ["vwap"]),
        ("ACME", "5m", "MACD?fast_period=12", ["macd_12_26_9_line", "macd_12_26_9_histogram"]),
    ],
)
@pytest.mark.parametrize("limit", [1, 100, 2_000])
def test_values_equal_those_of_the_stream(
    client: httpx.Client, symbol: str, step: str, path: str, names: list[str], limit: int
) -> None:
    name, _, query = path.partition("?")
    made = get(client, f"/v1/indicators/{name}/{symbol}?interval={step}&limit={limit}&times=us&{query}")
    kept = get(client, f"/v1/analytics/{symbol}?interval={step}&limit={limit + 5}&times=us")["values"]
    by_time = {row["time"]: row for row in kept}
    assert made["count"] == limit == len(made["values"])
    assert not made["limited"]
    for row in made["values"]:
        stored = by_time.get(row["time"], dict.fromkeys(names))
        for one in names:
            assert row[one] == (pytest.approx(stored[one], rel=1e-9) if stored[one] is not None else None)


def test_pages_of_a_range_have_the_same_values_as_the_whole_range(client: httpx.Client) -> None:
    times, _ = within_the_day()
    start = f"start={times[350]}&end={times[460]}&times=us&interval=5m&period=20"
    complete = get(client, f"/v1/indicators/BBANDS/EUR/USD?{start}&limit=200")
    assert (complete["next"], complete["count"]) == (None, 110)
    pages, rest = [], f"{start}&limit=37"
    while True:
        page = get(client, f"/v1/indicators/BBANDS/EUR/USD?{rest}")
        pages += page["values"]
        if page["next"] is None:
            break
        rest = f"start={page['next']['start']}&end={times[460]}&times=us&interval=5m&period=20&limit=37"
    assert [row["time"] for row in pages] == [row["time"] for row in complete["values"]]
    np.testing.assert_allclose(
        column(pages, "bbands_20_2_upper"), column(complete["values"], "bbands_20_2_upper"), rtol=1e-12
    )
    assert [row["time"] for row in complete["values"] if row["bbands_20_2_upper"] is None] == [times[400]]


def test_the_answer_has_the_time_of_the_first_bar_used(client: httpx.Client) -> None:
    times, _ = daily()
    day = np.datetime_as_string((times // DAY_US).astype("datetime64[D]"))
    window = get(client, "/v1/indicators/SMA/MSFT?period=50&limit=1")
    assert window["indicator"] == "SMA(50)"
    assert (
        window["computed_from"] == day[-2 - 100]
    )  # the requested row, one row that shows a further page, and two blocks of 50 earlier bars
    assert get(client, "/v1/indicators/RSI/MSFT?limit=1")["computed_from"] == day[0]
    assert get(client, "/v1/indicators/TA_SMA/MSFT?timeperiod=50&limit=1")["computed_from"] == day[-2 - 49]
    # A bar without prices does not count in a window.
    times, _ = within_the_day()
    params = f"interval=5m&start={times[405]}&limit=1&times=us&timeperiod=10"
    assert get(client, f"/v1/indicators/TA_SMA/EUR/USD?{params}")["computed_from"] == times[395]


def test_a_history_that_is_too_long_is_reported(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "MAX_BARS", 1_000)
    monkeypatch.setattr(on_demand, "PAGE", 300)
    times, columns = daily()
    made = get(client, "/v1/indicators/EMA/MSFT?period=10&limit=5&times=us")
    assert (made["limited"], made["computed_from"]) == (True, times[-6 - 1_000])
    from_there = talib.EMA(columns["close"][-1_006:], 10)[-5:]
    np.testing.assert_allclose(column(made["values"], "ema_10"), from_there, rtol=1e-12)
    assert not get(client, "/v1/indicators/SMA/MSFT?period=400&limit=5")["limited"]
    assert get(client, "/v1/indicators/SMA/MSFT?period=800&limit=5")["limited"]


def test_any_ta_lib_function_can_be_computed_on_any_interval(client: httpx.Client) -> None:
    _, columns = daily()
    made = get(client, "/v1/indicators/ta_stoch/MSFT?fast_k_period=7&slowk_matype=ema&limit=300")["values"]
    known = talib.STOCH(columns["high"], columns["low"], columns["close"], 7, 3, 1, 3, 0)
    for name, wanted in zip(("slowk", "slowd"), known, strict=True):
        np.testing.assert_allclose(column(made, f"ta_stoch_7_3_1_3_0_{name}"), wanted[-300:], rtol=1e-9)
    weeks = get(client, "/v1/historical/MSFT?interval=1w&limit=2000")["bars"]
    made = get(client, "/v1/indicators/TA_EMA/MSFT?interval=1w&timeperiod=10&limit=2000")["values"]
    assert [row["time"] for row in made] == [row["time"] for row in weeks]
    np.testing.assert_allclose(column(made, "ta_ema_10"), talib.EMA(column(weeks, "close"), 10), rtol=1e-9)
    hours = get(client, "/v1/intraday/EUR/USD?interval=1h&limit=2000")["bars"]
    made = get(client, "/v1/indicators/RSI/EUR/USD?interval=1h&limit=20")["values"]
    np.testing.assert_allclose(column(made, "rsi_14"), talib.RSI(column(hours, "close"), 14)[-20:], rtol=1e-9)
    assert {row["cdldoji"] for row in get(client, "/v1/indicators/CDLDOJI/MSFT")["values"]} == {0.0, 100.0}


def test_every_listed_indicator_can_be_computed(client: httpx.Client) -> None:
    found = get(client, "/v1/indicators")
    assert found["count"] == len(found["indicators"]) > 150
    for one in found["indicators"]:
        made = get(client, f"/v1/indicators/{one['name']}/MSFT?limit=3")
        assert [*made["values"][0]] == ["time", "state", *one["columns"]], one["name"]
        assert get(client, f"/v1/indicators/{one['name']}") == one
    rsi = get(client, "/v1/indicators/rsi")
    assert rsi["parameters"] == [{"name": "period", "default": 14, "least": 2, "most": 1000, "whole": True}]
    assert (rsi["warmup"], rsi["recursive"], rsi["inputs"]) == (15, True, ["close"])


def test_csv_has_the_other_fields_in_headers(client: httpx.Client) -> None:
    answer = client.get("/v1/indicators/RSI/MSFT?format=csv&limit=2")
    rows = [*csv.DictReader(io.StringIO(answer.text))]
    assert [*rows[0]] == ["time", "state", "rsi_14"]
    assert answer.headers["X-Computed-From"] == '"1989-12-27"'
    assert answer.headers["X-Limited"] == "false"
    assert "X-Next" in answer.headers


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("RSII/MSFT", 404, "unknown_indicator", "did you mean"),
        ("RSII", 404, "unknown_indicator", "did you mean"),
        ("MAVP/MSFT", 404, "unknown_indicator", "no indicator"),
        ("RSI/NOBODY", 404, "unknown_symbol", "unknown symbol"),
        ("RSI/MSFT?period=1", 400, "bad_parameter", "2..1000"),
        ("RSI/MSFT?period=x", 400, "bad_parameter", "not a number"),
        ("RSI/MSFT?period=", 400, "bad_parameter", "not a number"),
        ("RSI/MSFT?period=3&period=4", 400, "bad_parameter", "twice"),
        ("RSI/MSFT?period=3&time_period=4", 400, "bad_parameter", "twice"),
        ("RSI/MSFT?limt=3", 400, "bad_parameter", "the parameters are period, series_type, dialect"),
        ("RSI/MSFT?dialect=mine", 400, "bad_parameter", "use one of: talib"),
        ("RSI/MSFT?series_type=mid", 400, "bad_parameter", "close, open"),
        ("APO/MSFT?matype=best", 400, "bad_parameter", "sma, ema"),
        ("APO/MSFT?fastperiod=1", 400, "bad_parameter", "TA-Lib refuses"),
        ("RSI/MSFT?interval=7m", 400, "bad_parameter", "interval"),
        ("RSI/MSFT?limit=0", 400, "bad_parameter", "limit"),
        ("?prefix=a", 400, "bad_parameter", "prefix"),
    ],
)
def test_an_invalid_request_gets_the_valid_choices(
    client: httpx.Client, path: str, status: int, code: str, words: str
) -> None:
    error = get(client, f"/v1/indicators/{path}".replace("/?", "?"), status)["error"]
    assert error["code"] == code
    assert words in error["message"]


def test_a_range_without_bars_is_empty(client: httpx.Client) -> None:
    made = get(client, "/v1/indicators/RSI/MSFT?start=1970-01-01&end=1971-01-01")
    assert (made["count"], made["values"], made["computed_from"], made["limited"]) == (0, [], None, False)


def test_an_indicator_may_use_another_column_than_the_close(client: httpx.Client) -> None:
    _, columns = daily()
    made = get(client, "/v1/indicators/SMA/MSFT?period=5&series_type=open&limit=10")
    assert made["indicator"] == "SMA(5) of open"
    np.testing.assert_allclose(column(made["values"], "sma_5_open"), talib.SMA(columns["open"], 5)[-10:], rtol=1e-9)


def test_openapi_documents_the_indicators_parameters(client: httpx.Client) -> None:
    paths = get(client, "/openapi.json")["paths"]
    found = {one["name"]: one for one in paths["/v1/indicators/{name}/{symbol}"]["get"]["parameters"]}
    assert found["parameters"]["schema"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert {"name", "symbol", "interval", "start", "end", "limit", "tz", "format", "times"} < set(found)
    assert "/v1/indicators" in paths
    assert "/v1/indicators/{name}" in paths


def test_warmup_remaining_counts_the_missing_bars(client: httpx.Client) -> None:
    response = get(client, "/v1/analytics/YOUNG")
    assert response["warmup_remaining"] == {"sma_200": 50}
    assert response["values"][-1]["sma_200"] is None
    assert get(client, "/v1/analytics/YOUNG?indicators=rsi")["warmup_remaining"] == {}
    assert get(client, "/v1/analytics/MSFT")["warmup_remaining"] == {}
    times, _ = daily()
    early = get(client, f"/v1/analytics/MSFT?end={times[12]}&times=us")
    bands = dict.fromkeys(parse("BBANDS(20,2)").columns, 8) | dict.fromkeys(parse("MACD").columns, 22)
    assert early["warmup_remaining"] == {"rsi_14": 3, "ema_20": 8, "sma_200": 188} | bands
    assert client.get("/v1/analytics/YOUNG?format=csv").headers["X-Warmup-Remaining"] == '{"sma_200":50}'
    assert "X-Warmup-Remaining" not in client.get("/v1/analytics/MSFT?format=csv").headers


def test_the_api_page_documents_the_limits() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert f"stored bars, up to {on_demand.MAX_BARS:,}." in page


def test_bars_before_a_split_are_adjusted_but_not_for_a_future_split() -> None:
    times, columns = daily()
    splits = pa.table(
        {
            "time": timestamps(times[[100, 900]]), "symbol": ["MSFT"] * 2, "numerator": [4.0, 2.0],
            "denominator": [1.0, 1.0], "source": ["test"] * 2,
        }
    ).cast(schemas.SPLITS)  # fmt: skip
    bars = table("MSFT", "1d", times, columns).select(on_demand.COLUMNS)
    at = bars.schema.get_field_index("state")
    bars = bars.set_column(at, "state", bars.column("state").cast(pa.utf8()))
    input_bars = on_demand.InputBars("MSFT", "1d", bars, 0, False, splits, int(times[500]))
    found = on_demand.values(input_bars, [parse_calculation("SMA(20)"), parse_calculation("RSI(14)")], RULES)
    close = columns["close"] / np.where(np.arange(len(times)) < 100, 4.0, 1.0)
    for name, expected in (("sma_20", talib.SMA(close, 20)), ("rsi_14", talib.RSI(close, 14))):
        np.testing.assert_allclose(found.column(name).to_numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_documented_examples_work(client: httpx.Client, path: str) -> None:
    answer = client.get(path.replace("/AAPL", "/MSFT"))
    assert answer.status_code == 200, answer.text
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize(
    "query",
    [
        *(f"MA/MSFT?matype={name}" for name in MOVING), "TA_RSI/MSFT", "TA_RSI/MSFT?timeperiod=14",
        "TA_RSI/MSFT?time_period=14", "RSI/MSFT?time_period=14", "TA_STOCHF/MSFT?fast_k_period=5", "BBANDS/MSFT?sd=2",
        *(f"RSI/MSFT?series_type={name}" for name in ("open", "high", "low", "volume", "vwap")),
        "BETA/MSFT?price0=high&price1=low", "RSI/MSFT?dialect=tradingview",
    ],
)  # fmt: skip
def test_the_documented_parameters_work(client: httpx.Client, query: str) -> None:
    assert get(client, f"/v1/indicators/{query}{'&' if '?' in query else '?'}limit=2")["count"] == 2
