"""The stream of Twelve Data: connect, subscribe, listen, and again, until told to stop.

What came within a few milliseconds goes on together. The queue to the writer is bounded: when it is full this end stops
reading, the socket's buffers fill, and the vendor's own limit decides; nothing is dropped here.

A dead connection is found in two ways. *Mute*: nothing came for `mute_s`, answers to heartbeats count (and, should a
vendor answer none, from the second time on those to WebSocket pings). *Silent*: heartbeats are answered, but in regular
hours no price came for far longer than the feed's own rate lets expect (`silence`). That single symbols fall silent is
no reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tickerplant.core.clock import Clock
from tickerplant.core.errors import BadInput
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US
from tickerplant.market_data.clients.frames import MAX_MESSAGE_BYTES, FrameConnection
from tickerplant.market_data.clients.liveness import SHORTEST_S, Hours, Silence
from tickerplant.market_data.clients.twelvedata.connection import MANY_FAILURES, Line
from tickerplant.market_data.clients.twelvedata.messages import SOURCE, without_key
from tickerplant.market_data.clients.twelvedata.quotes import QuoteColumns, SubscribeStatus, read_messages
from tickerplant.market_data.feed.validation import FUTURE_US
from tickerplant.market_data.vendors.port import Lost, Received, Refused, Said, StreamEvent
from tickerplant.system_clock import SystemClock

log = structlog.get_logger(__name__)

SUBSCRIBE_SYMBOLS: Final = 2_000
"""In one message: 66 KB at most of the vendor's megabyte, and its answer is some 200 KB."""
CLIENT_EVENTS: Final = 90
"""In a minute; the vendor takes 100."""
_RESET: Final = '{"action":"reset"}'
_LEAST_REAL_S: Final = 2.0  # the network and this process are no faster because the clock is
_LEAST_PAUSE_S: Final = 0.02
_WAIT_STEP_S: Final = 5.0
_ALL_FAILURES: Final = 100
# The library's own logger writes headers, and so the key, at DEBUG.
_library_log = logging.getLogger("tickerplant.websockets")
_library_log.setLevel(logging.INFO)


