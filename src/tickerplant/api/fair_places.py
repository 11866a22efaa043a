"""Places for work that many clients request: limited, and shared between clients by the time that each has used.

A client is an address (`client_name`). All clients have the same API key, so the key identifies no client.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tickerplant.api.http.errors import ApiError
from tickerplant.api.load import LoadCounters

MEMORY_S: Final = 10.0
"""Seconds after which half of a client's used time is forgotten."""
MAX_CLIENTS: Final = 1_000
"""Maximum clients whose used time is known. Above this count, the lesser half of the times is forgotten."""


@functools.lru_cache(4_096)
def client_name(host: str) -> str:
    """Return the text that identifies a client for limits: its IPv4 address, or the /64 network of its IPv6 address.

    One host usually has all addresses of such a network.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


class UsedTime:
    """The seconds that each client has used recently. Half of a time is forgotten after `MEMORY_S`."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}

    def add(self, client: str, seconds: float) -> None:
        """Add seconds to a client's used time."""
        now = time.monotonic()
        self._used[client] = (self._at(client, now) + seconds, now)
        if len(self._used) > MAX_CLIENTS:
            kept = sorted(self._used, key=lambda name: self._at(name, now))[MAX_CLIENTS // 2 :]
            self._used = {name: self._used[name] for name in kept}

    def least(self, clients: Iterable[str]) -> str:
        """Return the client that has used the least time; the first client if several are equal."""
        now = time.monotonic()
        return min(clients, key=lambda name: self._at(name, now))

    def _at(self, client: str, now: float) -> float:
        seconds, at = self._used.get(client, (0.0, 0.0))
        return seconds * float(0.5 ** ((now - at) / MEMORY_S)) if seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceLimits:
    """Maximum counts of requests that run and wait.

    `waiting_of_client`: maximum waiting requests of one client. `reserved`: running places that one client
    cannot take.
    """

    running: int
    reserved: int = 0
    waiting: int
    waiting_of_client: int


class FairPlaces:
    """Places with `limits`. A free place goes to the waiting client that has recently used the least time.

    A client with many requests therefore cannot displace the others. Belongs to one event loop. Any thread may read
    `running` and `waiting`.
    """

    def __init__(self, limits: PlaceLimits, counters: LoadCounters) -> None:
        self._limits = limits
        self._counters = counters
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._used = UsedTime()

    @property
    def running(self) -> int:
        """Return the count of taken places."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Return the count of requests that wait for a place."""
        return sum(map(len, list(self._waiting.values())))  # list() is atomic: the loop may change the dict meanwhile

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Hold a place for the block. Raises ApiError if too many requests wait already."""
        await self.admit(client)
        began = time.monotonic()
        try:
            yield
        finally:
            self.release(client, time.monotonic() - began)

    async def admit(self, client: str) -> None:
        """Wait for a place and take it; `release` frees it. Raises ApiError if too many requests wait already."""
        if client not in self._waiting and self._may_run(client):
            self._running[client] += 1
            return
        self._check_waiting(client)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the place was given at the same moment
                self.release(client, 0.0)
            else:
                self._leave_queue(client, place)
            raise

    def release(self, client: str, seconds: float) -> None:
        """Release a place that the client has used for these seconds, and pass it on."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._used.add(client, seconds)
        while following := [name for name in self._waiting if self._may_run(name)]:
            name = self._used.least(following)
            place = self._waiting[name].popleft()
            if not self._waiting[name]:
                del self._waiting[name]
            if not place.done():
                self._running[name] += 1
                place.set_result(None)

    def _may_run(self, client: str) -> bool:
        limits = self._limits
        return self.running < limits.running and self._running[client] < limits.running - limits.reserved

    def _check_waiting(self, client: str) -> None:
        limits, own = self._limits, len(self._waiting.get(client, ()))
        if own >= limits.waiting_of_client:
            self._counters.refuse("client_busy")
            raise ApiError(
                429, "client_busy", f"{own} requests of this client wait already",
                "send fewer requests at a time, or ask for fewer rows", retry_after_s=2,
            )  # fmt: skip
        if (waiting := self.waiting) >= limits.waiting:
            self._counters.refuse("busy")
            raise ApiError(
                503, "busy", f"{self.running} requests run and {waiting} wait already", "try again in a few seconds"
            )

    def _leave_queue(self, client: str, place: asyncio.Future[None]) -> None:
        queue = self._waiting.get(client)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[client]
