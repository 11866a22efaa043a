"""Snapshots of a stateful service in its state topic: how they stand there, which are kept, and for how long.

By partition there are two kinds of keys: `snapshot` is the newest, from which a restart goes on; `kept/<label>` is the
first of each session, from which `verify` runs again. One is kept as long as retention leaves any record of its
session, and the input from where it needs it: from its positions on, or from `oldest` on, what its stage may look at
again. So the log is held back by one session more than retention (and the memory of a stage), and never for longer than
`HELD_RETENTIONS` times retention, whatever labels and stages say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from tickerplant.core.errors import Fenced, SnapshotRefused
from tickerplant.log.port import ConsumedRecord, EventLog, TopicPartition

SNAPSHOT_KEY: Final = "snapshot"
KEPT_PREFIX: Final = "kept/"
ENVELOPE_VERSION: Final = 1
HELD_RETENTIONS: Final = 2
"""With 5 days: the 5, one more for the session that retention cuts, and the 4 of a long weekend between the sessions
that a stage remembers. Neither a clock that is far ahead nor a session of 2012 that no other follows holds it longer.
"""
_SPARSE: Final = 64  # on Kafka the markers of a few transactions may stand before the next record

log = structlog.get_logger(__name__)


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot on the log. A field is only ever added at the end, with a default."""

    envelope: int
    format: int
    """The number of the stage's own format."""
    positions: Mapping[str, int]
    """By input topic: the offset of the next record."""
    kept: str
    """The label of the newest kept snapshot, this one included."""
    state: bytes
    oldest: int | None = None
    """The smallest input offset that the stage may look at again."""


def encode(snapshot: Snapshot) -> bytes:
    """Return the bytes to put under a key."""
    return msgspec.msgpack.encode(snapshot)


def read(event_log: EventLog, state_topic: str, partition: int, key: str) -> Snapshot | None:
    """Return what is under a key, or None. Its format is for `check` to judge."""
    blob = event_log.get_state(state_topic, partition, key)
    return None if blob is None else msgspec.msgpack.decode(blob, type=Snapshot)


