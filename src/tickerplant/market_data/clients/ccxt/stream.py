"""A stream of an exchange's trades, made by asking for them again and again. Trades have the exchange's own ids.

Symbols are asked for in turn, as fast as the exchange allows and no more than about once a second. Each answer must
reach back to a trade that is known: then nothing is missing between the two. One that does not is a hole, said as a
connection that was lost at the last trade and is there again. So nothing is missing that an exchange still has: after
an outage the trades meanwhile come late, with the first answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import structlog

from tickerplant.core.clock import Clock
from tickerplant.core.schemas import TEXT, TICKS
from tickerplant.core.times import MILLISECOND_US, SECOND_US, timestamps
from tickerplant.market_data.clients.ccxt.exchange import Exchange
from tickerplant.market_data.clients.columns import repeated
from tickerplant.market_data.feed.writer import DeadRow
from tickerplant.market_data.vendors.errors import (
    BadKey,
    BadRequest,
    Malformed,
    NotEntitled,
    UnknownSymbol,
    VendorError,
)
from tickerplant.market_data.vendors.port import Connected, Lost, Received, Refused, Said, StreamEvent

log = structlog.get_logger(__name__)

FROM_ID: Final = ("binance", "binanceus", "binanceusdm", "binancecoinm")
"""Exchanges that take the id of a trade to begin with: what they answer always reaches back."""
POLL_S: Final = 1.0
MUTE_S: Final = 10.0
"""So long may answers fail before the feed is down."""
PAGE: Final = 1_000
"""Trades in an answer, of those exchanges; others give what they give."""

_OVERLAP_MS: Final = 1_000
_IN_ORDER_US: Final = 900_000  # the plant bears a second of disorder in a feed
_LEAST_POLL_REAL_S: Final = 0.05
_MANY: Final = 50  # an answer of so many trades, mostly new, has more behind it
_PAGES_A_TURN: Final = 20
_ROWS_A_MESSAGE: Final = 20_000
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_REFUSED_FOR_S: Final = 4 * 3_600.0


class Part(msgspec.Struct, array_like=True):
    """Trades of one symbol, as columns; times are milliseconds."""

    symbol: str
    ids: list[str]
    times_ms: list[int]
    prices: list[float]
    sizes: list[float]


class Message(msgspec.Struct):
    """What this stream says to itself: `run` gathers it, `read` takes it apart."""

    parts: list[Part] = []
    refused: dict[str, str] = {}
    dead: list[tuple[str, str]] = []


@dataclass(slots=True)
class _Trade:
    """A trade, as far as it can be one."""

    id: str
    time_ms: int
    price: float
    size: float


@dataclass(slots=True)
class _Place:
    """How far a symbol's trades are known. `seen`: ids of late, with their times; `last_id` the newest.

    `overlap_ms`: so far before the last one the next answer is to begin; less while an answer is full before that.
    """

    symbol: str
    last_id: str = ""
    last_ms: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    overlap_ms: int = _OVERLAP_MS
    asked_us: int = 0
    refused_until_us: int = 0


class TradesStream:
    """Polls the trades of symbols; see `vendors.port.TickStream`."""

    def __init__(self, exchange: Exchange, symbols: Sequence[str], source: str, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._source = source
        self._places = [_Place(symbol) for symbol in dict.fromkeys(symbols)]
        self._by_id = exchange.id in FROM_ID
        self._connected = False
        self._failures = 0
        self._failed_us = 0
        self._waiting: list[tuple[str, _Trade]] = []
        self._message = Message()
        self._decoder = msgspec.json.Decoder(Message)

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Ask, and again, until cancelled. While `out` is full nothing is asked."""
        clock = self._clock
        while True:
            began_us, began_s = clock.now_us(), clock.monotonic()
            try:
                await self._round(out, began_us)
                self._failures = 0
            except VendorError as error:
                await self._failed(out, error, began_us)
                continue
            pause_s = POLL_S - (clock.monotonic() - began_s)
            await clock.sleep(max(pause_s, _LEAST_POLL_REAL_S * clock.speed))

    def read(self, event: Received) -> Said:
        """Return what messages say, in the order of the trades' times."""
        said, parts = Said(messages=len(event.texts)), []
        for text in event.texts:
            message = self._decoder.decode(text)
            parts += [part for part in message.parts if part.ids]
            said.refused.update(message.refused)
            said.dead += [DeadRow(reason, payload.encode()) for reason, payload in message.dead]
        if parts:
            said.ticks = _batch(parts, event.at_us, self._source)
        return said

    def reconnected(self) -> None:
        """Keep all: what is known of the trades goes on over a hole."""

    # Asking ----------------------------------------------------------------------------------------------------------

    async def _round(self, out: asyncio.Queue[StreamEvent], began_us: int) -> None:
        """Ask for each symbol's trades once, and say what came. Raises VendorError for what concerns all of them."""
        failed: VendorError | None = None
        answered = 0
        for _ in range(len(self._places)):
            place = self._places[0]
            if place.refused_until_us <= began_us:
                try:
                    await self._turn(out, place, began_us)
                    answered += 1
                except (UnknownSymbol, NotEntitled, BadRequest, Malformed) as error:
                    failed = error
                    self._note(place, error)
            self._places.append(self._places.pop(0))  # after a failure of all it is this one's turn
        if not answered and failed is not None:
            for place in self._places:
                place.refused_until_us = 0
            raise failed
        if not self._connected:
            await self._say_connected(out)
        await self._flush(out, began_us)

    def _note(self, place: _Place, error: VendorError) -> None:
        """Take note of what an exchange says of one symbol."""
        if isinstance(error, Malformed):
            self._message.dead.append((str(error), place.symbol))
        else:
            place.refused_until_us = self._clock.now_us() + int(_REFUSED_FOR_S * SECOND_US)
            self._message.refused[place.symbol] = str(error)

    async def _turn(self, out: asyncio.Queue[StreamEvent], place: _Place, began_us: int) -> None:
        """Bring a symbol up to date."""
        for _ in range(_PAGES_A_TURN):
            asked_us = self._clock.now_us()
            page = await self._page(place)
            if not self._connected and all(one.last_ms or one.refused_until_us for one in self._places):
                await self._say_connected(out)  # again: what is known of the trades goes on over it
            more = await self._take(out, place, page, began_us)
            place.asked_us = asked_us
            if len(self._waiting) > _ROWS_A_MESSAGE and self._connected:
                await self._flush(out, began_us)
            if not more:
                return

    async def _page(self, place: _Place) -> list[_Trade]:
        """Ask for trades from the last one that is known on; the newest, where none is."""
        if self._by_id and place.last_id:
            raw = await self._exchange.ask(
                lambda own: own.fetch_trades(place.symbol, None, PAGE, {"fromId": place.last_id})
            )
        elif self._by_id:
            raw = await self._exchange.ask(lambda own: own.fetch_trades(place.symbol, None, PAGE))
        else:
            since_ms = place.last_ms - place.overlap_ms if place.seen else None
            raw = await self._exchange.ask(lambda own: own.fetch_trades(place.symbol, since_ms))
        page = [trade for one in raw if (trade := self._trade(one)) is not None]
        if raw and not page:
            raise BadRequest("the exchange's trades have no ids, or no times")
        page.sort(key=lambda trade: trade.time_ms)
        return page

    def _trade(self, one: Any) -> _Trade | None:
        name, time_ms, price, size = one.get("id"), one.get("timestamp"), one.get("price"), one.get("amount")
        if not name or not isinstance(time_ms, int):
            return None
        if price is None:
            self._message.dead.append((f"the trade {name} has no price", str(one.get("info"))[:500]))
            return None
        return _Trade(str(name), time_ms, float(price), float(size or 0.0))

    async def _take(self, out: asyncio.Queue[StreamEvent], place: _Place, page: list[_Trade], began_us: int) -> bool:
        """Take what is new of a page; return whether there is more of it."""
        if not place.last_ms:
            # What was traded before is not this stream's.
            place.last_ms = self._clock.now_us() // MILLISECOND_US
            self._learn(place, page)
            return False
        known = place.seen
        since_ms = place.last_ms - _OVERLAP_MS
        new = [trade for trade in page if trade.id not in known and trade.time_ms >= since_ms]
        if known and page and not any(trade.id in known for trade in page):
            await self._hole(out, place, page, began_us)
        full = len(page) >= _MANY and not self._by_id
        if full and not new and place.overlap_ms >= 0:
            # It may be full before it comes to anything new. What follows the last millisecond alone may be a hole.
            place.overlap_ms = 0 if place.overlap_ms else -1
            return True
        place.overlap_ms = 0 if full and place.overlap_ms <= 0 else _OVERLAP_MS
        self._learn(place, page)
        self._waiting += [(place.symbol, trade) for trade in new]
        return len(page) >= PAGE if self._by_id else len(page) >= _MANY and 2 * len(new) >= len(page)

    def _learn(self, place: _Place, page: list[_Trade]) -> None:
        if not page:
            return
        if page[-1].time_ms >= place.last_ms or not place.last_id:
            place.last_id, place.last_ms = page[-1].id, page[-1].time_ms
        least_ms = place.last_ms - 2 * _OVERLAP_MS
        kept = {name: ms for name, ms in place.seen.items() if ms >= least_ms}
        kept.update((trade.id, trade.time_ms) for trade in page if trade.time_ms >= least_ms)
        place.seen = kept

    # Saying ----------------------------------------------------------------------------------------------------------

    async def _flush(self, out: asyncio.Queue[StreamEvent], began_us: int) -> None:
        """Say what waits, in one message; and leave what is newer than the round, for others' trades may be older."""
        before_ms = (began_us + _IN_ORDER_US) // MILLISECOND_US
        ready: dict[str, Part] = {}
        later: list[tuple[str, _Trade]] = []
        for symbol, trade in self._waiting:
            if trade.time_ms >= before_ms:
                later.append((symbol, trade))
                continue
            part = ready.get(symbol)
            if part is None:
                part = ready[symbol] = Part(symbol, [], [], [], [])
            part.ids.append(trade.id)
            part.times_ms.append(trade.time_ms)
            part.prices.append(trade.price)
            part.sizes.append(trade.size)
        self._waiting = later
        message, self._message = self._message, Message()
        message.parts = list(ready.values())
        if message.parts or message.refused or message.dead:
            await out.put(Received([msgspec.json.encode(message)], self._clock.now_us()))

    async def _say_connected(self, out: asyncio.Queue[StreamEvent]) -> None:
        await out.put(Connected(self._clock.now_us()))
        self._connected = True

    async def _hole(self, out: asyncio.Queue[StreamEvent], place: _Place, page: list[_Trade], began_us: int) -> None:
        """Say that trades are missing between the last one that is known and a page."""
        if not self._connected:
            return
        await self._flush(out, began_us)
        reason = f"trades of {place.symbol} are missing: an answer of {len(page)} does not reach back to the last one"
        await out.put(Lost(place.last_ms * MILLISECOND_US, reason))
        await self._say_connected(out)

    async def _failed(self, out: asyncio.Queue[StreamEvent], error: VendorError, began_us: int) -> None:
        """Wait after a failure, as long as the exchange says or longer each time; in time say that the feed is down."""
        self._failures += 1
        pause_s = min(_PAUSE_S * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE_S)
        pause_s *= 1 - random.random() / 2
        if isinstance(error, BadKey | NotEntitled):
            await out.put(Refused(str(error)))
            pause_s = _LONGEST_PAUSE_S
        elif self._failures == 1:
            log.warning("the exchange does not answer", feed=self._source, error=str(error)[:300])
        pause_s = max(pause_s, error.retry_after_s if error.about_vendor and error.retry_after_s else 0.0)
        until_us = self._clock.now_us() + int(pause_s * SECOND_US)
        asked = [place.asked_us for place in self._places if place.asked_us and place.refused_until_us <= began_us]
        since_us = min(asked, default=began_us)
        if self._connected and until_us - since_us > MUTE_S * SECOND_US:
            await self._flush(out, began_us)
            await out.put(Lost(since_us, str(error)))
            self._connected = False
        await self._clock.sleep(pause_s)


