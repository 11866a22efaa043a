"""The analytics service: `market.prices.ohlcv` in; `market.analytics`, `market.alerts` and dead letters out.

The service reads the store in two cases. It reads rows and positions in one REPEATABLE READ transaction, and commits
the result together with a snapshot. A restart therefore does not depend on the store's content at the restart.

- A partition without a snapshot starts with the whole stored history of its series (`_BootstrapFactory`).
- Queued series are computed again between batches, after the store has applied enough of the log
  (`_StoreStage.run_background_work`). Records between the store's position and that of the state are overlaid on the
  stored bars.

The service continues without a store, or while the store is unavailable. Series then remain queued.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa
import structlog

from tickerplant.analytics import plugins
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.realtime.stored_history import HistorySession, HistoryStore, newer_bars, overlay
from tickerplant.analytics.stage import FORMAT, AnalyticsStage
from tickerplant.analytics.store_history import StoreConnection, StorePartition
from tickerplant.core import schemas
from tickerplant.core.errors import ConfigError, StoreError, StoreMismatch
from tickerplant.core.outage import Outage
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.streams import ConsumedRecord, History, Output, Stage, TopicPartition
from tickerplant.core.times import FOREVER_US
from tickerplant.log import processor
from tickerplant.log.port import EventLog
from tickerplant.log.processor import SNAPSHOT_RECORDS, Bootstrap, Processor

GROUP: Final = "analytics"
RECOMPUTE_BARS: Final = 100_000
"""Count of stored bars after which no further series is computed again between two batches. The last series may exceed
this count. The computation delays live bars by about 0.15 s with the default indicators. The snapshot that commits with
the results takes a fraction of this time."""
RECOMPUTE_SERIES: Final = 64
"""Maximum series that are computed again between two batches."""
MAX_OVERLAY_RECORDS: Final = 500
"""Maximum records between the store's position and that of the state when series are computed again. These records are
read from the log each time. Queued series wait while the store lags by more."""
STORE_POLL_S: Final = 0.1
"""Seconds between checks whether the store has applied enough of the log."""
STORE_RETRY_S: Final = 1.0
"""Seconds between attempts to reach an unavailable store."""
BOOTSTRAP_TIMEOUT_S: Final = 30.0
"""Seconds that a bootstrap waits for an unavailable store. Afterwards the partition starts with the retained records,
and its series are computed again when the store is available."""
PROGRESS_LOG_S: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class AnalyticsCounters(processor.ProcessorCounters):
    """The counters of the processor, and the counters of reading stored history."""

    warm_series: int = 0
    """Series restored from stored history at the start, out of `warm_of`."""
    warm_of: int = 0
    warm_bars: int = 0
    pending: int = 0
    """Series that are queued to be computed again."""
    computed_again: int = 0
    computed_again_bars: int = 0
    store_missing: int = 0
    """1 while the store is needed and unavailable: series are queued, or a partition started without history."""


class Stopped(Exception):
    """The service was stopped while a partition started."""


class _StoreStage(Stage):
    """The pure stage plus its IO: it reads stored bars as background work."""

    def __init__(self, pure: AnalyticsStage, shared: _Shared, partition: int) -> None:
        self._pure, self._shared, self._partition = pure, shared, partition
        self._stored = shared.stored(partition)
        self._next_check_s = 0.0
        self._outage = Outage()

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        outputs = self._pure.step(consumed, history)
        if marks := self._pure.recompute_queue.marks:  # before the step commits: the count is never too low
            self._shared.count_pending(self._partition, len(marks))
        return outputs

    def snapshot(self) -> bytes:
        return self._pure.snapshot()

    def keep_label(self) -> str | None:
        return self._pure.keep_label()

    def queued_work(self) -> bytes:
        return self._pure.queued_work()

    def has_background_work(self) -> bool:
        return self._stored is not None and (self._pure.cold or bool(self._pure.recompute_queue.marks))

    def run_background_work(self, position: int) -> Sequence[Output] | None:
        pure, shared = self._pure, self._shared
        pending = len(pure.recompute_queue.marks)
        shared.update(self._partition, pending, store_missing=pure.cold and self._stored is None)
        if time.monotonic() < self._next_check_s or not (pure.cold or pure.due(position)):
            return None
        if self._stored is None:
            shared.update(self._partition, pending, store_missing=True)
            self._next_check_s = time.monotonic() + STORE_RETRY_S
            return None
        self._next_check_s = time.monotonic() + STORE_POLL_S
        try:
            with self._stored.session() as session:
                self._outage.end()
                if pure.cold:
                    pure.queue_stored(session.series(), session.splits(), time.time_ns() // 1000, position)
                return self._recompute_some(session, position)
        except StoreError as error:
            if self._outage.fail(str(error), time.time()):
                log.warning("store unavailable; queued series wait for it; check the database", error=str(error))
            shared.update(self._partition, len(pure.recompute_queue.marks), store_missing=True)
            self._next_check_s = time.monotonic() + STORE_RETRY_S
            return None

    def _recompute_some(self, session: HistorySession, position: int) -> list[Output] | None:
        """Compute some queued series and return their values.

        None if no series is ready, or if the store lags by more than `MAX_OVERLAY_RECORDS`.
        """
        pure, shared = self._pure, self._shared
        if position - session.position > MAX_OVERLAY_RECORDS:
            return None
        marks = pure.recompute_queue.marks
        pending = len(marks)
        ready = [series for series in pure.due(position) if marks[series].position <= session.position]
        chosen = ready[:RECOMPUTE_SERIES]
        if not chosen:
            return None
        source = TopicPartition(schemas.OHLCV, self._partition)
        newer = newer_bars((one.value for one in shared.log.read_range(source, session.position, position)), chosen)
        outputs: list[Output] = []
        bars = 0
        for series in chosen:
            try:
                history = overlay(session.bars(series), newer.get(series, []))
            except StoreError:
                if not outputs and not bars:
                    raise
                break  # publish the values computed so far
            bars += history.num_rows
            outputs += pure.recompute(series, history)
            shared.counters.computed_again += 1
            if bars >= RECOMPUTE_BARS:
                break
        shared.counters.computed_again_bars += bars
        shared.update(self._partition, pending, store_missing=False)  # pending until the commit
        self._next_check_s = 0.0
        return outputs


class _Shared:
    """Objects that the stages of this process share: log, store connection, counters and the stop event."""

    def __init__(
        self, event_log: EventLog, dsn: str, counters: AnalyticsCounters, metrics: Callable[[Any], None] | None
    ) -> None:
        self.log, self.counters = event_log, counters
        self._metrics = metrics
        self._connection = StoreConnection(dsn) if dsn else None
        self._pending: dict[int, int] = {}
        self._store_missing: set[int] = set()
        self.stop = threading.Event()

    def stored(self, partition: int) -> HistoryStore | None:
        """Return the stored bars of a partition; None without a store."""
        return None if self._connection is None else StorePartition(self._connection, self.log, partition)

    def update(self, partition: int, pending: int, *, store_missing: bool) -> None:
        """Update a partition's count of queued series, and whether the partition needs an unavailable store."""
        self.count_pending(partition, pending)
        (self._store_missing.add if store_missing else self._store_missing.discard)(partition)
        self.counters.store_missing = int(bool(self._store_missing))

    def count_pending(self, partition: int, pending: int) -> None:
        """Update a partition's count of queued series."""
        self._pending[partition] = pending
        self.counters.pending = sum(self._pending.values())

    def report(self) -> None:
        """Pass the counters to the callback, if there is one."""
        if self._metrics is not None:
            self._metrics(self.counters)

    def rules(self) -> Rules | None:
        """Return the newest rules in the log; None if there are none or they are unreadable."""
        text = self.log.get_state(schemas.STATE_FEEDS, 0, schemas.SETTINGS_KEY)
        try:
            return None if text is None else rules_from(msgspec.json.decode(text))
        except (ConfigError, msgspec.MsgspecError):
            return None

    def close(self) -> None:
        """Close the connection to the store."""
        if self._connection is not None:
            self._connection.close()


