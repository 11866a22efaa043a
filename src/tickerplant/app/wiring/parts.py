"""Every place where `app` touches another room: opening its parts and running its services. Imports when called."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from tickerplant.app.config.settings import Settings
from tickerplant.core.errors import BadInput, ConfigError, StoreMismatch, StoreUnavailable, UnknownTopic
from tickerplant.core.rules import DEFAULT_RULES, Rules, values_of
from tickerplant.core.schemas import (
    ALERTS,
    ANALYTICS,
    OHLCV,
    RAW,
    SETTINGS_KEY,
    STATE_AGGREGATION,
    STATE_ANALYTICS,
    STATE_FEEDS,
    TOPIC,
    TOPICS,
)

if TYPE_CHECKING:
    from tickerplant.app.health import Part
    from tickerplant.app.ingest_progress import Applied, Progress
    from tickerplant.log.port import EventLog
    from tickerplant.log.snapshot_retention import SnapshotRetention
    from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, ReplaySummary
    from tickerplant.sandbox import SandboxEndpoint
    from tickerplant.store import Store
    from tickerplant.store.migrations import MigrationStatus
    from tickerplant.system_clock import SystemClock

T = TypeVar("T")


# The log


@contextlib.contextmanager
def event_log(settings: Settings, *, make_topics: bool = True, patience_s: float | None = None) -> Iterator[EventLog]:
    """Open the log of the settings for the block, and make its topics where it has none."""
    from tickerplant.log.open import PATIENCE_S, open_log

    patience_s = PATIENCE_S if patience_s is None else patience_s
    opened = open_log(settings.log, data=settings.data, config=settings.kafka, patience_s=patience_s)
    try:
        if make_topics:
            create_topics(opened, settings.partitions)
        yield opened
    finally:
        opened.close()


def has_log(settings: Settings) -> bool:
    """Whether the log's file is there; brokers are taken to be."""
    from tickerplant.log.open import has_file

    return has_file(settings.log, settings.data)


def create_topics(log: EventLog, partitions: int) -> list[str]:
    """Make what is missing, with as many partitions as the log has already, or else `partitions`."""
    with contextlib.suppress(UnknownTopic):
        partitions = log.partitions(RAW)
    return log.create_topics(TOPICS, partitions)


def ensure_settings(log: EventLog, settings: Settings, *, only_first: bool = False, always_open: bool = False) -> None:
    """Write the rules into the log if they differ from those in force; with `only_first` only if there are none.

    `always_open`: the vendor is the sandbox, whose stocks trade round the clock so that a demo lives at any hour;
    where the user has named no calendars they are `24/7`.
    """
    from tickerplant.market_data.feed.commands import ensure_settings as ensure

    if only_first and log.get_state(STATE_FEEDS, 0, SETTINGS_KEY) is not None:
        return
    ensure(log, values_of(rules_of(settings, always_open)))


def always_open(settings: Settings, made_up: bool) -> bool:
    """Whether stocks trade round the clock: `made_up`, the sandbox's, unless it is told to keep sessions."""
    return made_up and settings.sandbox.sessions == "always"


def rules_of(settings: Settings, always_open: bool) -> Rules:
    """Return the rules of the settings, for a market that is always open unless they name calendars."""
    rules = settings.rules.rules()
    if always_open and rules.calendars == DEFAULT_RULES.calendars:
        rules = msgspec.structs.replace(rules, calendars={"*": "24/7"})
    return rules


def request_rebuild(log: EventLog, symbols: Sequence[str], from_us: int, to_us: int) -> dict[int, int]:
    """Have the bars of `[from_us, to_us)` of these symbols made again; return the raw offset of that by partition."""
    from tickerplant.market_data.feed.commands import request_rebuild as request

    return request(log, symbols, from_us, to_us)


def snapshot_retentions(log: EventLog) -> list[SnapshotRetention]:
    """Return who looks after the kept snapshots of each stateful service; to be asked before retention is applied."""
    from tickerplant.log.snapshot_retention import SnapshotRetention

    services = (("aggregation", RAW, STATE_AGGREGATION), ("analytics", OHLCV, STATE_ANALYTICS))
    return [
        SnapshotRetention(log, name, topic, state, TOPIC[topic].retention_us or 0) for name, topic, state in services
    ]


