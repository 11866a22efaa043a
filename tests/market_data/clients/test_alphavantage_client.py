from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import AsyncIterator, Iterator

import pyarrow as pa
import pytest

from tests.market_data.clients.canned import Answer, Canned, golden, serving
from tickerplant.core.clock import Clock
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, iso, micros_of
from tickerplant.market_data.clients.alphavantage import client as alphavantage_client
from tickerplant.market_data.clients.alphavantage.client import AlphaVantageProvider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext, Quota
from tickerplant.system_clock import starting_at

KEY = "K3YK3YK3YK3YK3YK"
NOW_US = micros_of(dt.datetime(2017, 12, 18, 20, 30, tzinfo=dt.UTC))


@pytest.fixture
def vendor() -> Iterator[Canned]:
    with serving() as canned:
        yield canned


def provider(url: str, clock: Clock | None = None, **options: str) -> AlphaVantageProvider:
    context = ProviderContext("alphavantage", KEY, options, url, clock=clock or starting_at(NOW_US, 100))
    return alphavantage_client.provider(context)


@pytest.fixture
async def asking(vendor: Canned) -> AsyncIterator[AlphaVantageProvider]:
    made = provider(vendor.url)
    yield made
    await made.close()
    await made.close()


def ask(interval: str, back_us: int, for_us: int | None = None) -> BarsRequest:
    begin = NOW_US - back_us
    return BarsRequest(("IBM",), interval, begin, NOW_US if for_us is None else begin + for_us)


async def test_bars_are_requested_as_traded_with_the_key_in_the_query(
    vendor: Canned, asking: AlphaVantageProvider
) -> None:
    vendor.put("/query", golden("alphavantage", "intraday"))
    answer = await asking.bars(ask("1m", HOUR_US))
    found = answer.found["IBM"]
    assert isinstance(found, pa.RecordBatch)
    assert found.num_rows == 2
    ((path, query),) = vendor.asked
    assert path == "/query"
    assert query == {
        "function": "TIME_SERIES_INTRADAY", "symbol": "IBM", "interval": "1min", "adjusted": "false",
        "extended_hours": "false", "outputsize": "compact", "apikey": KEY,
    }  # fmt: skip
    # The free plan delivers bars after the end of the day, so no time after the newest bar is covered.
    assert [iso(us) for us in answer.covers["IBM"]] == ["2017-12-18T19:30:00Z", "2017-12-18T19:58:00Z"]


@pytest.mark.parametrize(
    ("interval", "back_us", "size", "month"),
    [
        ("1m", 99 * MINUTE_US, "compact", None),
        ("1m", DAY_US, "full", None),
        ("5m", 28 * DAY_US, "full", None),
        ("5m", 31 * DAY_US, "full", "2017-12"),
        ("1d", 130 * DAY_US, "compact", None),
        ("1d", 500 * DAY_US, "full", None),
    ],
)
async def test_the_smallest_sufficient_answer_is_requested(
    vendor: Canned, asking: AlphaVantageProvider, interval: str, back_us: int, size: str, month: str | None
) -> None:
    vendor.put("/query", golden("alphavantage", "empty"))
    answer = await asking.bars(ask(interval, back_us))
    query = vendor.asked[0][1]
    assert (query["outputsize"], query.get("month")) == (size, month)
    if month is None:
        assert isinstance(answer.found["IBM"], errors.NoData)
        assert not answer.covers
    else:  # the answer does not cover the other months of the request
        assert answer.found["IBM"].num_rows == 0  # type: ignore[union-attr]
        assert [iso(us) for us in answer.covers["IBM"]] == ["2017-12-01T05:00:00Z", iso(NOW_US)]


async def test_a_full_page_covers_only_its_bars(vendor: Canned, asking: AlphaVantageProvider) -> None:
    day = dt.date(2017, 12, 17)
    cells = {f"{at}. {name}": "1.0" for at, name in enumerate(("open", "high", "low", "close", "volume"), 1)}
    series = {str(day - dt.timedelta(days=back)): cells for back in range(100)}
    vendor.put("/query", json.dumps({"Time Series (Daily)": series}).encode())
    answer = await asking.bars(ask("1d", 137 * DAY_US))
    assert [iso(us)[:10] for us in answer.covers["IBM"]] == ["2017-09-09", "2017-12-18"]


