"""When is all that a feed wrote in the tables? Pure: how far everybody is goes in, what is still to come goes out.

A feed's last record in a partition stands at raw offset X. It has arrived when persistence has applied raw beyond X,
and what aggregation and analytics made of it too. Two things can show that, whichever comes first:

- aggregation and analytics pass the feed's `end` on, whose `cause` is X: the store has applied a cause of X or later;
- aggregation has committed raw beyond X, so its outputs end where the topic ended then; analytics has committed up to
  there, so its own end where that topic ended then; and the store has applied both. This holds for a feed that ended
  long ago too, behind which other feeds have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tickerplant.core.schemas import ANALYTICS, OHLCV, RAW
from tickerplant.core.version import make_version

STAGES = {RAW: "ticks stored", OHLCV: "bars stored", ANALYTICS: "indicators stored"}

Place = tuple[str, int]
"""A topic and a partition."""


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the store has applied one partition of one topic: the next offset, and the newest cause."""

    position: int
    cause: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far everybody is. `ends`: each partition's first offset not yet there, read after `committed`."""

    applied: Mapping[Place, Applied]
    committed: Mapping[str, Mapping[Place, int]]
    """By group."""
    ends: Mapping[Place, int]


@dataclass(slots=True)
class Chase:
    """Follows a feed's last raw offset by partition (`last`) through the topics, look by look."""

    last: Mapping[int, int]
    generation: int
    _due: dict[Place, int] = field(default_factory=dict)

    def missing(self, now: Progress) -> list[Place]:
        """Return what has not arrived."""
        rest: list[Place] = []
        for partition, offset in sorted(self.last.items()):
            self._follow(now, partition, (RAW, partition), offset + 1, "aggregation", OHLCV)
            bars_end = self._due.get((OHLCV, partition))
            if bars_end is not None:
                self._follow(now, partition, (OHLCV, partition), bars_end, "analytics", ANALYTICS)
            if _applied(now, (RAW, partition)).position <= offset:
                rest.append((RAW, partition))
            version = make_version(self.generation, offset)
            rest += [
                place
                for place in ((OHLCV, partition), (ANALYTICS, partition))
                if _applied(now, place).cause < version and not self._drained(now, place)
            ]
        return rest

    def _follow(self, now: Progress, partition: int, source: Place, beyond: int, group: str, makes: str) -> None:
        target = (makes, partition)
        if target not in self._due and now.committed.get(group, {}).get(source, 0) >= beyond:
            self._due[target] = now.ends.get(target, 0)

    def _drained(self, now: Progress, place: Place) -> bool:
        due = self._due.get(place)
        return due is not None and _applied(now, place).position >= due


def _applied(now: Progress, place: Place) -> Applied:
    return now.applied.get(place, Applied(0, -1))
