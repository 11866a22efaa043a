from __future__ import annotations

import csv
import io
import itertools
import json
import socket
from collections.abc import Iterator

import httpx
import numpy as np
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from tests.api.support import MINUTE, T0, MemoryStore, bar_batch, serving, tick_batch, value_batch
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.http.asgi import Message, Receive, Scope, Send
from tickerplant.api.http.errors import CatchExceptions
from tickerplant.api.http.formats import offsets_us, to_csv
from tickerplant.api.http.params import parse_range, parse_time, parse_zone
from tickerplant.api.positions import HEADER
from tickerplant.api.service import Api, ApiOptions
from tickerplant.core import schemas
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.flags import TickFlag
from tickerplant.core.rules import DEFAULT_RULES, FX_CALENDARS, Rules
from tickerplant.core.times import iso
from tickerplant.log.port import EventLog, TopicPartition

DAY = 1440 * MINUTE
MIDNIGHT = T0 - T0 % DAY


def fill(store: MemoryStore) -> None:
    store.tables["prices"] = pa.Table.from_batches(
        [tick_batch([(T0, "AAPL", 1.0), (T0 + 1, "AAPL", 2.0), (T0 + 1, "AAPL", 3.0), (T0 + 2, "AAPL", 4.0)])]
    )
    rows: list[dict[str, object]] = [
        {"time": T0 + 5 * n * MINUTE, "symbol": "AAPL", "interval": "5m", "open": float(n), "close": n + 0.5}
        for n in range(24)
    ]
    rows += [{"time": T0, "symbol": "EUR/USD", "volume": 0.0, "open": float("nan"), "trades": None}]
    # Thursday, Friday, Monday and Tuesday. Summer time in New York began on the Sunday between them.
    rows += [{"time": MIDNIGHT + n * DAY, "symbol": "AAPL", "interval": "1d", "open": 10.0 + n} for n in (-4, -3, 0, 1)]
    store.tables["ohlcv"] = pa.Table.from_batches([bar_batch(rows)])
    values: list[dict[str, object]] = [{"time": T0 + n * MINUTE, "symbol": "AAPL", "rsi_14": None} for n in range(3)]
    store.tables["analytics"] = pa.Table.from_batches([value_batch(values, ("rsi_14", "sma_20"))])
    store.at = {TopicPartition(schemas.RAW, 0): 7, TopicPartition(schemas.OHLCV, 0): 3}


@pytest.fixture
def client(log: EventLog, store: MemoryStore) -> Iterator[httpx.Client]:
    fill(store)
    with serving(log, store, indicators=OnDemand(DEFAULT_RULES)) as (client, _, _):
        yield client


def test_bars_have_times_in_the_zone_and_the_position(client: httpx.Client) -> None:
    answer = client.get("/v1/intraday/aapl", params={"interval": "5m", "tz": "America/New_York", "limit": 2})
    body = answer.json()
    assert (body["symbol"], body["interval"], body["count"]) == ("AAPL", "5m", 2)
    assert [bar["time"] for bar in body["bars"]] == ["2026-03-09T11:20:00-04:00", "2026-03-09T11:25:00-04:00"]
    assert body["position"]["offsets"] == {schemas.RAW: {"0": 7}, schemas.OHLCV: {"0": 3}}
    assert json.loads(answer.headers[HEADER]) == body["position"]
    assert body["next"] == {"end": "2026-03-09T11:20:00-04:00"}


def test_pages_are_consecutive(client: httpx.Client) -> None:
    found, query = [], {"interval": "5m", "start": "2026-03-09", "limit": "7"}
    while True:
        body = client.get("/v1/intraday/AAPL", params=query).json()
        found += [bar["time"] for bar in body["bars"]]
        if body["next"] is None:
            break
        query |= body["next"]
    assert len(found) == len(set(found)) == 24
    assert found == sorted(found)


