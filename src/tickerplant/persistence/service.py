"""Persistence: topics to tables, each position exactly once.

One thread reads the log, one poll ahead of the writers. `gathering` defines how long it waits for more records, and
`batching` buffers the records per partition. Two lanes share the partitions. Each lane has a database connection, so
that the database stores the rows of one lane while the other encodes. A lane writes as soon as its last transaction and
the pause after it have ended. A busy plant commits tens of thousands of ticks at once.

The effects have this order. Each is safe to repeat, because a repetition stops at Step 3:

1. The log makes the records durable that were read (`_poll`), so that the store is never ahead of its log.
2. Missing table partitions and columns are created (`write_batch` applies Steps 2 to 5).
3. In one database transaction: the positions move from their expected values,
4. ticks and rows of new series are inserted by COPY, others upserted: the greatest version or last historical bar wins,
5. the transaction commits without waiting for the database's disk.
6. When the database has flushed that commit, the group's positions are committed (`_follow_flushed`). The log may then
   delete older records. A crash of the database loses the commits of about its last 0.6 s, because `synchronous_commit`
   is off. Their records must still be in the log.

Failures: an unavailable database or log ends a `_StoreSession`. After a pause the next session starts at the database's
positions. Rows that the database refuses permanently stop only their own partition. Its records are applied one by one
up to the refused record (`one_by_one`). The offset and the error of that record are reported (`reporter`). An
unexpected position means that another process has written this partition. The transaction is then rolled back. If the
partition is still assigned to this member (its former owner finished late), reading restarts at the database's
position. After `MAX_CONFLICTS` conflicts in a row the partition is no longer written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from tickerplant.core import schemas
from tickerplant.core.errors import ConfigError, Fenced, LogUnavailable, PositionConflict, StoreUnavailable
from tickerplant.core.sources import SourceOrder
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import ConsumedRecord, EventLog, Reader, RebalanceListener, TopicPartition
from tickerplant.persistence.batching import Lane, PartitionBuffer, WriteBatch, lane_number
from tickerplant.persistence.gathering import Gathering
from tickerplant.persistence.one_by_one import REFUSALS, apply_one_by_one, is_refusal
from tickerplant.persistence.reporter import Metrics, PersistenceCounters, StatusReporter
from tickerplant.persistence.write_batch import apply
from tickerplant.store.pool import Store
from tickerplant.store.repositories.positions import Applied, Log, all_positions, begin
from tickerplant.store.session import Session

GROUP: Final = "persistence"
TOPICS: Final = (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS, schemas.ALERTS, schemas.STATUS, schemas.DEADLETTER)
LANES: Final = 2
"""Number of connections that write. Two give 60 % more throughput than one on two cores; more compete for the cores."""
MAX_TICKS: Final = 50_000
"""Maximum ticks per transaction: a larger COPY is not faster and needs more memory. One buffer may exceed it."""
MAX_BUFFERED_BYTES: Final = 32 * 1024 * 1024
"""Maximum bytes of buffered records: about 700,000 ticks. Above it the reader pauses; the log keeps the records."""
REST_FACTOR: Final = 3.0
MAX_REST_S: Final = 0.1
"""Maximum seconds of a lane's pause after fewer than `SMALL_TICKS` ticks: `REST_FACTOR` times the transaction's time.
Later records share the next transaction. A transaction of one tick costs 1 ms of CPU here and 1 ms in the database."""
SMALL_TICKS: Final = 5_000
POLL_S: Final = 0.25
FOLLOW_INTERVAL_S: Final = 1.0
"""Seconds between commits of the group's positions. The database flushes within 0.6 s (3 times `wal_writer_delay`)."""
MAX_CONFLICTS: Final = 3
HEALTHY_S: Final = 10.0
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

OpenStore = Callable[[], Awaitable[Store]]

log = structlog.get_logger(__name__)


