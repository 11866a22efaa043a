"""Refused and failed requests, and closed connections, leave nothing that only the garbage collector frees.

Under attack such cycles caused a full collection every two seconds, which blocks all threads for 100 ms.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from tests.api.support import MemoryStore, serving
from tests.support.waiting import until
from tickerplant.api import fair_places
from tickerplant.api.http.connections import GuardedHttp
from tickerplant.api.http.errors import ApiError
from tickerplant.log.port import EventLog

REQUESTS = 5


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _frames_of_the_plant() -> list[str]:
    """Collect the garbage. Return the functions of the package whose frames it contained."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        frames = [found for found in gc.garbage if isinstance(found, FrameType)]
        return [frame.f_code.co_qualname for frame in frames if "tickerplant" in frame.f_code.co_filename]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("limit", [100, 3_000, 20_000], ids=["small", "reading", "computing"])
def test_failed_requests_of_each_lane_leave_no_frames(log: EventLog, store: MemoryStore, limit: int) -> None:
    with serving(log, store) as (client, _, _):
        for _ in range(REQUESTS):
            assert client.get(f"/v1/intraday/UNKNOWN?limit={limit}").status_code == 404
        assert _frames_of_the_plant() == []


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("limit", [100, 20_000], ids=["small", "computing"])
def test_refused_requests_leave_no_frames(
    log: EventLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    async def refuse(self: Any, client: str) -> None:
        raise ApiError(503, "busy", "too many requests wait", "try again")

    monkeypatch.setattr(fair_places.FairPlaces, "admit", refuse)
    with serving(log, store) as (client, _, _):
        for _ in range(REQUESTS):
            assert client.get(f"/v1/intraday/AAPL?limit={limit}").status_code == 503
        assert _frames_of_the_plant() == []


@pytest.mark.usefixtures("collector_off")
def test_closed_connections_are_freed_at_once(log: EventLog, store: MemoryStore) -> None:
    def count() -> int:
        return sum(isinstance(found, GuardedHttp) for found in gc.get_objects())

    with serving(log, store) as (client, _, _):
        port = client.base_url.port
        for _ in range(REQUESTS):
            with socket.create_connection(("127.0.0.1", port or 0)):
                until(lambda: count() > 0, "the connection")
            until(lambda: count() == 0, "the end of the connection")