@pytest.mark.parametrize("times", ["iso", "s", "us"])
def test_pages_of_ticks_are_consecutive_within_an_instant(client: httpx.Client, store: MemoryStore, times: str) -> None:
    instants = [0, 0, 0, 1, 2, 2, 3]
    rows = [(T0 + at, "AAPL", float(number)) for number, at in enumerate(instants)]
    store.tables["prices"] = pa.Table.from_batches([tick_batch(rows)])
    spans: list[dict[str, str]] = [{"start": "2026-03-09"}, {"end": "2026-03-10"}, {}]
    for limit, span in itertools.product(range(1, 9), spans):
        pages, query = [], span | {"limit": str(limit), "times": times}
        while len(pages) <= len(instants):
            body = client.get("/v1/ticks/AAPL", params=query).json()
            pages.append([int(tick["price"]) for tick in body["ticks"]])
            if body["next"] is None:
                break
            query |= body["next"]
        assert all(len(page) == limit for page in pages[:-1])
        in_order = pages if "start" in span else pages[::-1]
        assert [price for page in in_order for price in page] == list(range(len(instants)))


def test_activity_bars_are_returned_as_stored_in_pages(client: httpx.Client, store: MemoryStore) -> None:
    times = [T0 + us for us in (3, 4, 5, 2 * MINUTE, 2 * MINUTE + 1)]
    rows = [{"time": time, "symbol": "AAPL", "interval": "100t", "open": float(n)} for n, time in enumerate(times)]
    store.tables["ohlcv"] = pa.concat_tables([store.tables["ohlcv"], pa.Table.from_batches([bar_batch(rows)])])
    for form in ("iso", "s", "us"):
        found, query = [], {"interval": "100t", "start": "2026-03-09", "limit": "2", "times": form}
        while True:
            body = client.get("/v1/intraday/AAPL", params=query).json()
            found += [bar["open"] for bar in body["bars"]]
            if body["next"] is None:
                break
            query |= body["next"]
        assert found == [0.0, 1.0, 2.0, 3.0, 4.0]
    first = client.get("/v1/intraday/AAPL?interval=100t").json()["bars"][0]["time"]
    assert first == "2026-03-09T13:30:00.000003+00:00"
    assert client.get("/v1/intraday/AAPL?interval=10000v").json()["bars"] == []
    assert client.get("/v1/analytics/AAPL?interval=100t").json()["values"] == []
    for path, interval in (("intraday", "7m"), ("intraday", "5d"), ("historical", "100t"), ("intraday", "1d")):
        answer = client.get(f"/v1/{path}/AAPL", params={"interval": interval})
        assert answer.status_code == 400
        text = answer.json()["error"]["message"]
        assert "/v1/intraday" in text if path == "historical" else "100t" in text


def test_daily_bars_have_dates_in_any_zone(client: httpx.Client) -> None:
    for zone in ("UTC", "America/New_York", "Asia/Tokyo"):
        body = client.get("/v1/historical/AAPL", params={"start": "2026-03-06", "end": "2026-03-10", "tz": zone}).json()
        assert [bar["time"] for bar in body["bars"]] == ["2026-03-06", "2026-03-09"]


def test_weeks_and_hours_are_built_when_read(client: httpx.Client) -> None:
    weeks = client.get("/v1/historical/AAPL", params={"interval": "1w"}).json()["bars"]
    assert [(week["time"], week["open"], week["state"]) for week in weeks] == [
        ("2026-03-02", 6.0, "final"), ("2026-03-09", 10.0, "final"),
    ]  # fmt: skip
    hours = client.get("/v1/intraday/AAPL", params={"interval": "1h", "start": "2026-03-09"}).json()["bars"]
    assert [(hour["time"][11:16], hour["open"], hour["close"]) for hour in hours] == [
        ("13:00", 0.0, 5.5), ("14:00", 6.0, 17.5), ("15:00", 18.0, 23.5),
    ]  # fmt: skip
    assert hours[0]["volume"] == 60.0
    assert [hour["state"] for hour in hours] == ["final", "final", "final"], "the market's time is months later"


def test_a_bar_that_is_built_when_read_is_final_when_its_end_has_passed_for_the_feed(
    log: EventLog, store: MemoryStore
) -> None:
    # AAPL stops at 15:30: no bar follows in the hour to 16:00. The week has bars of Monday and Tuesday only.
    fill(store)
    friday_close = MIDNIGHT + 4 * DAY + 20 * 3600 * 1_000_000
    clock = [T0 + 149 * MINUTE]
    with serving(log, store, now_us=lambda: clock[0]) as (client, _, _):

        def states(path: str) -> list[str]:
            found = client.get(path).json()["bars"]
            return [bar["state"] for bar in found][-2:]

        hours, weeks = "/v1/intraday/AAPL?interval=1h", "/v1/historical/AAPL?interval=1w"
        assert states(hours) == ["final", "forming"]
        store.over = True
        assert states(hours) == ["final", "forming"], "15:59"
        assert states("/v1/intraday/AAPL?interval=30m") == ["final", "final"]
        clock[0] += MINUTE
        assert states(hours) == ["final", "final"]
        store.over = False
        assert states(hours) == ["final", "forming"], "the feed may be late"
        store.over = True
        clock[0] = friday_close - 1
        assert states(weeks) == ["final", "forming"]
        clock[0] = friday_close
        assert states(weeks) == ["final", "final"]


