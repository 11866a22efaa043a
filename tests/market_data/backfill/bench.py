"""A bench for the backfill manager: a log, aggregation, persistence, PostgreSQL and the sandbox over sockets."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.market_data.support import embedded
from tests.support.waiting import PATIENCE
from tickerplant.aggregation.service import Aggregation
from tickerplant.core import coverage
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import calendar
from tickerplant.core.times import BoolArray, Int64Array
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill import BackfillManager, BackfillPlan, Depth
from tickerplant.market_data.clients.twelvedata.client import provider
from tickerplant.market_data.vendors.port import KINDS, Provider, ProviderContext, Quota
from tickerplant.market_data.vendors.scheduler import RequestScheduler, VendorPlan
from tickerplant.market_data.vendors.state_store import StateStore
from tickerplant.persistence.service import Persistence
from tickerplant.sandbox.endpoint import SandboxEndpoint, make_clock
from tickerplant.sandbox.model import MarketSettings
from tickerplant.sandbox.request_router import SandboxSettings
from tickerplant.sandbox.server import running
from tickerplant.store import Store

START = "2026-03-10T18:02:30+00:00"
SYMBOLS = ("AAPL", "MSFT", "BTC/USD")
RULES = Rules(calendars={"*": "24/7"}, indicators={})
VENDOR = "twelvedata"


@contextmanager
def sandbox(speed: float = 1.0, **quotas: Sequence[Quota]) -> Iterator[SandboxEndpoint]:
    market = MarketSettings(SYMBOLS, rate=12.0)
    with running(SandboxSettings(market, clock=make_clock(START, speed), quotas=quotas)) as endpoint:
        yield endpoint


@dataclass
class Bench:
    """The running services of a test, and the requests that the sandbox received."""

    log: EventLog
    dsn: str
    endpoint: SandboxEndpoint
    store: Store
    quotas: dict[str, Sequence[Quota]] = field(default_factory=dict)
    wrap: Callable[[Provider], Provider] = field(default=lambda made: made)

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[RequestScheduler]:
        context = ProviderContext(
            VENDOR, "key", {}, self.endpoint.url, self.endpoint.stream_url, self.endpoint.clock, RULES
        )
        made = self.wrap(provider(context))
        state_store = await asyncio.to_thread(StateStore, self.log)
        try:
            orders = {kind: (VENDOR,) for kind in KINDS}
            plan = VendorPlan({VENDOR: made}, orders, {VENDOR: (), **self.quotas}, reserve=0.25)
            yield RequestScheduler(plan, clock=self.endpoint.clock, save=state_store.save, stored=state_store.stored)
        finally:
            await made.close()
            await asyncio.to_thread(state_store.close)

    async def fill(self, *depths: Depth, **plan: Any) -> BackfillManager:
        """Run a manager until it can send no more requests; return it. `plan` contains further fields of its plan."""
        async with self.scheduler() as scheduler:
            manager = self.manager(scheduler, BackfillPlan(SYMBOLS, depths, once=True, **plan))
            await manager.run()
            return manager

    def manager(self, scheduler: RequestScheduler, plan: BackfillPlan) -> BackfillManager:
        return BackfillManager(self.log, scheduler, self.dsn, plan, rules=RULES, clock=self.endpoint.clock)

    async def have(self, symbol: str, interval: str, start_us: int, end_us: int) -> tuple[Int64Array, BoolArray]:
        async with self.store.read() as session:
            return await session.coverage.stored_bars(symbol, interval, start_us, end_us)

    async def answers(self, symbol: str, interval: str) -> coverage.Answers:
        async with self.store.read() as session:
            found = await session.answers.read([symbol], interval, 0, 1 << 51)
        return found.get(symbol, coverage.Answers.none())

    def expected(self, interval: str, start_us: int, end_us: int) -> Int64Array:
        return coverage.expected(calendar("24/7"), interval, start_us, end_us)

    def truth(self, symbol: str, interval: str, start_us: int, end_us: int) -> list[int]:
        """Return the start times in µs of the bars of the simulated market."""
        found: list[int] = self.bars(symbol, interval, start_us, end_us)["time_us"]
        return found

    def bars(self, symbol: str, interval: str, start_us: int, end_us: int) -> dict[str, list[Any]]:
        """Return the columns of the bars of the simulated market."""
        asked = {"symbol": symbol, "interval": interval, "from_us": start_us, "to_us": end_us}
        found: dict[str, list[Any]] = _get(self.endpoint, "bars", **asked)
        return found

    def requests(self, path: str = "/time_series") -> list[dict[str, Any]]:
        return [asked for asked in _get(self.endpoint, "requests", vendor=VENDOR)["requests"] if asked["path"] == path]

    def repeated(self) -> int:
        """Return the number of requests that are equal to an earlier request."""
        seen = Counter(str(sorted(asked["query"].items())) for asked in self.requests())
        return sum(seen.values()) - len(seen)

    def order(self, **order: Any) -> None:
        _get(self.endpoint, "orders", **order)


def _get(endpoint: SandboxEndpoint, what: str, **params: Any) -> Any:
    answer = httpx.get(f"{endpoint.url}/sandbox/{what}", params=params, timeout=PATIENCE.seconds(30))
    assert answer.status_code == 200, answer.text
    return answer.json()


@asynccontextmanager
async def bench(folder: Path, dsn: str, endpoint: SandboxEndpoint, partitions: int = 2) -> AsyncIterator[Bench]:
    """Run aggregation and persistence within the block; yield their bench."""
    from tickerplant.core.rules import values_of
    from tickerplant.market_data.feed.commands import ensure_settings

    stop, halt = threading.Event(), asyncio.Event()
    with embedded(folder, partitions) as log:
        ensure_settings(log, values_of(RULES))
        thread = threading.Thread(target=Aggregation(log).run, args=(stop,))
        thread.start()
        writing = asyncio.create_task(Persistence(log, dsn).run(halt))
        store = await Store.open(dsn, min_size=1, max_size=2)
        try:
            yield Bench(log, dsn, endpoint, store)
        finally:
            stop.set()
            halt.set()
            await writing
            await asyncio.to_thread(thread.join)
            await store.close()
