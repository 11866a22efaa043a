"""Reading: wait for a notification, find the partitions with new records, and read a fair share of each."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from tickerplant.core.errors import Fenced, LogError
from tickerplant.log.embedded import file, groups, records
from tickerplant.log.embedded.context import LogContext
from tickerplant.log.embedded.liveness import LivenessLock
from tickerplant.log.embedded.wakeup import WakeupSocket
from tickerplant.log.port import ConsumedRecord, RebalanceListener, Start, TopicPartition

CHECK_S = 0.4
"""Interval in seconds at which a waiting reader checks for commits without a notification and for dead members.

A check reads one number from SQLite and tries the lock of each other member. The check costs about 50 µs with the
thread's wake-up, so eight readers use 0.1 % of a core.
"""


class EmbeddedReader:
    """A reader for one thread at a time. Only `wake` may be called from other threads."""

    def __init__(
        self,
        context: LogContext,
        topics: Sequence[str],
        group: str | None,
        member: str | None,
        start: Start,
        listener: RebalanceListener | None,
    ) -> None:
        self._context, self.group, self._start, self._listener = context, group, start, listener
        self._connection = context.connect()
        self._decoder = context.decoder()
        self._incarnation = uuid.uuid4().hex
        self._liveness: LivenessLock | None = None
        self._wakeup: WakeupSocket | None = None
        self._closed = False
        self._woken = threading.Event()
        self._generation = -1
        self._owned: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._names: dict[int, TopicPartition] = {}
        self._turn = 0
        self._version = -1
        self._checked_s = 0.0
        self._others: list[str] = []
        try:
            found = [context.catalog.topic(self._connection, name) for name in dict.fromkeys(topics)]
            self._partition_ids = [partition_id for topic in found for partition_id in topic.partition_ids]
            self._names = context.catalog.names(self._connection, self._partition_ids)
            self._wakeup = WakeupSocket(context.sockets, [topic.id for topic in found], first=group is None)
            # 'latest' is the present end: records appended between now and the first poll are read
            self._ends = {k: v.next for k, v in records.bounds(self._connection, self._partition_ids).items()}
            if group is not None:
                self._join(group, member or self._incarnation, [topic.id for topic in found])
        except BaseException:
            self.close()
            raise

    def _join(self, group: str, member: str, topic_ids: list[int]) -> None:
        self._liveness = LivenessLock(self._context.liveness_path(self._incarnation))
        with self._context.write_transaction(self._connection) as connection:
            groups.join(connection, group, member, self._incarnation, topic_ids)
            self._context.remove_members(groups.evict_dead_members(connection, group, self._context.is_alive))
        self._context.notifier.notify(topic_ids)

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return committed records: a fair share of each partition, in order within each.

        Returns [] after the timeout or a `wake`.
        """
        deadline = time.monotonic() + timeout_s
        with file.translate_errors(self._context.path):
            while True:
                wakeup = self._open_wakeup()
                wakeup.drain()  # first: a commit during the check below notifies again
                self._follow_group()
                found = self._read_share(max_records, max_bytes)
                left_s = deadline - time.monotonic()
                if found or left_s <= 0 or self._woken.is_set():
                    self._woken.clear()
                    return found
                self._wait(wakeup, deadline)

    def _wait(self, wakeup: WakeupSocket, deadline: float) -> None:
        """Wait for a notification, a commit of another connection, a dead member of the group, or the deadline."""
        while (left_s := deadline - time.monotonic()) > 0 and not wakeup.wait(min(left_s, CHECK_S)):
            if self._has_dead_member(time.monotonic()) or self._version_now() != self._version:
                return

    def _version_now(self) -> int:
        """Return a number that changes with every commit of other connections. It reads no table."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _open_wakeup(self) -> WakeupSocket:
        if self._wakeup is None or self._closed:
            raise LogError("the reader is closed")
        return self._wakeup

    def _has_dead_member(self, now_s: float) -> bool:
        """Return whether a member of this reader's group is dead. Checks at most once in `CHECK_S`."""
        if self.group is None or now_s - self._checked_s < CHECK_S:
            return False
        if any(not self._context.is_alive(member) for member in self._others):
            return True  # and at each later call, until a member evicts it
        self._checked_s = now_s
        return False

    def _follow_group(self) -> None:
        """Apply the rebalances since the last poll and call the listener: first on_revoked, then on_assigned."""
        self._version = self._version_now()
        if self.group is None:
            if self._generation < 0:
                self._generation = 0
                self._owned = dict.fromkeys(self._partition_ids, 0)
                self._assign(self._partition_ids)
            return
        if self._has_dead_member(time.monotonic()):
            with self._context.write_transaction(self._connection) as connection:
                dead = groups.evict_dead_members(connection, self.group, self._context.is_alive)
                self._context.remove_members(dead)
            self._context.notifier.notify()
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
        self._revoke(lost)
        if owned is None:
            raise Fenced(f"a newer member of group {self.group} has this member's name; stop this member")
        self._assign(gained)

    def _revoke(self, partition_ids: list[int]) -> None:
        for partition_id in partition_ids:
            self._positions.pop(partition_id, None)
        if partition_ids and self._listener is not None:
            self._listener.on_revoked(sorted(self._names[p] for p in partition_ids))

    def _assign(self, partition_ids: list[int]) -> None:
        given: Mapping[TopicPartition, int] = {}
        if partition_ids and self._listener is not None:
            given = self._listener.on_assigned(sorted(self._names[p] for p in partition_ids))
        committed = {} if self.group is None else self._context.positions_of(self._connection, self.group)
        for partition_id in partition_ids:
            position = given.get(self._names[partition_id], committed.get(partition_id))
            self._positions[partition_id] = self._start_position(partition_id) if position is None else position

    def _start_position(self, partition_id: int) -> int:
        start = self._start
        within = records.bounds(self._connection, [partition_id])[partition_id]
        if start.at == "latest":
            return max(self._ends[partition_id], within.first)
        if start.at == "time":
            return records.offset_at(self._connection, partition_id, start.time_us, within)
        return start.positions.get(self._names[partition_id], within.first)

    def _read_share(self, max_records: int, max_bytes: int) -> list[ConsumedRecord]:
        """Read an equal share of the remaining limits from each partition that has records.

        The first partition changes with every call, so that a partition with huge records does not starve the others.
        """
        if not self._positions:
            return []
        within = records.bounds(self._connection, list(self._positions))
        pending = [p for p, at in self._positions.items() if at != within[p].next]
        if not pending:
            return []
        self._turn = (self._turn + 1) % len(pending)
        pending = pending[self._turn :] + pending[: self._turn]
        taken: list[ConsumedRecord] = []
        for served, partition_id in enumerate(pending):
            shares = len(pending) - served
            position = self._positions[partition_id]
            self._check(partition_id, position, within[partition_id])
            limits = records.Limits(-(-max_records // shares), max_bytes // shares, at_least=not taken)
            some = records.read(self._connection, self._decoder, partition_id, position, limits)
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
            f"position {position} of {name.topic}/{name.partition} is not in the log, which contains {within.first} to "
            f"{within.next}: " + ("retention dropped it" if position < within.first else "it belongs to another log")
        )

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that this reader owned at its last poll."""
        return frozenset(self._names[partition_id] for partition_id in self._owned)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Continue from these positions in assigned partitions. A reader without a group may seek before `poll`."""
        if self.group is None:
            self._follow_group()
        ids = {self._names[partition_id]: partition_id for partition_id in self._owned}
        for name, position in positions.items():
            if name not in ids:
                raise LogError(f"{name.topic}/{name.partition} is not assigned to this reader")
            self._positions[ids[name]] = position

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions of the group, without a writer's transaction."""
        with self._context.write_transaction(self._connection) as connection:
            self.commit_positions(connection, positions)

    def commit_positions(self, connection: sqlite3.Connection, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions in an open transaction. Raises Fenced if a partition was lost since the last poll."""
        if self.group is None:
            raise LogError("a reader without a group cannot commit positions")
        find = self._context.catalog.partition_id
        by_id = {find(connection, *name): position for name, position in positions.items()}
        groups.commit_positions(connection, self.group, self._incarnation, self._owned, by_id)

    def wake(self) -> None:
        """Make the waiting poll return at once. If no poll waits, make the next poll return at once."""
        self._woken.set()
        wakeup = self._wakeup
        if wakeup is not None:
            wakeup.wake()

    def close(self) -> None:
        """Leave the group; other members get the partitions at once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._liveness is not None and self.group is not None:
                with self._context.write_transaction(self._connection) as connection:
                    groups.leave(connection, self.group, self._incarnation)
                self._context.notifier.notify()
        finally:
            if self._liveness is not None:
                self._liveness.close()
            if self._wakeup is not None:
                self._wakeup.close()
            self._connection.close()

    def __enter__(self) -> EmbeddedReader:
        """Return the reader."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the reader."""
        self.close()