def _batch(parts: Sequence[Part], at_us: int, source: str) -> pa.RecordBatch:
    times = np.concatenate([np.array(part.times_ms, np.int64) for part in parts]) * MILLISECOND_US
    symbols = list(dict.fromkeys(part.symbol for part in parts))
    place = {symbol: at for at, symbol in enumerate(symbols)}
    codes = np.repeat([place[part.symbol] for part in parts], [len(part.ids) for part in parts]).astype(np.int32)
    order = np.argsort(times, kind="stable")
    rows = len(times)
    ids = pa.concat_arrays([pa.array(part.ids, pa.utf8()) for part in parts])
    prices = np.concatenate([np.array(part.prices, np.float64) for part in parts])
    sizes = np.concatenate([np.array(part.sizes, np.float64) for part in parts])
    return pa.RecordBatch.from_arrays(
        [
            timestamps(times[order]),
            pa.DictionaryArray.from_arrays(pa.array(codes[order]), pa.array(symbols, pa.utf8())).cast(TEXT),
            pa.array(prices[order]),
            pa.array(sizes[order]),
            repeated(source, rows),
            ids.take(pa.array(order)),
            pa.array(np.zeros(rows, np.uint16)),
            timestamps(np.full(rows, at_us, np.int64)),
        ],
        schema=TICKS,
    )