async def test_an_unknown_symbol_of_a_month_is_no_data(vendor: Canned, asking: AlphaVantageProvider) -> None:
    vendor.put("/query", golden("alphavantage", "error_call"))
    old = await asking.bars(ask("1m", 60 * DAY_US, DAY_US))
    assert isinstance(old.found["IBM"], errors.NoData)
    assert isinstance((await asking.bars(ask("1m", DAY_US))).found["IBM"], errors.UnknownSymbol)


async def test_splits_and_dividends_are_requested_in_turn(vendor: Canned, asking: AlphaVantageProvider) -> None:
    vendor.put("/query", golden("alphavantage", "splits"), golden("alphavantage", "dividends"))
    answer = await asking.actions("IBM", 0, micros_of(dt.datetime(2024, 6, 1, tzinfo=dt.UTC)))
    assert (answer.splits.num_rows, answer.dividends.num_rows) == (3, 2)
    assert [query["function"] for _, query in vendor.asked] == ["SPLITS", "DIVIDENDS"]
    assert asking.offer.actions_credits == 2


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_the_key_is_in_no_log_and_no_error(
    vendor: Canned, asking: AlphaVantageProvider, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    for name in (None, "httpx", "httpcore"):  # the service's logging settings mute these loggers
        caplog.set_level(level, name)
    vendor.put(
        "/query",
        golden("alphavantage", "daily"),
        golden("alphavantage", "information_day"),
        Answer(f"<html>{KEY}".encode(), 503),
        Answer(f'{{"?apikey={KEY}":{{}}}}'.encode()),
        Answer(f'{{"Time Series (Daily)":{{"{KEY}":{{"1. open":"{KEY}"}}}}}}'.encode()),
        # At DEBUG, httpcore logs the headers of an answer, so here the key is not in them.
        Answer(KEY.encode(), 302, {"Location": f"/login?apikey={KEY}"} if level == logging.INFO else {}),
        Answer(b"no gzip", 200, {"Content-Encoding": "gzip"}),
    )
    await asking.bars(ask("1d", DAY_US))
    kinds = (errors.QuotaSpent, errors.VendorDown, *[errors.Malformed] * 4)
    for kind in kinds:
        with pytest.raises(kind) as caught:
            await asking.bars(ask("1d", DAY_US))
        assert KEY not in repr(caught.value)
        assert caught.value.__cause__ is None
    assert all(query["apikey"] == KEY for _, query in vendor.asked)
    assert any(record.name == "httpx" for record in caplog.records)
    assert KEY not in caplog.text
    assert KEY not in repr(vars(asking)["_client"])


async def test_a_timeout_means_that_the_vendor_is_down(vendor: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alphavantage_client, "_LEAST_TIMEOUT_S", 0.05)
    vendor.put("/query", Answer(golden("alphavantage", "daily"), delay_s=0.4))
    slow = provider(vendor.url, starting_at(NOW_US, 1_000))
    unreachable = provider("http://127.0.0.1:1")
    for one in (slow, unreachable):
        with pytest.raises(errors.VendorDown) as caught:
            await one.bars(ask("1d", DAY_US))
        assert caught.value.about_vendor
        await one.close()


async def test_a_request_outside_the_offer_is_a_bad_request(asking: AlphaVantageProvider) -> None:
    for wrong in (
        BarsRequest(("A", "B"), "1d", 0, DAY_US),
        BarsRequest(("A",), "1d", DAY_US, DAY_US),
        BarsRequest(("A",), "1w", 0, DAY_US),
        BarsRequest(("A",), "1h", 0, DAY_US),
    ):
        with pytest.raises(errors.BadRequest):
            await asking.bars(wrong)
    assert asking.stream(["A"]) is None


async def test_the_offer_depends_on_extended_hours() -> None:
    plain, extended = provider(""), provider("", extended_hours="true")
    assert [offer.interval for offer in plain.offer.bars] == ["1m", "5m", "15m", "30m", "1d"]
    assert extended.offer.of("1h") is not None
    assert plain.offer.quotas == (Quota(5, MINUTE_US), Quota(25, DAY_US, "America/New_York"))
    assert plain.cost(ask("1m", DAY_US)) == 1
    for one in (plain, extended):
        await one.close()