def test_a_bar_whose_end_is_a_day_ago_is_final_although_no_feed_reports_it(log: EventLog, store: MemoryStore) -> None:
    # The 5m bars of AAPL end at 15:30 on Monday, and its daily bars end on Tuesday. No feed reports that time passes.
    fill(store)
    ends = {"/v1/intraday/AAPL?interval=1h": T0 + 150 * MINUTE, "/v1/historical/AAPL?interval=1w": MIDNIGHT + 4 * DAY}
    ends["/v1/historical/AAPL?interval=1w"] += 20 * 3600 * 1_000_000  # Friday's close
    clock = [0]
    with serving(log, store, now_us=lambda: clock[0]) as (client, _, _):
        for path, end in ends.items():
            for clock[0], state in ((end + DAY - 1, "forming"), (end + DAY, "final")):
                assert client.get(path).json()["bars"][-1]["state"] == state


def test_a_week_is_final_with_the_bar_of_its_last_session(log: EventLog, store: MemoryStore) -> None:
    # 2026-04-03 is Good Friday: New York's week ends on Thursday. The week of XAU/USD ends on Friday.
    days = [{"time": MIDNIGHT + n * DAY, "interval": "1d"} for n in (21, 22, 23, 24)]
    rows = [{**day, "symbol": symbol} for symbol in ("AAPL", "XAU/USD") for day in days]
    store.tables["ohlcv"] = pa.Table.from_batches([bar_batch(rows)])
    with serving(log, store, rules=Rules(calendars=FX_CALENDARS), now_us=lambda: T0) as (client, _, _):
        for symbol, state in (("AAPL", "final"), ("XAU/USD", "forming")):
            (week,) = client.get(f"/v1/historical/{symbol}?interval=1w").json()["bars"]
            assert (week["time"], week["state"]) == ("2026-03-30", state)


def test_a_symbol_may_contain_a_slash_and_missing_numbers_are_null(client: httpx.Client) -> None:
    for path in ("/v1/intraday/EUR/USD", "/v1/intraday/EUR%2FUSD"):
        bar = client.get(path).json()["bars"][0]
        assert bar["open"] is None
        assert bar["trades"] is None
        assert bar["volume"] == 0.0


