from __future__ import annotations

import asyncio
import datetime as dt
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yfinance as yf

from tests.market_data.clients.canned import Answer, Canned, golden, serving
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, iso, micros_of
from tickerplant.market_data.clients.yahoo import client as yfinance_client
from tickerplant.market_data.clients.yahoo.client import YahooProvider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest, ProviderContext
from tickerplant.system_clock import starting_at

# yfinance calls deprecated functions of pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CHART = "/v8/finance/chart/"
OPEN_US = micros_of(dt.datetime(2021, 9, 16, 13, 30, tzinfo=dt.UTC))
AUGUST_US = micros_of(dt.datetime(2020, 8, 1, tzinfo=dt.UTC))


@pytest.fixture
def vendor() -> Iterator[Canned]:
    with serving() as canned:
        canned.put("/v1/test/getcrumb", b"crumb")
        canned.put("/consent", Answer(b"<html>", 404))
        for name in (
            "AAPL",
            "EURUSD=X",
        ):  # yfinance requests these for the time zone unless its cache contains the zone
            canned.put(f"{CHART}{name}?range=1d", golden("yahoo", "chart_forex" if "=" in name else "chart_1d"))
        canned.put(CHART, golden("yahoo", "chart_1d"))
        yield canned


Making = Callable[[int], YahooProvider]


@pytest.fixture
async def making(vendor: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Making]:
    """Return a function that creates a provider whose clock starts at a given time in µs."""
    made: list[YahooProvider] = []
    monkeypatch.setattr(yf, yfinance_client._MARK, False, raising=False)  # gives each test its own caches

    def make(now_us: int) -> YahooProvider:
        context = ProviderContext("yahoo", "", {"cache": str(tmp_path)}, vendor.url, clock=starting_at(now_us, 1))
        made.append(yfinance_client.provider(context))
        return made[-1]

    yield make
    for one in made:
        await one.close()
        await one.close()
        one._thread.shutdown(wait=True)


def charts(vendor: Canned) -> list[tuple[str, str]]:
    """Return (name, interval) of each requested chart, without the requests for a time zone."""
    return [
        (path.removeprefix(CHART), query["interval"])
        for path, query in vendor.asked
        if path.startswith(CHART) and query.get("range") != "1d"
    ]


def bars(answer: BarsAnswer, symbol: str = "AAPL") -> pa.RecordBatch:
    found = answer.found[symbol]
    assert isinstance(found, pa.RecordBatch), found
    found.validate(full=True)
    return found


async def ask(
    vendor: Canned, making: Making, name: str, interval: str, now_us: int, symbol: str = "AAPL"
) -> BarsAnswer:
    """Return the answer to a request for the last 7 days. The server returns the golden chart `name`."""
    provider = making(now_us)
    if interval != "1d":
        await provider._splits_since(symbol, now_us)
    vendor.put(CHART, golden("yahoo", name))
    return await provider.bars(BarsRequest((symbol,), interval, now_us - 7 * DAY_US, now_us))


async def test_minutes_exclude_rows_of_nulls_and_the_live_row(vendor: Canned, making: Making) -> None:
    answer = await ask(vendor, making, "chart_1m", "1m", OPEN_US + 5 * MINUTE_US + 27_000_000)
    found = bars(answer)
    assert [iso(us)[11:16] for us in times_of(found["time"])] == ["13:30", "13:31", "13:33", "13:34"]
    assert found["close"].to_pylist() == [148.5, 148.6, 148.7, 148.735]
    assert found["volume"].to_pylist() == [1873201, 302711, 274622, 262004]
    assert iso(answer.covers["AAPL"][1]) == "2021-09-16T13:35:00Z"
    assert {path for path, _ in vendor.asked} == {"/", "/v1/test/getcrumb", f"{CHART}AAPL"}
    query = vendor.asked[-1][1]
    assert (query["includePrePost"], query["interval"]) == ("false", "1m")


async def test_a_single_live_row_is_no_bar(vendor: Canned, making: Making) -> None:
    answer = await ask(vendor, making, "chart_5m_live_alone", "5m", OPEN_US + 607_000_000)
    assert [iso(us)[11:16] for us in times_of(bars(answer)["time"])] == ["13:30", "13:35"]


