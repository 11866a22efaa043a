"""Crypto exchanges as providers, through ccxt: bars, and a stream of polled trades. No key is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.errors import ConfigError
from tickerplant.core.times import MILLISECOND_US, SECOND_US
from tickerplant.market_data.clients.ccxt.exchange import Exchange
from tickerplant.market_data.clients.ccxt.stream import TradesStream
from tickerplant.market_data.vendors.columns import bars_batch, on_the_grid
from tickerplant.market_data.vendors.errors import BadRequest, Malformed, NoData, NotEntitled, VendorError
from tickerplant.market_data.vendors.port import (
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Offer,
    ProviderContext,
)

DEFAULT_EXCHANGE: Final = "binance"
DEFAULT_MARKETS: Final = "*/*"
INTERVALS: Final = (intervals.M1, intervals.M5, intervals.D1)

_PAGE_BARS: Final = 500  # if ccxt defines no limit; a shorter answer covers only its bars
_NEWEST_BARS_ALONE: Final = {"kraken": 720}
"""Bars per answer of the exchanges that always return the newest bars only."""
_SETTLED_US: Final = 2 * SECOND_US
"""Minimum age of a closed bar by our clock: a younger bar may be forming by the exchange's clock."""
_OPTIONS: Final = {"exchange", "markets"}


def provider(context: ProviderContext) -> CcxtProvider:
    """Return the provider.

    Options: `exchange`, an id of ccxt (default `binance`); `markets`, shell patterns of symbols, separated by commas
    (default `*/*`, all spot markets). Raises ConfigError for an unknown option or exchange, and if ccxt is not
    installed.
    """
    unknown = sorted(set(context.options) - _OPTIONS)
    if unknown:
        raise ConfigError(f"the vendor {context.name} has no option {unknown[0]!r}; use exchange or markets")
    return CcxtProvider(context)


class CcxtProvider:
    """One exchange; see `vendors.port.Provider`. Symbols are as ccxt writes them: `BTC/USDT`.

    ccxt paces the requests for bars and for trades together, by the limits of the exchange.
    """

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._clock = context.clock
        patterns = (context.options.get("markets") or DEFAULT_MARKETS).split(",")
        markets = tuple(pattern.strip() for pattern in patterns if pattern.strip())
        self._exchange = Exchange(
            (context.options.get("exchange") or DEFAULT_EXCHANGE).strip().lower(),
            context.clock,
            context.url,
            spot_alone=not any(":" in pattern for pattern in markets),
        )
        self.offer = _offer(self._exchange, markets)

    def cost(self, request: BarsRequest) -> int:
        """Return 1: there is no quota; ccxt paces the requests."""
        return 1

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Request one page of bars of one symbol. Raises VendorError for an error of the whole request."""
        offer = self.offer.of(request.interval)
        if offer is None or len(request.symbols) != 1 or request.end_us <= request.start_us:
            raise BadRequest(f"a request needs one symbol, a non-empty range and one of {self._intervals()}")
        symbol, length_us = request.symbols[0], intervals.parse(request.interval).us
        since_us = -(-request.start_us // length_us) * length_us
        count = min(offer.page_bars, max(1, -(-(request.end_us - since_us) // length_us)))
        try:
            rows = await self._exchange.ask(
                lambda own: own.fetch_ohlcv(symbol, request.interval, since_us // MILLISECOND_US, count)
            )
            newest_alone = self._exchange.id in _NEWEST_BARS_ALONE
            found, covers = read_bars(rows, request, self._clock.now_us(), self.name, newest_alone=newest_alone)
        except VendorError as error:
            if error.about_vendor or isinstance(error, BadRequest):
                raise
            return BarsAnswer({symbol: error})
        return BarsAnswer({symbol: found}, {symbol: covers})

    def _intervals(self) -> str:
        return ", ".join(offer.interval for offer in self.offer.bars)

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Raise NotEntitled: cryptocurrencies have no splits or dividends."""
        raise NotEntitled("exchanges of cryptocurrencies have no splits or dividends")

    def stream(self, symbols: Sequence[str]) -> TradesStream | None:
        """Return a stream of these symbols' trades; None for an exchange without public trades."""
        return TradesStream(self._exchange, symbols, self.name, self._clock) if self.offer.stream else None

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._exchange.close()


def _offer(exchange: Exchange, markets: tuple[str, ...]) -> Offer:
    own = exchange.own
    features: Mapping[str, Any] = ((own.features or {}).get("spot") or {}).get("fetchOHLCV") or {}
    page = features.get("limit") or _PAGE_BARS
    newest = _NEWEST_BARS_ALONE.get(exchange.id)
    bars = tuple(
        BarsOffer(length.name, page_bars=int(page), lookback_us=newest and (newest - 1) * length.us)
        for length in INTERVALS
        if own.has.get("fetchOHLCV") and length.name in (own.timeframes or {})
    )
    return Offer(bars, stream=bool(own.has.get("fetchTrades")), markets=markets)


def read_bars(
    rows: Any, request: BarsRequest, now_us: int, source: str, *, newest_alone: bool = False
) -> tuple[pa.RecordBatch | NoData, tuple[int, int]]:
    """Return the closed bars of the request, or NoData if there are none, and the range that the answer covers.

    `rows`: lists of time (ms), open, high, low, close, volume, oldest first, as ccxt returns them. An answer that ends
    early covers only its bars: it may be a full page. `newest_alone`: the exchange returns only the newest bars, so an
    answer that begins late also covers only its bars. Raises Malformed.
    """
    symbol, length_us = request.symbols[0], intervals.parse(request.interval).us
    start_us, end_us = request.start_us, request.end_us
    settled_us = max(start_us, min(end_us, (now_us - _SETTLED_US) // length_us * length_us))
    if not rows:
        return NoData(f"no bars of {symbol} in the range"), (start_us, settled_us)
    try:
        table = np.array([[math.nan if value is None else value for value in row[:6]] for row in rows], np.float64)
        if table.shape[1] < 5:
            raise ValueError("they have too few values")
        time = np.rint(table[:, 0]).astype(np.int64) * MILLISECOND_US
    except (TypeError, ValueError, IndexError) as error:
        raise Malformed(f"bars of {symbol} of an unknown shape: {error}") from None
    valid = np.isfinite(table[:, :5]).all(axis=1) & on_the_grid(time, request.interval)
    if not valid.any():
        raise Malformed(f"no bar of {symbol} has its time and prices: {str(rows[0])[:100]}")
    first_us, last_end_us = int(time[valid].min()), int(time[valid].max()) + length_us
    begins_us = min(settled_us, max(start_us, first_us)) if newest_alone else start_us
    covers = (begins_us, max(begins_us, min(settled_us, last_end_us)))
    keep = valid & (time >= start_us) & (time + length_us <= settled_us)
    if not keep.any():
        return NoData(f"no bars of {symbol} in the range"), (start_us, settled_us)
    time, table = time[keep], table[keep]
    prices = tuple(np.ascontiguousarray(table[:, at]) for at in (1, 2, 3, 4))
    volume = np.nan_to_num(table[:, 5]) if table.shape[1] > 5 else np.zeros(len(table))
    return bars_batch(symbol, request.interval, time, prices, volume, source), covers
