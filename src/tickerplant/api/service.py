"""The API service: one HTTP server, the tail of the log, and the reader of the store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry

from tickerplant.api.alert_rules import AlertLimits, AlertRuleManager, CheckRule
from tickerplant.api.blocking import in_thread
from tickerplant.api.http.answer_cache import AnswerCache
from tickerplant.api.http.connections import MAX_CONNECTIONS, MAX_HEAD_BYTES, ConnectionGuard
from tickerplant.api.http.repeated_requests import count_into
from tickerplant.api.http.site import own_hosts
from tickerplant.api.main import create_app
from tickerplant.api.metrics import ApiMetrics
from tickerplant.api.on_demand import IndicatorCalculator
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import StoreReader
from tickerplant.api.websockets.endpoint import STALL_S, Stream
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.protocol import MAX_MESSAGE_BYTES
from tickerplant.api.websockets.rows import TOPICS
from tickerplant.api.websockets.server_protocol import stream_protocol
from tickerplant.api.websockets.stored_state import StoredState
from tickerplant.api.websockets.tail import Tail
from tickerplant.core.errors import ConfigError, LogUnavailable, StoreUnavailable, TickerplantError
from tickerplant.core.outage import Outage
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog, TopicPartition

MAX_REPLAYED_RECORDS: Final = 1_024
"""Maximum records between the stream's start and the end of each partition, if the store is behind."""
LOG_WAIT_S: Final = 1.5
"""Maximum seconds that the start waits for the log before the API serves REST without the stream."""
RETRY_S: Final = 1.0
"""Seconds between two attempts to start the stream while the log is unavailable."""
SHUTDOWN_S: Final = 3
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """A server that installs no signal handlers. The caller of `Api.run` handles signals and sets `stop`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Update the header `Date` every second, until `end`. uvicorn's own loop wakes up ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ending.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """Options of the API.

    - `port` 0 selects a free port. `Api.bound_port` is its number after `Api.started` is set.
    - `api_key` protects `/v1/` and `/metrics`; None disables the check.
    - `hosts`: names of this plant besides `host` and those of this machine. If no key is set, the API answers to
      no other name.
    - `origins`: pages, besides this plant's dashboard, that may open the stream and write.
    - `proxies`: addresses or networks of reverse proxies. Only their `X-Forwarded-For` headers are used.
    - `health` is called from a thread and returns `{"parts": [{"name", "state": ok | degraded | failed, "sentence"}]}`.
    - `refresh_s`: seconds between two reads of the counts of excluded data for scrapes of `registry` outside the API.
      If it is None, only `/metrics` reads the counts.
    - `registry` contains the metrics of `/metrics`; the API adds its own metrics to it.
    - `indicators` computes indicators on request; None disables `/v1/indicators`.
    - `check_rule` returns an alert rule in canonical form or raises BadInput; None disables alert rules.
    - `alert_limits` bound the count of alert rules and the addresses of their webhooks.
    - `rules` define the calendars for the adjustment of intraday bars. Coverage uses `rules` until the log contains
      rules.
    - `now_us` returns the market's time in µs; if None, the API derives the time from the log.
    - `bind_log` is called in a thread when the log answers. It raises StoreMismatch if the store does not follow the
      log. It returns the rules in force and the calculator for them, which replace `rules` and `indicators`. If
      `bind_log` is None, the API keeps both.
    - `commits` returns a number that changes when this process has written to the store, or None if another process
      writes to it. Answers are kept for a short time (`http.answer_cache`), unless `commits` is None.
    - `max_connections`: maximum open connections.
    - `stall_s`: seconds after which a client of the stream is dropped if its socket has accepted nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    proxies: Sequence[str] = ()
    health: Callable[[], Mapping[str, Any]] | None = None
    refresh_s: float | None = None
    registry: CollectorRegistry | None = None
    indicators: IndicatorCalculator | None = None
    check_rule: CheckRule | None = None
    alert_limits: AlertLimits = field(default_factory=AlertLimits)
    rules: Rules = DEFAULT_RULES
    now_us: Callable[[], int] | None = None
    bind_log: Callable[[], tuple[Rules, IndicatorCalculator]] | None = None
    commits: Callable[[], int | None] | None = None
    max_connections: int = MAX_CONNECTIONS
    stall_s: float = STALL_S