# The embedded PostgreSQL


class PostgresServer(Protocol):
    """The embedded server, as this room needs it. It starts itself again when it dies."""

    def start(self) -> str:
        """Start it, or take over one that runs, and return its address."""
        ...

    def stop(self) -> None:
        """Stop it. Harmless when it does not run."""
        ...


def embedded_postgres(data: Path) -> PostgresServer:
    """Return the embedded PostgreSQL of a data folder, not started."""
    from tickerplant.store.server.embedded import EmbeddedPostgres

    return EmbeddedPostgres(data / "postgres")


def has_store(data: Path) -> bool:
    """Whether the data folder has an embedded PostgreSQL, running or not."""
    return (data / "postgres").exists()


# Feeds


def replay_options(
    *,
    symbol: str | None,
    interval: str | None,
    tz: str | None,
    date_order: str | None,
    speed: float | None,
    source: str | None,
    conditions: str | None,
) -> ReplayOptions:
    """Return what a replay is told besides its file."""
    from tickerplant.market_data.files.conditions import table_named
    from tickerplant.market_data.files.replay import ReplayOptions

    check_date_order(date_order)
    return ReplayOptions(
        symbol=symbol,
        interval=interval,
        tz=tz,
        date_order=date_order,
        speed=speed,
        source=source or "file",
        conditions=table_named(conditions).name if conditions else None,
    )


def check_date_order(text: str | None) -> None:
    """Raise BadInput for a --date-order that is none."""
    if text not in (None, "mdy", "dmy"):
        raise BadInput(f"--date-order {text!r}: use mdy (03/04 is the 4th of March) or dmy (the 3rd of April)")


def replay(
    log: EventLog,
    file: Path,
    options: ReplayOptions,
    *,
    progress: Callable[[ReplayProgress], None],
    stop: threading.Event,
) -> ReplaySummary:
    """Bring the file into the log. Blocks; raises what `market_data.replay` raises."""
    from tickerplant.market_data.files.replay import replay as run

    return run(log, file, options, progress=progress, stop=stop)


@contextlib.contextmanager
def sandbox(settings: Settings, clock: str = "") -> Iterator[SandboxEndpoint]:
    """Run the sandbox vendor in a thread for the block, and give its addresses.

    `clock`: one that runs already (`sandbox.endpoint.format_clock`); without it the settings say when the clock begins.
    Raises ConfigError for a script that cannot be read.
    """
    from tickerplant.sandbox import MarketSettings, SandboxSettings, running
    from tickerplant.sandbox.endpoint import parse_clock
    from tickerplant.sandbox.fault_script import parse_script
    from tickerplant.sandbox.quotas import FREE_PACE_S, FREE_PLANS

    chosen = settings.sandbox
    try:
        script = parse_script("\n".join(chosen.fault_script))
    except BadInput as error:
        raise ConfigError(f"sandbox.fault_script: {error}") from error
    asked = SandboxSettings(
        MarketSettings(settings.symbols, chosen.rate, chosen.seed, chosen.sessions),
        clock=parse_clock(clock) if clock else sandbox_clock(settings),
        quotas=FREE_PLANS if chosen.free_plans else {},
        pace_s=FREE_PACE_S if chosen.free_plans else {},
        fault_script=script,
        fault_seed=chosen.fault_seed,
    )
    with running(asked, "127.0.0.1", chosen.port) as place:
        yield place


def sandbox_clock(settings: Settings) -> SystemClock:
    """Return the clock that the sandbox is to have, beginning now."""
    from tickerplant.sandbox.endpoint import make_clock

    return make_clock(settings.sandbox.start, settings.sandbox.speed)


def sandbox_place(greeting: bytes, symbols: tuple[str, ...]) -> SandboxEndpoint:
    """Return the place of a sandbox that runs elsewhere, from what it said when it was up."""
    from tickerplant.sandbox.endpoint import parse_greeting

    return parse_greeting(greeting, symbols)


