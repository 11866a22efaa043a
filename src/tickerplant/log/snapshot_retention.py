"""Retention of a service's kept snapshots, and of the input records that they need.

A kept snapshot stays while a record of its UTC day is retained. The input is retained from the offset that the snapshot
needs: its position, or the older offset that its stage may still read. The log thus retains one day more than the
topic's retention, plus the records that a stage can still read. The limit is `MAX_HOLD_RETENTIONS` times that
retention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from tickerplant.core.errors import Fenced
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.log.snapshots import SNAPSHOT_KEY, KeptSnapshot, first_record_from, kept_snapshots, read

MAX_HOLD_RETENTIONS: Final = 2
"""Maximum age of a held record, in multiples of the topic's retention.

If the retention is 5 days, this allows one more day for the UTC day that retention cuts. It also allows the 4 days of
a long weekend between the days that a stage reads. The bound also applies if a clock runs far ahead, or if no kept
snapshot follows an old one.
"""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SnapshotRetention:
    """Drops the due kept snapshots of one service, and holds back retention of its input for the others.

    The process that applies retention calls `run` just before it applies retention. If several processes call `run`,
    the later calls find nothing left to drop. `topic` is the service's input, and `retention_us` is that topic's
    retention in µs. One run requests the keys and offsets of each partition. Each kept snapshot is read only once.
    """

    event_log: EventLog
    name: str
    topic: str
    state_topic: str
    retention_us: int
    _known: dict[int, dict[str, KeptSnapshot]] = field(default_factory=dict)
    _appended_us: dict[TopicPartition, dict[int, int]] = field(default_factory=dict)
    _holds: dict[TopicPartition, int] | None = None

    def run(self, now_us: int) -> int:
        """Drop the snapshots that are due at `now_us`; return their count. Raises LogUnavailable.

        1. Drop the kept snapshots that are due, 2. hold back retention for the other kept snapshots. A kill between the
        two steps leaves retention held back too far until the next run.
        """
        bounds = self.event_log.offsets(self.topic)
        due: list[tuple[int, KeptSnapshot]] = []
        holds: dict[TopicPartition, int] = {}
        for source, (first, end) in bounds.items():
            partition = source.partition
            known = self._known.get(partition)
            kept = kept_snapshots(self.event_log, self.state_topic, self.topic, partition, known)
            self._known[partition] = {one.label: one for one in kept}
            ages = _RecordAges(self.event_log, source, end, now_us, self._appended_us.get(source, {}))
            successors = [*kept[1:], None]
            dropped = [
                one for one, after in zip(kept, successors, strict=False) if self._is_due(one, after, first, ages)
            ]
            due += [(partition, one) for one in dropped]
            hold = self._hold_offset(source, [one for one in kept if one not in dropped], first, ages)
            if hold is not None:
                holds[source] = hold
            self._appended_us[source] = ages.used
        count = self._drop(due)  # Step 1
        if holds != self._holds:  # Step 2
            self.event_log.hold_retention(f"{self.name}.snapshots", holds)
            self._holds = holds
        return count

    def _is_due(self, kept: KeptSnapshot, after: KeptSnapshot | None, first: int, ages: _RecordAges) -> bool:
        """Return whether retention has passed the UTC day of a kept snapshot, which ends where `after` begins."""
        if kept.position < first or ages.is_older(kept.position, MAX_HOLD_RETENTIONS * self.retention_us):
            return True
        return after is not None and ages.is_older(after.position, self.retention_us)

    def _hold_offset(
        self, source: TopicPartition, kept: list[KeptSnapshot], first: int, ages: _RecordAges
    ) -> int | None:
        if not kept:  # a restart needs the newest snapshot at any age; its position is never before a kept one's
            newest = read(self.event_log, self.state_topic, source.partition, SNAPSHOT_KEY)
            if newest is None:
                return None
            kept = [KeptSnapshot("", newest.positions.get(source.topic, 0), newest.oldest)]
        return min(self._needed_offset(one, first, ages) for one in kept)

    def _needed_offset(self, kept: KeptSnapshot, first: int, ages: _RecordAges) -> int:
        if kept.oldest is None or not first <= kept.oldest < kept.position:
            return kept.position
        return kept.position if ages.is_older(kept.oldest, MAX_HOLD_RETENTIONS * self.retention_us) else kept.oldest

    def _drop(self, due: list[tuple[int, KeptSnapshot]]) -> int:
        if not due:
            return 0
        try:
            with self.event_log.writer(f"{self.name}.snapshots") as writer, writer.transaction() as transaction:
                for partition, kept in due:
                    transaction.put_state(self.state_topic, partition, kept.key, None)
        except Fenced:  # another process drops the same snapshots
            return 0
        log.info("kept snapshots dropped", service=self.name, labels=sorted({kept.label for _, kept in due}))
        return len(due)


@dataclass(slots=True)
class _RecordAges:
    """Append times of the records of a partition. Offsets in `known` are not read again."""

    event_log: EventLog
    source: TopicPartition
    end: int
    now_us: int
    known: Mapping[int, int]
    used: dict[int, int] = field(default_factory=dict)

    def is_older(self, offset: int, age_us: int) -> bool:
        """Return whether the first record at or after `offset` is older than `age_us`; False if there is none yet."""
        at_us = self.used.get(offset, self.known.get(offset))
        if at_us is None:
            found = first_record_from(self.event_log, self.source, offset, self.end)
            if found is None:
                return False
            at_us = found.appended_at_us
        self.used[offset] = at_us
        return at_us < self.now_us - age_us