async def test_30m_bars_are_sums_of_15m_bars(vendor: Canned, making: Making) -> None:
    found = bars(await ask(vendor, making, "chart_30m", "30m", OPEN_US + 4_000_000_000))
    assert [iso(us)[11:16] for us in times_of(found["time"])] == ["13:30", "14:00"]
    assert found["high"].to_pylist() == [148.95, 149.2]
    assert found["volume"].to_pylist() == [30, 70]


async def test_hours_of_new_york_are_not_offered(vendor: Canned, making: Making) -> None:
    answer = await ask(vendor, making, "chart_1h", "1h", OPEN_US + 2 * HOUR_US + 5_000_000)
    assert isinstance(answer.found["AAPL"], errors.NotEntitled)


async def test_daily_bars_are_as_traded_with_splits_and_dividends(vendor: Canned, making: Making) -> None:
    now_us = micros_of(dt.datetime(2020, 9, 2, 20, tzinfo=dt.UTC))
    answer = await making(now_us).bars(BarsRequest(("AAPL",), "1d", AUGUST_US, now_us))
    found = bars(answer)
    assert [iso(us)[5:10] for us in times_of(found["time"])] == ["08-06", "08-07", "08-27", "08-28", "08-31", "09-01"]
    assert found["close"].to_pylist() == [455.61, 444.45, 500.04, 499.23, 129.04, 134.18]
    assert found["volume"].to_pylist()[3:] == [46907500, 225702700, 151948100]
    assert answer.splits is not None
    assert answer.dividends is not None
    (split,) = answer.splits.to_pylist()
    assert (iso(micros_of(split["time"]))[:10], split["numerator"], split["denominator"]) == ("2020-08-31", 4.0, 1.0)
    (paid,) = answer.dividends.to_pylist()
    assert (iso(micros_of(paid["time"]))[:10], paid["amount"], paid["currency"]) == ("2020-08-07", 0.82, "USD")
    assert int(vendor.asked[-1][1]["period2"]) * 1_000_000 > now_us  # so that the answer contains the splits up to now


async def test_a_forming_day_is_no_bar(vendor: Canned, making: Making) -> None:
    found = bars(
        await ask(vendor, making, "chart_1d_live", "1d", micros_of(dt.datetime(2020, 9, 1, 18, tzinfo=dt.UTC)))
    )
    assert [iso(us)[5:10] for us in times_of(found["time"])] == ["08-31"]


async def test_daily_bars_of_currencies_begin_at_midnight_in_london(vendor: Canned, making: Making) -> None:
    now_us = OPEN_US
    found = bars(await ask(vendor, making, "chart_forex", "1d", now_us, "EUR/USD"), "EUR/USD")
    assert [iso(us) for us in times_of(found["time"])] == ["2021-09-14T00:00:00Z", "2021-09-15T00:00:00Z"]
    assert found["close"].to_pylist() == [1.1813, 1.1804]
    assert charts(vendor) == [("EURUSD=X", "1d")]


