"""Reading: sleep at the doorbell, look which partitions have something, take a fair share of each."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tickerplant.core.errors import Fenced, LogError
from tickerplant.log.embedded import file, groups, records
from tickerplant.log.embedded.locks import LifeSign
from tickerplant.log.embedded.wakeup import Bell
from tickerplant.log.port import ConsumedRecord, RebalanceListener, Start, TopicPartition

if TYPE_CHECKING:
    from tickerplant.log.embedded.log import EmbeddedLog

LOOK_S = 0.4
"""How often a sleeping reader looks by itself: for what nobody rang for, and for members that died.

A look that finds nothing asks SQLite for one number and the kernel for a lock of each other member: some 50 µs with the
thread's waking, so eight readers cost 0.1 % of a core.
"""


class EmbeddedReader:
    """Reads in one thread at a time; `wake` alone may come from another."""

    def __init__(
        self,
        log: EmbeddedLog,
        topics: Sequence[str],
        group: str | None,
        member: str | None,
        start: Start,
        listener: RebalanceListener | None,
    ) -> None:
        self._log, self.group, self._start, self._listener = log, group, start, listener
        self._connection = log.connect()
        self._incarnation = uuid.uuid4().hex
        self._life: LifeSign | None = None
        self._bell: Bell | None = None
        self._closed = False
        self._woken = threading.Event()
        self._generation = -1
        self._owned: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._names: dict[int, TopicPartition] = {}
        self._turn = 0
        self._version = -1
        self._looked_s = 0.0
        self._others: list[str] = []
        try:
            found = [log.catalog.topic(self._connection, name) for name in dict.fromkeys(topics)]
            self._partition_ids = [partition_id for topic in found for partition_id in topic.partition_ids]
            self._names = log.catalog.names(self._connection, self._partition_ids)
            self._bell = Bell(log.bells, [topic.id for topic in found], first=group is None)
            # 'latest' means the end as of now: what comes between now and the first poll is read
            self._ends = {k: v.next for k, v in records.bounds(self._connection, self._partition_ids).items()}
            if group is not None:
                self._join(group, member or self._incarnation, [topic.id for topic in found])
        except BaseException:
            self.close()
            raise

    def _join(self, group: str, member: str, topic_ids: list[int]) -> None:
        self._life = LifeSign(self._log.life_path(self._incarnation))
        with self._log.writing(self._connection) as connection:
            groups.join(connection, group, member, self._incarnation, topic_ids)
            self._log.bury(groups.reap(connection, group, self._log.lives))
        self._log.ringer.ring(topic_ids)

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return what has been committed, a fair share of each partition, in order within each; wait for the first."""
        deadline = time.monotonic() + timeout_s
        with file.told(self._log.path):
            while True:
                bell = self._open_bell()
                bell.hush()  # before looking: what comes while we look rings again
                self._follow_group()
                deliveries = self._take(max_records, max_bytes)
                left_s = deadline - time.monotonic()
                if deliveries or left_s <= 0 or self._woken.is_set():
                    self._woken.clear()
                    return deliveries
                self._sleep(bell, deadline)

    def _sleep(self, bell: Bell, deadline: float) -> None:
        """Sleep until something may be there: a ring, a commit of others, a death in the group, the deadline."""
        while (left_s := deadline - time.monotonic()) > 0 and not bell.wait(min(left_s, LOOK_S)):
            if self._has_died(time.monotonic()) or self._version_now() != self._version:
                return

    def _version_now(self) -> int:
        """Return a number that changes with every commit of others; it costs no look at any table."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _open_bell(self) -> Bell:
        if self._bell is None or self._closed:
            raise LogError("the reader is closed")
        return self._bell

    def _has_died(self, now_s: float) -> bool:
        """Return whether a member of our group is dead; looked for every `LOOK_S` at most."""
        if self.group is None or now_s - self._looked_s < LOOK_S:
            return False
        if any(not self._log.lives(member) for member in self._others):
            return True  # and again, until it is buried
        self._looked_s = now_s
        return False

    def _follow_group(self) -> None:
        """Notice what has come and gone since the last poll, and tell the listener. First what has gone."""
        self._version = self._version_now()
        if self.group is None:
            if self._generation < 0:
                self._generation = 0
                self._owned = dict.fromkeys(self._partition_ids, 0)
                self._gain(self._partition_ids)
            return
        if self._has_died(time.monotonic()):
            with self._log.writing(self._connection) as connection:
                self._log.bury(groups.reap(connection, self.group, self._log.lives))
            self._log.ringer.ring()
        if groups.generation_of(self._connection, self.group) == self._generation:
            return
        with file.snapshot(self._connection) as connection:
            generation = groups.generation_of(connection, self.group)
            owned = groups.owned_by(connection, self.group, self._incarnation)
            members = groups.incarnations(connection, self.group)
        self._others = [member for member in members if member != self._incarnation]
        known = owned or {}
        lost = [p for p, since in self._owned.items() if known.get(p) != since]
        gained = [p for p, since in known.items() if self._owned.get(p) != since]
        self._owned, self._generation = known, generation
        self._lose(lost)
        if owned is None:
            raise Fenced(f"a newer member of the group {self.group} has this member's name")
        self._gain(gained)

    def _lose(self, partition_ids: list[int]) -> None:
        for partition_id in partition_ids:
            self._positions.pop(partition_id, None)
        if partition_ids and self._listener is not None:
            self._listener.on_revoked(sorted(self._names[p] for p in partition_ids))

    def _gain(self, partition_ids: list[int]) -> None:
        told: Mapping[TopicPartition, int] = {}
        if partition_ids and self._listener is not None:
            told = self._listener.on_assigned(sorted(self._names[p] for p in partition_ids))
        committed = {} if self.group is None else self._log.positions_of(self._connection, self.group)
        for partition_id in partition_ids:
            position = told.get(self._names[partition_id], committed.get(partition_id))
            self._positions[partition_id] = self._begin(partition_id) if position is None else position

    def _begin(self, partition_id: int) -> int:
        start = self._start
        within = records.bounds(self._connection, [partition_id])[partition_id]
        if start.at == "latest":
            return max(self._ends[partition_id], within.first)
        if start.at == "time":
            return records.offset_at(self._connection, partition_id, start.time_us, within)
        return start.positions.get(self._names[partition_id], within.first)

    def _take(self, max_records: int, max_bytes: int) -> list[ConsumedRecord]:
        """Take of each partition that has something an equal share of what the limits leave.

        Who is first to be served changes with every call, so that a partition of huge records starves no other.
        """
        if not self._positions:
            return []
        within = records.bounds(self._connection, list(self._positions))
        waiting = [p for p, at in self._positions.items() if at != within[p].next]
        if not waiting:
            return []
        self._turn = (self._turn + 1) % len(waiting)
        waiting = waiting[self._turn :] + waiting[: self._turn]
        taken: list[ConsumedRecord] = []
        for served, partition_id in enumerate(waiting):
            shares = len(waiting) - served
            position = self._positions[partition_id]
            self._check(partition_id, position, within[partition_id])
            some = records.read(
                self._connection, partition_id, position, -(-max_records // shares), max_bytes // shares, not taken
            )
            if some:
                name = self._names[partition_id]
                taken += [ConsumedRecord(name.topic, name.partition, *row) for row in some]
                self._positions[partition_id] = some[-1][0] + 1
                max_records -= len(some)
                max_bytes -= sum(len(row[2]) for row in some)
            if max_records <= 0:
                break
        return taken

    def _check(self, partition_id: int, position: int, within: records.Bounds) -> None:
        if within.first <= position <= within.next:
            return
        name = self._names[partition_id]
        raise LogError(
            f"position {position} of {name.topic}/{name.partition} is not in the log, which has {within.first} to "
            f"{within.next}: " + ("retention has passed it" if position < within.first else "it is of another log")
        )

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours as of the last poll."""
        return frozenset(self._names[partition_id] for partition_id in self._owned)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on from these positions in assigned partitions; before the first poll of a reader without group, too."""
        if self.group is None:
            self._follow_group()
        ids = {self._names[partition_id]: partition_id for partition_id in self._owned}
        for name, position in positions.items():
            if name not in ids:
                raise LogError(f"{name.topic}/{name.partition} is not assigned to this reader")
            self._positions[ids[name]] = position

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Keep positions for the group."""
        with self._log.writing(self._connection) as connection:
            self.keep_positions(connection, positions)

    def keep_positions(self, connection: sqlite3.Connection, positions: Mapping[TopicPartition, int]) -> None:
        """Keep positions within an open transaction. Raises Fenced if one is not ours as of the last poll and now."""
        if self.group is None:
            raise LogError("a reader without a group commits nothing")
        find = self._log.catalog.partition_id
        by_id = {find(connection, *name): position for name, position in positions.items()}
        groups.keep_positions(connection, self.group, self._incarnation, self._owned, by_id)

    def wake(self) -> None:
        """Make a waiting poll, or else the next, return at once."""
        self._woken.set()
        bell = self._bell
        if bell is not None:
            bell.wake()

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._life is not None and self.group is not None:
                with self._log.writing(self._connection) as connection:
                    groups.leave(connection, self.group, self._incarnation)
                self._log.ringer.ring()
        finally:
            if self._life is not None:
                self._life.close()
            if self._bell is not None:
                self._bell.close()
            self._connection.close()

    def __enter__(self) -> EmbeddedReader:
        """Return the reader."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()
