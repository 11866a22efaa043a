"""Tracks whether all records of a feed have reached the tables. Pure: positions in, outstanding partitions out.

A feed's last raw record of a partition has offset X. This record has arrived when persistence has applied the raw topic
beyond X, and the outputs of aggregation and analytics for X. One of two observations proves that these are applied:

- Aggregation and analytics forward the feed's `end`, whose `cause` is X: the store has applied a cause of X or later.
- Aggregation has committed beyond X, so its outputs are before the end offset of its topic at that time. Analytics
  has committed up to this offset, so its outputs are before the end offset of its own topic at that time. The store has
  applied both topics up to these offsets. This also holds for a feed that ended long ago, before other feeds wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tickerplant.core.schemas import ANALYTICS, OHLCV, RAW
from tickerplant.core.version import make_version

STAGES = {RAW: "ticks", OHLCV: "bars", ANALYTICS: "indicator values"}
"""Name of the rows from each topic, for messages."""

Partition = tuple[str, int]
"""A topic and the number of its partition."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The store's position in one partition: the next offset, and the greatest cause."""

    position: int
    cause: int


@dataclass(frozen=True, slots=True)
class Positions:
    """The positions of all services. `ends`: each partition's end offset, read after `committed`."""

    applied: Mapping[Partition, Applied]
    committed: Mapping[str, Mapping[Partition, int]]
    """Committed positions, by consumer group."""
    ends: Mapping[Partition, int]


@dataclass(slots=True)
class ProgressTracker:
    """Follows a feed's last raw offset of each partition (`last`) through the topics, one poll after another."""

    last: Mapping[int, int]
    generation: int
    _due: dict[Partition, int] = field(default_factory=dict)

    def missing(self, now: Positions) -> list[Partition]:
        """Return the partitions whose records have not all arrived in the tables."""
        missing: list[Partition] = []
        for partition, offset in sorted(self.last.items()):
            self._follow(now, (RAW, partition), offset + 1, "aggregation", OHLCV)
            bars_end = self._due.get((OHLCV, partition))
            if bars_end is not None:
                self._follow(now, (OHLCV, partition), bars_end, "analytics", ANALYTICS)
            if _applied(now, (RAW, partition)).position <= offset:
                missing.append((RAW, partition))
            version = make_version(self.generation, offset)
            missing += [
                output
                for output in ((OHLCV, partition), (ANALYTICS, partition))
                if _applied(now, output).cause < version and not self._drained(now, output)
            ]
        return missing

    def _follow(self, now: Positions, source: Partition, position: int, group: str, output_topic: str) -> None:
        """Store the end of the group's output when the group has committed `source` up to `position`."""
        output = (output_topic, source[1])
        if output not in self._due and now.committed.get(group, {}).get(source, 0) >= position:
            self._due[output] = now.ends.get(output, 0)

    def _drained(self, now: Positions, output: Partition) -> bool:
        due = self._due.get(output)
        return due is not None and _applied(now, output).position >= due


def _applied(now: Positions, partition: Partition) -> Applied:
    return now.applied.get(partition, Applied(0, -1))
