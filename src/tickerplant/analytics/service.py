"""The analytics service: `market.prices.ohlcv` in, `market.analytics` and dead letters out; stored bars read.

The store is read in two places, each time rows and positions in one REPEATABLE READ, and what comes of it commits with
a snapshot, so that no restart depends on what the store says then:

- a partition that has no snapshot begins with the whole stored history of its series (`_BootstrapFactory`);
- what is marked to be computed again is, series by series between batches, once the store is far enough
  (`_Stage.run_background_work`). What the log has between the store's position and the state's is laid over the stored
  bars.

Without a store, or while it is out of reach, analytics works on and marks stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa
import structlog

from tickerplant.analytics import plugins
from tickerplant.analytics.realtime.recompute_queue import Series
from tickerplant.analytics.realtime.splits import Split, splits_of
from tickerplant.analytics.realtime.stored_history import Look, StoredBars, behind, laid_over
from tickerplant.analytics.stage import FORMAT, AnalyticsStage
from tickerplant.core import schemas
from tickerplant.core.errors import ConfigError, StoreError, StoreMismatch
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.streams import ConsumedRecord, History, Output, Stage, TopicPartition
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import FOREVER_US
from tickerplant.log import processor
from tickerplant.log.port import EventLog
from tickerplant.log.processor import SNAPSHOT_RECORDS, Bootstrap, Processor

if TYPE_CHECKING:
    from tickerplant.store.pool import ReadSession, Store

GROUP: Final = "analytics"
PIECE_BARS: Final = 100_000
"""Stored bars that are computed again between two batches: with the default set some 0.15 s, in which live bars wait,
and several times what the snapshot costs that commits with them. One series may exceed it."""
PIECE_SERIES: Final = 64
OVERLAY_RECORDS: Final = 500
"""Records that the store may be behind when a stretch is computed again: they are read from the log each time."""
LOOK_S: Final = 0.1
STORE_LOOK_S: Final = 1.0
"""How often the store is asked whether it is far enough, and whether it is back."""
PATIENCE_S: Final = 30.0
"""How long a bootstrap waits for a store that does not answer. After that the partition starts with the retained
records, and is computed again once the store answers."""
SAY_S: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Counts(processor.ProcessorCounters):
    """What the processor has done, and what of stored history has been read."""

    warm_series: int = 0
    """Series whose state has been made of stored history at a beginning, of `warm_of`."""
    warm_of: int = 0
    warm_bars: int = 0
    pending: int = 0
    """Series that are marked to be computed again."""
    computed_again: int = 0
    computed_again_bars: int = 0
    store_missing: int = 0
    """1 while something is marked, or had to begin without history, and the store is not there or out of reach."""


class Stopped(Exception):
    """The service was stopped while a partition began."""


class _Stage(Stage):
    """The pure stage, with the IO around it: reading stored bars as background work."""

    def __init__(self, pure: AnalyticsStage, plant: _Plant, partition: int) -> None:
        self._pure, self._plant, self._partition = pure, plant, partition
        self._stored = plant.stored(partition)
        self._next_look_s = 0.0

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        outputs = self._pure.step(consumed, history)
        if marks := self._pure.again.marks:  # before the step is committed, so that whoever sees that sees these
            self._plant.note_pending(self._partition, len(marks))
        return outputs

    def snapshot(self) -> bytes:
        return self._pure.snapshot()

    def keep_label(self) -> str | None:
        return self._pure.keep_label()

    def has_background_work(self) -> bool:
        return self._stored is not None and (self._pure.cold or bool(self._pure.again.marks))

    def run_background_work(self, position: int) -> Sequence[Output] | None:
        pure, plant = self._pure, self._plant
        plant.note(self._partition, len(pure.again.marks), lacks=pure.cold and self._stored is None)
        if time.monotonic() < self._next_look_s or not (pure.cold or pure.due(position)):
            return None
        if self._stored is None:
            plant.note(self._partition, len(pure.again.marks), lacks=True)
            self._next_look_s = time.monotonic() + STORE_LOOK_S
            return None
        self._next_look_s = time.monotonic() + LOOK_S
        try:
            with self._stored.look() as look:
                if pure.cold:
                    pure.warm_up(look.series(), look.splits(), time.time_ns() // 1000, position)
                return self._piece(look, position)
        except StoreError as error:
            log.warning("stored bars are out of reach; what is to be computed again waits", error=str(error))
            plant.note(self._partition, len(pure.again.marks), lacks=True)
            self._next_look_s = time.monotonic() + STORE_LOOK_S
            return None

    def _piece(self, look: Look, position: int) -> list[Output] | None:
        """Compute some series again; None if the store is not far enough for any, or is too far behind."""
        pure, plant = self._pure, self._plant
        if position - look.position > OVERLAY_RECORDS:
            return None
        marks = pure.again.marks
        had = len(marks)
        chosen = [series for series in pure.due(position) if marks[series].position <= look.position][:PIECE_SERIES]
        if not chosen:
            return None
        source = TopicPartition(schemas.OHLCV, self._partition)
        later = behind((one.value for one in plant.log.read_range(source, look.position, position)), chosen)
        outputs: list[Output] = []
        bars = 0
        for series in chosen:
            try:
                history = laid_over(look.bars(series), later.get(series, []))
            except StoreError:
                if not outputs and not bars:
                    raise
                break  # what has been computed must be said
            bars += history.num_rows
            outputs += pure.compute_again(series, history)
            plant.counts.computed_again += 1
            if bars >= PIECE_BARS:
                break
        plant.counts.computed_again_bars += bars
        plant.note(self._partition, had, lacks=False)  # pending until it is committed
        self._next_look_s = 0.0
        return outputs


class _Plant:
    """What the stages of this process share."""

    def __init__(self, event_log: EventLog, dsn: str, counts: Counts, metrics: Callable[[Any], None] | None) -> None:
        self.log, self.counts = event_log, counts
        self._dsn, self._metrics = dsn, metrics
        self._store = StoreReader(dsn) if dsn else None
        self._pending: dict[int, int] = {}
        self._lacking: set[int] = set()
        self.stop = threading.Event()

    def stored(self, partition: int) -> StoredBars | None:
        """Return the stored bars of a partition, if there is a store."""
        return None if self._store is None else _Stored(self._store, self.log, partition)

    def note(self, partition: int, pending: int, *, lacks: bool) -> None:
        """Count what is pending, and whether the store is missing for it."""
        self.note_pending(partition, pending)
        (self._lacking.add if lacks else self._lacking.discard)(partition)
        self.counts.store_missing = int(bool(self._lacking))

    def note_pending(self, partition: int, pending: int) -> None:
        """Count what is pending of a partition."""
        self._pending[partition] = pending
        self.counts.pending = sum(self._pending.values())

    def say(self) -> None:
        """Hand the counts to whoever wants them."""
        if self._metrics is not None:
            self._metrics(self.counts)

    def rules(self) -> Rules | None:
        """Return the rules that were written into the log last, if they can be read."""
        text = self.log.get_state(schemas.STATE_FEEDS, 0, schemas.SETTINGS_KEY)
        try:
            return None if text is None else rules_from(msgspec.json.decode(text))
        except (ConfigError, msgspec.MsgspecError):
            return None

    def close(self) -> None:
        """Close the store's connection."""
        if self._store is not None:
            self._store.close()