async def test_minutes_before_a_split_are_unadjusted_too(vendor: Canned, making: Making) -> None:
    # The split of 2020-08-31 is in the daily chart, which is requested first.
    now_us = micros_of(dt.datetime(2020, 9, 2, 20, tzinfo=dt.UTC))
    minutes = golden("yahoo", "chart_5m_live_alone").decode()
    shift = (micros_of(dt.datetime(2020, 8, 28, tzinfo=dt.UTC)) - OPEN_US // DAY_US * DAY_US) // 1_000_000
    for second in (1631799000, 1631799300, 1631799607, 1631822400, 1631836800, 1631779200):
        minutes = minutes.replace(str(second), str(second + shift))
    vendor.put(CHART, golden("yahoo", "chart_1d"), minutes.encode())
    provider = making(now_us)
    request = BarsRequest(("AAPL",), "5m", now_us - 7 * DAY_US, now_us)
    assert provider.cost(request) == 2
    found = bars(await provider.bars(request))
    assert found["open"].to_pylist() == [593.76, 594.8]
    assert found["volume"].to_pylist() == [678134.0, 247555.0]  # a quarter of the adjusted volume, in whole shares
    assert charts(vendor) == [("AAPL", "1d"), ("AAPL", "5m")]
    assert provider.cost(request) == 1
    await provider.bars(request)
    assert charts(vendor)[2:] == [("AAPL", "5m")]


async def test_splits_and_dividends_of_a_range_are_returned(vendor: Canned, making: Making) -> None:
    provider = making(micros_of(dt.datetime(2020, 9, 2, 20, tzinfo=dt.UTC)))
    answer = await provider.actions("AAPL", AUGUST_US, AUGUST_US + 40 * DAY_US)
    assert answer.splits["numerator"].to_pylist() == [4.0]
    assert answer.dividends["amount"].to_pylist() == [0.82]
    none = await provider.actions("AAPL", AUGUST_US, AUGUST_US + 5 * DAY_US)
    assert (none.splits.num_rows, none.dividends.num_rows) == (0, 0)
    vendor.put(CHART, golden("yahoo", "chart_nothing"))
    assert (await provider.actions("AAPL", AUGUST_US, AUGUST_US + DAY_US)).splits.num_rows == 0


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("chart_nothing", 200, errors.NoData),
        ("error_unknown", 404, errors.UnknownSymbol),
        ("error_unknown", 200, errors.UnknownSymbol),
        ("error_no_data", 400, errors.NoData),
        ("error_lookback", 422, errors.NotEntitled),
    ],
)
async def test_a_rejection_is_the_result_of_its_symbol(
    vendor: Canned, making: Making, name: str, status: int, kind: type[errors.VendorError]
) -> None:
    vendor.put(CHART, Answer(golden("yahoo", name), status))
    answer = await making(OPEN_US).bars(BarsRequest(("AAPL",), "1d", OPEN_US - DAY_US, OPEN_US))
    assert isinstance(answer.found["AAPL"], kind)
    assert len(charts(vendor)) == 1  # no second request with another cookie


async def test_an_answer_without_bars_does_not_cover_the_last_20_minutes(vendor: Canned, making: Making) -> None:
    vendor.put(CHART, golden("yahoo", "chart_1d"))
    provider = making(OPEN_US)
    await provider._splits_since("AAPL", OPEN_US)
    vendor.put(CHART, golden("yahoo", "chart_nothing"))
    answer = await provider.bars(BarsRequest(("AAPL",), "1m", OPEN_US - HOUR_US, OPEN_US))
    assert bars(answer).num_rows == 0
    assert [iso(us)[11:16] for us in answer.covers["AAPL"]] == ["12:30", "13:10"]
    old = await provider.bars(BarsRequest(("AAPL",), "1m", OPEN_US - 2 * HOUR_US, OPEN_US - HOUR_US))
    assert isinstance(old.found["AAPL"], errors.NoData)


async def test_an_unknown_symbol_is_requested_once(vendor: Canned, making: Making) -> None:
    vendor.put(CHART, Answer(golden("yahoo", "error_unknown"), 404))
    answer = await making(OPEN_US).bars(BarsRequest(("NIKK",), "1d", OPEN_US - DAY_US, OPEN_US))
    assert isinstance(answer.found["NIKK"], errors.UnknownSymbol)
    assert [path for path, _ in vendor.asked].count(f"{CHART}NIKK") == 1


