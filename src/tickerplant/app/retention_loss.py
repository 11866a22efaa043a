"""Positions whose records Kafka's retention has deleted: finding them, and skipping the lost records.

Kafka's brokers delete records by age, whether or not a group has read them. A service whose next record was deleted
stops, because it could only continue with an unreported gap. `skip_lost` moves the service to the first retained record
and stores the skipped ranges in the log.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from tickerplant.core.errors import LogError
from tickerplant.core.schemas import STATE_AGGREGATION, STATE_ANALYTICS, STATE_FEEDS
from tickerplant.core.streams import QUEUED_KEY, TopicPartition
from tickerplant.log.port import RebalanceListener
from tickerplant.log.snapshots import SNAPSHOT_KEY

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog

SKIPPED_PREFIX: Final = "skipped:"
"""Prefix of the keys of `Skip` values in partition 0 of `STATE_FEEDS`."""

_STATE: Final = {"aggregation": STATE_AGGREGATION, "analytics": STATE_ANALYTICS}
_JOIN_S: Final = 30.0
"""Maximum seconds to join a group without members."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A partition whose next record for a group is no longer in the log.

    `position` is the offset of that record, and `first` is the first retained offset.
    """

    topic: str
    partition: int
    position: int
    first: int

    @property
    def offsets(self) -> int:
        """Return the count of lost offsets."""
        return self.first - self.position

    def __str__(self) -> str:
        return (
            f"{self.topic}/{self.partition}: {self.offsets} offsets are lost "
            f"(the position is {self.position}, the log begins at {self.first})"
        )


class Skip(msgspec.Struct):
    """The lost records that one call of `skip_lost` skipped: the group, the time of the call, and the ranges."""

    group: str
    at_us: int
    losses: list[Loss]


def find(log: EventLog, positions: Mapping[TopicPartition, int], topics: Sequence[str]) -> list[Loss]:
    """Return the partitions of these topics whose next record retention has deleted."""
    return [
        Loss(source.topic, source.partition, positions[source], first)
        for topic in topics
        for source, (first, _) in sorted(log.offsets(topic).items())
        if positions.get(source, first) < first
    ]


def read_skips(log: EventLog) -> list[Skip]:
    """Return the skips that are stored in this log, oldest first."""
    found = []
    for key in log.state_keys(STATE_FEEDS, 0):
        value = log.get_state(STATE_FEEDS, 0, key) if key.startswith(SKIPPED_PREFIX) else None
        if value is not None:
            found.append(msgspec.json.decode(value, type=Skip))
    return sorted(found, key=lambda skip: skip.at_us)


def skip_lost(log: EventLog, group: str, topics: Sequence[str], losses: Sequence[Loss]) -> Skip:
    """Move a group to the first retained records, and store the skipped ranges, in one transaction.

    Also deletes the newest snapshot and the queued work of each such partition of aggregation or analytics, because its
    state lacks the lost records. The service then starts the partition without state. The group must have no members.
    Raises LogError if another member joins.
    """
    skip = Skip(group, time.time_ns() // 1000, list(losses))
    starts = {TopicPartition(loss.topic, loss.partition): loss.first for loss in losses}

    class Listener(RebalanceListener):
        def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
            return {source: first for source, first in starts.items() if source in partitions}

        def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
            pass

    with log.reader(topics, group=group, member=f"{group}-skip", listener=Listener()) as reader:
        deadline = time.monotonic() + _JOIN_S
        while not reader.assignment().issuperset(starts):
            if time.monotonic() > deadline:
                raise LogError(f"another member of {group} has partitions; stop all of its processes, then try again")
            reader.poll(timeout_s=0.2, max_records=1)
        with log.writer(f"{group}-skip") as writer, writer.transaction() as transaction:
            if group in _STATE:
                for partition in {source.partition for source in starts}:
                    transaction.put_state(_STATE[group], partition, SNAPSHOT_KEY, None)
                    transaction.put_state(_STATE[group], partition, QUEUED_KEY, None)
            transaction.put_state(STATE_FEEDS, 0, f"{SKIPPED_PREFIX}{group}:{skip.at_us}", msgspec.json.encode(skip))
            transaction.send_positions(reader, starts)
    return skip


def require_stopped(log: EventLog, group: str) -> None:
    """Raise LogError if the group has members. Raises LogUnavailable if the log does not answer."""
    if log.members(group):
        raise LogError(
            f"{group} is running; stop all of its processes, wait until their sessions have ended (6 s after a kill), "
            "then try again"
        )
