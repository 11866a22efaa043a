"""The probes. A plant is live while its server answers.

It is ready while its store answers and its stream runs, or waits for the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.support import MemoryStore, serving
from tests.api.test_load import AbsentLog
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, until
from tickerplant.api import service, store_probe
from tickerplant.api.main import create_app
from tickerplant.api.state import ApiState
from tickerplant.api.store_probe import StoreProbe
from tickerplant.api.store_reader import ReadTransaction, StoreReader
from tickerplant.log.embedded.log import EmbeddedLog

READY, LIVE = "/health/ready", "/health/live"


def test_a_plant_with_a_key_is_live_and_ready_without_it(log: EmbeddedLog, store: MemoryStore) -> None:
    with serving(log, store, api_key="secret") as (client, _, _):
        assert client.get(LIVE).json() == {"status": "live"}
        until(lambda: client.get(READY).status_code == 200, "the stream starts", 20)
        assert client.get(READY).json() == {"status": "ready", "wrong": []}
        assert client.head(READY).status_code == 200
        assert client.get(READY + "?from=kubelet").status_code == 200, "a probe may add parameters"


def test_a_plant_without_its_database_is_live_but_not_ready(log: EmbeddedLog, store: MemoryStore) -> None:
    with serving(log, store) as (client, _, _):
        store.broken = True
        until(lambda: client.get(READY).status_code == 503, "the outage of the database is detected", 20)
        assert client.get(READY).json() == {"status": "not_ready", "wrong": ["store: the database is unavailable"]}
        assert client.get(LIVE).status_code == 200
        store.broken = False
        until(lambda: client.get(READY).status_code == 200, "the database is available again", 20)


def test_a_refused_login_is_answered_with_503_and_its_reason(log: EmbeddedLog, postgres: Postgres) -> None:
    with serving(log, StoreReader(postgres.dsn_of("missing"), log.identity())) as (client, _, _):
        answer = client.get("/v1/historical/AAPL")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert 'refuses the login: database "missing" does not exist' in answer.json()["error"]["message"]
        assert client.get(READY).status_code == 503
        assert client.get(LIVE).status_code == 200


def test_a_plant_without_its_log_is_ready_because_rest_answers(log: EmbeddedLog, store: MemoryStore) -> None:
    away: Any = AbsentLog(log)
    with serving(away, store) as (client, _, _):
        assert client.get("/health").status_code == 503
        assert client.get(READY).status_code == 200
        away.back = True
        until(lambda: client.get("/v1/status").status_code == 200, "the stream starts", 20)
        assert client.get(READY).status_code == 200


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[ApiState]:
    """Return the states of the servers that the test starts."""
    found: list[ApiState] = []

    def create(state: ApiState, *more: Any) -> Any:
        found.append(state)
        return create_app(state, *more)

    monkeypatch.setattr(service, "create_app", create)
    return found


def test_a_stream_that_is_starting_or_has_stopped_is_not_ready(
    log: EmbeddedLog, store: MemoryStore, states: list[ApiState]
) -> None:
    with serving(log, store) as (client, _, _):
        [state] = states
        until(lambda: state.tail is not None, "the stream starts", 20)
        tail = state.tail
        state.tail = None
        assert client.get(READY).json()["wrong"] == ["stream: the stream is starting"]
        state.tail = tail
        assert tail is not None
        tail.stop()
        assert client.get(READY).json()["wrong"] == ["stream: the stream has stopped; see the log of Tickerplant"]


def test_full_lanes_do_not_delay_the_probes(log: EmbeddedLog, store: MemoryStore, states: list[ApiState]) -> None:
    with serving(log, store) as (client, _, _):
        [state] = states
        until(lambda: client.get(READY).status_code == 200, "the stream starts", 20)
        for lane in state.lanes.all:
            lane._places._running["other"] = 1_000  # no request gets a place
        assert (client.get(LIVE).status_code, client.get(READY).status_code) == (200, 200)
        for lane in state.lanes.all:
            lane._places._running.clear()


class SlowStore(MemoryStore):
    """A store whose reads do not end until `answers` is set. `reads` is the count of reads that began."""

    def __init__(self, log: EmbeddedLog) -> None:
        super().__init__(log)
        self.answers = asyncio.Event()
        self.reads = 0

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        self.reads += 1
        await self.answers.wait()
        async with super().read() as transaction:
            yield transaction


async def test_probes_of_a_database_that_hangs_share_one_read(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_probe, "WAIT_S", 0.01)
    slow = SlowStore(log)
    probe = StoreProbe(slow)
    found = await asyncio.gather(*(probe.error() for _ in range(50)))
    assert set(found) == {"the database has not answered within 0.01 s"}
    assert slow.reads == 1
    slow.answers.set()
    monkeypatch.setattr(store_probe, "WAIT_S", PATIENCE.seconds(5))
    assert await probe.error() == ""
    monkeypatch.setattr(store_probe, "FRESH_S", 0.0)
    assert await probe.error() == ""
    assert slow.reads == 2