def live_since_us(log: EventLog, feed: str) -> int | None:
    """Return how far a live feed has come, or None for a feed that need not be heard of, as a file's."""
    from tickerplant.market_data.feed import cursor as feed_cursor
    from tickerplant.market_data.feed.committer import state_key, state_partition

    kept = log.get_state(STATE_FEEDS, state_partition(feed, log.partitions(STATE_FEEDS)), state_key(feed))
    cursor = feed_cursor.decode(kept, feed)
    return cursor.watermark_us if cursor.live else None


# The store. Each function opens it for itself: these are asked once a command, or every half minute.


def with_store(dsn: str, work: Callable[[Store], Awaitable[T]], patience_s: float | None = None) -> T:
    """Run `work` on the opened store, in an event loop of its own; for threads that have none.

    Raises StoreUnavailable when it is not done in `patience_s`.
    """

    async def run() -> T:
        from tickerplant.store import Store

        async with asyncio.timeout(patience_s):
            store = await Store.open(dsn, min_size=1, max_size=2)
            try:
                return await work(store)
            finally:
                await store.close()

    try:
        return asyncio.run(run())
    except TimeoutError:
        raise StoreUnavailable(f"the database does not answer within {patience_s:g} s; see --store") from None


def migrate(dsn: str) -> list[str]:
    """Bring the tables to this version's and return the names of the migrations applied."""
    from tickerplant.store import migrations

    return [str(name) for name in with_store(dsn, migrations.migrate)]


def migration_status(dsn: str, patience_s: float | None = None) -> MigrationStatus:
    """Return which migrations are applied and which are pending."""
    from tickerplant.store import migrations

    return with_store(dsn, migrations.status, patience_s)


def first_topics(dsn: str, log: EventLog, partitions: int) -> None:
    """Make what topics are missing. Raises StoreMismatch for a new log where the store has followed another.

    A new log would be of the first generation, and what it says would count as older than the store's rows.
    """
    former = with_store(dsn, lambda store: store.bound_to())
    if former is not None and not _is_made(log):
        raise StoreMismatch(
            f"the store follows log {former.log_id} (generation {former.generation}), and this log is new: bring the "
            "former log back or, if it is gone for good, begin a new generation with `tickerplant adopt --yes`"
        )
    create_topics(log, partitions)


def _is_made(log: EventLog) -> bool:
    try:
        log.identity()
    except UnknownTopic:
        return False
    return True


def check_log(dsn: str, log: EventLog) -> None:
    """Raise StoreMismatch when the store follows another log, or is ahead of this one."""
    identity = log.identity()

    async def ends() -> dict[tuple[str, int], int]:
        return _ends(log)

    with_store(dsn, lambda store: store.check_log(identity.log_id, identity.generation, ends))


def followed(dsn: str, log: EventLog) -> str | None:
    """Say which log the store follows if it is this one, or return None. Raises StoreMismatch if it is ahead of it."""
    if not _is_made(log):
        return None
    identity, former = log.identity(), with_store(dsn, lambda store: store.bound_to())
    if former is None or (former.log_id, former.generation) != (identity.log_id, identity.generation):
        return None
    check_log(dsn, log)
    return f"log {identity.log_id}, generation {identity.generation}"


def adopt(dsn: str, log: EventLog, partitions: int) -> str:
    """Let the store follow this log from now on, and say which. A new log is made as the generation after the store's.

    Raises StoreMismatch for a log that was made already, of a generation not greater than the store's.
    """
    former = with_store(dsn, lambda store: store.bound_to())
    if not _is_made(log):
        log.create_topics(TOPICS, partitions, generation=former.generation + 1 if former else 1)
    identity = log.identity()
    with_store(dsn, lambda store: store.adopt(identity.log_id, identity.generation))
    return f"log {identity.log_id}, generation {identity.generation}"


def run_due(dsn: str, now_us: int) -> list[str]:
    """Run the scheduled jobs that are due and return their names."""
    from tickerplant.core.times import datetime_of
    from tickerplant.store import maintenance

    return [str(name) for name in with_store(dsn, lambda store: maintenance.run_due(store, datetime_of(now_us))) or []]