class _Connect(connect):
    """A connection that follows no redirect: it would hand the key to whoever is named there."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error as it is."""
        return exc


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How the stream is kept alive; all but `gather_s` in seconds of the clock.

    `mute_s`: so long without any message (answers to heartbeats are some), or without an answer to the subscription,
    and the connection is taken as dead. `silent_s`: no shorter time without a price is. `refused_s`: how long a symbol
    that was refused is not asked for again.
    `steady_s`: a connection that lived this long was a good one, and the pauses begin again with the shortest.
    """

    heartbeat_s: float = 10.0
    mute_s: float = 25.0
    silent_s: float = SHORTEST_S
    gather_s: float = 0.003
    connect_timeout_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    steady_s: float = 10.0
    refused_s: float = 4 * 3_600.0


class TwelveDataStream:
    """One connection to the vendor's stream, kept up; see `vendors.port.TickStream`.

    Belongs to one event loop. `subscribe`, `unsubscribe` and `reset` may be called at any time: what is wanted is sent
    now if there is a connection, and with every new one.
    """

    def __init__(
        self,
        url: str,
        key: str,
        symbols: Sequence[str],
        *,
        source: str = SOURCE,
        settings: StreamSettings | None = None,
        clock: Clock | None = None,
        calendars: Calendars | None = None,
        stamped: bool = False,
    ) -> None:
        self.settings = settings or StreamSettings()
        self.clock = clock or SystemClock()
        self.silence = Silence(self.stretched(self.settings.silent_s))
        self.beats_answered = False
        """Whether a heartbeat was ever answered."""
        self.pongs_count = False
        """Whether answers to WebSocket pings have to do, since heartbeats get none."""
        self._url = url
        self._key = key
        self._source = source
        self._calendars = calendars or Calendars(DEFAULT_RULES)
        self._columns = QuoteColumns(source=source, stamped=stamped)
        self._wanted: dict[str, None] = {}
        self._refused_s: dict[str, float] = {}
        self._reported: set[str] = set()
        self._again_s: float | None = None
        self._again_pause_s = 60.0
        self._sent_s: deque[float] = deque()
        self._line: Line | None = None
        self._last_us = 0
        self.hours = Hours(self._calendars, ())
        self._want(symbols)

    # What is wanted --------------------------------------------------------------------------------------------------

    def subscribe(self, symbols: Sequence[str]) -> None:
        """Want these symbols too."""
        new = [symbol for symbol in self._want(symbols) if symbol not in self._refused_s]
        if self._line is not None:
            self._line.send(_subscriptions("subscribe", new))

    def unsubscribe(self, symbols: Sequence[str]) -> None:
        """Want these symbols no more."""
        gone = [symbol for symbol in map(check_symbol, symbols) if symbol in self._wanted]
        for symbol in gone:
            del self._wanted[symbol]
            self._refused_s.pop(symbol, None)
        self.hours = Hours(self._calendars, self._wanted)
        if self._line is not None:
            self._line.send(_subscriptions("unsubscribe", gone))

    def reset(self) -> None:
        """Want nothing."""
        self._wanted.clear()
        self._refused_s.clear()
        self.hours = Hours(self._calendars, ())
        if self._line is not None:
            self._line.send([_RESET])

    def _want(self, symbols: Sequence[str]) -> list[str]:
        new = [symbol for symbol in dict.fromkeys(map(check_symbol, symbols)) if symbol not in self._wanted]
        self._wanted.update(dict.fromkeys(new))
        self._columns.expect(new)
        self.hours = Hours(self._calendars, self._wanted)
        return new

    def due(self, now_s: float) -> list[str]:
        """Return subscriptions to be sent again: after hours for what was refused, sooner for what was not answered."""
        due = [name for name, at_s in self._refused_s.items() if now_s - at_s >= self.settings.refused_s]
        for symbol in due:
            self._refused_s[symbol] = now_s
        if self._again_s is not None and now_s >= self._again_s:
            self._again_s = None
            due += [symbol for symbol in self._wanted if symbol not in self._refused_s]
        return _subscriptions("subscribe", due)

    # The connection --------------------------------------------------------------------------------------------------

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Work until cancelled. Never raises for what the network or the vendor does."""
        failures, settings, clock = 0, self.settings, self.clock
        while True:
            least, wait_s, since_us = 0, 0.0, 0
            began_s, connected = clock.monotonic(), False
            try:
                # The key goes in a header: an address ends up in logs, of proxies too.
                async with _Connect(
                    self._url,
                    additional_headers={"X-TD-APIKEY": self._key},
                    open_timeout=self.real_s(settings.connect_timeout_s),
                    close_timeout=1.0,
                    ping_interval=None,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    create_connection=FrameConnection,
                    logger=_library_log,
                ) as connection:
                    assert isinstance(connection, FrameConnection)
                    began_s = clock.monotonic()
                    line = self._line = Line(self, connection, out)
                    try:
                        reason, least = await line.listen(_subscriptions("subscribe", self._to_ask()))
                    finally:
                        self._line = None
                        since_us, connected = line.since_us, line.connected
                if line.answered and clock.monotonic() - began_s >= settings.steady_s:
                    failures = 0
            except InvalidStatus as error:
                status = error.response.status_code
                reason = f"HTTP {status}"
                if status in (401, 403):
                    least = _ALL_FAILURES
                    await out.put(Refused(f"{reason}: the key is not taken"))
                elif 400 <= status < 500:  # 429: too many connections or attempts
                    least, wait_s = MANY_FAILURES, _retry_after_s(error.response.headers.get("Retry-After", ""))
            except (OSError, TimeoutError, ValueError, WebSocketException) as error:
                reason = f"{type(error).__name__}: {error}"
            reason = without_key(reason, self._key)
            if connected:
                await out.put(Lost(since_us, reason))
            failures = max(failures, least)
            await self._pause(failures, wait_s, reason, lost=connected)
            failures += 1

    async def _pause(self, failures: int, wait_s: float, reason: str, *, lost: bool) -> None:
        """Wait: twice as long with each failure up to the longest, between half and all of it.

        While no symbol is in a session there is nothing to miss: it waits the longest, and until a session begins.
        """
        settings, clock = self.settings, self.clock
        calm = not self.hours.in_session(clock.now_us())
        longest_s = min(settings.backoff_max_s, settings.backoff_first_s * 2.0 ** min(failures, 16))
        pause_s = max(wait_s, (settings.backoff_max_s if calm else longest_s) * random.uniform(0.5, 1.0))
        say = log.info if calm else log.warning
        what = "stream lost, connecting again" if lost else "no stream, connecting again"
        say(what, feed=self._source, reason=reason, pause_s=round(pause_s, 2))
        until_s = clock.monotonic() + max(pause_s, _LEAST_PAUSE_S * clock.speed)
        while (left_s := until_s - clock.monotonic()) > 0:
            await clock.sleep(min(left_s, _WAIT_STEP_S) if calm else left_s)
            if calm and self.hours.in_session(clock.now_us()) and not wait_s:
                return

    def _to_ask(self) -> list[str]:
        """Return the symbols wanted, less those refused of late."""
        before_s = self.clock.monotonic() - self.settings.refused_s
        return [symbol for symbol in self._wanted if self._refused_s.get(symbol, before_s) <= before_s]

    def stretched(self, seconds: float) -> float:
        """Return the time by the clock, as long as needed to be at least 2 s (or `seconds`) of the machine's."""
        return max(seconds, min(seconds, _LEAST_REAL_S) * self.clock.speed)

    def real_s(self, seconds: float) -> float:
        """Return the machine's seconds of `stretched`."""
        return self.clock.real_s(self.stretched(seconds))

    async def turn(self) -> None:
        """Wait until one more event may be sent to the vendor."""
        while True:
            now_s = self.clock.monotonic()
            while self._sent_s and now_s - self._sent_s[0] >= 60.0:
                self._sent_s.popleft()
            if len(self._sent_s) < CLIENT_EVENTS:
                self._sent_s.append(now_s)
                return
            await self.clock.sleep(60.0 - (now_s - self._sent_s[0]))

    # What it says ----------------------------------------------------------------------------------------------------

    def read(self, event: Received) -> Said:
        """Return what messages say."""
        found = read_messages(event.texts)
        said = Said(dead=found.dead, messages=len(event.texts))
        for status in found.statuses:
            self._take_status(status, said)
        if found.prices:
            said.hole = self._hole([price.timestamp for price in found.prices], event.at_us)
            if said.hole is not None:
                self.reconnected()
            said.ticks, odd = self._columns.ticks(found.prices, event.at_us)
            said.dead = [*said.dead, *odd]
        return said

    def _hole(self, seconds: Sequence[float], at_us: int) -> tuple[int, int] | None:
        """Return the stretch between the last price and the first of these if prices were missed in it.

        By the times that they bear, for messages may wait here. A socket that was mute for less than is given up for
        has dropped what it did not send.
        """
        last_us = self._last_us
        times = [int(time * SECOND_US) for time in seconds if 0 < time * SECOND_US <= at_us + FUTURE_US]
        newest_us = max(times, default=0)
        if newest_us <= last_us:
            return None
        self._last_us = newest_us
        first_us = min(time for time in times if time > last_us)
        regime = self.hours.regime(first_us)
        if not last_us or self.hours.regime(last_us) != regime:
            return None
        return (last_us, first_us) if first_us - last_us > self.silence.hole_s(regime) * SECOND_US else None

    def reconnected(self) -> None:
        """Forget the volumes so far: what is traded between two connections belongs to no print."""
        self._columns.forget_volumes()

    def begin(self, at_us: int) -> None:
        """A connection is up: what was before is known to be a hole, and prices are to come from now on."""
        self._last_us = at_us

    def _take_status(self, status: SubscribeStatus, said: Said) -> None:
        said.notes += [f"{status.event} {status.status}: {text}" for text in status.messages]
        if status.event != "subscribe-status":
            return
        for name in status.success:
            ours = self._ours(name)
            if ours is not None:
                self._refused_s.pop(ours, None)
                self._reported.discard(ours)
        for name, why in status.fails:
            ours = self._ours(name)
            if ours is None:
                said.notes.append(f"refused, but not asked for: {name!r} ({why})")
                continue
            self._refused_s[ours] = self.clock.monotonic()
            if ours not in self._reported:
                self._reported.add(ours)
                said.refused[ours] = why
        if status.success or status.fails:
            self._again_pause_s = 60.0
        elif status.status == "error":
            self._again_s = self.clock.monotonic() + self._again_pause_s
            said.notes.append(f"a whole subscription was refused; again in {self._again_pause_s:.0f} s")
            self._again_pause_s = min(2 * self._again_pause_s, self.settings.refused_s)

    def _ours(self, name: str) -> str | None:
        """Return the symbol wanted that the vendor's name means: itself, or the only one of that ticker."""
        with contextlib.suppress(BadInput):
            name = check_symbol(name)
        if name in self._wanted:
            return name
        plain = name.partition(":")[0]
        found = [symbol for symbol in self._wanted if symbol.partition(":")[0] == plain]
        return found[0] if len(found) == 1 else None


def _subscriptions(action: str, symbols: Sequence[str]) -> list[str]:
    """Return the messages that ask for these symbols, or that ask for them no more."""
    return [
        msgspec.json.encode(
            {"action": action, "params": {"symbols": ",".join(symbols[at : at + SUBSCRIBE_SYMBOLS])}}
        ).decode()
        for at in range(0, len(symbols), SUBSCRIBE_SYMBOLS)
    ]


def _retry_after_s(text: str) -> float:
    return float(text) if text.strip().isdecimal() else 0.0
