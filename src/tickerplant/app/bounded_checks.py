"""Health checks with a time limit. Each check runs in its own thread. While a check waits, its old answer is returned.

A broker or a database that is unavailable blocks a check for as long as its client waits. `BoundedChecks.run` still
returns within `WAIT_S`, with the newest answer of each check. An old answer states its age. A check without an answer
for `LATE_S` has failed.
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
"""Age in seconds above which an answer is old: its components are degraded, and their sentences state the age."""

Components = Callable[[], Iterable[ComponentHealth]]
Evidence = Callable[[], str]


@dataclass(slots=True)
class _Check:
    """One check, its newest answer, and the try in progress.

    The check's thread and `run` share the fields under `lock`.
    """

    name: str
    components: Components
    evidence: Evidence | None
    clock: Callable[[], float]
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    began_s: float | None = None
    """Start of the try in progress, in seconds of `clock`; None if no try is in progress."""
    failure: ComponentHealth | None = None
    """The component with which the newest try failed; None if it has succeeded, and before the first try has ended."""
    known: Sequence[ComponentHealth] = ()
    known_s: float | None = None
    """Time of the newest success, whose components are `known`, in seconds of `clock`; None before the first
    success."""

    def begin(self) -> None:
        """Start a try, unless a try is in progress."""
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
        """Return the components of the newest answer, which state their age if the answer is old.

        If the newest try has failed or is late, a component with the reason precedes them.
        """
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
        """Return a failed or degraded component for the try in progress; None while the newest answer still applies."""
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

        `evidence`, by name of a check: a function that returns why the check cannot answer, or "".
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
    """Return a component with its age in the sentence and the details. An `ok` component becomes degraded."""
    return replace(
        component,
        state=DEGRADED if component.state == OK else component.state,
        sentence=f"{component.sentence} (as of {age_s:.0f} s ago)",
        details={**component.details, "age_s": round(age_s, 1)},
    )
