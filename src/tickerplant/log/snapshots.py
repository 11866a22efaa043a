"""Snapshots of a stateful service, as its state topic stores them.

Each partition has two kinds of keys for snapshots. `snapshot` stores the newest snapshot, from which a restart resumes.
`kept/<label>` stores the first snapshot of a UTC day, from which `verify` replays. `snapshot_retention` decides how
long kept snapshots stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.errors import SnapshotRefused
from tickerplant.log.port import ConsumedRecord, EventLog, TopicPartition

SNAPSHOT_KEY: Final = "snapshot"
KEPT_PREFIX: Final = "kept/"
ENVELOPE_VERSION: Final = 1
_SPARSE: Final = 64  # offsets; on Kafka the markers of a few transactions may precede the next record


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot on the log. New fields are added at the end, with a default."""

    envelope: int
    format: int
    """Version of the stage's own format."""
    positions: Mapping[str, int]
    """Offset of the next record, by input topic."""
    kept: str
    """Label of the newest kept snapshot, including this snapshot."""
    state: bytes
    oldest: int | None = None
    """Smallest input offset that the stage may still read through its history; None if it reads nothing before its
    position."""


def encode(snapshot: Snapshot) -> bytes:
    """Return the bytes of a snapshot."""
    return msgspec.msgpack.encode(snapshot)


def read(event_log: EventLog, state_topic: str, partition: int, key: str) -> Snapshot | None:
    """Return the snapshot stored under a key; None if there is none. `check` checks the snapshot's format."""
    blob = event_log.get_state(state_topic, partition, key)
    return None if blob is None else msgspec.msgpack.decode(blob, type=Snapshot)


def check(snapshot: Snapshot, name: str, partition: int, number: int) -> Snapshot:
    """Return the snapshot of the service `name`. Raises SnapshotRefused unless its format is `number`."""
    if (snapshot.envelope, snapshot.format) != (ENVELOPE_VERSION, number):
        raise SnapshotRefused(
            f"the snapshot of {name}, partition {partition}, has format {snapshot.envelope}."
            f"{snapshot.format}; this code reads {ENVELOPE_VERSION}.{number}: run the version that wrote it"
        )
    return snapshot


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """A kept snapshot without its state: its position in the input topic, and its stage's oldest offset."""

    label: str
    position: int
    oldest: int | None = None

    @property
    def key(self) -> str:
        """Return the state key of the snapshot."""
        return KEPT_PREFIX + self.label


def kept_labels(event_log: EventLog, state_topic: str, partition: int) -> list[str]:
    """Return the labels of the kept snapshots of a partition, sorted."""
    keys = event_log.state_keys(state_topic, partition)
    return [key.removeprefix(KEPT_PREFIX) for key in keys if key.startswith(KEPT_PREFIX)]


def kept_snapshots(
    event_log: EventLog, state_topic: str, topic: str, partition: int, known: Mapping[str, KeptSnapshot] | None = None
) -> list[KeptSnapshot]:
    """Return the kept snapshots of a partition, by position.

    `known` contains snapshots by label that were read earlier and are not read again.
    """
    found = []
    for label in kept_labels(event_log, state_topic, partition):
        kept = (known or {}).get(label)
        if kept is None:
            snapshot = read(event_log, state_topic, partition, KEPT_PREFIX + label)
            if snapshot is None:  # dropped in the meantime
                continue
            kept = KeptSnapshot(label, snapshot.positions.get(topic, 0), snapshot.oldest)
        found.append(kept)
    return sorted(found, key=lambda kept: (kept.position, kept.label))


def first_record_from(event_log: EventLog, source: TopicPartition, offset: int, end: int) -> ConsumedRecord | None:
    """Return the first record of a partition in `[offset, end)`; None if there is none.

    Reads only one record if its offset is `offset`.
    """
    for reach in (1, _SPARSE):
        found = next(iter(event_log.read_range(source, offset, min(offset + reach, end))), None)
        if found is not None:
            return found
    return next(iter(event_log.read_range(source, offset + _SPARSE, end)), None)
