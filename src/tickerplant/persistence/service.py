"""Persistence: topics to tables, each position exactly once.

One thread reads the log and is always one poll ahead. What it brings is gathered by partition (`work`); two lanes, each
with a database connection of its own, share the partitions by number, so that the database takes in one lane's rows
while the other's are encoded. A lane writes as soon as it is free and has rested: a quiet plant commits each record
within milliseconds, a busy one tens of thousands of ticks at once.

Effects, in this order; each is safe to repeat, because whoever repeats it finds another position at Step 3 and stops:

1. The log makes durable what was read of it (`_poll`), so that the store is never ahead of its log.
2. Table partitions and columns that are missing are made (`applying`, up to Step 5).
3. In one database transaction: the positions move, from where they are expected to be,
4. ticks go in by COPY; bars, values and the rest by upsert, where the newest version wins,
5. and it commits, without waiting for the database's disk.
6. Once the database has flushed that far, the group's positions follow, so that the log may drop what lies before
   (`_follow`): with `synchronous_commit` off, a crash of the database forgets its last half second, and needs it again.

What goes wrong: the database or the log out of reach ends a `_Stretch`, and after a pause the next begins at the
positions that the database has by then. A position that is not where it was expected means that somebody else has
applied it: the transaction is rolled back; if the partition is still ours (its former owner has finished late) reading
begins again at the database's position, and after `MAX_CONFLICTS` of these the partition is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from tickerplant.core import schemas
from tickerplant.core.errors import (
    ConfigError,
    Fenced,
    LogUnavailable,
    MigrationError,
    PositionConflict,
    StoreError,
    StoreMismatch,
)
from tickerplant.core.sources import SourceOrder
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import ConsumedRecord, EventLog, Reader, TopicPartition
from tickerplant.persistence.batching import Gathering, Work
from tickerplant.persistence.write_batch import apply
from tickerplant.store.pool import Session, Store
from tickerplant.store.repositories.positions import Applied, Log, all_positions, begin

GROUP: Final = "persistence"
TOPICS: Final = (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS, schemas.ALERTS, schemas.STATUS, schemas.DEADLETTER)
LANES: Final = 2
"""Connections that write. Two give 60 % more than one on two cores; more only wait for the same cores."""
MAX_TICKS: Final = 50_000
"""Ticks of a transaction: beyond 50,000 a COPY gains nothing and only holds memory. One partition may exceed it."""
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
"""Bytes of records gathered and not yet written: some 700,000 ticks, half a second of a lane's work. Above it nothing
is read: what is not taken stays in the log."""
REST: Final = 3.0
REST_AT_MOST_S: Final = 0.1
"""After a small transaction a lane rests this many times as long as it took, and what comes meanwhile shares the next:
a transaction of one tick costs a millisecond of CPU here and one in the database, and there could be hundreds a second.
"""
SMALL_TICKS: Final = 5_000
POLL_S: Final = 0.25
FOLLOW_S: Final = 1.0
"""How often the group's positions follow. The database flushes commits within 0.6 s (three times
`wal_writer_delay`)."""
MAX_CONFLICTS: Final = 3
HEALTHY_S: Final = 10.0
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Counts:
    """What persistence has done since it began."""

    ticks: int = 0
    rows: int = 0
    transactions: int = 0
    unreadable: int = 0
    """Records that could not be read; aggregation has put them into the dead letter."""
    out_of_range: int = 0
    """Rows left out because their time is of no market."""
    restarts: int = 0
    """How often log or database were out of reach."""
    conflicts: int = 0
    differences: int = 0
    """Bars that two sources gave differently."""


class Metrics(Protocol):
    """Who wants to know what was done. Called after each transaction, from the service's loop."""

    def applied(self, counts: Counts, seconds: float) -> None:
        """`counts` so far, and how long the last transaction took."""
        ...