def jobs_status(dsn: str, patience_s: float | None = None) -> list[dict[str, Any]]:
    """Return name, last_run_at and error of every scheduled job."""
    from tickerplant.store import maintenance

    return [plain(row) for row in with_store(dsn, maintenance.jobs_status, patience_s)]


def store_parts(dsn: str, log: EventLog | None, patience_s: float | None = None) -> Iterable[Part]:
    """Say whether the database answers, has this version's tables and follows this log, if that can be asked."""
    from tickerplant.app.health import FAILED, OK, Part

    status = migration_status(dsn, patience_s)
    if status.pending:
        yield Part("store", FAILED, f"{len(status.pending)} migrations are not applied; `tickerplant migrate` does it")
        return
    if log is not None:
        check_log(dsn, log)
    follows = ", and follows this log" if log is not None else ""
    yield Part("store", OK, f"{status.flavour} answers{follows}", {"flavour": status.flavour})


def left_out(dsn: str, patience_s: float | None = None) -> list[dict[str, Any]]:
    """Return by feed how much was left out of bars: late_ticks, unsupported, differences."""

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.read() as reading:
            return [plain(row) for row in (await reading.coverage.exclusion_counts()).to_pylist()]

    return with_store(dsn, read, patience_s)


class StorePositions:
    """How far the store has come, asked often: keeps one connection. Belongs to one thread."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner = asyncio.Runner()
        self._store: Store | None = None

    def applied(self) -> dict[tuple[str, int], Applied]:
        """Return what is applied, by topic and partition."""
        return self._runner.run(self._ask())

    async def _ask(self) -> dict[tuple[str, int], Applied]:
        from tickerplant.app.ingest_progress import Applied
        from tickerplant.store import Store

        if self._store is None:
            self._store = await Store.open(self._dsn, min_size=1, max_size=1)
        async with self._store.read() as reading:
            found = await reading.applied()
        return {place: Applied(applied.position, applied.cause) for place, applied in found.items()}

    def __enter__(self) -> StorePositions:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._store is not None:
            self._runner.run(self._store.close())
        self._runner.close()


def progress(log: EventLog, positions: StorePositions) -> Progress:
    """Return how far everybody is."""
    from tickerplant.app.ingest_progress import Progress

    committed = {
        group: {(tp.topic, tp.partition): position for tp, position in log.committed(group).items()}
        for group in ("aggregation", "analytics")
    }
    return Progress(positions.applied(), committed, _ends(log, read_uncommitted=True))


def bars(
    settings: Settings,
    dsn: str,
    symbol: str,
    interval: str,
    from_us: int | None,
    to_us: int | None,
    limit: int,
    adjust: str = "none",
) -> list[dict[str, Any]]:
    """Return the newest `limit` bars of `[from_us, to_us)`, oldest first, adjusted as `core.adjustment` has it."""
    from tickerplant.core.interval import parse
    from tickerplant.core.sessions import Calendars

    async def read(store: Store) -> list[dict[str, Any]]:
        calendar = Calendars(settings.rules.rules()).of(symbol)
        async with store.read() as reading:
            made = await reading.actions.adjustment(symbol, adjust, calendar, time.time_ns() // 1_000)
            table = await reading.ohlcv.read(symbol, interval, from_us, to_us, limit, newest_first=True)
        table = made.bars(table, daily=not parse(interval).is_intraday)
        return [plain(row) for row in reversed(table.to_pylist())]

    return with_store(dsn, read)


def _ends(log: EventLog, *, read_uncommitted: bool = False) -> dict[tuple[str, int], int]:
    return {
        (tp.topic, tp.partition): end
        for topic in (RAW, OHLCV, ANALYTICS, ALERTS)
        for tp, (_, end) in log.offsets(topic, read_uncommitted=read_uncommitted).items()
    }


def plain(row: Any) -> dict[str, Any]:
    """Return a row (a mapping or a dataclass) with times as ISO 8601."""
    pairs = dict(row) if isinstance(row, Mapping) else {f.name: getattr(row, f.name) for f in fields(row)}
    return {
        name: value.isoformat().replace("+00:00", "Z") if isinstance(value, dt.datetime) else value
        for name, value in pairs.items()
    }
