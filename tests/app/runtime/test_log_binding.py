"""Work that must be done before services use the log, while the log is unavailable at first."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs
from tests.support.waiting import PATIENCE, until

from tickerplant.app.runtime import log_binding
from tickerplant.app.runtime.log_binding import LogBinding, after_binding
from tickerplant.app.runtime.supervisor import Service
from tickerplant.core.errors import LogUnavailable, StoreMismatch, StoreUnavailable

RUNNING = threading.Event()


class Work:
    """Raises each of the errors once, then succeeds."""

    def __init__(self, *errors: Exception, holds: bool = False) -> None:
        self.errors, self.calls, self.allowed = list(errors), 0, threading.Event()
        if not holds:
            self.allowed.set()

    def __call__(self) -> None:
        self.calls += 1
        assert self.allowed.wait(PATIENCE.seconds(30))
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_binding, "RETRY_S", 0.001)
    monkeypatch.setattr(log_binding, "KNOWN_S", 0.01)
    monkeypatch.setattr(log_binding, "LATE_S", 0.02)


def test_the_work_is_done_once() -> None:
    work = Work()
    binding = LogBinding(work, str)
    binding.run()
    assert binding.wait(RUNNING)
    binding.run()
    assert work.calls == 1


@pytest.mark.parametrize(("reason", "text"), [("Connection refused", "Connection refused"), ("", "does not answer")])
def test_the_work_is_repeated_until_log_and_store_answer_and_the_wait_has_a_reason(reason: str, text: str) -> None:
    work = Work(LogUnavailable("no answer"), StoreUnavailable("gone"), holds=True)
    binding = LogBinding(work, lambda: reason)
    with capture_logs() as lines:
        assert not binding.wait(RUNNING, patient=False)
        work.allowed.set()
        assert binding.wait(RUNNING)
    assert work.calls == 3
    assert [line["event"] for line in lines] == ["waiting for the event log", "the event log answers"]
    assert text in lines[0]["error"]


def test_a_stop_ends_the_wait() -> None:
    work, stop = Work(holds=True), threading.Event()
    stop.set()
    binding = LogBinding(work, str)
    assert not binding.wait(stop)
    work.allowed.set()
    assert binding.wait(RUNNING)


def test_another_error_is_raised_and_the_next_wait_tries_again() -> None:
    work = Work(StoreMismatch("the store follows another log"))
    binding = LogBinding(work, str)
    with pytest.raises(StoreMismatch):
        binding.wait(RUNNING)
    assert binding.wait(RUNNING)
    assert work.calls == 2


def test_services_begin_after_the_work() -> None:
    work, began = Work(LogUnavailable("no answer"), holds=True), list[str]()

    async def asynchronous(stop: asyncio.Event) -> None:
        began.append("asynchronous")

    binding = LogBinding(work, str)
    threaded = after_binding(binding, Service("threaded", sync=lambda stop: began.append("threaded"), rank=3))
    on_loop = after_binding(binding, Service("on a loop", asynchronous=asynchronous, placed=False))
    assert (threaded.rank, on_loop.placed) == (3, False)
    assert threaded.sync is not None
    assert on_loop.asynchronous is not None
    body = on_loop.asynchronous
    threads = [
        threading.Thread(target=threaded.sync, args=(threading.Event(),)),
        threading.Thread(target=lambda: asyncio.run(body(asyncio.Event()))),  # type: ignore[arg-type]
    ]
    for thread in threads:
        thread.start()
    until(lambda: work.calls == 1, "the first try")
    assert began == []
    work.allowed.set()
    for thread in threads:
        thread.join(PATIENCE.seconds(30))
    assert sorted(began) == ["asynchronous", "threaded"]


async def test_a_stop_on_the_loop_ends_the_wait_of_a_service() -> None:
    work, stop = Work(holds=True), asyncio.Event()
    stop.set()

    async def never(stop: asyncio.Event) -> None:
        raise AssertionError("the service began")

    service = after_binding(LogBinding(work, str), Service("on a loop", asynchronous=never))
    assert service.asynchronous is not None
    await service.asynchronous(stop)
    work.allowed.set()
