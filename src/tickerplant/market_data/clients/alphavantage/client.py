"""Alpha Vantage as a provider: bars, splits and dividends over REST."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from typing import Final

import httpx

from tickerplant.core import interval as intervals
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.clients.alphavantage.messages import (
    INTERVAL_NAMES,
    ZONE_NAME,
    month_of,
    parse_dividends,
    parse_series,
    parse_splits,
    raise_status,
    without_key,
)
from tickerplant.market_data.vendors.columns import no_bars
from tickerplant.market_data.vendors.errors import BadRequest, NoData, UnknownSymbol, VendorDown, VendorError
from tickerplant.market_data.vendors.http_body import MAX_ANSWER_BYTES, fetch
from tickerplant.market_data.vendors.port import (
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Offer,
    ProviderContext,
    Quota,
    TickStream,
)

URL: Final = "https://www.alphavantage.co"
FREE_QUOTAS: Final = (Quota(5, MINUTE_US), Quota(25, DAY_US, ZONE_NAME))
PACE_S: Final = 1.0

_COMPACT_ROWS: Final = 100
_COMPACT_DAYS: Final = 138  # 100 sessions, five a week, last at least that long
_TRAILING_US: Final = 29 * DAY_US  # an answer without a month has 30 days; one day less, because clocks may differ
_MONTH_US: Final = 31 * DAY_US
_SETTLED_US: Final = 36 * HOUR_US
_DAYS: Final = 10_000  # "20+ years"
_TIMEOUT_S: Final = 30.0
_LEAST_TIMEOUT_S: Final = 10.0  # by the machine's clock: a fast clock does not make the network faster
_LARGE_BYTES: Final = 1 << 18  # larger answers are parsed in a thread: a month of minutes has 2 MB and takes 50 ms


def provider(context: ProviderContext) -> AlphaVantageProvider:
    """Return the provider. Option `extended_hours` (`true`): include bars before and after the session."""
    return AlphaVantageProvider(context)


class AlphaVantageProvider:
    """The vendor for one key; see `vendors.port.Provider`.

    The vendor returns intraday bars of three ranges: the newest 100, the trailing 30 days, or a calendar month (New
    York). It returns either the newest 100 daily bars or all daily bars. The free plan delivers the newest day after
    its end. An answer therefore does not cover times after its newest bar that are younger than 36 hours.
    """

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._key = context.key
        self._clock = context.clock
        self._extended = context.options.get("extended_hours", "").lower() == "true"
        self.offer = _offer(extended=self._extended)
        base = context.url or URL
        self._client = httpx.AsyncClient(
            base_url=base,
            transport=_WithKey(context.key, _proxy_of(base)),
            timeout=max(self._clock.real_s(_TIMEOUT_S), _LEAST_TIMEOUT_S),
            follow_redirects=False,
        )

    def cost(self, request: BarsRequest) -> int:
        """Return the credits of a request: always 1."""
        return 1

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Send one request for bars of one symbol. Raises VendorError for an error of the whole request."""
        if len(request.symbols) != 1 or request.end_us <= request.start_us:
            raise BadRequest("a request needs one symbol and a non-empty range")
        try:
            return await self._bars(request)
        except VendorError as error:
            raise self._without_key(error) from None

    async def _bars(self, request: BarsRequest) -> BarsAnswer:
        symbol, interval, now_us = request.symbols[0], request.interval, self._clock.now_us()
        params, begin, end = self._page(request, now_us)
        body = await self._ask(params | {"symbol": symbol})
        read = (body, symbol, interval, begin, end, now_us, self.name)
        try:
            series = await asyncio.to_thread(parse_series, *read) if len(body) > _LARGE_BYTES else parse_series(*read)
        except (UnknownSymbol, NoData) as error:
            if (begin, end) != (request.start_us, request.end_us):
                # The answer does not cover the other months of the request.
                return BarsAnswer({symbol: no_bars(symbol, interval, self.name)}, {symbol: (begin, end)})
            # The vendor has one message for a month without data and for an unknown symbol.
            result = NoData(str(error)) if "month" in params else error
            return BarsAnswer({symbol: self._without_key(result)})
        if series.rows >= _COMPACT_ROWS and params["outputsize"] == "compact":
            begin = max(begin, series.first_us)
        end = min(end, max(series.last_us + intervals.parse(interval).us, now_us - _SETTLED_US))
        return BarsAnswer({symbol: series.bars}, {symbol: (begin, max(begin, end))})

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Request splits, then dividends. Raises VendorError."""
        arguments = (symbol, start_us, end_us, self._clock.now_us(), self.name)
        try:
            splits = parse_splits(await self._ask({"function": "SPLITS", "symbol": symbol}), *arguments)
            await self._clock.sleep(PACE_S)
            dividends = parse_dividends(await self._ask({"function": "DIVIDENDS", "symbol": symbol}), *arguments)
        except VendorError as error:
            raise self._without_key(error) from None
        return ActionsAnswer(splits, dividends)

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return None: the vendor has no stream."""
        return None

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._client.aclose()

    def _page(self, request: BarsRequest, now_us: int) -> tuple[dict[str, str], int, int]:
        """Return the parameters of the request, and the range that its answer covers.

        If the range has several months, both refer to the last month.
        """
        begin, end = request.start_us, request.end_us
        if request.interval == "1d":
            compact = begin >= now_us - _COMPACT_DAYS * DAY_US
            return {"function": "TIME_SERIES_DAILY", "outputsize": "compact" if compact else "full"}, begin, end
        if self.offer.of(request.interval) is None:
            raise BadRequest(f"{request.interval} bars are not offered")
        params = {
            "function": "TIME_SERIES_INTRADAY",
            "interval": INTERVAL_NAMES[request.interval],
            "adjusted": "false",
            "extended_hours": "true" if self._extended else "false",
            "outputsize": "full",
        }
        if begin >= now_us - _COMPACT_ROWS * intervals.parse(request.interval).us:
            return params | {"outputsize": "compact"}, begin, end
        if begin >= now_us - _TRAILING_US:
            return params, begin, end
        month, first_us, end_us = month_of(end - 1)
        return params | {"month": month}, max(begin, first_us), min(end, end_us)

    def _without_key(self, error: VendorError) -> VendorError:
        error.args = tuple(without_key(str(part), self._key) for part in error.args)
        return error

    async def _ask(self, params: dict[str, str]) -> bytes:
        try:
            answer = await fetch(self._client, "/query", params, MAX_ANSWER_BYTES)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise VendorDown(f"{type(error).__name__}: {error}") from None
        raise_status(answer.status, answer.content)
        return answer.content


