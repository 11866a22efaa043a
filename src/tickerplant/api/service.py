"""The API as a service: one HTTP server, the tail of the log, the store's pool."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from tickerplant.api.alert_rules import Check, Rulebook
from tickerplant.api.main import create_app
from tickerplant.api.metrics import ApiMetrics
from tickerplant.api.on_demand import Indicators
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import Source
from tickerplant.api.webhooks import WebhookOptions, Webhooks
from tickerplant.api.websockets.endpoint import DROP_EXTENSION, STALL_S, Stream
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.protocol import MAX_MESSAGE_BYTES
from tickerplant.api.websockets.rows import (
    ANALYTICS,
    BAR_COLUMNS,
    BARS,
    TICK_COLUMNS,
    TICKS,
    TOPICS,
    VALUE_KEY,
    Part,
    Words,
    columns_of,
)
from tickerplant.api.websockets.tail import Tail
from tickerplant.core.errors import ConfigError, TickerplantError
from tickerplant.core.interval import D1, M1, M5, Interval, parse
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog, TopicPartition

MAX_REPLAYED_RECORDS: Final = 1_024
"""How far behind the end of each partition the stream begins at most, when the store is behind."""
MAX_SEEDED_SYMBOLS: Final = 5_000
"""Whose newest state is read from the store for a subscriber to everything: nine statements in all, and two for each
interval by activity."""
SEED_TICKS: Final = 10
"""Ticks of a symbol that are read to find the last one that may set a price."""
ABORT_S: Final = 5.0
SHUTDOWN_S: Final = 3
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the plant."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _StreamProtocol(WebSocketsSansIOProtocol):
    """Lets the application drop a client whose socket is full, which plain ASGI cannot."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
            extensions[DROP_EXTENSION] = self._drop
            self.scope["extensions"] = extensions

    def _drop(self, text: str, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_text(text.encode())
        self.conn.send_close(code, reason.encode()[:120].decode(errors="ignore"))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        # The application returns after this; the connection lives on until the client has read why, or the time is up.
        self.close_timer = self.loop.call_later(ABORT_S, self.transport.abort)


class Api:
    """Serves REST, the stream and the dashboard.

    `port` 0 takes a free one; `bound_port` says which once `started` is set. `health` is called from a thread and
    returns `{"parts": [{"name", "state": ok | degraded | failed, "sentence", …}]}`. `registry` is where `/metrics`
    reads, and gets the API's own. `indicators` computes them when asked; without it `/v1/indicators` has none.
    `check_rule` returns an alert rule in the plant's form, or raises BadInput; without it there are no rules, and
    without `webhooks` none are posted from here. `rules` say the calendars by which bars are adjusted within a day, and
    those of coverage before the log has rules. `now_us` is the market's time, unless given as the log says.
    """

    def __init__(
        self,
        log: EventLog,
        dsn: str,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        health: Callable[[], Mapping[str, Any]] | None = None,
        registry: CollectorRegistry | None = None,
        api_key: str | None = None,
        source: Source | None = None,
        indicators: Indicators | None = None,
        check_rule: Check | None = None,
        webhooks: WebhookOptions | None = None,
        rules: Rules = DEFAULT_RULES,
        now_us: Callable[[], int] | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self.started = asyncio.Event()
        self.bound_port = 0
        self._log = log
        self._dsn = dsn
        self._host = host
        self._port = port
        self._health = health
        self._registry = registry or CollectorRegistry()
        self._api_key = api_key
        self._source = source
        self._indicators = indicators
        self._check_rule = check_rule
        self._webhooks = webhooks
        self._rules = rules
        self._now_us = now_us
        self._calendars = Calendars(rules)
        self._stall_s = stall_s

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises ConfigError when the address cannot be had.

        1. take the address; 2. open the stream at the store's positions; 3. serve; 4. after `stop`: close clients
        (code 1012), then the tail, then the pool.
        """
        # Step 1
        listener = self._listen()
        self.bound_port = listener.getsockname()[1]
        if not self._api_key and self._host not in LOOPBACK:
            logger.warning("the API is open to whoever reaches %s:%d; set api.key", self._host, self.bound_port)
        metrics: ApiMetrics | None = None
        state: ApiState | None = None
        watching: list[asyncio.Task[None]] = []
        try:
            identity = await asyncio.to_thread(self._log.identity)
            source = self._source or Source(self._dsn, identity)
            state = ApiState(
                self._log, source, self._health, self._registry, self._api_key, indicators=self._indicators,
                calendars=self._calendars, rules=self._rules, now_us=self._now_us,
            )  # fmt: skip
            metrics = ApiMetrics(self._registry, state.numbers, state.left_out_numbers)
            # Step 2
            hub = Hub(identity, await self._beginning(source))
            state.stream = Stream(self._log, hub, lambda symbols: seeds(source, symbols), stall_s=self._stall_s)
            state.tail = Tail(
                self._log,
                hub.positions,
                asyncio.get_running_loop(),
                lambda parts, lagging: hub.apply(parts, lagging=lagging),
            )
            state.tail.start()
            watching = [asyncio.create_task(state.stream.watch()), *self._alerting(state, source)]
            # Step 3
            server = _Server(self._config(state, metrics))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            self.started.set()
            logger.info("the API listens on http://%s:%d", self._host, self.bound_port)
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Step 4
                stopping.cancel()
                server.should_exit = True
                await serving
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            if state is not None:
                if state.tail is not None:
                    await asyncio.to_thread(state.tail.stop)
                await state.source.close()
            if metrics is not None:
                metrics.close()
            listener.close()

    def _alerting(self, state: ApiState, source: Source) -> list[asyncio.Task[None]]:
        """Begin to tell the log of rules that it has not been told, and to post webhooks."""
        tasks: list[asyncio.Task[None]] = []
        if self._check_rule is not None:
            state.rulebook = Rulebook(self._log, source.store, self._check_rule)
            tasks.append(asyncio.create_task(state.rulebook.watch()))
        if self._webhooks is not None:
            state.webhooks = Webhooks(self._log, source.store, self._webhooks)
            tasks.append(asyncio.create_task(state.webhooks.run()))
        return tasks

    def _config(self, state: ApiState, metrics: ApiMetrics) -> uvicorn.Config:
        return uvicorn.Config(
            create_app(state, metrics),
            ws=_StreamProtocol,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Named TCP, because asyncio sets TCP_NODELAY only then: without it frames wait 40 ms for an acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {self._port} on {self._host} is taken by another program; "
                    "stop it, or choose another port (api.port)"
                ) from error
            raise ConfigError(f"the API cannot listen on {self._host}:{self._port}: {error}") from error
        listener.setblocking(False)
        return listener

    async def _beginning(self, source: Source) -> dict[TopicPartition, int]:
        """Return where the stream begins: what the store has not applied yet, but no more than a stretch of that."""
        try:
            applied = await source.positions()
        except TickerplantError as error:
            logger.warning("the stream begins at the end of the log, because the store does not answer: %s", error)
            applied = {}
        positions: dict[TopicPartition, int] = {}
        for topic in TOPICS:
            for tp, (earliest, end) in (await asyncio.to_thread(self._log.offsets, topic)).items():
                least = max(earliest, end - MAX_REPLAYED_RECORDS)
                positions[tp] = min(end, max(least, applied.get(tp, end)))
        return positions


async def seeds(source: Source, symbols: set[str] | None) -> list[Part]:
    """Return the newest rows of these symbols (None: of the first `MAX_SEEDED_SYMBOLS`) from the store, as parts."""
    async with source.read() as reading:
        known = await reading.symbols(None if symbols is None else sorted(symbols))
        names = (sorted(symbols) if symbols is not None else known.column("symbol").to_pylist())[:MAX_SEEDED_SYMBOLS]
        found = [(TICKS, await reading.newest_ticks(names, SEED_TICKS))]
        for step in (M1, M5, D1, *_by_activity(known)):
            found.append((BARS, await reading.newest_bars(names, step)))
            found.append((ANALYTICS, await reading.newest_values(names, step)))
        found.append((ANALYTICS, await reading.newest_forming_values(names)))
    return [_part(kind, table) for kind, table in found if table.num_rows]


def _by_activity(symbols: Any) -> list[Interval]:
    """Return the intervals by activity of which any of these symbols has bars: as many as the rules name."""
    names = {name for row in symbols.column("intervals").to_pylist() for name in row}
    return sorted(step for step in map(parse, names) if step.is_activity)


def _part(kind: str, table: Any) -> Part:
    """Return a table that has rows as a part."""
    names = {TICKS: TICK_COLUMNS, BARS: BAR_COLUMNS}.get(kind) or _value_names(table)
    part = Part(TopicPartition("", 0), 0, 0, 0, kind, names)
    words = Words()
    part.symbols, _, part.codes = words.of(None, table.column("symbol"))
    part.columns = columns_of(table, names, words)
    return part


def _value_names(table: Any) -> tuple[str, ...]:
    kinds = {field.name: str(field.type) for field in table.schema}
    return VALUE_KEY + tuple(name for name, kind in kinds.items() if kind == "double" and name not in VALUE_KEY)