class Persistence:
    """The service. It may run in a thread and an event loop of its own."""

    def __init__(self, log: EventLog, dsn: str, *, instance: str = "0", metrics: Metrics | None = None) -> None:
        self.counts = Counts()
        self._log = log
        self._dsn = dsn
        self._member = f"{GROUP}-{instance}"
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Write what the log brings until `stop` is set, then write the rest of what has been read.

        Raises StoreMismatch when store and log do not belong together, MigrationError when the tables are not there,
        and PositionConflict when somebody else applies all our partitions. Anything else that fails is tried again.
        """
        attempt = 0
        while not stop.is_set():
            began = time.monotonic()
            stretch = _Stretch(self._log, self._dsn, self._member, self.counts, self._metrics)
            try:
                await stretch.run(stop)
                return
            except (StoreMismatch, MigrationError, PositionConflict):
                raise
            except (StoreError, LogUnavailable, Fenced) as error:
                attempt = 0 if time.monotonic() - began > HEALTHY_S else attempt
                wait_s = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
                attempt += 1
                self.counts.restarts += 1
                log.warning("persistence begins again at the store's positions", error=str(error), wait_s=wait_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await stop.wait()


@dataclass(slots=True)
class _Lane:
    """The partitions of one connection. `wanted` is set when there may be something to write."""

    number: int
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    gatherings: dict[TopicPartition, Gathering] = field(default_factory=dict)


class _Stretch:
    """One stretch of work between two losses of log or database. All that is in memory belongs to it."""

    def __init__(self, event_log: EventLog, dsn: str, member: str, counts: Counts, metrics: Metrics | None) -> None:
        identity = event_log.identity()
        self._identity = Log(identity.log_id, identity.generation)
        self._log = event_log
        self._dsn = dsn
        self._member = member
        self._counts = counts
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="persistence-log")
        self._lanes = [_Lane(number) for number in range(LANES)]
        self._room = asyncio.Event()
        self._stopping = False
        self._sources: dict[int, tuple[str, ...]] = {}
        self._applied: dict[TopicPartition, int] = {}
        self._durable: dict[TopicPartition, int] = {}
        self._conflicts: dict[TopicPartition, int] = {}
        self._seeks: dict[TopicPartition, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Read and write until `stop`; raises what ended it."""
        loop = asyncio.get_running_loop()
        try:
            store = await Store.open(self._dsn, min_size=1, max_size=LANES + 2)
            try:
                identity = self._identity
                await store.check_log(
                    identity.log_id, identity.generation, lambda: loop.run_in_executor(self._thread, self._ends)
                )
                async with store.read() as look:
                    self._sources = self._readable(await look.coverage.source_orders())
                listener = _RebalanceListener(self, store, loop)
                reader = await loop.run_in_executor(
                    self._thread,
                    lambda: self._log.reader(TOPICS, group=GROUP, member=self._member, listener=listener),
                )
                try:
                    await self._work(stop, reader, store)
                finally:
                    reader.wake()
                    await loop.run_in_executor(self._thread, reader.close)
            finally:
                await store.close()
        finally:
            self._thread.shutdown(wait=False)

    def _readable(self, orders: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """Return the orders of sources that can be read; another version may have kept one that this one cannot."""
        found = {}
        for partition, sources in orders.items():
            try:
                SourceOrder(sources)
            except ConfigError as error:
                self._counts.unreadable += 1
                log.warning("the order of sources that was kept cannot be read", partition=partition, error=str(error))
            else:
                found[partition] = sources
        return found

    async def _work(self, stop: asyncio.Event, reader: Reader, store: Store) -> None:
        reading = asyncio.create_task(self._read(reader))
        following = asyncio.create_task(self._follow(store))
        writing = [asyncio.create_task(self._write(store, lane)) for lane in self._lanes]
        stopping = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[None]] = [reading, following, *writing]
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            # From here on nothing more is read, and the lanes end when all that has been read is written.
            self._stopping = True
            self._room.set()
            reader.wake()
            for done in (task for task in tasks if task.done()):
                done.result()
            await reading
            for lane in self._lanes:
                lane.wanted.set()
            await asyncio.gather(*writing)
            await self._last_commit(reader, store)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    # Reading

    async def _read(self, reader: Reader) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            seeks, self._seeks = self._seeks, {}
            commits, self._durable = self._durable, {}
            deliveries = await loop.run_in_executor(self._thread, self._poll, reader, seeks, commits)
            for delivery in deliveries:
                lane = self._lanes[delivery.partition % LANES]
                gathering = lane.gatherings.get(delivery.source)
                # Where a seek has been asked for meanwhile, what came lies elsewhere.
                if gathering is not None and delivery.source not in self._seeks:
                    gathering.take(delivery)
                    lane.wanted.set()
            while self._waiting_bytes() > MAX_WAITING_BYTES and not self._stopping:
                self._room.clear()
                await self._room.wait()

    def _poll(
        self, reader: Reader, seeks: Mapping[TopicPartition, int], commits: Mapping[TopicPartition, int]
    ) -> list[ConsumedRecord]:
        """Read on, in the log's thread. Step 1 is here: it costs a sync of the log's file, and the loop need not
        wait.
        """
        mine = reader.assignment()
        if seeks := {tp: position for tp, position in seeks.items() if tp in mine}:
            reader.seek(seeks)
        if commits := {tp: position for tp, position in commits.items() if tp in mine}:
            with contextlib.suppress(Fenced):  # a partition went away just now; its new owner commits
                reader.commit(commits)  # Step 6
        deliveries = reader.poll(timeout_s=POLL_S)
        if deliveries:
            self._log.make_durable()  # Step 1
        return deliveries

    def _waiting_bytes(self) -> int:
        return sum(g.bytes_waiting for lane in self._lanes for g in lane.gatherings.values())

    def _ends(self) -> dict[tuple[str, int], int]:
        return {tp: end for topic in TOPICS for tp, (_, end) in self._log.offsets(topic).items()}

    # Partitions that come and go; called on the loop

    async def opened(self, store: Store, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Begin partitions at the store's positions and return from where to read them."""
        async with store.session() as session:
            await begin(session, self._identity, partitions)
            applied = await all_positions(session)
        for tp in partitions:
            self._begin(tp, applied[tp])
        return {tp: applied[tp].resume for tp in partitions}

    def closed(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget what was gathered of partitions that are no longer ours; their new owner reads it again."""
        for tp in partitions:
            self._lanes[tp.partition % LANES].gatherings.pop(tp, None)
            self._applied.pop(tp, None)
            self._durable.pop(tp, None)
            self._seeks.pop(tp, None)

    def _begin(self, tp: TopicPartition, applied: Applied) -> None:
        gathering = Gathering(tp, self._identity.generation, applied.position)
        self._lanes[tp.partition % LANES].gatherings[tp] = gathering

    # Writing

    async def _write(self, store: Store, lane: _Lane) -> None:
        async with store.session() as session:
            await session.script("SET synchronous_commit = off")
            while True:
                stopping = self._stopping
                works = self._next_works(lane, last=stopping)
                if works:
                    began = time.monotonic()
                    await self._apply_all(session, lane, works)
                    self._room.set()
                    small = sum(work.ticks.num_rows for work in works if work.ticks is not None) < SMALL_TICKS
                    took_s = time.monotonic() - began if small and not self._stopping else 0.0
                    # At least the reader's turn, so that the next transaction is not a small one.
                    await asyncio.sleep(min(REST_AT_MOST_S, REST * took_s))
                elif stopping:
                    return
                else:
                    await self._wait(lane)

    async def _wait(self, lane: _Lane) -> None:
        due = [at for g in lane.gatherings.values() if (at := g.due_us) is not None]
        lane.wanted.clear()
        if self._stopping:
            return
        timeout_s = max(0.0, (min(due) - _now_us()) / SECOND_US) + 0.001 if due else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # wait_for can lose a cancellation before Python 3.12
                await lane.wanted.wait()

    def _next_works(self, lane: _Lane, *, last: bool) -> list[Work]:
        now_us, ticks = _now_us(), 0
        works: list[Work] = []
        for gathering in list(lane.gatherings.values()):
            if ticks and ticks + gathering.ticks_waiting > MAX_TICKS:
                continue  # first the next time, if the others have less by then
            ticks += gathering.ticks_waiting
            work = gathering.hand_over(now_us, last=last)
            if work is not None:
                works.append(work)
                lane.gatherings[gathering.source] = lane.gatherings.pop(gathering.source)  # last the next time
        return works

    async def _apply_all(self, session: Session, lane: _Lane, works: list[Work]) -> None:
        """Apply works; those whose partition somebody else has applied are left out, and the others tried again."""
        while works:
            began = time.monotonic()
            try:
                await apply(session, self._identity, works, self._sources)
            except PositionConflict as conflict:
                lost = conflict.args[1]
                await self._lose(session, lane, lost, conflict)
                works = [work for work in works if work.source not in lost]
            else:
                self._note(works, time.monotonic() - began)
                return

    def _note(self, works: Sequence[Work], seconds: float) -> None:
        counts = self._counts
        for work in works:
            if work.source in self._lanes[work.source.partition % LANES].gatherings:
                self._applied[work.source] = work.move.resume
            if work.sources is not None:
                self._sources[work.source.partition] = work.sources
            counts.rows += work.rows
            counts.ticks += work.ticks.num_rows if work.ticks is not None else 0
            counts.unreadable += work.unreadable
            counts.out_of_range += work.out_of_range
            counts.differences += sum(number for _, number in work.differences)
            self._conflicts.pop(work.source, None)
        counts.transactions += 1
        if self._metrics is not None:
            self._metrics.applied(counts, seconds)

    async def _lose(
        self, session: Session, lane: _Lane, lost: frozenset[TopicPartition], conflict: PositionConflict
    ) -> None:
        left_alone = False
        applied = await all_positions(session)
        for tp in sorted(lost):
            tp = TopicPartition(*tp)
            if lane.gatherings.pop(tp, None) is None:
                continue  # it was taken from us meanwhile, which is why
            self._counts.conflicts += 1
            self._conflicts[tp] = self._conflicts.get(tp, 0) + 1
            if self._conflicts[tp] < MAX_CONFLICTS:
                log.warning("somebody else has applied this; reading again at the store's position", partition=tp)
                self._begin(tp, applied[tp])
                self._seeks[tp] = applied[tp].resume
            else:
                left_alone = True
                log.error("somebody else applies this partition; left alone", partition=tp, error=str(conflict))
        if left_alone and not any(one.gatherings for one in self._lanes):
            raise conflict

    # The group's positions

    async def _follow(self, store: Store) -> None:
        """Step 6: let the group's positions follow what the database has flushed."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            applied = dict(self._applied)  # kept until it is durable: a stop meanwhile commits it
            if applied:
                written, flushed = await store.wal_positions()
                while flushed < written:
                    await asyncio.sleep(FOLLOW_S / 4)
                    _, flushed = await store.wal_positions()
                self._durable.update({tp: at for tp, at in applied.items() if self._owns(tp)})
                self._applied = {tp: at for tp, at in self._applied.items() if applied.get(tp) != at}

    def _owns(self, tp: TopicPartition) -> bool:
        return tp in self._lanes[tp.partition % LANES].gatherings

    async def _last_commit(self, reader: Reader, store: Store) -> None:
        """At a clean stop: have the database flush, then commit the group to all that was applied."""
        await store.flush_wal()
        commits = {tp: at for tp, at in {**self._durable, **self._applied}.items() if self._owns(tp)}

        def commit() -> None:
            mine = reader.assignment()
            with contextlib.suppress(Fenced):
                reader.commit({tp: at for tp, at in commits.items() if tp in mine})

        await asyncio.get_running_loop().run_in_executor(self._thread, commit)


class _RebalanceListener:
    """Reading begins where the database is. Called inside `poll`, in the log's thread, while the loop is free."""

    def __init__(self, stretch: _Stretch, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._stretch, self._store, self._loop = stretch, store, loop

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        opening = self._stretch.opened(self._store, list(partitions))
        return asyncio.run_coroutine_threadsafe(opening, self._loop).result()

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._loop.call_soon_threadsafe(self._stretch.closed, list(partitions))


def _now_us() -> int:
    return time.monotonic_ns() // 1000
