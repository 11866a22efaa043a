"""The state of a stream that outlives its connections: settings, symbols, and the state of the vendor."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tickerplant.core.clock import Clock
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sessions import Calendars
from tickerplant.market_data.clients.liveness import SHORTEST_S, PriceLiveness
from tickerplant.market_data.clients.twelvedata.messages import SOURCE
from tickerplant.market_data.clients.twelvedata.parser import MessageParser
from tickerplant.market_data.clients.twelvedata.quotes import QuoteDecoder
from tickerplant.market_data.clients.twelvedata.subscriptions import Subscriptions
from tickerplant.system_clock import SystemClock

CLIENT_EVENTS: Final = 90
"""Maximum messages to the vendor per minute; the vendor's limit is 100."""
_LEAST_REAL_S: Final = 2.0  # a fast clock does not make the network and this process faster


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Timeouts and pauses of the stream, in seconds of the clock; `gather_s` is in seconds of the machine's clock.

    `mute_s`: maximum time without any message (answers to heartbeats count), or without an answer to the subscription,
    before the connection is considered dead. `silent_s`: lower bound of the allowed time without a price. `rejected_s`:
    time for which a rejected symbol is not subscribed again. `steady_s`: minimum duration of an answered connection
    after which the next pause is the shortest again.
    """

    heartbeat_s: float = 10.0
    mute_s: float = 25.0
    silent_s: float = SHORTEST_S
    gather_s: float = 0.003
    connect_timeout_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    steady_s: float = 10.0
    rejected_s: float = 4 * 3_600.0


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The address, the key and the symbols of a stream.

    `stamped`: prices contain `sent_ns`, which a sandbox may send. `longest_gather_s`: time for which messages are
    gathered while few arrive, in seconds of the machine's clock; at least `StreamSettings.gather_s`.
    """

    url: str
    key: str = field(repr=False)
    symbols: Sequence[str]
    source: str = SOURCE
    settings: StreamSettings = StreamSettings()
    clock: Clock = field(default_factory=SystemClock)
    calendars: Calendars = field(default_factory=lambda: Calendars(DEFAULT_RULES))
    stamped: bool = False
    longest_gather_s: float = 0.0


class Session:
    """State of one stream over its connections. Belongs to one event loop."""

    def __init__(self, config: StreamConfig) -> None:
        self.clock = config.clock
        self.settings = config.settings
        self.longest_gather_s = max(config.settings.gather_s, config.longest_gather_s)
        self.liveness = PriceLiveness(self.stretched(config.settings.silent_s))
        self.subscriptions = Subscriptions((), config.calendars, config.settings.rejected_s)
        quotes = QuoteDecoder(source=config.source, stamped=config.stamped, wanted_only=True)
        self.parser = MessageParser(quotes, self.subscriptions, self.liveness)
        self.heartbeats_answered = False
        """True if the vendor has answered a heartbeat."""
        self.pongs_count = False
        """True if answers to WebSocket pings show that the vendor is alive, because heartbeats are not answered."""
        self._sent_s: deque[float] = deque()
        self.add_symbols(config.symbols)

    def add_symbols(self, symbols: Sequence[str]) -> list[str]:
        """Add symbols; return the new symbols."""
        new = self.subscriptions.add(symbols)
        self.parser.add_symbols(new)
        return new

    def stretched(self, seconds: float) -> float:
        """Return `seconds` of the clock, extended to at least 2 s (or `seconds`, if less) of the machine's clock."""
        return max(seconds, min(seconds, _LEAST_REAL_S) * self.clock.speed)

    def real_s(self, seconds: float) -> float:
        """Return `stretched(seconds)` in seconds of the machine's clock."""
        return self.clock.real_s(self.stretched(seconds))

    async def wait_to_send(self) -> None:
        """Wait until the vendor's limit allows one more message."""
        while True:
            now_s = self.clock.monotonic()
            while self._sent_s and now_s - self._sent_s[0] >= 60.0:
                self._sent_s.popleft()
            if len(self._sent_s) < CLIENT_EVENTS:
                self._sent_s.append(now_s)
                return
            await self.clock.sleep(60.0 - (now_s - self._sent_s[0]))