class Api:
    """Serves REST, the stream and the dashboard. `store` replaces the reader of `dsn` (tests)."""

    def __init__(
        self, log: EventLog, dsn: str, options: ApiOptions | None = None, *, store: StoreReader | None = None
    ) -> None:
        self.started = asyncio.Event()
        self.bound_port = 0
        self._log = log
        self._dsn = dsn
        self._options = options or ApiOptions()
        self._registry = self._options.registry or CollectorRegistry()
        self._store = store

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises ConfigError if the address cannot be bound, StoreMismatch from `bind_log`.

        1. Bind the address. 2. Open the stream at the store's positions, or continue after `LOG_WAIT_S` without the
        log.
        3. Serve. Open the stream when the log answers. 4. After `stop`, close the clients (code 1012), then stop the
        tail, then close the pools.
        """
        options = self._options
        # Step 1
        listener = self._listen()
        self.bound_port = listener.getsockname()[1]
        if not options.api_key and options.host not in LOOPBACK:
            logger.warning("%s:%d is open to every host that can reach it; set api.key", options.host, self.bound_port)
        state = self._open_state()
        guard = ConnectionGuard(state.load, options.max_connections, state.turns, state.repeated)
        metrics = ApiMetrics(self._registry, state.numbers, state.labelled_numbers)
        state.load.on_delay, state.load.connections = metrics.observe_delay, lambda: len(guard.connections)
        state.repeated.count = count_into(metrics.count)
        tasks = [asyncio.create_task(each) for each in (state.load.watch_loop(), guard.sweep())]
        if options.refresh_s is not None:
            tasks.append(asyncio.create_task(_refresh(state, options.refresh_s)))
        # Step 2
        following = asyncio.create_task(self._follow_log(state, tasks))
        try:
            await asyncio.wait([following], timeout=LOG_WAIT_S)
            if not following.done():
                state.log_error = state.log_error or "the event log has not answered since the start"
            # Step 3
            server = _Server(self._server_config(state, metrics, guard))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            self.started.set()
            logger.info("the API listens on http://%s:%d", options.host, self.bound_port)
            stopping = asyncio.create_task(stop.wait())
            try:
                await _until_one_ends(serving, stopping, following)
            finally:
                # Step 4
                stopping.cancel()
                server.end()
                await serving
        finally:
            for task in (following, *tasks):
                task.cancel()
            results = await asyncio.gather(following, *tasks, return_exceptions=True)
            await _close(state)
            metrics.close()
            listener.close()
        if isinstance(results[0], Exception):
            raise results[0]

    def _open_state(self) -> ApiState:
        options = self._options
        store = self._store or StoreReader(self._dsn)
        state = ApiState(
            self._log, store, options.health, self._registry, options.api_key,
            hosts=own_hosts(options.host, options.hosts), origins=options.origins, indicators=options.indicators,
            calendars=Calendars(options.rules), rules=options.rules, now_us=options.now_us,
            answers=AnswerCache(options.commits),
        )  # fmt: skip
        if options.check_rule is not None:
            state.alert_rules = AlertRuleManager(self._log, store.open, options.check_rule, options.alert_limits)
        return state

    async def _follow_log(self, state: ApiState, tasks: list[asyncio.Task[None]]) -> None:
        """Start the stream when the log answers; add the tasks to cancel at the end to `tasks`. Raises StoreMismatch.

        Until the stream starts, the API serves REST from the store, and `state.log_error` contains the newest error.
        """
        bind_log, outage = self._options.bind_log, Outage()
        while True:
            try:
                if bind_log is not None:
                    rules, state.indicators = await in_thread(state.pools.follow, bind_log)
                    state.rules, state.calendars = rules, Calendars(rules)
                await self._start_stream(state)
            except (LogUnavailable, StoreUnavailable) as error:
                state.log_error = str(error)
                if outage.fail(str(error), time.time()):
                    logger.warning("the stream has not started; the API tries again every second: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            state.log_error = ""
            assert state.stream is not None
            tasks.append(asyncio.create_task(state.stream.watch()))
            if state.alert_rules is not None:
                tasks.append(asyncio.create_task(state.alert_rules.run()))
            return

    async def _start_stream(self, state: ApiState) -> None:
        """Start the stream and its tail."""
        identity = await in_thread(state.pools.follow, self._log.identity)
        hub = Hub(identity, await self._start_positions(state))
        state.stream = Stream(
            self._log,
            hub,
            StoredState(state.store, state.lanes.stream, state.load),
            pools=state.pools,
            load=state.load,
            turns=state.turns,
            stall_s=self._options.stall_s,
        )
        state.tail = Tail(
            self._log,
            hub.positions,
            asyncio.get_running_loop(),
            state.stream.apply,
            has_clients=lambda: bool(hub.clients),
        )
        state.tail.start()

    def _server_config(self, state: ApiState, metrics: ApiMetrics, guard: ConnectionGuard) -> uvicorn.Config:
        return uvicorn.Config(
            create_app(state, metrics),
            http=guard.protocol(),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws=stream_protocol(guard),
            ws_max_size=MAX_MESSAGE_BYTES,
            proxy_headers=bool(self._options.proxies),  # otherwise a client could evade its limits under other names
            forwarded_allow_ips=list(self._options.proxies),
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )

    def _listen(self) -> socket.socket:
        host, port = self._options.host, self._options.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sets TCP_NODELAY only if the protocol is named; without TCP_NODELAY, messages wait 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} on {host} is in use by another program; stop it, or choose another port (api.port)"
                ) from error
            raise ConfigError(
                f"the API cannot listen on {host}:{port}: {error}; check api.host and api.port"
            ) from error
        listener.setblocking(False)
        return listener

    async def _start_positions(self, state: ApiState) -> dict[TopicPartition, int]:
        """Return the stream's start positions: the store's positions, advanced where they are too far behind.

        A start position is at most `MAX_REPLAYED_RECORDS` records before the end of its partition. It is the end if the
        store is unavailable or has no position of the partition.
        """
        try:
            applied = await state.store.positions()
        except TickerplantError as error:
            logger.warning("the stream starts at the end of the log, because the store is unavailable: %s", error)
            applied = {}
        positions: dict[TopicPartition, int] = {}
        for topic in TOPICS:
            found = await in_thread(state.pools.follow, partial(self._log.offsets, topic))
            for source, (earliest, end) in found.items():
                least = max(earliest, end - MAX_REPLAYED_RECORDS)
                positions[source] = min(end, max(least, applied.get(source, end)))
        return positions


async def _refresh(state: ApiState, interval_s: float) -> None:
    """Read the counts of excluded data until cancelled. If the store does not answer, the old counts remain."""
    while True:
        await state.refresh_exclusions()
        await asyncio.sleep(interval_s)


async def _until_one_ends(
    serving: asyncio.Task[None], stopping: asyncio.Task[Any], following: asyncio.Task[None]
) -> None:
    """Wait until the server ends, until the stop, or until following the log fails permanently."""
    waiting: set[asyncio.Task[Any]] = {serving, stopping, following}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if serving in done or stopping in done or (following in done and following.exception() is not None):
            return


async def _close(state: ApiState) -> None:
    """Stop the tail, then the lanes, then the pools of the store and of threads."""
    if state.tail is not None:
        await asyncio.to_thread(state.tail.stop)
    for lane in state.lanes.all:
        await lane.stop(state.store.close)
    await state.store.close()
    state.pools.close()
