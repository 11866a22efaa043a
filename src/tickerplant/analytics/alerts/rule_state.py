"""What one alert rule has seen, and what it says to a row of bars: pure, and small enough to be a snapshot by itself.

A rule is a truth that each bar has: true, false or, before the warm-up is over, unknown. It fires where the truth
becomes true. Of closed bars the changes of the truth are remembered (`spans`), so that a revision is compared with what
was; of forming bars the newest truth alone (`truth`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final

from tickerplant.core.alerts import CROSSES_ABOVE, CROSSES_BELOW, Rule
from tickerplant.core.times import NEVER_US, Int64Array

FALSE, TRUE, UNKNOWN = 0, 1, -1
ANY_BAR, NEW_BARS, NO_BAR = range(3)
"""Which bars may fire: whenever they were; those that ended after the rule was made; none."""
REMEMBERED: Final = 64
"""Changes of the truth, and bars that fired, that a rule remembers: 32 crossings back a revision fires nothing."""


@dataclass(slots=True)
class Firing:
    """A crossing: which bar, the how manieth of it, whether a revision showed it, and the row it was found in."""

    time_us: int
    number: int
    revised: bool
    row: int


@dataclass(slots=True)
class Crossings:
    """The memory of one rule."""

    rule: Rule
    old_us: int = NEVER_US
    """Bars up to the one of this time ended before the rule was made."""
    since_us: int = NEVER_US
    """The newest bar when the rule came (or when the oldest span was forgotten): it fires for later bars alone."""
    last_us: int = NEVER_US
    """The newest closed bar that there is."""
    ended_us: int = NEVER_US
    """The newest closed bar that there has been: one that is withdrawn and closes again is no new bar."""
    seen_us: int = NEVER_US
    """The bar of the newest observation, forming or closed."""
    truth: int = UNKNOWN
    spans: list[tuple[int, int]] = field(default_factory=list)
    """(time, truth) of each closed bar whose truth is not that of the closed bar before it."""
    fired: list[tuple[int, int]] = field(default_factory=list)
    """(time, how often) of the bars that have fired, in order of time."""
    done: bool = False
    """Whether it was to fire once, and has."""

    def __post_init__(self) -> None:
        self.ended_us = max(self.ended_us, self.last_us)

    @property
    def live(self) -> bool:
        """Whether it may still fire."""
        return self.rule.active and not self.done

    def begin(self, time_us: int, truth: int) -> None:
        """Begin behind a closed bar, whose truth is known to a rule that waits for a crossing of two bars."""
        self.since_us = self.last_us = self.ended_us = self.seen_us = time_us
        if self._crosses and truth != UNKNOWN:
            self.truth = truth
            self.spans = [(time_us, truth)]

    @property
    def closed_truth(self) -> int:
        """The truth on the newest closed bar."""
        return self.spans[-1][1] if self.spans else UNKNOWN

    def formed(self, time_us: int, truth: int, *, fire: int = NEW_BARS) -> list[Firing]:
        """Take the truth on a forming bar. What may not `fire` is not taken to have fired."""
        if not self._sees(time_us, fire):
            return []
        before, self.truth, self.seen_us = self.truth, truth, time_us
        again = time_us <= self.ended_us and self._times_fired(time_us) > 0
        if truth == TRUE and self._fires(before) and not again and self._may_fire(time_us, fire):
            return self._fire(time_us, 0, revised=False)
        return []

    def closed(self, times: Int64Array, truths: list[int], *, fire: int = NEW_BARS) -> list[Firing]:
        """Take the truth on closed bars in order of time: new ones, or the bars from a revised one on.

        `fire` as in `formed`. `row` of what is returned counts the bars given.
        """
        rows = [
            (time_us, truth, row)
            for row, (time_us, truth) in enumerate(zip(times.tolist(), truths, strict=True))
            if truth != UNKNOWN and time_us >= self.since_us and self._sees(time_us, fire)
        ]
        start = next((at for at, (time_us, truth, _) in enumerate(rows) if self._differs(time_us, truth)), None)
        if start is None:
            return []
        first_us = rows[start][0]
        known_us, ended_us, live = self.last_us, self.ended_us, self.truth
        del self.spans[bisect_left(self.spans, (first_us, UNKNOWN)) :]
        before = self.closed_truth
        found: list[Firing] = []
        for time_us, truth, row in rows[start:]:
            fresh, first = time_us > known_us, time_us > ended_us
            if truth != before:
                self.spans.append((time_us, truth))
            # A new bar goes on from the last observation, which may be of its own forming state.
            former = live if fresh else before
            due = truth == TRUE and self._fires(former) and time_us > self.since_us and self._may_fire(time_us, fire)
            if due and (first or not self._times_fired(time_us)):
                found += self._fire(time_us, row, revised=not first)
            before = truth
            if time_us >= self.seen_us:
                live = self.truth = truth
                self.seen_us = time_us
            self.last_us = max(self.last_us, time_us)
            self.ended_us = max(self.ended_us, time_us)
        self._forget()
        return found

    def withdrawn(self, time_us: int, last_us: int) -> None:
        """Forget the bar of that time, forming or closed; `last_us` is the newest closed bar that is left."""
        at = bisect_left(self.spans, (time_us, UNKNOWN))
        if at < len(self.spans) and self.spans[at][0] == time_us and time_us > self.since_us:
            del self.spans[at]
        if self.last_us == time_us:
            self.last_us = max(last_us, self.since_us)
        if self.seen_us == time_us:
            self.seen_us = self.last_us
            self.truth = self.closed_truth

    def _differs(self, time_us: int, truth: int) -> bool:
        if time_us > self.last_us:
            return True
        at = bisect_right(self.spans, (time_us, TRUE))
        return truth != (self.spans[at - 1][1] if at else UNKNOWN)

    @property
    def _crosses(self) -> bool:
        """Whether it needs a bar that was not true; `greater` and the like do not."""
        return self.rule.operator in (CROSSES_ABOVE, CROSSES_BELOW)

    def _fires(self, before: int) -> bool:
        return self.live and (before == FALSE or (before == UNKNOWN and not self._crosses))

    def _may_fire(self, time_us: int, fire: int) -> bool:
        return fire == ANY_BAR or (fire == NEW_BARS and time_us > self.old_us)

    def _sees(self, time_us: int, fire: int) -> bool:
        """Say whether a bar counts: one from before the rule is the bar before to a crossing, as in `begin`."""
        return self._crosses or fire == ANY_BAR or time_us > self.old_us

    def _fire(self, time_us: int, row: int, *, revised: bool) -> list[Firing]:
        number = self._times_fired(time_us)
        at = bisect_left(self.fired, (time_us, 0))
        self.fired[at : at + bool(number)] = [(time_us, number + 1)]
        for forgotten_us, _ in self.fired[:-REMEMBERED]:
            self.since_us = max(self.since_us, forgotten_us)
        del self.fired[:-REMEMBERED]
        if self.rule.once:
            self.done = True
        return [Firing(time_us, number, revised, row)]

    def _times_fired(self, time_us: int) -> int:
        at = bisect_left(self.fired, (time_us, 0))
        return self.fired[at][1] if at < len(self.fired) and self.fired[at][0] == time_us else 0

    def _forget(self) -> None:
        if len(self.spans) > REMEMBERED:
            self.spans = self.spans[-REMEMBERED:]
            self.since_us = max(self.since_us, self.spans[0][0])