def _offer(*, extended: bool) -> Offer:
    """Return the intervals, page sizes and quotas of the vendor.

    1h bars require extended hours: in regular hours alone, they begin at half past the hour.
    """
    names = [name for name in INTERVAL_NAMES if extended or name != "1h"]
    months = (BarsOffer(name, page_bars=_MONTH_US // intervals.parse(name).us, page_us=_MONTH_US) for name in names)
    return Offer(
        bars=(*months, BarsOffer("1d", page_bars=_DAYS)),
        quotas=FREE_QUOTAS,
        pace_s=PACE_S,
        actions=True,
        # Stocks and funds only: no pairs, no indices.
        markets=tuple("[!/=^:]" * length for length in range(1, 17)),
        actions_credits=2,
    )


class _WithKey(httpx.AsyncBaseTransport):
    """Adds the key to the address, because the vendor accepts the key only in the address.

    The key is added at the lowest layer. The request that httpx logs, and that responses and errors contain, has no
    key.
    """

    def __init__(self, key: str, proxy: str | None) -> None:
        self._key = key
        self._transport = httpx.AsyncHTTPTransport(proxy=proxy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a copy of the request with the key."""
        url = request.url.copy_merge_params({"apikey": self._key}) if self._key else request.url
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
            )
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def _proxy_of(url: str) -> str | None:
    """Return the address of the environment's proxy for a URL, by the rules of httpx; None if there is no proxy."""
    parts = httpx.URL(url)
    if urllib.request.proxy_bypass(parts.host):
        return None
    return urllib.request.getproxies().get(parts.scheme)
