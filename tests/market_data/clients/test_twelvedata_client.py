from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from tests.market_data.clients.vendor import RestVendor
from tickerplant.core.schemas import DIVIDENDS, SPLITS, VENDOR_BARS
from tickerplant.core.times import DAY_US, MINUTE_US, micros_of
from tickerplant.market_data.clients.twelvedata.client import TwelveDataProvider, provider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest, Credits, Provider, ProviderContext, TickStream
from tickerplant.system_clock import starting_at

GOLDEN = Path(__file__).parents[1] / "golden" / "twelvedata"
FROM_US = micros_of(dt.datetime(2021, 9, 16, 19, 50, tzinfo=dt.UTC))
TO_US = FROM_US + 20 * MINUTE_US
KEY = "hush-hush"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


def asking(rest: RestVendor, now_us: int = TO_US + DAY_US) -> TwelveDataProvider:
    return provider(ProviderContext("td", KEY, url=rest.url, clock=starting_at(now_us, 1.0)))


async def test_bars_are_requested_as_traded_in_utc_with_the_key_in_a_header(caplog: pytest.LogCaptureFixture) -> None:
    async with RestVendor().serving() as rest:
        credits = {"api-credits-used": "2", "api-credits-left": "6"}
        rest.answers["/time_series"] = (200, credits, golden("series_batch"))
        vendor = asking(rest)
        request = BarsRequest(["AAPL", "NIKK"], "1m", FROM_US, TO_US)
        assert vendor.cost(request) == 2
        with caplog.at_level(logging.DEBUG):
            answer = await vendor.bars(request)
        await vendor.close()
        await vendor.close()
        bars = answer.found["AAPL"]
        assert isinstance(bars, pa.RecordBatch)
        assert (bars.schema, bars.num_rows, bars["source"][0].as_py()) == (VENDOR_BARS, 1, "td")
        assert isinstance(answer.found["NIKK"], errors.UnknownSymbol)
        assert answer.credits == Credits(2, 6)
        ((target, headers),) = rest.asked
        assert headers["authorization"] == f"apikey {KEY}"
        assert {name: value[0] for name, value in parse_qs(urlsplit(target).query).items()} == {
            "symbol": "AAPL,NIKK",
            "interval": "1min",
            "start_date": "2021-09-16 19:50:00",
            "end_date": "2021-09-16 20:09:59",
            "outputsize": "5000",
            "timezone": "UTC",
            "order": "desc",
            "adjust": "none",
        }
        assert KEY not in target
        assert KEY not in caplog.text
        assert KEY not in repr(vendor)


async def test_a_full_page_covers_only_the_time_since_its_oldest_bar() -> None:
    minutes = [f"2021-09-{13 + at // 1440:02d} {at // 60 % 24:02d}:{at % 60:02d}:00" for at in range(5_000)]
    values = [dict.fromkeys(("open", "high", "low", "close"), "1.0") | {"datetime": at} for at in reversed(minutes)]
    async with RestVendor().serving() as rest:
        rest.answers["/time_series"] = (200, {}, json.dumps({"values": values, "status": "ok"}).encode())
        vendor = asking(rest)
        answer = await vendor.bars(BarsRequest(["AAPL"], "1m", FROM_US - 30 * DAY_US, TO_US))
        await vendor.close()
    start = micros_of(dt.datetime(2021, 9, 13, tzinfo=dt.UTC))
    assert answer.covers == {"AAPL": (start, TO_US)}