@pytest.mark.parametrize(
    ("answer", "kind", "wait_s"),
    [
        (Answer(b"Too Many Requests", 429), errors.QuotaSpent, 600.0),
        (Answer(b"Too Many Requests", 429, {"Retry-After": "7"}), errors.Burst, 7.0),
        (Answer(b"Too Many Requests", 429, {"Retry-After": "3600"}), errors.QuotaSpent, 3600.0),
        (Answer(golden("yahoo", "error_server"), 500), errors.VendorDown, 5.0),
        (Answer(b"<html>", 502), errors.VendorDown, 5.0),
        (Answer(b"Will be right back", 200), errors.VendorDown, 5.0),
        (Answer(golden("yahoo", "error_long"), 422), errors.BadRequest, None),
    ],
)
async def test_an_error_of_the_whole_request_is_raised(
    vendor: Canned, making: Making, answer: Answer, kind: type[errors.VendorError], wait_s: float | None
) -> None:
    provider = making(OPEN_US)
    request = BarsRequest(("AAPL",), "1d", OPEN_US - DAY_US, OPEN_US)
    vendor.put(CHART, answer)
    with pytest.raises(kind) as caught:
        await provider.bars(request)
    assert caught.value.retry_after_s == wait_s
    vendor.put(CHART, golden("yahoo", "chart_1d"))
    assert isinstance((await provider.bars(request)).found["AAPL"], pa.RecordBatch)  # no failure is cached


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"<html>", b'{"chart":{"error":null}}', b'{"chart":{"result":[{}],"error":null}}',
        golden("yahoo", "chart_1d").replace(b'"timestamp"', b'"times"'),
        golden("yahoo", "chart_1d").replace(b'"volume"', b'"volumes"'),
        golden("yahoo", "chart_1d").replace(b'"America/New_York"', b'"America/Atlantis"'),
        golden("yahoo", "chart_1d").replace(b'"numerator":4.0', b'"numerator":"four"'),
    ],
)  # fmt: skip
async def test_an_unreadable_answer_is_malformed(vendor: Canned, making: Making, body: bytes) -> None:
    vendor.put(CHART, body)
    answer = await making(OPEN_US).bars(BarsRequest(("AAPL",), "1d", OPEN_US - DAY_US, OPEN_US))
    assert isinstance(answer.found["AAPL"], errors.Malformed | errors.NoData), answer.found


async def test_a_timeout_means_that_the_vendor_is_down(
    vendor: Canned, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = making(OPEN_US)
    request = BarsRequest(("AAPL",), "1d", OPEN_US - DAY_US, OPEN_US)
    await provider.bars(request)
    provider._timeout_s = 0.05
    vendor.put(CHART, Answer(golden("yahoo", "chart_1d"), delay_s=0.3))
    with pytest.raises(errors.VendorDown):
        await provider.bars(request)
    await provider.close()
    with pytest.raises(errors.VendorDown, match="closed"):
        await provider.bars(request)


async def test_the_provider_does_not_change_the_state_of_yfinance_for_other_code(
    vendor: Canned, making: Making, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    before = yf.data.YfData()
    session, crumb = before._session, before._crumb  # may be set by an earlier test
    provider, other = making(OPEN_US), making(OPEN_US)
    request = BarsRequest(("AAPL",), "1d", OPEN_US - DAY_US, OPEN_US)
    await asyncio.gather(*(one.bars(request) for one in (provider, other) for _ in range(4)))
    vendor.put(CHART, Answer(golden("yahoo", "error_unknown"), 404))
    await provider.bars(request)
    assert yf.config.debug.hide_exceptions is True
    assert yf.data.YfData() is before
    assert before._session is session
    assert before._crumb == crumb
    assert not [record for record in caplog.records if record.name in ("yfinance", "peewee")]
    logging.getLogger("yfinance").warning("message of other code")
    assert "message of other code" in caplog.text
    assert capfd.readouterr() == ("", "")


async def test_a_request_outside_the_offer_is_a_bad_request(making: Making) -> None:
    provider = making(OPEN_US)
    for wrong in (
        BarsRequest(("A", "B"), "1d", 0, DAY_US),
        BarsRequest(("A",), "1d", DAY_US, DAY_US),
        BarsRequest(("A",), "1w", 0, DAY_US),
    ):
        with pytest.raises(errors.BadRequest):
            await provider.bars(wrong)
    assert provider.stream(["A"]) is None


def test_the_offer_has_the_lookback_limits() -> None:
    offer = YahooProvider.offer
    assert {one.interval: (one.lookback_us or 0) // DAY_US for one in offer.bars} == {
        "1m": 8, "5m": 60, "15m": 60, "30m": 60, "1h": 730, "1d": 0,
    }  # fmt: skip
    minutes = offer.of("1m")
    assert minutes is not None
    assert minutes.page_us == 7 * DAY_US


def test_the_client_module_does_not_import_yfinance() -> None:
    # The import of yfinance loads pandas and takes a second, which would delay `tickerplant --help`.
    code = "import sys, tickerplant.market_data.clients.yahoo.client; sys.exit('yfinance' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
