"""The state of one alert rule, and the decision whether it fires. Pure, and serialised as part of the snapshot.

Each bar has a truth: true, false, or unknown if an operand is null, as during the warm-up. A rule fires when the truth
becomes true. The state contains the last changes of the truth of closed bars (`transitions`). A revision is compared
with this former truth. The state contains only the truth of the newest observed bar, forming or closed (`truth`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.alerts import CROSSES_ABOVE, CROSSES_BELOW, Rule
from tickerplant.core.times import NEVER_US, Int64Array

FALSE, TRUE, UNKNOWN = 0, 1, -1
ANY_BAR, NEW_BARS, NO_BAR = range(3)
"""Bars at which a rule may fire: all bars, the bars that ended after the rule was created, or no bars."""
MAX_REMEMBERED: Final = 64
"""Maximum entries of `transitions`, and of `fired`, in the state of a rule.

A rule does not fire at a revised bar that precedes the last 32 times at which the truth became true.
"""


@dataclass(slots=True)
class Firing:
    """One firing: bar, ordinal within the bar (from 0), whether a revision caused it, and its row in the input."""

    time_us: int
    ordinal: int
    revised: bool
    row: int


class RuleState(msgspec.Struct):
    """The state of one rule. Snapshots contain it with the field names of the first version (`name=`)."""

    rule: Rule
    last_old_us: int = msgspec.field(default=NEVER_US, name="old_us")
    """Latest possible time of a bar that ended before the rule was created. Bars up to this time are old."""
    fires_after_us: int = msgspec.field(default=NEVER_US, name="since_us")
    """Time after which the rule may fire: at first the time of the newest bar at the rule's start. The time advances to
    each entry dropped from `fired`. If transitions are dropped, it advances to the oldest remaining transition."""
    last_us: int = NEVER_US
    """Time of the newest closed bar that has not been withdrawn."""
    max_closed_us: int = msgspec.field(default=NEVER_US, name="ended_us")
    """Time of the newest closed bar, withdrawn or not. A bar that is withdrawn and closes again is not new."""
    observed_us: int = msgspec.field(default=NEVER_US, name="seen_us")
    """Time of the newest observed bar, forming or closed."""
    truth: int = UNKNOWN
    transitions: list[tuple[int, int]] = msgspec.field(default_factory=list, name="spans")
    """(time, truth) of the last closed bars whose truth differs from that of the previous closed bar."""
    fired: list[tuple[int, int]] = []
    """(time, count of firings) of the last bars at which the rule fired, in order of time."""
    completed: bool = msgspec.field(default=False, name="done")
    """True after a rule with `once` has fired."""

    def __post_init__(self) -> None:
        self.max_closed_us = max(self.max_closed_us, self.last_us)

    @property
    def live(self) -> bool:
        """Return whether the rule may still fire."""
        return self.rule.active and not self.completed

    def start_after(self, time_us: int, truth: int) -> None:
        """Start after the closed bar of this time. A crossing rule compares its first bar with this truth."""
        self.fires_after_us = self.last_us = self.max_closed_us = self.observed_us = time_us
        if self._needs_crossing and truth != UNKNOWN:
            self.truth = truth
            self.transitions = [(time_us, truth)]

    @property
    def closed_truth(self) -> int:
        """Return the truth of the newest closed bar; `UNKNOWN` if there is none."""
        return self.transitions[-1][1] if self.transitions else UNKNOWN

    def observe_forming(self, time_us: int, truth: int, *, fire: int = NEW_BARS) -> list[Firing]:
        """Observe the truth of a forming bar and return the firing at this bar; [] if the rule does not fire.

        `fire` selects the bars at which the rule may fire. No other bar is recorded as fired.
        """
        if not self._counts(time_us, fire):
            return []
        before, self.truth, self.observed_us = self.truth, truth, time_us
        fired_before = time_us <= self.max_closed_us and self._times_fired(time_us) > 0
        if truth == TRUE and self._fires(before) and not fired_before and self._may_fire(time_us, fire):
            return self._fire(time_us, 0, revised=False)
        return []

    def observe_closed(self, times: Int64Array, truths: list[int], *, fire: int = NEW_BARS) -> list[Firing]:
        """Observe closed bars in order of time and return their firings.

        The bars are new, or they are all bars from a revised bar on. `fire` selects the bars at which the rule may
        fire. `row` of a firing is an index into the given bars.
        """
        rows = [
            (time_us, truth, row)
            for row, (time_us, truth) in enumerate(zip(times.tolist(), truths, strict=True))
            if truth != UNKNOWN and time_us >= self.fires_after_us and self._counts(time_us, fire)
        ]
        start = next((at for at, (time_us, truth, _) in enumerate(rows) if self._differs(time_us, truth)), None)
        if start is None:
            return []
        first_us = rows[start][0]
        last_us, max_closed_us, newest = self.last_us, self.max_closed_us, self.truth
        del self.transitions[bisect_left(self.transitions, (first_us, UNKNOWN)) :]
        before = self.closed_truth
        found: list[Firing] = []
        for time_us, truth, row in rows[start:]:
            appended, new = time_us > last_us, time_us > max_closed_us
            if truth != before:
                self.transitions.append((time_us, truth))
            # A new bar continues from the last observation, which may be its own forming state.
            former = newest if appended else before
            due = (
                truth == TRUE
                and self._fires(former)
                and time_us > self.fires_after_us
                and self._may_fire(time_us, fire)
            )
            if due and (new or not self._times_fired(time_us)):
                found += self._fire(time_us, row, revised=not new)
            before = truth
            if time_us >= self.observed_us:
                newest = self.truth = truth
                self.observed_us = time_us
            self.last_us = max(self.last_us, time_us)
            self.max_closed_us = max(self.max_closed_us, time_us)
        self._drop_oldest()
        return found

    def withdraw(self, time_us: int, last_us: int) -> None:
        """Remove the bar of that time, forming or closed. `last_us` is the time of the newest remaining closed bar."""
        at = bisect_left(self.transitions, (time_us, UNKNOWN))
        if at < len(self.transitions) and self.transitions[at][0] == time_us and time_us > self.fires_after_us:
            del self.transitions[at]
        if self.last_us == time_us:
            self.last_us = max(last_us, self.fires_after_us)
        if self.observed_us == time_us:
            self.observed_us = self.last_us
            self.truth = self.closed_truth

    def _differs(self, time_us: int, truth: int) -> bool:
        if time_us > self.last_us:
            return True
        at = bisect_right(self.transitions, (time_us, TRUE))
        return truth != (self.transitions[at - 1][1] if at else UNKNOWN)

    @property
    def _needs_crossing(self) -> bool:
        """Return whether the rule fires only after a bar that was false (`crosses_above` and `crosses_below`)."""
        return self.rule.operator in (CROSSES_ABOVE, CROSSES_BELOW)

    def _fires(self, before: int) -> bool:
        return self.live and (before == FALSE or (before == UNKNOWN and not self._needs_crossing))

    def _may_fire(self, time_us: int, fire: int) -> bool:
        return fire == ANY_BAR or (fire == NEW_BARS and time_us > self.last_old_us)

    def _counts(self, time_us: int, fire: int) -> bool:
        """Return whether a bar is observed. Old bars count only for crossing rules, or if `fire` is `ANY_BAR`."""
        return self._needs_crossing or fire == ANY_BAR or time_us > self.last_old_us

    def _fire(self, time_us: int, row: int, *, revised: bool) -> list[Firing]:
        ordinal = self._times_fired(time_us)
        at = bisect_left(self.fired, (time_us, 0))
        self.fired[at : at + bool(ordinal)] = [(time_us, ordinal + 1)]
        for dropped_us, _ in self.fired[:-MAX_REMEMBERED]:
            self.fires_after_us = max(self.fires_after_us, dropped_us)
        del self.fired[:-MAX_REMEMBERED]
        if self.rule.once:
            self.completed = True
        return [Firing(time_us, ordinal, revised, row)]

    def _times_fired(self, time_us: int) -> int:
        at = bisect_left(self.fired, (time_us, 0))
        return self.fired[at][1] if at < len(self.fired) and self.fired[at][0] == time_us else 0

    def _drop_oldest(self) -> None:
        if len(self.transitions) > MAX_REMEMBERED:
            self.transitions = self.transitions[-MAX_REMEMBERED:]
            self.fires_after_us = max(self.fires_after_us, self.transitions[0][0])