class _Factory:
    """Makes stages."""

    format = FORMAT

    def __init__(self, plant: _Plant) -> None:
        self._plant = plant

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return _Stage(AnalyticsStage(snapshot), self._plant, partition)


class _BootstrapFactory:
    """Makes the stage of a partition without a snapshot from stored history.

    The state is that of the store's position. Reading begins where the group is, or with the first record that the log
    still has; what lies before the store's position the state knows already.
    """

    def __init__(self, plant: _Plant) -> None:
        self._plant = plant

    def __call__(self, source: TopicPartition, committed: int, earliest: int) -> Bootstrap | None:
        plant = self._plant
        stored = plant.stored(source.partition)
        if stored is None:
            return None
        position = max(committed, earliest)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with stored.look() as look:
                    return self._bootstrap(look, source, position, earliest)
            except StoreError as error:
                log.warning(
                    "waiting for the store, to begin with its bars", partition=source.partition, error=str(error)
                )
                if time.monotonic() > deadline or isinstance(error, StoreMismatch):
                    pure = AnalyticsStage()
                    pure.begin(plant.rules(), 0, cold=True)  # the rules are the log's
                    return Bootstrap(earliest, _Stage(pure, plant, source.partition))
                if plant.stop.wait(STORE_LOOK_S):
                    raise Stopped from error

    def _bootstrap(self, look: Look, source: TopicPartition, position: int, earliest: int) -> Bootstrap | None:
        plant, counts = self._plant, self._plant.counts
        stored = look.series()
        if not stored:
            return None
        pure = AnalyticsStage()
        pure.begin(plant.rules(), look.position)
        pure.say_splits(look.splits(), time.time_ns() // 1000)
        wanted = [series for series in stored if series.interval in pure.engine.panes]
        pure.engine.rows_of(sorted({series.symbol for series in wanted}))
        counts.warm_of += len(wanted)
        said_s = began_s = time.monotonic()
        bars = 0
        with contextlib.closing(_read_ahead(look, wanted)) as history:
            for done, (series, batch) in enumerate(history, 1):
                if plant.stop.is_set():
                    raise Stopped
                for _ in pure.engine.again(series, batch, FOREVER_US):
                    pass
                bars += batch.num_rows
                counts.warm_series += 1
                counts.warm_bars += batch.num_rows
                if time.monotonic() - said_s > SAY_S:
                    said_s = time.monotonic()
                    log.info("warming up", partition=source.partition, series=done, of=len(wanted), bars=bars)
                    plant.say()
        log.info(
            "warm", partition=source.partition, series=len(wanted), bars=bars, store_position=look.position,
            seconds=round(time.monotonic() - began_s, 1),
        )  # fmt: skip
        plant.say()
        if look.position < earliest:
            log.error("the log has lost records that the store lacks", partition=source.partition,
                      store_position=look.position, log_begins=earliest)  # fmt: skip
        return Bootstrap(max(min(position, look.position), earliest), _Stage(pure, plant, source.partition))


def _read_ahead(look: Look, wanted: Sequence[Series]) -> Generator[tuple[Series, pa.RecordBatch], None, None]:
    """Yield the history of each series; the next is read while one is computed. Close it before the look."""
    with ThreadPoolExecutor(1, thread_name_prefix="stored-bars") as reading:
        coming = reading.submit(look.bars, wanted[0]) if wanted else None
        for number, series in enumerate(wanted, 1):
            assert coming is not None
            batch = coming.result()
            if number < len(wanted):
                coming = reading.submit(look.bars, wanted[number])
            yield series, batch


class StoreReader:
    """One connection to the store, for threads that have no event loop, one at a time; opened when it is needed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner: asyncio.Runner | None = None
        self._store: Store | None = None

    def run(self, work: Callable[[Store], Any]) -> Any:
        """Return what the coroutine of `work` returns. Raises StoreError."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        if self._store is None:
            from tickerplant.store.pool import Store

            self._store = self._runner.run(Store.open(self._dsn, min_size=1, max_size=1))
        return self._runner.run(work(self._store))

    def close(self) -> None:
        """Close the connection. Harmless twice."""
        store, self._store = self._store, None
        runner, self._runner = self._runner, None
        if runner is not None:
            with contextlib.suppress(StoreError):
                if store is not None:
                    runner.run(store.close())
            runner.close()


class _Stored:
    """The stored bars of one partition."""

    def __init__(self, reader: StoreReader, event_log: EventLog, partition: int) -> None:
        self._reader, self._log, self._partition = reader, event_log, partition

    def look(self) -> AbstractContextManager[Look]:
        return self._look()

    @contextlib.contextmanager
    def _look(self) -> Iterator[Look]:
        reader = self._reader
        try:
            reading = reader.run(_begin_reading)
        except StoreError:
            reader.close()
            raise
        context, look = reading
        try:
            bound = reader.run(lambda _: look.bound_to())
            identity = self._log.identity()
            if bound is not None and (bound.log_id, bound.generation) != (identity.log_id, identity.generation):
                raise StoreMismatch(f"the store follows log {bound.log_id}, and this is log {identity.log_id}")
            positions = reader.run(lambda _: look.positions())
            position = positions.get((schemas.OHLCV, self._partition), 0)
            yield _Look(reader, look, position, self._partition, self._log.partitions(schemas.OHLCV))
        except StoreError:
            with contextlib.suppress(StoreError):
                reader.run(lambda _: context.__aexit__(None, None, None))
            reader.close()
            raise
        except BaseException:
            with contextlib.suppress(StoreError):
                reader.run(lambda _: context.__aexit__(None, None, None))
            raise
        else:
            reader.run(lambda _: context.__aexit__(None, None, None))


async def _begin_reading(store: Store) -> tuple[Any, ReadSession]:
    context = store.read()
    return context, await context.__aenter__()


class _Look:
    """One look, of one partition."""

    def __init__(self, reader: StoreReader, look: ReadSession, position: int, partition: int, partitions: int) -> None:
        self._reader, self._store, self.position = reader, look, position
        self._partition, self._partitions = partition, partitions

    def series(self) -> list[Series]:
        table = self._reader.run(lambda _: self._store.symbols.list())
        names = zip(table.column("symbol").to_pylist(), table.column("intervals").to_pylist(), strict=True)
        return [
            Series(interval, symbol)
            for symbol, intervals in names
            if partition_of(symbol, self._partitions) == self._partition
            for interval in intervals
        ]

    def bars(self, series: Series) -> pa.RecordBatch:
        return self._reader.run(lambda _: self._store.ohlcv.history(series.symbol, series.interval))

    def splits(self) -> list[Split]:
        found = splits_of(self._reader.run(lambda _: self._store.actions.newest_splits()))
        return [split for split in found if partition_of(split.symbol, self._partitions) == self._partition]


class Analytics:
    """Computes indicators for the partitions that its group gives it. Belongs to the thread that calls `run`.

    `dsn`: the store, "" for none. `metrics` is called after each batch, and while a partition begins, with `Counts`.
    The indicators of plug-ins are known from here on; a plug-in that is broken is logged, and what it declares is not
    there.
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
        self.counts = Counts()
        self._plant = _Plant(log, dsn, self.counts, metrics)
        self.processor = Processor(
            log,
            GROUP,
            [schemas.OHLCV],
            schemas.STATE_ANALYTICS,
            _Factory(self._plant),
            instance=instance,
            snapshot_interval_records=snapshot_interval_records,
            on_batch=metrics,
            bootstrap=_BootstrapFactory(self._plant),
            counts=self.counts,
        )

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Raises what `Processor.run` does."""
        self._plant.stop = stop
        try:
            with contextlib.suppress(Stopped):
                self.processor.run(stop)
        finally:
            self._plant.close()