class Persistence:
    """The service. It may run in its own thread and event loop. `gather_s` and `longest_gather_s`: see `gathering`."""

    def __init__(
        self,
        log: EventLog,
        dsn: str,
        *,
        instance: str = "0",
        metrics: Metrics | None = None,
        direct_compress: bool = True,
        gather_s: float = 0.0,
        longest_gather_s: float = 0.0,
    ) -> None:
        self.counts = PersistenceCounters()
        self._gather = partial(Gathering, gather_s, longest_gather_s)
        self._log = log
        self._open = partial(Store.open, dsn, min_size=1, max_size=LANES + 2, direct_compress=direct_compress)
        self._member = f"{GROUP}-{instance}"
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Write consumed records until `stop` is set, then write the remaining buffered records.

        Raises StoreMismatch if store and log do not belong together, and MigrationError if tables are missing. Raises
        PositionConflict if conflicts with another process leave no partition. Raises StoreError if the database refuses
        the service itself, such as its login. Retries after outages. A refused record stops only its own partition.
        """
        attempt = 0
        status = StatusReporter(self._log, self._member, self.counts, self._report)
        while not stop.is_set():
            began = time.monotonic()
            made = (self._log, self._open, self._member, self.counts, self._metrics, status, self._gather())
            try:
                await _StoreSession(*made).run(stop)
                return
            except (StoreUnavailable, LogUnavailable, Fenced) as error:
                attempt = 0 if time.monotonic() - began > HEALTHY_S else attempt
                wait_s = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
                attempt += 1
                await status.fail(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await stop.wait()

    def _report(self) -> None:
        if self._metrics is not None:
            self._metrics.applied(self.counts, 0.0)


class _StoreSession:
    """Work between two outages of the log or the database. Owns all state in memory."""

    def __init__(
        self,
        event_log: EventLog,
        open_store: OpenStore,
        member: str,
        counts: PersistenceCounters,
        metrics: Metrics | None,
        status: StatusReporter,
        gathering: Gathering,
    ) -> None:
        identity = event_log.identity()
        self._identity = Log(identity.log_id, identity.generation)
        self._partitions = event_log.partitions(schemas.RAW)
        self._log = event_log
        self._open_store = open_store
        self._member = member
        self._counts = counts
        self._metrics = metrics
        self._status = status
        self.gathering = gathering
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="persistence-log")
        self._lanes = [Lane(number) for number in range(LANES)]
        self._has_room = asyncio.Event()
        self._stopping = False
        self._sources: dict[int, tuple[str, ...]] = {}
        self._applied: dict[TopicPartition, int] = {}
        self._durable: dict[TopicPartition, int] = {}
        self._conflicts: dict[TopicPartition, int] = {}
        self._seeks: dict[TopicPartition, int] = {}
        self._unsent: dict[TopicPartition, int] = {}  # commits that wait for a rebalance; belongs to the log's thread

    async def run(self, stop: asyncio.Event) -> None:
        """Read and write until `stop` is set. Raises the error that ended the session."""
        loop = asyncio.get_running_loop()
        try:
            store = await self._open_store()
            try:
                identity = self._identity
                await store.check_log(
                    identity.log_id, identity.generation, lambda: loop.run_in_executor(self._thread, self._ends)
                )
                await self._status.load()
                async with store.read() as session:
                    self._sources = self._readable(await session.coverage.source_orders())
                listener = _RebalanceListener(self, store, loop)
                join = partial(self._log.reader, TOPICS, group=GROUP, member=self._member, listener=listener)
                reader = await loop.run_in_executor(self._thread, join)
                try:
                    await self._run_tasks(stop, reader, store)
                finally:
                    self.gathering.hurry()
                    reader.wake()
                    await loop.run_in_executor(self._thread, reader.close)
            finally:
                await store.close()
        finally:
            self._thread.shutdown(wait=False)

    def _readable(self, orders: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """Return the valid orders of sources. An order that a newer version has stored may be invalid."""
        found = {}
        for partition, sources in orders.items():
            try:
                SourceOrder(sources)
            except ConfigError as error:
                self._counts.unreadable += 1
                text = "the stored order of sources is invalid; the default order is used for this partition"
                log.warning(text, partition=partition, error=str(error))
            else:
                found[partition] = sources
        return found

    async def _run_tasks(self, stop: asyncio.Event, reader: Reader, store: Store) -> None:
        reading = asyncio.create_task(self._read(reader))
        following = asyncio.create_task(self._follow_flushed(store))
        writing = [asyncio.create_task(self._write(store, lane)) for lane in self._lanes]
        stopping = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[None]] = [reading, following, *writing]
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            # Reading ends here. The lanes end when all buffered records are written.
            self._stopping = True
            self._has_room.set()
            self.gathering.hurry()
            reader.wake()
            for done in (task for task in tasks if task.done()):
                done.result()
            await reading
            for lane in self._lanes:
                lane.wakeup.set()
            await asyncio.gather(*writing)
            await self._commit_on_stop(reader, store)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    # Reading

    async def _read(self, reader: Reader) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            mine = reader.assignment()  # none during a rebalance, which delays seeks
            seeks = {tp: self._seeks.pop(tp) for tp in list(self._seeks) if tp in mine}
            commits, self._durable = self._durable, {}
            consumed_records = await loop.run_in_executor(self._thread, self._poll, reader, seeks, commits)
            for consumed in consumed_records:
                lane = self._lane_of(consumed.source)
                buffer = lane.buffers.get(consumed.source)
                # While a seek is pending, these records are from the old position.
                if buffer is not None and consumed.source not in self._seeks:
                    buffer.add(consumed)
                    lane.wakeup.set()
            while self._buffered_bytes() > MAX_BUFFERED_BYTES and not self._stopping:
                self._has_room.clear()
                await self._has_room.wait()

    def _poll(
        self, reader: Reader, seeks: Mapping[TopicPartition, int], commits: Mapping[TopicPartition, int]
    ) -> list[ConsumedRecord]:
        """Poll in the log's thread. Step 1 happens here: a sync of the log's file must not block the event loop."""
        if seeks:
            reader.seek(seeks)
        mine = reader.assignment()
        self._unsent = {tp: at for tp, at in {**self._unsent, **commits}.items() if tp in mine or not mine}
        if mine and self._unsent:
            with contextlib.suppress(Fenced):  # a rebalance begins: the next owner, or a later poll, commits
                reader.commit(self._unsent)  # Step 6
                self._unsent = {}
        consumed_records = self.gathering.poll(reader, POLL_S)
        if consumed_records:
            self._log.make_durable()  # Step 1
        return consumed_records

    def _buffered_bytes(self) -> int:
        return sum(g.buffered_bytes for lane in self._lanes for g in lane.buffers.values())

    def _ends(self) -> dict[tuple[str, int], int]:
        return {tp: end for topic in TOPICS for tp, (_, end) in self._log.offsets(topic).items()}

    # Assignment and revocation of partitions; called on the event loop

    async def opened(self, store: Store, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Start partitions at the store's positions and return the offsets to read from.

        The group commits these offsets, so that the log retains the records of a partition that never advances.
        """
        async with store.session() as session:
            await begin(session, self._identity, partitions)
            applied = await all_positions(session)
        for tp in partitions:
            self._start_partition(tp, applied[tp])
        starts = {tp: applied[tp].resume for tp in partitions}
        self._durable.update(starts)
        return starts

    def closed(self, partitions: Sequence[TopicPartition]) -> None:
        """Drop the buffers of revoked partitions; their new owner reads the records again."""
        for tp in partitions:
            self._lane_of(tp).buffers.pop(tp, None)
            self._applied.pop(tp, None)
            self._durable.pop(tp, None)
            self._seeks.pop(tp, None)

    def _start_partition(self, tp: TopicPartition, applied: Applied) -> None:
        buffer = PartitionBuffer(tp, self._identity.generation, applied.position)
        self._lane_of(tp).buffers[tp] = buffer

    def _restart_partition(self, tp: TopicPartition, applied: Applied) -> None:
        """Drop the buffered records of a partition, and read it again from the store's position."""
        self._start_partition(tp, applied)
        self._seeks[tp] = applied.resume

    # Writing

    async def _write(self, store: Store, lane: Lane) -> None:
        async with store.session() as session:
            await session.script("SET synchronous_commit = off")
            while True:
                stopping = self._stopping
                batches = self._next_batches(lane, last=stopping)
                if batches:
                    began = time.monotonic()
                    await self._apply_all(session, lane, batches)
                    self._has_room.set()
                    small = sum(batch.ticks.num_rows for batch in batches if batch.ticks is not None) < SMALL_TICKS
                    took_s = time.monotonic() - began if small and not self._stopping else 0.0
                    # Yield to the reader at least once, so that the next transaction is not small.
                    await asyncio.sleep(min(MAX_REST_S, REST_FACTOR * took_s))
                elif stopping:
                    return
                else:
                    await self._wait(lane)

    async def _wait(self, lane: Lane) -> None:
        due = [at for g in lane.buffers.values() if (at := g.due_us) is not None]
        lane.wakeup.clear()
        if self._stopping:
            return
        timeout_s = max(0.0, (min(due) - _now_us()) / SECOND_US) + 0.001 if due else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # wait_for can lose a cancellation before Python 3.12
                await lane.wakeup.wait()

    def _next_batches(self, lane: Lane, *, last: bool) -> list[WriteBatch]:
        now_us, ticks = _now_us(), 0
        batches: list[WriteBatch] = []
        for buffer in list(lane.buffers.values()):
            if ticks and ticks + buffer.buffered_ticks > MAX_TICKS:
                continue  # a later transaction contains this buffer
            ticks += buffer.buffered_ticks
            batch = buffer.flush(now_us, last=last)
            if batch is not None:
                batches.append(batch)
                lane.buffers[buffer.source] = lane.buffers.pop(buffer.source)  # the last in the next transaction
        return batches

    async def _apply_all(self, session: Session, lane: Lane, batches: list[WriteBatch]) -> None:
        """Apply batches. Drop the batches with a position conflict, and apply the others again.

        If the database refuses the rows, apply each batch alone. Apply a batch that is still refused record by record.
        """
        while batches:
            began = time.monotonic()
            try:
                await apply(session, self._identity, batches, self._sources)
            except PositionConflict as conflict:
                conflicting = conflict.args[1]
                await self._handle_conflict(session, lane, conflicting, conflict)
                batches = [batch for batch in batches if batch.source not in conflicting]
            except REFUSALS as error:
                if not is_refusal(error):
                    raise
                session.known.clear()
                if len(batches) == 1:
                    await self._step_through(session, lane, batches[0])
                else:
                    for batch in batches:
                        await self._apply_all(session, lane, [batch])
                return
            else:
                await self._count_applied(batches, time.monotonic() - began)
                return

    async def _step_through(self, session: Session, lane: Lane, refused: WriteBatch) -> None:
        """Apply the records of a refused batch one by one, and stop its partition at the record that is refused."""
        source = refused.source
        if source not in lane.buffers:
            return  # the partition was revoked meanwhile; its new owner applies the batch
        applied = (await all_positions(session))[source]
        self._restart_partition(source, applied)
        consumed = await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: list(self._log.read_range(source, applied.resume, refused.change.position))
        )
        buffer = PartitionBuffer(source, self._identity.generation, applied.position)
        try:
            found = await apply_one_by_one(
                session, self._identity, buffer, consumed, self._sources, lambda one: self._count_applied([one], 0.0)
            )
        except PositionConflict as conflict:
            await self._handle_conflict(session, lane, conflict.args[1], conflict)
            return
        if source not in lane.buffers:
            return
        if found is None:
            self._restart_partition(source, (await all_positions(session))[source])
        else:
            del lane.buffers[source]
            self._seeks.pop(source, None)
            await self._status.refuse(source, *found)

    async def _count_applied(self, batches: Sequence[WriteBatch], seconds: float) -> None:
        counts = self._counts
        for batch in batches:
            if self._owns(batch.source):
                self._applied[batch.source] = batch.change.resume
            if batch.sources is not None:
                self._sources[batch.source.partition] = batch.sources
            counts.rows += batch.rows
            counts.ticks += batch.ticks.num_rows if batch.ticks is not None else 0
            counts.unreadable += batch.unreadable
            counts.out_of_range += batch.out_of_range
            counts.differences += sum(number for _, number in batch.differences)
            self._conflicts.pop(batch.source, None)
        counts.transactions += 1
        if self._metrics is not None:
            self._metrics.applied(counts, seconds)
        await self._status.recover()
        await self._status.accept(batch.source for batch in batches)

    async def _handle_conflict(
        self, session: Session, lane: Lane, conflicting: frozenset[TopicPartition], conflict: PositionConflict
    ) -> None:
        abandoned = False
        applied = await all_positions(session)
        for tp in sorted(conflicting):
            tp = TopicPartition(*tp)
            if lane.buffers.pop(tp, None) is None:
                continue  # the partition was revoked meanwhile, which explains the conflict
            self._counts.conflicts += 1
            self._conflicts[tp] = self._conflicts.get(tp, 0) + 1
            if self._conflicts[tp] < MAX_CONFLICTS:
                log.warning(
                    "position conflict with another process; reading restarts at the store's position",
                    partition=tp,
                )
                self._restart_partition(tp, applied[tp])
            else:
                abandoned = True
                log.error(
                    "another process also writes this partition, so this process no longer does; stop one of the two",
                    partition=tp, error=str(conflict),
                )  # fmt: skip
        if abandoned and not any(one.buffers for one in self._lanes):
            raise conflict

    # The positions of the consumer group

    async def _follow_flushed(self, store: Store) -> None:
        """Commit the group's positions up to the flushed commits of the database (Step 6)."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            if time.monotonic() - began > HEALTHY_S:
                await self._status.recover()  # an outage may end while there is nothing to write
            applied = dict(self._applied)  # kept until they are durable: a stop meanwhile commits them
            if applied:
                written, flushed = await store.wal_positions()
                while flushed < written:
                    await asyncio.sleep(FOLLOW_INTERVAL_S / 4)
                    _, flushed = await store.wal_positions()
                self._durable.update({tp: at for tp, at in applied.items() if self._owns(tp)})
                self._applied = {tp: at for tp, at in self._applied.items() if applied.get(tp) != at}

    def _owns(self, tp: TopicPartition) -> bool:
        return tp in self._lane_of(tp).buffers

    def _lane_of(self, tp: TopicPartition) -> Lane:
        return self._lanes[lane_number(tp, self._partitions, LANES)]

    async def _commit_on_stop(self, reader: Reader, store: Store) -> None:
        """Flush the database, then commit all applied positions of the group, before a clean stop."""
        await store.flush_wal()
        commits = {**self._unsent, **self._durable, **self._applied}

        def commit() -> None:
            mine = reader.assignment()
            with contextlib.suppress(Fenced):
                reader.commit({tp: at for tp, at in commits.items() if tp in mine and self._owns(tp)})

        await asyncio.get_running_loop().run_in_executor(self._thread, commit)


class _RebalanceListener(RebalanceListener):
    """Starts reading at the database's positions. `poll` calls it in the log's thread, while the event loop is free."""

    def __init__(self, session: _StoreSession, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._session, self._store, self._loop = session, store, loop

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._session.gathering.restart(partitions)
        opening = self._session.opened(self._store, list(partitions))
        return asyncio.run_coroutine_threadsafe(opening, self._loop).result()

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._loop.call_soon_threadsafe(self._session.closed, list(partitions))


def _now_us() -> int:
    return time.monotonic_ns() // 1000
