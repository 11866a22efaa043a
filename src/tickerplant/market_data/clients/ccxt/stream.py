"""A stream of an exchange's trades, obtained by polling. Trades have the exchange's own ids.

Symbols are requested in turn, as fast as the exchange allows and at most about once a second. Each answer must reach
back to a known trade, so that no trade between two answers is missing. Otherwise there is a gap, which is delivered as
a disconnection at the last trade and a new connection. The trades of an outage arrive late, with the first answers, if
the exchange still returns them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import structlog

from tickerplant.core.clock import Clock
from tickerplant.core.times import MILLISECOND_US, SECOND_US
from tickerplant.market_data.clients.ccxt.exchange import Exchange
from tickerplant.market_data.clients.ccxt.trades import FULL_PAGE, OVERLAP_MS, SymbolTrades, Trade, ticks_of
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.validation import LATEST_US
from tickerplant.market_data.vendors.bounds import SHOWN_CHARS, bounded_wait_s, shortened
from tickerplant.market_data.vendors.errors import (
    BadKey,
    BadRequest,
    Malformed,
    NotEntitled,
    UnknownSymbol,
    VendorError,
)
from tickerplant.market_data.vendors.port import Connected, Disconnected, KeyRejected, StreamEvent, Ticks

log = structlog.get_logger(__name__)

FROM_ID: Final = ("binance", "binanceus", "binanceusdm", "binancecoinm")
"""Exchanges that accept the id of the first trade: their answers always reach back to a known trade."""
POLL_S: Final = 1.0
MUTE_S: Final = 10.0
"""Maximum seconds of failed requests before the feed is reported as down."""
PAGE: Final = 1_000
"""Maximum trades per answer of the exchanges in FROM_ID; each other exchange defines its own page."""

_IN_ORDER_US: Final = 900_000  # the feed allows a second of disorder
_LEAST_POLL_REAL_S: Final = 0.05
_PAGES_A_TURN: Final = 20
_ROWS_A_BATCH: Final = 20_000
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_REJECTED_FOR_S: Final = 4 * 3_600.0
_LATEST_MS: Final = LATEST_US // MILLISECOND_US


class TradesStream:
    """Polls the trades of symbols; see `vendors.port.TickStream`."""

    def __init__(self, exchange: Exchange, symbols: Sequence[str], source: str, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._source = source
        self._symbols = [SymbolTrades(symbol) for symbol in dict.fromkeys(symbols)]
        self._by_id = exchange.id in FROM_ID
        self._connected = False
        self._failures = 0
        self._waiting: list[Trade] = []
        self._dead: list[DeadRow] = []
        self._rejected: dict[str, str] = {}

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Poll until cancelled. A round of requests with new trades ends only after `out` has room for them."""
        clock = self._clock
        while True:
            began_us, began_s = clock.now_us(), clock.monotonic()
            try:
                await self._round(out, began_us)
                self._failures = 0
            except VendorError as error:
                await self._on_failure(out, error, began_us)
                continue
            pause_s = POLL_S - (clock.monotonic() - began_s)
            await clock.sleep(max(pause_s, _LEAST_POLL_REAL_S * clock.speed))

    # Requests --------------------------------------------------------------------------------------------------------

    async def _round(self, out: asyncio.Queue[StreamEvent], began_us: int) -> None:
        """Request each symbol's new trades in turn, and deliver them.

        Raises VendorError if the requests of all symbols failed, or for an error of the whole exchange.
        """
        failed: VendorError | None = None
        answered = 0
        for _ in range(len(self._symbols)):
            symbol = self._symbols[0]
            if symbol.rejected_until_us <= began_us:
                try:
                    await self._update(out, symbol, began_us)
                    answered += 1
                except (UnknownSymbol, NotEntitled, BadRequest, Malformed) as error:
                    failed = error
                    self._note(symbol, error)
            self._symbols.append(self._symbols.pop(0))  # after an error, a round begins with the failed symbol
        if not answered and failed is not None:
            for symbol in self._symbols:
                symbol.rejected_until_us = 0
            raise failed
        if not self._connected:
            await self._put_connected(out)
        await self._flush(out, began_us)

    def _note(self, symbol: SymbolTrades, error: VendorError) -> None:
        """Note an error that concerns one symbol."""
        if isinstance(error, Malformed):
            self._dead.append(DeadRow(str(error), symbol.symbol.encode()))
        else:
            symbol.rejected_until_us = self._clock.now_us() + int(_REJECTED_FOR_S * SECOND_US)
            self._rejected[symbol.symbol] = str(error)

    async def _update(self, out: asyncio.Queue[StreamEvent], symbol: SymbolTrades, began_us: int) -> None:
        """Request a symbol's trades, page by page, up to the newest trade or _PAGES_A_TURN pages."""
        for _ in range(_PAGES_A_TURN):
            requested_us = self._clock.now_us()
            page = await self._page(symbol)
            if not self._connected and all(one.last_ms or one.rejected_until_us for one in self._symbols):
                await self._put_connected(out)  # known trades stay known after a reconnection
            more = await self._add(out, symbol, page, began_us)
            symbol.requested_us = requested_us
            if len(self._waiting) > _ROWS_A_BATCH and self._connected:
                await self._flush(out, began_us)
            if not more:
                return

    async def _page(self, symbol: SymbolTrades) -> list[Trade]:
        """Request and return trades from the last known trade on, oldest first; the newest trades if none is known."""
        name = symbol.symbol
        if self._by_id and symbol.last_id:
            raw = await self._exchange.ask(lambda own: own.fetch_trades(name, None, PAGE, {"fromId": symbol.last_id}))
        elif self._by_id:
            raw = await self._exchange.ask(lambda own: own.fetch_trades(name, None, PAGE))
        else:
            since_ms = symbol.last_ms - symbol.overlap_ms if symbol.seen else None
            raw = await self._exchange.ask(lambda own: own.fetch_trades(name, since_ms))
        page = [trade for one in raw if (trade := self._trade(name, one)) is not None]
        if raw and not page:
            raise BadRequest("the exchange's trades have no ids, or no times")
        page.sort(key=lambda trade: trade.time_ms)
        return page

    def _trade(self, symbol: str, one: Any) -> Trade | None:
        """Return a trade, or None if it cannot be used.

        A trade that has an id and a time, but no price or an invalid value, becomes a dead letter.
        """
        try:
            name, time_ms, price, size = one.get("id"), one.get("timestamp"), one.get("price"), one.get("amount")
            if not name or not isinstance(time_ms, int):
                return None
            if not 0 <= time_ms < _LATEST_MS:
                raise ValueError(f"the time {shortened(repr(time_ms), SHOWN_CHARS)} ms is not plausible")
            if price is None:
                raise ValueError("it has no price")
            return Trade(symbol, str(name), time_ms, float(price), float(size or 0.0))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            info = one.get("info") if isinstance(one, dict) else one
            reason = f"a trade of {symbol} cannot be used: {shortened(str(error))}"
            self._dead.append(DeadRow(reason, shortened(str(info)).encode()))
            return None

    async def _add(
        self, out: asyncio.Queue[StreamEvent], symbol: SymbolTrades, page: list[Trade], began_us: int
    ) -> bool:
        """Add the new trades of a page; return True if another page must be requested."""
        if not symbol.last_ms:
            # Trades before the first request do not belong to this stream.
            symbol.last_ms = self._clock.now_us() // MILLISECOND_US
            symbol.add(page)
            return False
        new = symbol.new_of(page)
        if symbol.is_gap_before(page):
            await self._put_gap(out, symbol, page, began_us)
        full = len(page) >= FULL_PAGE and not self._by_id
        if full and not new and symbol.overlap_ms >= 0:
            # The page is full before it reaches a new trade, so the next page begins later. A page that begins after
            # the last known millisecond counts as a gap.
            symbol.overlap_ms = 0 if symbol.overlap_ms else -1
            return True
        symbol.overlap_ms = 0 if full and symbol.overlap_ms <= 0 else OVERLAP_MS
        symbol.add(page)
        self._waiting += new
        return len(page) >= PAGE if self._by_id else len(page) >= FULL_PAGE and 2 * len(new) >= len(page)

    # Events ----------------------------------------------------------------------------------------------------------

    async def _flush(self, out: asyncio.Queue[StreamEvent], began_us: int) -> None:
        """Put the waiting trades on the queue, except trades more than 0.9 s newer than the start of the round.

        These newer trades wait, because other symbols may still deliver older trades.
        """
        before_ms = (began_us + _IN_ORDER_US) // MILLISECOND_US
        ready = [trade for trade in self._waiting if trade.time_ms < before_ms]
        self._waiting = [trade for trade in self._waiting if trade.time_ms >= before_ms]
        dead, rejected = self._dead, self._rejected
        self._dead, self._rejected = [], {}
        if ready or dead or rejected:
            received_us = self._clock.now_us()
            batch = ticks_of(ready, received_us, self._source) if ready else None
            await out.put(Ticks(received_us, batch, dead, rejected, messages=1))

    async def _put_connected(self, out: asyncio.Queue[StreamEvent]) -> None:
        await out.put(Connected(self._clock.now_us()))
        self._connected = True

    async def _put_gap(
        self, out: asyncio.Queue[StreamEvent], symbol: SymbolTrades, page: list[Trade], began_us: int
    ) -> None:
        """Put the events of a gap: trades are missing between the last known trade and a page."""
        if not self._connected:
            return
        await self._flush(out, began_us)
        reason = f"trades of {symbol.symbol} are missing: an answer of {len(page)} does not reach back to the last one"
        await out.put(Disconnected(symbol.last_ms * MILLISECOND_US, reason))
        await self._put_connected(out)

    async def _on_failure(self, out: asyncio.Queue[StreamEvent], error: VendorError, began_us: int) -> None:
        """Wait after a failure, with exponential backoff or as long as the exchange requests.

        If the time without an answer would exceed `MUTE_S`, the feed is reported as down since the earliest of the last
        answers of its symbols.
        """
        self._failures += 1
        pause_s = min(_PAUSE_S * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE_S)
        pause_s *= 1 - random.random() / 2
        if isinstance(error, BadKey | NotEntitled):
            await out.put(KeyRejected(str(error)))
            pause_s = _LONGEST_PAUSE_S
        elif self._failures == 1:
            log.warning(
                "a request to the exchange failed; requests are repeated until the exchange answers",
                feed=self._source,
                error=str(error)[:300],
            )
        pause_s = max(pause_s, bounded_wait_s(error.retry_after_s) if error.about_vendor else 0.0)
        until_us = self._clock.now_us() + int(pause_s * SECOND_US)
        active = [one for one in self._symbols if one.rejected_until_us <= began_us]
        since_us = min((one.requested_us for one in active if one.requested_us), default=began_us)
        if self._connected and until_us - since_us > MUTE_S * SECOND_US:
            await self._flush(out, began_us)
            await out.put(Disconnected(since_us, str(error)))
            self._connected = False
        await self._clock.sleep(pause_s)
