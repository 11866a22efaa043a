"""Health checks with a time limit: old answers with their age, and reasons for a missing answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tests.support.waiting import PATIENCE, until

from tickerplant.app.bounded_checks import LATE_S, OLD_S, BoundedChecks
from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth
from tickerplant.core.errors import LogUnavailable


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    """A check that answers while `open` is set, and otherwise waits."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self.error: Exception | None = None

    def check(self) -> Iterable[ComponentHealth]:
        self.asked += 1
        assert self.open.wait(PATIENCE.seconds(60))
        if self.error is not None:
            raise self.error
        yield ComponentHealth("log", OK, f"answer {self.asked}", {"partitions": 4})
        yield ComponentHealth("lag", OK, "has read everything")


def answers(checks: BoundedChecks, wait_s: float = 60.0) -> list[tuple[str, str, str]]:
    return [(part.name, part.state, part.sentence) for part in checks.run(wait_s)]


def test_a_check_that_waits_leaves_its_newest_answer_and_does_not_delay_the_others() -> None:
    log, clock = Log(), Clock()
    others = iter(range(100))
    checks = BoundedChecks(
        [("log", log.check), ("other", lambda: [ComponentHealth("other", OK, f"{next(others)}")])], clock=clock
    )
    assert answers(checks) == [("log", OK, "answer 1"), ("lag", OK, "has read everything"), ("other", OK, "0")]
    log.open.clear()
    answers(checks, 0.0)
    clock.now_s += LATE_S - 1
    until(lambda: answers(checks, 0.05)[-1][2] not in ("0", "1"), "the other check answers again and again")
    assert answers(checks, 0.05)[:2] == [("log", OK, "answer 1"), ("lag", OK, "has read everything")]
    clock.now_s += 2
    failed, lag, _ = checks.run(0.05)
    assert (failed.state, failed.sentence) == (FAILED, "no answer for 6 s")
    assert (lag.state, lag.sentence) == (DEGRADED, "has read everything (as of 6 s ago)")
    clock.now_s += OLD_S
    failed, lag, _ = checks.run(0.05)
    assert (failed.name, failed.sentence) == ("log", "no answer for 16 s")
    assert (lag.sentence, lag.details) == ("has read everything (as of 16 s ago)", {"age_s": 16.0})
    assert log.asked == 2  # one try at a time
    log.open.set()
    until(lambda: answers(checks)[0][1] == OK, "the check answers again")
    assert answers(checks)[1] == ("lag", OK, "has read everything")


def test_the_first_answer_may_be_late_and_the_evidence_is_stated_at_once() -> None:
    log, clock, evidence = Log(), Clock(), [""]
    log.open.clear()
    checks = BoundedChecks([("log", log.check)], evidence={"log": lambda: evidence[0]}, clock=clock)
    assert answers(checks, 0.0) == [("log", DEGRADED, "no answer yet, asked 0 s ago")]
    evidence[0] = "Connection refused (for 1 s)"
    assert answers(checks, 0.0) == [("log", FAILED, "no answer: Connection refused (for 1 s)")]
    log.open.set()
    until(lambda: answers(checks)[0][1] == OK, "the check answers")


def test_a_failed_check_states_its_reason_and_what_was_known() -> None:
    log, clock = Log(), Clock()
    checks = BoundedChecks([("log", log.check)], clock=clock)
    answers(checks)
    log.error = LogUnavailable("fetching offsets: no answer")
    clock.now_s += 3
    assert answers(checks) == [
        ("log", FAILED, "fetching offsets: no answer"),
        ("lag", DEGRADED, "has read everything (as of 3 s ago)"),
    ]
    log.error = None
    assert answers(checks)[0] == ("log", OK, "answer 3")
