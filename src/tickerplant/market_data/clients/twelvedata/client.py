"""Twelve Data as a provider: bars, splits and dividends over REST, ticks over its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from tickerplant.core.sessions import Calendars
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of
from tickerplant.market_data.clients.twelvedata.messages import (
    INTERVAL_NAMES,
    Asked,
    credits_of,
    parse_dividends,
    parse_series,
    parse_splits,
    raise_error,
    vendor_interval,
    without_key,
)
from tickerplant.market_data.clients.twelvedata.session import StreamConfig
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.vendors.bounds import retry_after
from tickerplant.market_data.vendors.errors import BadRequest, NoData, VendorDown, VendorError
from tickerplant.market_data.vendors.http_body import MAX_ANSWER_BYTES, Answer, fetch
from tickerplant.market_data.vendors.port import (
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Credits,
    Offer,
    ProviderContext,
    Quota,
)

REST_URL: Final = "https://api.twelvedata.com"
STREAM_URL: Final = "wss://ws.twelvedata.com/v1/quotes/price"

PAGE_BARS: Final = 5_000
MAX_BATCH: Final = 120
ACTIONS_CREDITS: Final = 40
"""Credits of one call of `actions`: 20 for the splits of a symbol and 20 for its dividends."""
FREE_QUOTAS: Final = (Quota(8, MINUTE_US), Quota(800, DAY_US))

_TIMEOUT_S: Final = 30.0
_LEAST_TIMEOUT_S: Final = 10.0  # by the machine's clock: a fast clock does not make the network faster
_SYMBOL_BYTES: Final = 1 << 20  # a page of 5,000 bars has 0.7 MB
_LARGE_BYTES: Final = 1 << 20  # larger answers are parsed in a thread: 20 ms


def provider(context: ProviderContext) -> TwelveDataProvider:
    """Return the provider. Option `stamped` (`true`): prices contain `sent_ns`, which a sandbox may send."""
    return TwelveDataProvider(context)


class TwelveDataProvider:
    """The vendor for one key; see `vendors.port.Provider`."""

    offer = Offer(
        bars=tuple(BarsOffer(name, page_bars=PAGE_BARS, symbols=MAX_BATCH) for name in INTERVAL_NAMES),
        quotas=FREE_QUOTAS,
        actions=True,
        actions_credits=ACTIONS_CREDITS,
        stream=True,
    )

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._context = context
        self._clock = context.clock
        timeout_s = max(self._clock.real_s(_TIMEOUT_S), _LEAST_TIMEOUT_S)
        # The key is sent in a header, so that no address and no log contains it.
        self._client = httpx.AsyncClient(
            base_url=context.url or REST_URL,
            headers={"Authorization": f"apikey {context.key}"} if context.key else {},
            timeout=timeout_s,
            follow_redirects=False,
        )

    def cost(self, request: BarsRequest) -> int:
        """Return the credits of a request: 1 per symbol."""
        return len(request.symbols)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Send one request to `/time_series`. Raises VendorError for an error of the whole request."""
        asked = Asked(request.symbols, request.interval, request.start_us, request.end_us, PAGE_BARS, self.name)
        if not request.symbols or len(request.symbols) > MAX_BATCH or request.end_us <= request.start_us:
            raise BadRequest(f"a request needs 1 to {MAX_BATCH} symbols and a non-empty range")
        answer = await self._get(
            "/time_series",
            {
                "symbol": ",".join(request.symbols),
                "interval": vendor_interval(request.interval),
                "start_date": datetime_of(request.start_us).strftime("%Y-%m-%d %H:%M:%S"),
                "end_date": datetime_of(request.end_us - 1).strftime("%Y-%m-%d %H:%M:%S"),
                "outputsize": str(PAGE_BARS),
                "timezone": "UTC",
                "order": "desc",
                "adjust": "none",
            },
            (1 + len(request.symbols)) * _SYMBOL_BYTES,
        )
        body, now_us = answer.content, self._clock.now_us()
        retry_after_s, note = retry_after(answer.headers, now_us)
        read = (body, answer.status, asked, now_us, retry_after_s)
        try:
            series = await asyncio.to_thread(parse_series, *read) if len(body) > _LARGE_BYTES else parse_series(*read)
        except VendorError as error:
            error.with_note(note)
            raise self._without_key(error) from None
        for found in series.found.values():
            if isinstance(found, VendorError):
                self._without_key(found)
        covers = {symbol: (since_us, request.end_us) for symbol, since_us in series.full_since_us.items()}
        return BarsAnswer(series.found, covers, credits_of(answer.headers))

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Request `/splits` and `/dividends`. Raises VendorError; NotEntitled if the plan lacks them."""
        dates = {
            "symbol": symbol,
            "start_date": datetime_of(start_us).strftime("%Y-%m-%d"),
            "end_date": datetime_of(end_us - 1).strftime("%Y-%m-%d"),
        }
        splits, credits = await self._ask_actions("/splits", dates)
        dividends, credits = await self._ask_actions("/dividends", {**dates, "adjust": "false"})
        return ActionsAnswer(
            parse_splits(splits, symbol, start_us, end_us, self.name),
            parse_dividends(dividends, symbol, start_us, end_us, self.name),
            credits,
        )

    def stream(self, symbols: Sequence[str]) -> TwelveDataStream:
        """Return a stream of these symbols' ticks."""
        context = self._context
        config = StreamConfig(
            context.stream_url or STREAM_URL,
            context.key,
            symbols,
            source=context.name,
            clock=context.clock,
            calendars=Calendars(context.rules),
            longest_gather_s=context.gather_s,
            stamped=context.options.get("stamped", "").lower() == "true",
        )
        return TwelveDataStream(config)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._client.aclose()

    async def _ask_actions(self, path: str, params: dict[str, str]) -> tuple[bytes, Credits]:
        answer = await self._get(path, params)
        now_us = self._clock.now_us()
        retry_after_s, note = retry_after(answer.headers, now_us)
        try:
            raise_error(answer.content, answer.status, now_us, retry_after_s)
        except NoData:
            return b"{}", credits_of(answer.headers)
        except VendorError as error:
            error.with_note(note)
            raise self._without_key(error) from None
        return answer.content, credits_of(answer.headers)

    async def _get(self, path: str, params: dict[str, str], max_bytes: int = MAX_ANSWER_BYTES) -> Answer:
        try:
            return await fetch(self._client, path, params, max_bytes)
        except httpx.HTTPError as error:
            raise VendorDown(without_key(f"{type(error).__name__}: {error}", self._context.key)) from None

    def _without_key(self, error: VendorError) -> VendorError:
        """Remove the key, which the vendor may repeat, from an error's message; return the error."""
        error.args = tuple(without_key(str(part), self._context.key) for part in error.args)
        return error
