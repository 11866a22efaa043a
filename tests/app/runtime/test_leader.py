"""A service whose members work one at a time, on the embedded log. `tests/conformance` covers leadership itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.waiting import PATIENCE

from tickerplant.app.runtime import leader as module
from tickerplant.app.runtime.leader import Leader
from tickerplant.core.errors import Fenced, LogError
from tickerplant.core.schemas import STATE_FEEDS, TOPICS
from tickerplant.log.embedded import EmbeddedLog


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedLog]:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    with EmbeddedLog(tmp_path / "market.log") as log:
        log.create_topics(TOPICS, 2)
        yield log


class Member:
    """A member whose work ends at the stop, or raises the next error that a test puts into the queue `errors`."""

    def __init__(self, log: EmbeddedLog, instance: str) -> None:
        self.leader = Leader(log, "feeds", instance)
        self.stop, self.works, self.begun = asyncio.Event(), asyncio.Event(), 0
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()

    async def work(self) -> None:
        self.begun += 1
        self.works.set()
        stopping, failing = asyncio.create_task(self.stop.wait()), asyncio.create_task(self.errors.get())
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        self.works.clear()
        if failing.done():
            stopping.cancel()
            raise failing.result()
        failing.cancel()

    async def is_working(self) -> None:
        await asyncio.wait_for(self.works.wait(), PATIENCE.seconds(20))


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(member.leader.run(member.work, member.stop)) for member in members]
    try:
        yield tasks
    finally:
        for member in members:
            member.stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_member_works_and_the_next_takes_over_at_its_end(log: EmbeddedLog) -> None:
    first, second = Member(log, "0"), Member(log, "1")
    async with running(first) as (task,):
        await first.is_working()
        async with running(second):
            while second.leader._thread.ident is None:  # noqa: ASYNC110 - a thread starts
                await asyncio.sleep(0.01)
            assert second.begun == 0
            first.stop.set()
            await task
            await second.is_working()
    assert (first.begun, second.begun) == (1, 1)


async def test_the_instance_that_worked_last_begins_without_the_leadership(log: EmbeddedLog) -> None:
    former = Member(log, "0")
    async with running(former):
        await former.is_working()
    with log.lead("feeds", "a session that has not ended") as dead:
        assert dead.poll(timeout_s=1)
        other, again = Member(log, "1"), Member(log, "0")
        async with running(other, again):
            await again.is_working()
            assert other.begun == 0


async def test_a_fenced_member_waits_for_the_leadership(log: EmbeddedLog) -> None:
    member = Member(log, "0")
    with log.lead("feeds", "another") as other:
        assert other.poll(timeout_s=1)
        async with running(member):
            await member.is_working()  # no instance has worked yet
            member.errors.put_nowait(Fenced("a newer writer has the name"))
            while member.works.is_set():  # noqa: ASYNC110 - the work ends
                await asyncio.sleep(0.01)
            other.close()
            await member.is_working()
            assert member.begun == 2


async def test_a_member_that_is_fenced_while_it_stores_its_instance_waits(log: EmbeddedLog) -> None:
    member, stored = Member(log, "0"), list[str]()
    put = member.leader._put_instance

    def put_fenced_first() -> None:
        stored.append("0")
        if len(stored) == 1:
            raise Fenced("a newer writer has the name leader:feeds")
        put()

    member.leader._put_instance = put_fenced_first  # type: ignore[method-assign]
    async with running(member) as (task,):
        await member.is_working()
        assert (len(stored), member.begun, task.done()) == (2, 1, False)


async def test_the_wait_continues_after_an_error_of_the_system(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead, errors = log.lead, [OSError(24, "too many open files")]

    def fail_first(name: str, member: str) -> object:
        if errors:
            raise errors.pop()
        return lead(name, member)

    monkeypatch.setattr(log, "lead", fail_first)
    with log.writer("leader:feeds") as writer, writer.transaction() as transaction:
        transaction.put_state(STATE_FEEDS, 0, "leader:feeds", b"1")  # another instance worked last
    member = Member(log, "0")
    async with running(member):
        await member.is_working()
    assert not errors


async def test_another_error_ends_the_run(log: EmbeddedLog) -> None:
    member = Member(log, "0")
    async with running(member) as (task,):
        await member.is_working()
        member.errors.put_nowait(LogError("refused"))
        with pytest.raises(LogError, match="refused"):
            await task