async def test_forming_bars_are_not_in_the_answer() -> None:
    async with RestVendor().serving() as rest:
        rest.answers["/time_series"] = (200, {}, golden("series_intraday"))
        last_us = micros_of(dt.datetime(2021, 9, 16, 19, 59, tzinfo=dt.UTC))
        vendor = asking(rest, now_us=last_us + 30_000_000)
        found = (await vendor.bars(BarsRequest(["AAPL"], "1m", FROM_US, TO_US))).found["AAPL"]
        await vendor.close()
        assert found.num_rows == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "retry_after_s"),
    [
        (200, {}, golden("error_key"), errors.BadKey, None),
        (401, {}, b'{"code":401,"message":"apikey=hush-hush is wrong","status":"error"}', errors.BadKey, None),
        (503, {"Retry-After": "17"}, b"busy, hush-hush", errors.VendorDown, 17.0),
        (429, {"Retry-After": "3"}, golden("error_burst"), errors.Burst, 3.0),
        (200, {}, b"\x00\xff", errors.Malformed, None),
        (200, {"Content-Encoding": "gzip"}, b"no gzip", errors.Malformed, None),
    ],
)
async def test_errors_are_typed_and_contain_no_key(
    status: int, headers: dict[str, str], body: bytes, kind: type[errors.VendorError], retry_after_s: float | None
) -> None:
    async with RestVendor().serving() as rest:
        rest.answers["/time_series"] = (status, headers, body)
        vendor = asking(rest)
        with pytest.raises(kind) as caught:
            await vendor.bars(BarsRequest(["A", "B"], "1m", FROM_US, TO_US))
        await vendor.close()
    assert caught.value.retry_after_s == retry_after_s
    assert KEY not in str(caught.value)


async def test_an_unreachable_vendor_raises_vendor_down() -> None:
    async with RestVendor().serving() as rest:
        vendor = asking(rest)
    with pytest.raises(errors.VendorDown):
        await vendor.bars(BarsRequest(["A"], "1m", FROM_US, TO_US))
    await vendor.close()


async def test_requests_above_the_vendors_limits_are_not_sent() -> None:
    async with RestVendor().serving() as rest:
        vendor = asking(rest)
        with pytest.raises(errors.BadRequest):
            await vendor.bars(BarsRequest([f"S{at}" for at in range(121)], "1m", FROM_US, TO_US))
        await vendor.close()
        assert rest.asked == []


async def test_splits_and_dividends_are_requested_without_adjustment() -> None:
    async with RestVendor().serving() as rest:
        rest.answers |= {"/splits": (200, {}, golden("splits")), "/dividends": (200, {}, golden("dividends"))}
        vendor = asking(rest)
        begin = micros_of(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        answer = await vendor.actions("AAPL", begin, TO_US)
        await vendor.close()
        assert (answer.splits.schema, answer.splits.num_rows) == (SPLITS, 1)
        assert (answer.dividends.schema, answer.dividends.num_rows) == (DIVIDENDS, 2)
        assert ["adjust=false" in target for target, _ in rest.asked] == [False, True]
        assert all("start_date=2020-01-01&end_date=2021-09-16" in target for target, _ in rest.asked)


async def test_a_plan_without_actions_raises_not_entitled_and_an_empty_answer_is_no_error() -> None:
    async with RestVendor().serving() as rest:
        vendor = asking(rest)
        rest.answers["/splits"] = (403, {}, golden("error_plan"))
        with pytest.raises(errors.NotEntitled):
            await vendor.actions("AAPL", 0, TO_US)
        rest.answers |= {path: (400, {}, golden("error_no_data")) for path in ("/splits", "/dividends")}
        answer = await vendor.actions("AAPL", 0, TO_US)
        assert (answer.splits.num_rows, answer.dividends.num_rows) == (0, 0)
        await vendor.close()


async def test_the_client_is_a_provider_with_a_stream() -> None:
    vendor: Provider = provider(ProviderContext("td", KEY, stream_url="ws://127.0.0.1:1/"))
    stream: TickStream | None = vendor.stream(["AAPL"])
    assert stream is not None
    assert KEY not in repr(stream)
    assert [quota.credits for quota in vendor.offer.quotas] == [8, 800]
    assert vendor.offer.of("1m") is not None
    assert vendor.offer.of("3m") is None
    await vendor.close()
