"""The stream of Twelve Data: connect, subscribe, receive, and reconnect, until cancelled.

Messages that arrive within a few milliseconds are parsed and delivered together. The queue to the writer is bounded.
While it is full, the socket is not read, its buffers fill, and the vendor's own limit applies. No message is dropped
because the queue is full.

A dead connection is found in two ways. *Mute*: no message arrived for `mute_s`. Answers to heartbeats count as
messages. If a vendor answers no heartbeats, answers to WebSocket pings count from the second connection on. *Silent*:
heartbeats are answered, but in regular hours no price arrived for far longer than the feed's own rate explains
(`clients.liveness`). Silence of single symbols is not an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tickerplant.core.outage import Outage
from tickerplant.market_data.clients.frames import MAX_MESSAGE_BYTES, FrameConnection
from tickerplant.market_data.clients.twelvedata import subscriptions
from tickerplant.market_data.clients.twelvedata.connection import MANY_FAILURES, Connection
from tickerplant.market_data.clients.twelvedata.messages import without_key
from tickerplant.market_data.clients.twelvedata.session import Session, StreamConfig
from tickerplant.market_data.vendors.bounds import retry_after, shortened
from tickerplant.market_data.vendors.port import Disconnected, KeyRejected, StreamEvent

log = structlog.get_logger(__name__)

_LEAST_PAUSE_S: Final = 0.02
_WAIT_STEP_S: Final = 5.0
_ALL_FAILURES: Final = 100
MAX_WAIT_S: Final = 3_600.0
"""Maximum seconds until the next attempt if the vendor refuses a connection and requests a wait.

The maximum is short, because ticks have no second source.
"""
# The library's own logger writes headers, and with them the key, at DEBUG.
_library_log = logging.getLogger("tickerplant.websockets")
_library_log.setLevel(logging.INFO)


class _Connect(connect):
    """A connection that follows no redirect, because a redirect would send the key to another host."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error unchanged: the redirect is not followed."""
        return exc


class TwelveDataStream:
    """One connection to the vendor's stream, opened again after each loss; see `vendors.port.TickStream`.

    Belongs to one event loop. `subscribe`, `unsubscribe` and `reset` may be called at any time. They apply to the open
    connection, if there is one, and to every later connection.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.session = Session(config)
        self._url = config.url
        self._key = config.key
        self._source = config.source
        self._connection: Connection | None = None
        self._outage = Outage()

    # Symbols ---------------------------------------------------------------------------------------------------------

    def subscribe(self, symbols: Sequence[str]) -> None:
        """Add symbols."""
        new = [s for s in self.session.add_symbols(symbols) if not self.session.subscriptions.is_rejected(s)]
        if self._connection is not None:
            self._connection.send(subscriptions.messages("subscribe", new))

    def unsubscribe(self, symbols: Sequence[str]) -> None:
        """Remove symbols."""
        removed = self.session.subscriptions.remove(symbols)
        if self._connection is not None:
            self._connection.send(subscriptions.messages("unsubscribe", removed))

    def reset(self) -> None:
        """Remove all symbols."""
        self.session.subscriptions.clear()
        if self._connection is not None:
            self._connection.send([subscriptions.RESET])

    # Connections -----------------------------------------------------------------------------------------------------

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Run until cancelled. Never raises for errors of the network or the vendor."""
        failures, session = 0, self.session
        while True:
            least, wait_s, since_us = 0, 0.0, 0
            began_s, connected = session.clock.monotonic(), False
            try:
                async with self._open() as socket:
                    assert isinstance(socket, FrameConnection)
                    began_s = session.clock.monotonic()
                    connection = self._connection = Connection(session, socket, out)
                    try:
                        reason, least = await connection.listen(session.subscriptions.first_messages(began_s))
                    finally:
                        self._connection = None
                        since_us, connected = connection.since_us, connection.connected
                if connection.answered and session.clock.monotonic() - began_s >= session.settings.steady_s:
                    failures = 0
            except InvalidStatus as error:
                status = error.response.status_code
                reason = f"HTTP {status}"
                if status in (401, 403):
                    least = _ALL_FAILURES
                    await out.put(KeyRejected(f"{reason}: the key is not accepted"))
                elif 400 <= status < 500:  # 429: too many connections or attempts
                    headers = {name.lower(): value for name, value in error.response.headers.raw_items()}
                    asked_s, note = retry_after(headers, session.clock.now_us())
                    least, wait_s = MANY_FAILURES, min(asked_s or 0.0, MAX_WAIT_S)
                    reason = f"{reason}; {note}" if note else reason
            except (OSError, TimeoutError, ValueError, WebSocketException) as error:
                reason = shortened(f"{type(error).__name__}: {error}")
            reason = without_key(reason, self._key)
            if connected:
                await out.put(Disconnected(since_us, reason))
            failures = max(failures, least)
            await self._pause(failures, wait_s, reason, lost=connected)
            failures += 1

    def _open(self) -> _Connect:
        return _Connect(
            self._url,
            # The key is sent in a header: addresses are logged, by proxies too.
            additional_headers={"X-TD-APIKEY": self._key},
            open_timeout=self.session.real_s(self.session.settings.connect_timeout_s),
            close_timeout=1.0,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            create_connection=FrameConnection,
            logger=_library_log,
        )

    async def _pause(self, failures: int, wait_s: float, reason: str, *, lost: bool) -> None:
        """Wait before the next connection.

        The pause doubles with each failure up to a maximum. If no symbol is in a session, the pause is the maximum. It
        then ends when a session begins, unless `wait_s` is set. A random factor of 0.5 to 1 shortens it, but not below
        `wait_s`.
        """
        settings, clock, hours = self.session.settings, self.session.clock, self.session.subscriptions.hours
        calm = not hours.in_session(clock.now_us())
        backoff_s = min(settings.backoff_max_s, settings.backoff_first_s * 2.0 ** min(failures, 16))
        pause_s = max(wait_s, (settings.backoff_max_s if calm else backoff_s) * random.uniform(0.5, 1.0))
        if lost:
            self._outage.end()
        # One line per outage. Further attempts have the level debug.
        first = self._outage.fail(reason, clock.monotonic())
        write = log.debug if not first else log.info if calm else log.warning
        event = (
            "the stream was lost; the client is connecting again"
            if lost
            else "the stream could not be opened; the client is connecting again"
        )
        write(event, feed=self._source, reason=reason, pause_s=round(pause_s, 2))
        until_s = clock.monotonic() + max(pause_s, _LEAST_PAUSE_S * clock.speed)
        while (left_s := until_s - clock.monotonic()) > 0:
            await clock.sleep(min(left_s, _WAIT_STEP_S) if calm else left_s)
            if calm and self.session.subscriptions.hours.in_session(clock.now_us()) and not wait_s:
                return