def test_csv_has_the_rows_and_the_position_header(client: httpx.Client) -> None:
    answer = client.get("/v1/intraday/EUR/USD", params={"format": "csv", "tz": "Europe/London"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert HEADER in answer.headers
    row = next(iter(csv.DictReader(io.StringIO(answer.text))))
    assert (row["time"], row["open"], row["close"]) == ("2026-03-09T13:30:00+00:00", "", "1.5")


def test_indicators_are_chosen_by_name(client: httpx.Client) -> None:
    body = client.get("/v1/analytics/AAPL", params={"interval": "1m", "indicators": "RSI"}).json()
    assert list(body["values"][0]) == ["time", "state", "version", "rsi_14"]
    answer = client.get("/v1/analytics/AAPL", params={"interval": "1m", "indicators": "macd"})
    assert answer.status_code == 400
    assert "sma_20" in answer.json()["error"]["hint"]


def test_realtime_symbols_and_status_return_the_newest_state(client: httpx.Client) -> None:
    body = client.get("/v1/realtime/AAPL").json()
    assert body["tick"]["price"] == 4.0
    assert body["bars"]["1d"]["time"] == "2026-03-10"
    assert body["bars"]["1m"] is None
    assert [row["symbol"] for row in client.get("/v1/symbols").json()["symbols"]] == ["AAPL", "EUR/USD"]
    status = client.get("/v1/status").json()
    assert status["stream"]["clients"] == 0
    assert status["log"]["generation"] == 1


def test_realtime_of_a_range_returns_ticks(client: httpx.Client) -> None:
    zone = "America/New_York"
    query = {"start": "2026-03-09T09:30", "end": "2026-03-09T09:30:00.000002", "tz": zone}
    body = client.get("/v1/realtime/AAPL", params=query).json()
    assert (body["tz"], body["count"], body["next"]) == (zone, 3, None)
    assert [(tick["time"][10:], tick["price"]) for tick in body["ticks"]] == [
        ("T09:30:00.000000-04:00", 1.0), ("T09:30:00.000001-04:00", 2.0), ("T09:30:00.000001-04:00", 3.0),
    ]  # fmt: skip
    assert [tick["price"] for tick in client.get(f"/v1/realtime/AAPL?start={T0 + 2}").json()["ticks"]] == [4.0]
    newest = client.get("/v1/realtime/AAPL", params={"limit": 2}).json()
    assert [tick["price"] for tick in newest["ticks"]] == [3.0, 4.0]
    earlier = client.get("/v1/realtime/AAPL", params={"limit": 3, **newest["next"]}).json()
    assert [tick["price"] for tick in earlier["ticks"]] == [1.0, 2.0]
    limited = query | {"limit": "2"}
    assert (
        client.get("/v1/realtime/AAPL", params=limited).content == client.get("/v1/ticks/AAPL", params=limited).content
    )


def test_realtime_as_csv_returns_the_ticks_of_a_range_or_the_last_tick(client: httpx.Client) -> None:
    def read(**query: str) -> tuple[list[str], httpx.Response]:
        answer = client.get("/v1/realtime/AAPL", params={"format": "csv", **query})
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert HEADER in answer.headers
        return [row["price"] for row in csv.DictReader(io.StringIO(answer.text))], answer

    assert read()[0] == ["4"]
    prices, answer = read(start="2026-03-09", limit="3", tz="Asia/Tokyo")
    assert prices == ["1", "2", "3"]
    assert answer.text.splitlines()[1].startswith("2026-03-09T22:30:00.000000+09:00,")
    assert json.loads(answer.headers["X-Next"]) == {"start": "2026-03-09T22:30:00.000002+09:00", "skip": 0}
    bars_only = client.get("/v1/realtime/EUR/USD", params={"format": "csv"})
    assert (bars_only.status_code, len(bars_only.text.splitlines())) == (200, 1)


def test_the_last_tick_is_one_that_may_set_a_price(client: httpx.Client, store: MemoryStore) -> None:
    rows = [(TickFlag(0), 1.0), (TickFlag.EXTENDED, 2.0), (TickFlag.NO_OHLC, 3.0), (TickFlag.CANCEL, 1.0)]
    batches = [tick_batch([(T0 + n, "AAPL", price)], flags=flag) for n, (flag, price) in enumerate(rows)]
    store.tables["prices"] = pa.Table.from_batches(batches)
    assert client.get("/v1/realtime/AAPL").json()["tick"]["price"] == 2.0
    store.tables["prices"] = pa.Table.from_batches(batches[2:])
    assert client.get("/v1/realtime/AAPL").json()["tick"] is None


def test_csv_has_a_file_name(client: httpx.Client) -> None:
    for path, name in {
        "/v1/intraday/EUR/USD": "EUR-USD-bars.csv", "/v1/realtime/AAPL": "AAPL-tick.csv", "/v1/symbols": "symbols.csv",
    }.items():  # fmt: skip
        answer = client.get(path, params={"format": "csv"})
        assert answer.headers["content-disposition"] == f'inline; filename="{name}"'


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/intraday/APPL", 404, "did you mean AAPL"),
        ("/v1/intraday/AAPL?interval=7m", 400, "1m"),
        ("/v1/intraday/AAPL?interval=1d", 400, "/v1/historical"),
        ("/v1/intraday/AAPL?start=yesterday", 400, "ISO 8601"),
        ("/v1/intraday/AAPL?start=45379", 400, "Excel's number of 2024-03-28"),
        ("/v1/intraday/AAPL?start=19", 400, "`start` '19' is not a time"),
        ("/v1/historical/AAPL?end=-86400", 400, "`end` '-86400' is not a time"),
        ("/v1/ticks/AAPL?start=3/4/2026", 400, "ambiguous"),
        ("/v1/intraday/AAPL?start=20260310&end=20260309", 400, "not before"),
        ("/v1/intraday/AAPL?start=2026-03-10&end=2026-03-09", 400, "not before"),
        ("/v1/intraday/AAPL?limit=0", 400, "50000"),
        ("/v1/intraday/AAPL?limit=many", 400, "limit"),
        ("/v1/intraday/AAPL?tz=Mars/Base", 400, "IANA"),
        ("/v1/intraday/AAPL?format=xml", 400, "csv"),
        ("/v1/ticks/a%20b", 400, "symbol"),
        ("/v1/realtime/APPL", 404, "did you mean AAPL"),
        ("/v1/realtime/APPL?format=csv", 404, "did you mean AAPL"),
        ("/v1/realtime/APPL?limit=5", 404, "did you mean AAPL"),
        ("/v1/realtime/AAPL?limit=0", 400, "50000"),
        ("/v1/ticks/AAPL?skip=-1", 400, "`next`"),
        ("/v1/realtime/AAPL?start=2026-03-10&end=2026-03-09", 400, "not before"),
        ("/v1/realtime/AAPL?tz=Mars/Base", 400, "IANA"),
        ("/v1/nothing", 404, "/docs"),
        ("/nothing", 404, "/docs"),
        ("/v1/stream", 426, "wss://"),
        ("/v1/intraday/AAPL?intervall=5m", 400, "did you mean `interval`?"),
        ("/v1/historical/AAPL?Limit=5", 400, "did you mean `limit`?"),
        ("/v1/ticks/AAPL?end=2026-03-10&begin=2026-03-09", 400, "unknown parameter `begin`"),
        ("/v1/realtime/EUR/USD?timezone=UTC", 400, "are: start, end, limit, skip, tz, format, times, apikey"),
        ("/v1/analytics/AAPL?indicator=rsi", 400, "did you mean `indicators`?"),
        ("/v1/analytics/AAPL?api_key=x", 400, "did you mean `apikey`?"),
        ("/v1/symbols?prefx=A", 400, "did you mean `prefix`?"),
        ("/v1/status?tz=UTC", 400, "The parameters are: apikey"),
    ],
)
def test_errors_contain_a_hint(client: httpx.Client, path: str, status: int, words: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in f"{error['message']} {error['hint']}"


def test_the_api_returns_the_documented_errors(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        responses = operations["get"]["responses"]
        assert "422" not in responses
        if path.startswith("/v1/"):
            path = path.replace("{id}", "x")
            assert {"400", "401", "503"} <= responses.keys()
            reference = responses["400"]["content"]["application/json"]["schema"]["$ref"]
            assert (
                client.get(path.replace("{symbol}", "AAPL").replace("{name}", "rsi") + "?nonsense=1").status_code == 400
            )
            assert reference == "#/components/schemas/Error"
    assert schema["components"]["schemas"]["Error"]["properties"]["error"]["required"] == ["code", "message", "hint"]
    assert schema["paths"]["/health"]["get"]["responses"].keys() == {"200", "403", "500", "503"}


def test_every_documented_parameter_is_accepted(client: httpx.Client) -> None:
    values = {"interval": "", "start": "2026-03-09", "end": "2026-03-10", "limit": "5", "tz": "Asia/Tokyo",
              "times": "ms", "format": "csv", "indicators": "rsi", "prefix": "A", "skip": "1",
                  "adjust": "all", "from": "2026-03-09", "to": "2026-03-10"}  # fmt: skip
    steps = {"/v1/historical/{symbol}": "1d", "/v1/intraday/{symbol}": "5m", "/v1/analytics/{symbol}": "1m",
             "/v1/indicators/{name}/{symbol}": "15m", "/v1/coverage": "5m", "/v1/coverage/{symbol}": "1d"}  # fmt: skip
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        if path.startswith("/v1/alerts"):
            continue  # tested in test_alert_rules, with a database
        names = [each["name"] for each in operations["get"].get("parameters", []) if each["in"] == "query"]
        query = {name: values[name] or steps[path] for name in names if name != "parameters"}
        answer = client.get(
            path.replace("{symbol}", "AAPL").replace("{name}", "rsi").replace("{name}", "RSI"),
            params=query | {"apikey": "unused"},
        )
        assert answer.status_code == 200, (path, answer.text)
    assert {"start", "end", "limit", "tz", "format"} <= {
        each["name"] for each in paths["/v1/realtime/{symbol}"]["get"]["parameters"]
    }


def test_a_wrong_method_is_answered_with_the_allowed_methods(client: httpx.Client) -> None:
    for path in ("/v1/symbols", "/v1/intraday/EUR/USD", "/health", "/"):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
            error = answer.json()["error"]
            assert (error["code"], error["message"]) == ("method_not_allowed", f"{path} does not allow {method}")


def test_head_returns_the_headers_of_get(client: httpx.Client) -> None:
    for path in ("/v1/intraday/AAPL?format=csv", "/v1/symbols", "/v1/realtime/AAPL", "/openapi.json", "/", "/v1/none"):
        got, head = client.get(path), client.head(path)
        assert head.content == b""
        assert head.status_code == got.status_code
        for name in ("content-type", "content-length", HEADER, "content-disposition"):
            assert head.headers.get(name) == got.headers.get(name)
    assert client.head("/health").status_code == 200


def test_an_unexpected_exception_is_answered_like_other_errors(log: EventLog, store: MemoryStore) -> None:
    fill(store)
    store.tables["ohlcv"] = store.tables["ohlcv"].drop_columns(["interval"])
    with serving(log, store) as (client, _, _):
        with capture_logs() as logged:
            answer = client.get("/v1/intraday/AAPL")
        assert client.get("/v1/ticks/AAPL").status_code == 200
        assert 'path="/v1/intraday/{symbol:path}",status="500"' in client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "internal_error"
    assert "interval" not in answer.json()["error"]["message"]
    assert [(entry["log_level"], entry["path"]) for entry in logged] == [("error", "/v1/intraday/AAPL")]
    assert logged[0]["exc_info"]


async def test_an_exception_during_an_answer_reaches_the_server() -> None:
    sent: list[Message] = []

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("amid")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    with capture_logs() as logged, pytest.raises(ValueError, match="amid"):
        await CatchExceptions(half)({"type": "http", "method": "GET", "path": "/"}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert logged[0]["began"] is True


def test_a_known_symbol_without_rows_in_the_range_is_no_error(client: httpx.Client) -> None:
    body = client.get("/v1/intraday/AAPL", params={"start": "2020-01-01", "end": "2020-01-02"}).json()
    assert (body["bars"], body["next"]) == ([], None)


def test_health_metrics_docs_and_front_page_are_served(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "ok"
    client.get("/v1/symbols")
    assert 'path="/v1/symbols",status="200"' in client.get("/metrics").text
    assert "tickerplant_api_stream_clients" in client.get("/metrics").text
    assert "/v1/intraday/{symbol}" in client.get("/openapi.json").json()["paths"]
    assert client.get("/").status_code == 200


def test_a_failed_part_makes_health_503(log: EventLog, store: MemoryStore) -> None:
    part = {"name": "feeds", "state": "failed", "sentence": "none is up"}
    with serving(log, store, health=lambda: {"parts": [part]}) as (client, _, _):
        answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["wrong"] == ["feeds: none is up"]


def test_a_scrape_contains_counts_of_excluded_data_by_feed(log: EventLog, store: MemoryStore) -> None:
    def lines() -> list[str]:
        text = client.get("/metrics").text
        return [line for line in text.splitlines() if line.startswith(("tickerplant_late", "tickerplant_unsupported"))]

    with serving(log, store) as (client, _, _):
        assert lines() == [], "no tick is excluded yet"
        rows = [{"feed": "a", "late_ticks": 3, "unsupported": 0, "differences": 7}]
        rows += [{"feed": "b", "late_ticks": 1, "unsupported": 2, "differences": 0}]
        store.tables["exclusions"] = pa.Table.from_pylist(rows, schema=store.tables["exclusions"].schema)
        assert lines() == [
            'tickerplant_late_ticks_total{feed="a"} 3.0',
            'tickerplant_late_ticks_total{feed="b"} 1.0',
            'tickerplant_unsupported_ticks_total{feed="b"} 2.0',
        ]
        text = client.get("/metrics").text
        assert 'tickerplant_source_differences_total{feed="a"} 7.0' in text
        assert "# HELP tickerplant_late_ticks_total Ticks older than the revision window" in text
        store.broken = True
        assert len(lines()) == 3, "the counts remain while the store is unavailable"


def test_a_key_is_required_if_one_is_set(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store, api_key="secret") as (client, _, _):
        assert client.get("/v1/symbols").status_code == 401
        assert client.get("/v1/symbols", headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.get("/v1/symbols", headers={"X-API-Key": "secret"}).status_code == 200
        assert client.get("/v1/symbols?apikey=secret").status_code == 200
        assert client.get("/health").status_code == 200


async def test_a_taken_port_gets_a_clear_error(log: EventLog, store: MemoryStore) -> None:
    import asyncio

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        api = Api(log, "", ApiOptions(port=taken.getsockname()[1]), store=store)
        with pytest.raises(ConfigError, match="is in use"):
            await api.run(asyncio.Event())


def test_times_are_parsed_in_every_format() -> None:
    zone = parse_zone("America/New_York")
    for text in ("2026-03-09T09:30", "2026-03-09T13:30:00Z", "1773063000", "1773063000000", "1773063000000000"):
        assert parse_time(text, zone, "start") == T0
    assert iso(parse_time("2026-03-08", zone, "start")) == "2026-03-08T05:00:00Z"
    assert iso(parse_time("2026-03-09", zone, "start")) == "2026-03-09T04:00:00Z"
    span = parse_range("2026-03-06", "2026-03-09T12:00", 5, zone, sessions=True)
    assert (iso(span.start_us or 0), iso(span.end_us or 0)) == ("2026-03-06T00:00:00Z", "2026-03-10T00:00:00Z")
    with pytest.raises(BadInput):
        parse_time("99999999999999999999", zone, "start")


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/London"])
def test_offsets_match_the_zone_at_every_quarter_hour_of_a_year(zone: str) -> None:
    import datetime as dt

    found = parse_zone(zone)
    times = np.arange(T0 - 200 * DAY, T0 + 200 * DAY, 15 * MINUTE)
    expected = [
        dt.datetime.fromtimestamp(us / 1e6, found).utcoffset() // dt.timedelta(microseconds=1)  # type: ignore[operator]
        for us in times.tolist()
    ]
    assert offsets_us(times, found).tolist() == expected


def test_an_empty_table_in_csv_is_a_header_line() -> None:
    assert to_csv(pa.table({"time": pa.array([], pa.utf8()), "open": pa.array([], pa.float64())})) == b"time,open\n"


def test_a_list_in_csv_is_its_items_separated_by_blanks() -> None:
    table = pa.table({"symbol": ["A", "B"], "intervals": pa.array([["1d", "1m"], []], pa.list_(pa.utf8()))})
    assert to_csv(table) == b"symbol,intervals\nA,1d 1m\nB,\n"


def test_text_in_csv_is_quoted_only_if_necessary() -> None:
    def table(*texts: str | None) -> pa.Table:
        return pa.table({"name": pa.array(texts, pa.utf8()), "open": [1.5] * len(texts)})

    assert to_csv(table("a b", None)) == b"name,open\na b,1.5\n,1.5\n"
    for odd in ("a,b", 'a"b', "a\nb", "a\rb"):
        rows = list(csv.reader(io.StringIO(to_csv(table("c", odd)).decode(), newline="")))
        assert rows == [["name", "open"], ["c", "1.5"], [odd, "1.5"]]


def test_text_in_csv_is_no_formula_and_numbers_remain_numbers() -> None:
    texts = [
        "=1+1",
        "@SUM(A1)",
        "+1-1",
        "-2+cmd|' /C calc'!A0",
        "\t=1",
        "'quoted",
        "＝1",
        "-1.5e3",
        "+7",
        "A=1",
        "",
        None,
    ]
    table = pa.table({"text": pa.array(texts, pa.utf8()), "open": [-1.5] * len(texts)})
    rows = [row[0] for row in csv.reader(io.StringIO(to_csv(table).decode(), newline=""))][1:]
    assert rows[:7] == [f"'{text}" for text in texts[:7]]
    assert rows[7:] == ["-1.5e3", "+7", "A=1", "", ""]
    assert b",-1.5\n" in to_csv(table)
    names = pa.table({"intervals": pa.array([["=1d", "1m"]], pa.list_(pa.utf8()))})
    assert to_csv(names) == b"intervals\n'=1d 1m\n"


def test_frames_do_not_wait_for_acknowledgements(log: EventLog, store: MemoryStore) -> None:
    """Check the protocol of the socket: asyncio sets TCP_NODELAY only if the protocol is TCP.

    Without TCP_NODELAY the p99 latency of frames was 45 ms instead of 5 ms.
    """
    with Api(log, "", ApiOptions(port=0), store=store)._listen() as listener:
        assert listener.proto == socket.IPPROTO_TCP
