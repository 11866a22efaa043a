"""Health checks with a time limit: each runs in its own thread, and an old answer is returned while it waits.

A broker or a database that is unavailable blocks a check for as long as its client waits. `BoundedChecks.run` returns
within `WAIT_S` all the same: with the newest answer of each check, its age, and how long the present try has waited.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth, check

WAIT_S: Final = 1.0
"""Maximum seconds for which `run` waits for all checks together."""

LATE_S: Final = 5.0
"""Seconds without an answer after which a check has failed. A busy machine needs seconds for an answer."""

OLD_S: Final = 10.0
"""Age in seconds above which an answer is old: its sentence states the age, and its components are degraded."""

Components = Callable[[], Iterable[ComponentHealth]]
Evidence = Callable[[], str]


@dataclass(slots=True)
class _Check:
    """One check, the answer that it gave last, and the try that waits. Its thread and `run` share it under `lock`."""

    name: str
    components: Components
    evidence: Evidence | None
    clock: Callable[[], float]
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    began_s: float | None = None
    """Start of the try that waits for its answer; None if no try waits."""
    failure: ComponentHealth | None = None
    """The component with which the newest try failed; None if it has succeeded."""
    known: Sequence[ComponentHealth] = ()
    known_s: float | None = None
    """Time of the newest success, whose components are `known`; None before the first."""

    def begin(self) -> None:
        """Start a try, unless one waits."""
        with self.lock:
            if self.began_s is not None:
                return
            self.began_s = self.clock()
            self.done.clear()
        threading.Thread(target=self._try, name=f"health-{self.name}", daemon=True).start()

    def _try(self) -> None:
        found = check(self.name, self.components)
        # `check` replaces the exception of a check by one failed component with the check's name.
        failed = len(found) == 1 and found[0].name == self.name and found[0].state == FAILED and not found[0].details
        with self.lock:
            if failed:
                self.failure = found[0]
            else:
                self.failure, self.known, self.known_s = None, found, self.clock()
            self.began_s = None
        self.done.set()

    def answer(self) -> list[ComponentHealth]:
        """Return the components of the newest answer, with the reason and the age if it is not the present one."""
        with self.lock:
            now_s = self.clock()
            began_s, failure, known, known_s = self.began_s, self.failure, self.known, self.known_s
        age_s = 0.0 if known_s is None else now_s - known_s
        waits_s = 0.0 if began_s is None else now_s - began_s
        if failure is None and began_s is None:
            return list(known)
        if failure is None:
            failure = self._without_answer(waits_s, is_known=known_s is not None)
        if failure is None:
            return [_aged(one, age_s) for one in known] if age_s > OLD_S else list(known)
        return [failure, *(_aged(one, age_s) for one in known if one.name != self.name)]

    def _without_answer(self, waits_s: float, *, is_known: bool) -> ComponentHealth | None:
        """Return the failed component of a try that waits; None while the former answer counts."""
        why = self.evidence() if self.evidence is not None else ""
        if why:
            return ComponentHealth(self.name, FAILED, f"no answer: {why}")
        if waits_s > LATE_S:
            return ComponentHealth(self.name, FAILED, f"no answer for {waits_s:.0f} s")
        if not is_known:
            return ComponentHealth(self.name, DEGRADED, f"no answer yet, asked {waits_s:.0f} s ago")
        return None


class BoundedChecks:
    """The checks of a plant. Thread-safe. Any number of callers share one thread per check."""

    def __init__(
        self,
        checks: Sequence[tuple[str, Components]],
        evidence: Mapping[str, Evidence] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Configure the checks, each with the name of its component that can fail.

        `evidence` returns why a check cannot answer, or "".
        """
        self._checks = [_Check(name, components, (evidence or {}).get(name), clock) for name, components in checks]

    def run(self, wait_s: float = WAIT_S) -> list[ComponentHealth]:
        """Return the newest answer of each check, in the given order. Waits for new answers for at most `wait_s`."""
        for one in self._checks:
            one.begin()
        deadline = time.monotonic() + wait_s
        for one in self._checks:
            one.done.wait(max(0.0, deadline - time.monotonic()))
        return [component for one in self._checks for component in one.answer()]


def _aged(component: ComponentHealth, age_s: float) -> ComponentHealth:
    """Return a component as it was known `age_s` seconds ago. It is at least degraded."""
    return replace(
        component,
        state=DEGRADED if component.state == OK else component.state,
        sentence=f"{component.sentence} (as of {age_s:.0f} s ago)",
        details={**component.details, "age_s": round(age_s, 1)},
    )