def check(snapshot: Snapshot, name: str, partition: int, number: int) -> Snapshot:
    """Return the snapshot of the service `name`. Raises SnapshotRefused unless it has the format of that number."""
    if (snapshot.envelope, snapshot.format) != (ENVELOPE_VERSION, number):
        raise SnapshotRefused(
            f"the snapshot of {name}, partition {partition}, has format {snapshot.envelope}."
            f"{snapshot.format}, this code reads {ENVELOPE_VERSION}.{number}: run the version that wrote it"
        )
    return snapshot


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept snapshot without its state: the position in the input topic, and what its stage may look at again."""

    label: str
    position: int
    oldest: int | None = None

    @property
    def key(self) -> str:
        """The key that it stands under."""
        return KEPT_PREFIX + self.label


def kept_labels(event_log: EventLog, state_topic: str, partition: int) -> list[str]:
    """Return the labels of the kept snapshots of a partition, sorted."""
    keys = event_log.state_keys(state_topic, partition)
    return [key.removeprefix(KEPT_PREFIX) for key in keys if key.startswith(KEPT_PREFIX)]


def kept_in(
    event_log: EventLog, state_topic: str, topic: str, partition: int, known: Mapping[str, Kept] | None = None
) -> list[Kept]:
    """Return the kept snapshots of a partition by position. Those in `known`, by label, are not read again."""
    found = []
    for label in kept_labels(event_log, state_topic, partition):
        kept = (known or {}).get(label)
        if kept is None:
            snapshot = read(event_log, state_topic, partition, KEPT_PREFIX + label)
            if snapshot is None:  # dropped meanwhile
                continue
            kept = Kept(label, snapshot.positions.get(topic, 0), snapshot.oldest)
        found.append(kept)
    return sorted(found, key=lambda kept: (kept.position, kept.label))


def first_from(event_log: EventLog, source: TopicPartition, offset: int, end: int) -> ConsumedRecord | None:
    """Return the first record of a partition in `[offset, end)`, or None. Reads little where offsets are dense."""
    for reach in (1, _SPARSE):
        found = next(iter(event_log.read_range(source, offset, min(offset + reach, end))), None)
        if found is not None:
            return found
    return next(iter(event_log.read_range(source, offset + _SPARSE, end)), None)


@dataclass(slots=True)
class Keeper:
    """Drops the kept snapshots of one service that are due, and holds retention of its input back for the others.

    Asked now and then by whoever applies retention, just before. Several may: who comes second finds it done. `topic`
    is the service's input, `retention_us` that topic's. What a look costs: a question for keys and offsets by
    partition; each kept snapshot is read once.
    """

    event_log: EventLog
    name: str
    topic: str
    state_topic: str
    retention_us: int
    _known: dict[int, dict[str, Kept]] = field(default_factory=dict)
    _appended_us: dict[TopicPartition, dict[int, int]] = field(default_factory=dict)
    _floors: dict[TopicPartition, int] | None = None

    def look(self, now_us: int) -> int:
        """Do what is due at `now_us` and return how many snapshots were dropped. Raises LogUnavailable.

        1. Drop the kept snapshots that are due, 2. hold retention back to what the others need. A kill in between
        leaves the log held back too far, until the next look.
        """
        bounds = self.event_log.offsets(self.topic)
        due: list[tuple[int, Kept]] = []
        floors: dict[TopicPartition, int] = {}
        for source, (first, end) in bounds.items():
            partition = source.partition
            known = self._known.get(partition)
            kept = kept_in(self.event_log, self.state_topic, self.topic, partition, known)
            self._known[partition] = {one.label: one for one in kept}
            ages = _Ages(self.event_log, source, end, now_us, self._appended_us.get(source, {}))
            afters = [*kept[1:], None]
            gone = [one for one, after in zip(kept, afters, strict=False) if self._due(one, after, first, ages)]
            due += [(partition, one) for one in gone]
            floor = self._floor(source, [one for one in kept if one not in gone], first, ages)
            if floor is not None:
                floors[source] = floor
            self._appended_us[source] = ages.used
        dropped = self._drop(due)  # Step 1
        if floors != self._floors:  # Step 2
            self.event_log.keep_from(f"{self.name}.snapshots", floors)
            self._floors = floors
        return dropped

    def _due(self, kept: Kept, after: Kept | None, first: int, ages: _Ages) -> bool:
        """Whether retention has passed the session of a kept snapshot, which ends where the one after it begins."""
        if kept.position < first or ages.older(kept.position, HELD_RETENTIONS * self.retention_us):
            return True
        return after is not None and ages.older(after.position, self.retention_us)

    def _floor(self, source: TopicPartition, kept: list[Kept], first: int, ages: _Ages) -> int | None:
        if not kept:  # a restart needs the newest, whatever its age; it never lies before a kept one
            newest = read(self.event_log, self.state_topic, source.partition, SNAPSHOT_KEY)
            if newest is None:
                return None
            kept = [Kept("", newest.positions.get(source.topic, 0), newest.oldest)]
        return min(self._needs(one, first, ages) for one in kept)

    def _needs(self, kept: Kept, first: int, ages: _Ages) -> int:
        if kept.oldest is None or not first <= kept.oldest < kept.position:
            return kept.position
        return kept.position if ages.older(kept.oldest, HELD_RETENTIONS * self.retention_us) else kept.oldest

    def _drop(self, due: list[tuple[int, Kept]]) -> int:
        if not due:
            return 0
        try:
            with self.event_log.writer(f"{self.name}.snapshots") as writer, writer.transaction() as transaction:
                for partition, kept in due:
                    transaction.put_state(self.state_topic, partition, kept.key, None)
        except Fenced:  # somebody else looks too, and drops the same
            return 0
        log.info("kept snapshots dropped", service=self.name, labels=sorted({kept.label for _, kept in due}))
        return len(due)


@dataclass(slots=True)
class _Ages:
    """When the records of a partition were appended; what was asked before (`known`) is not read again."""

    event_log: EventLog
    source: TopicPartition
    end: int
    now_us: int
    known: Mapping[int, int]
    used: dict[int, int] = field(default_factory=dict)

    def older(self, offset: int, age_us: int) -> bool:
        """Whether the first record from `offset` on is older than that; what is still to come is not."""
        at_us = self.used.get(offset, self.known.get(offset))
        if at_us is None:
            found = first_from(self.event_log, self.source, offset, self.end)
            if found is None:
                return False
            at_us = found.appended_at_us
        self.used[offset] = at_us
        return at_us < self.now_us - age_us
