"""A first start with hundreds of symbols: rate of fetched history, and delay of the event loop during planning.

    python -m benchmarks.backfill [--symbols 500] [--seconds 60] [--credits 0]

The backfill requests ten years of 1d bars and two years of 5m and 1m bars. `--credits 8` simulates a free plan, where
most requests wait.

The sandbox (Twelve Data's protocol, without quotas) is one process; aggregation and persistence are another. The
manager runs in this process. A timer on its event loop fires every 5 ms. The timer's delay equals the delay of a
stream's messages.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.support.figures import record

from tickerplant.core.rules import Rules, values_of
from tickerplant.core.schemas import TOPICS
from tickerplant.core.times import MINUTE_US
from tickerplant.log.open import open_log
from tickerplant.market_data.backfill import BackfillManager, BackfillPlan, Depth
from tickerplant.market_data.clients.twelvedata.client import provider
from tickerplant.market_data.feed.commands import ensure_settings
from tickerplant.market_data.vendors.port import KINDS, ProviderContext, Quota
from tickerplant.market_data.vendors.scheduler import RequestScheduler, VendorPlan
from tickerplant.market_data.vendors.state_store import StateStore
from tickerplant.sandbox.endpoint import SandboxEndpoint, parse_greeting
from tickerplant.sandbox.model import symbol_names
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.server.embedded import EmbeddedPostgres

RULES = Rules(indicators={})
TICK_S = 0.005
VENDOR = "twelvedata"


def followers(folder: Path, dsn: str, stop: Any) -> None:
    """Run aggregation and persistence until `stop`."""
    from tickerplant.aggregation.service import Aggregation
    from tickerplant.persistence.service import Persistence

    async def persist() -> None:
        halt = asyncio.Event()
        writing = asyncio.create_task(Persistence(log, dsn).run(halt))
        await asyncio.to_thread(stop.wait)
        halt.set()
        await writing

    log = open_log("embedded:", data=folder)
    halt = threading.Event()
    thread = threading.Thread(target=Aggregation(log).run, args=(halt,))
    thread.start()
    asyncio.run(persist())
    halt.set()
    thread.join()
    log.close()


async def tables(dsn: str) -> None:
    store = await Store.open(dsn)
    try:
        await migrate(store)
    finally:
        await store.close()


async def lateness(found: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        found.append(time.perf_counter() - began - TICK_S)


async def fill(
    folder: Path, dsn: str, endpoint: SandboxEndpoint, symbols: tuple[str, ...], seconds: float, quotas: Sequence[Quota]
) -> list[str]:  # fmt: skip
    log = open_log("embedded:", data=folder)
    context = ProviderContext(VENDOR, "key", {}, endpoint.url, endpoint.stream_url, endpoint.clock, RULES)
    made, state_store = provider(context), await asyncio.to_thread(StateStore, log)
    plan = VendorPlan({VENDOR: made}, {kind: (VENDOR,) for kind in KINDS}, {VENDOR: quotas}, reserve=0.25)
    scheduler = RequestScheduler(plan, clock=endpoint.clock, save=state_store.save, stored=state_store.stored)
    depths = [Depth("1d", 3_650), Depth("5m", None), Depth("1m", None)]
    late: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    base_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    manager = BackfillManager(log, scheduler, dsn, BackfillPlan(symbols, depths), rules=RULES, clock=endpoint.clock)
    running, ticking = asyncio.create_task(manager.run()), asyncio.create_task(lateness(late))
    first_s = 0.0
    while (passed := time.perf_counter() - began) < seconds and not running.done():
        await asyncio.sleep(0.1)
        if manager.progress.bars and not first_s:
            first_s = passed
    for task in (running, ticking):
        task.cancel()
    await asyncio.gather(running, ticking, return_exceptions=True)
    await made.close()
    state_store.close()
    log.close()
    progress, took = manager.progress, time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    p50, p99, most = (float(np.quantile(late, q)) * 1e3 for q in (0.5, 0.99, 1.0))
    record("history", progress.bars / took, "bars/s")
    record("manager", (time.process_time() - cpu) / took, "cores", "less")
    record("event loop late, p99", p99, "ms", "less")
    return [
        f"{len(symbols)} symbols, {progress.missing + progress.bars:,} bars to fetch, {took:.0f} s",
        f"first bars after {first_s:.1f} s; {progress.bars:,} bars of {progress.requests:,} requests, "
        f"{progress.bars / took:,.0f} bars/s, {(time.process_time() - cpu) / took:.0%} of a core",
        f"event loop late by {p50:.1f} ms (median), {p99:.1f} ms (p99), {most:.0f} ms (worst)",
        f"memory {base_mb:.0f} MB before, {peak_mb:.0f} MB at most",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--credits", type=int, default=0, help="credits per minute; 0 means no limit")
    args = parser.parse_args()
    names = symbol_names(args.symbols)
    quotas = (Quota(args.credits, MINUTE_US),) if args.credits else ()
    process = subprocess.Popen(
        [sys.executable, "-m", "tickerplant.sandbox", "--symbols", str(args.symbols), "--rate", "10"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    endpoint = parse_greeting(process.stdout.readline(), names)
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    try:
        with tempfile.TemporaryDirectory() as text, EmbeddedPostgres(Path(text)) as server:
            folder = Path(text)
            asyncio.run(tables(server.dsn))
            log = open_log("embedded:", data=folder)
            log.create_topics(TOPICS, 4)
            ensure_settings(log, values_of(RULES))
            log.close()
            after = spawn.Process(target=followers, args=(folder, server.dsn, stop))
            after.start()
            try:
                print("\n".join(asyncio.run(fill(folder, server.dsn, endpoint, names, args.seconds, quotas))))
            finally:
                stop.set()
                after.join()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