class _Factory:
    """Creates new stages, and stages restored from snapshots."""

    format = FORMAT

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return _StoreStage(AnalyticsStage(snapshot), self._shared, partition)


class _BootstrapFactory:
    """Creates, from stored history, the stage of a partition that has no snapshot.

    The state corresponds to the store's position. Reading starts at the smaller of the store's and the group's
    position, but not before the first retained record. The state already contains the records before the store's
    position.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    def __call__(self, source: TopicPartition, committed: int, earliest: int) -> Bootstrap | None:
        shared = self._shared
        stored = shared.stored(source.partition)
        if stored is None:
            return None
        position = max(committed, earliest)
        deadline, outage = time.monotonic() + BOOTSTRAP_TIMEOUT_S, Outage()
        while True:
            try:
                with stored.session() as session:
                    return self._bootstrap(session, source, position, earliest)
            except StoreError as error:
                if outage.fail(str(error), time.time()):
                    log.warning(
                        "store unavailable; the partition waits for it before the start; check the database",
                        partition=source.partition,
                        error=str(error),
                    )
                if time.monotonic() > deadline or isinstance(error, StoreMismatch):
                    pure = AnalyticsStage()
                    pure.begin(shared.rules(), 0, cold=True)  # the log contains the rules
                    return Bootstrap(earliest, _StoreStage(pure, shared, source.partition))
                if shared.stop.wait(STORE_RETRY_S):
                    raise Stopped from error

    def _bootstrap(
        self, session: HistorySession, source: TopicPartition, position: int, earliest: int
    ) -> Bootstrap | None:
        shared = self._shared
        stored = session.series()
        if not stored:
            return None
        pure = AnalyticsStage()
        pure.begin(shared.rules(), session.position)
        pure.load_splits(session.splits(), time.time_ns() // 1000)
        wanted = [series for series in stored if series.interval in pure.engine.interval_engines]
        pure.engine.rows_of(sorted({series.symbol for series in wanted}))
        self._warm_up(pure, session, source.partition, wanted)
        if session.position < earliest:
            log.error(
                "indicators lack bars: retention dropped records that the store does not contain; set a longer "
                "retention for the topic",
                topic=source.topic, partition=source.partition, store_position=session.position, log_start=earliest,
            )  # fmt: skip
        stage = _StoreStage(pure, shared, source.partition)
        return Bootstrap(max(min(position, session.position), earliest), stage)

    def _warm_up(self, pure: AnalyticsStage, session: HistorySession, partition: int, wanted: Sequence[Series]) -> None:
        """Run the engine over the stored history of these series. Raises Stopped."""
        shared, counters = self._shared, self._shared.counters
        counters.warm_of += len(wanted)
        reported_s = started_s = time.monotonic()
        bars = 0
        with contextlib.closing(_read_ahead(session, wanted)) as history:
            for done, (series, batch) in enumerate(history, 1):
                if shared.stop.is_set():
                    raise Stopped
                for _ in pure.engine.rebuild(series, batch, FOREVER_US):
                    pass
                bars += batch.num_rows
                counters.warm_series += 1
                counters.warm_bars += batch.num_rows
                if time.monotonic() - reported_s > PROGRESS_LOG_S:
                    reported_s = time.monotonic()
                    log.info("warming up", partition=partition, series=done, of=len(wanted), bars=bars)
                    shared.report()
        log.info(
            "finished warming up", partition=partition, series=len(wanted), bars=bars, store_position=session.position,
            seconds=round(time.monotonic() - started_s, 1),
        )  # fmt: skip
        shared.report()


def _read_ahead(
    session: HistorySession, wanted: Sequence[Series]
) -> Generator[tuple[Series, pa.RecordBatch], None, None]:
    """Yield the history of each series; a thread reads the next history. Close the generator before the session."""
    with ThreadPoolExecutor(1, thread_name_prefix="stored-bars") as executor:
        coming = executor.submit(session.bars, wanted[0]) if wanted else None
        for number, series in enumerate(wanted, 1):
            assert coming is not None
            batch = coming.result()
            if number < len(wanted):
                coming = executor.submit(session.bars, wanted[number])
            yield series, batch


class Analytics:
    """Computes indicators for the partitions that its consumer group assigns.

    Only the thread that calls `run` may use it. `dsn` is the address of the store; "" for none. `metrics` is called
    with the `AnalyticsCounters` after each batch and during a bootstrap. The constructor registers the indicators of
    plug-ins. It logs a plug-in that cannot be loaded; the indicators of that plug-in are then unknown.
    """

    def __init__(
        self,
        log: EventLog,
        dsn: str = "",
        *,
        instance: str = "0",
        snapshot_interval_records: int = SNAPSHOT_RECORDS,
        metrics: Callable[[Any], None] | None = None,
    ) -> None:
        for broken in plugins.load():
            logging.getLogger(__name__).error("%s", broken)
        self.counters = AnalyticsCounters()
        self._shared = _Shared(log, dsn, self.counters, metrics)
        self.processor = Processor(
            log,
            GROUP,
            [schemas.OHLCV],
            schemas.STATE_ANALYTICS,
            _Factory(self._shared),
            instance=instance,
            outputs=(schemas.ANALYTICS, schemas.ALERTS),
            snapshot_interval_records=snapshot_interval_records,
            on_batch=metrics,
            bootstrap=_BootstrapFactory(self._shared),
            counts=self.counters,
        )

    def run(self, stop: threading.Event) -> None:
        """Process records until `stop` is set. Raises the errors of `Processor.run`."""
        self._shared.stop = stop
        try:
            with contextlib.suppress(Stopped):
                self.processor.run(stop)
        finally:
            self._shared.close()
