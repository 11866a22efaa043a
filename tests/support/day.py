"""A trading day with faulty vendors at high speed: the sandbox with its own clock, a plant, and a comparison.

`Day` contains the parameters: symbols, start, speed, quotas, faults. `run` starts the sandbox and the plant with the
commands of a user. It waits until the day is over. Then it waits, at most `settle_s`, until the plant reports no
fetchable gap. The returned `Verdict` compares the stored bars with the sandbox's market. It lists the coverage of each
gap and the requests to vendors. The verdict does not depend on durations.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from tests.support.plant import Plant, kill_trees
from tests.support.waiting import PATIENCE, Guard
from tickerplant.core.times import MINUTE_US, SECOND_US, datetime_of, micros_of

VENDORS = ("twelvedata", "alphavantage", "yahoo")


@dataclass(frozen=True)
class Day:
    """Parameters of a day. `script`: one fault per line after its seconds from `start` (see docs/sandbox.md)."""

    symbols: Sequence[str]
    start: str
    hours: float
    speed: float = 60.0
    rate: float = 25.0
    seed: int = 7
    quotas: Sequence[str] = ("twelvedata=55/minute", "twelvedata=800/day", "alphavantage=5/minute",
                             "alphavantage=25/day", "yahoo=60/minute")  # fmt: skip
    script: str = ""
    history: str = "1d:10,1m:1"
    settle_s: float = 180.0
    """Maximum seconds for the remaining requests after the end of the day; more on a busy machine."""


def random_faults(hours: float, seed: int) -> str:
    """Return a random fault script for a day: seconds from its start and a fault per line."""
    drawn = random.Random(seed)
    lines: list[tuple[float, str]] = []

    def every(minutes: float, *orders: str) -> None:
        at = drawn.expovariate(1 / (minutes * 60))
        while at < hours * 3_600:
            lines.append((at, drawn.choice(orders)))
            at += drawn.expovariate(1 / (minutes * 60))

    every(5, "do=disconnect&vendor=twelvedata")
    every(25, "do=mute&vendor=twelvedata&seconds=120", "do=mute&vendor=twelvedata&heartbeats=yes&seconds=180")
    every(15, "do=429&vendor=twelvedata&kind=minute&seconds=60", "do=429&vendor=yahoo&kind=minute&seconds=90")
    every(40, "do=429&vendor=alphavantage&kind=burst&seconds=20", "do=down&vendor=yahoo&seconds=120")
    lines.append((hours * 3_600 * 0.62, f"do=down&vendor=twelvedata&seconds={hours * 3_600 * 0.1:.0f}"))
    lines.append((hours * 3_600 * 0.68, f"do=down&vendor=yahoo&seconds={hours * 3_600 * 0.08:.0f}"))
    return "\n".join(f"{at:.0f} {order}" for at, order in sorted(lines))


_AFTER_S: Final = 900.0


@dataclass
class Verdict:
    """Result of a day."""

    bars: int = 0
    missing: list[tuple[str, int]] = field(default_factory=list)
    """Bars of the market that are not stored: symbol, start."""
    unknown: list[tuple[str, int]] = field(default_factory=list)
    """Stored bars that the market does not contain: symbol, start."""
    different: list[tuple[str, int, Any, Any]] = field(default_factory=list)
    incomplete: list[tuple[str, int]] = field(default_factory=list)
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of bars of each status, by symbol."""
    gaps: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def overspent(self) -> list[str]:
        """Return a line for each exceeded quota; [] if there is none."""
        return [
            f"{vendor} {window['quota']}: {window['largest_asked']} of {window['limit']}"
            for vendor, count in self.counts.items()
            for window in count["windows"]
            if window["limit"] and window["largest_asked"] > window["limit"]
        ]

    def lines(self) -> list[str]:
        """Return the verdict as text."""
        statuses: Counter[str] = Counter()
        for counts in self.coverage.values():
            statuses.update(counts)
        report = [
            f"bars of the market {self.bars}, missing {len(self.missing)}, incomplete {len(self.incomplete)}, "
            f"different {len(self.different)}, unknown {len(self.unknown)}",
            f"coverage {dict(statuses)}",
            f"sources {dict(self.sources)}, reasons {dict(self.reasons)}",
        ]
        for vendor, count in self.counts.items():
            windows = ", ".join(f"{w['largest_asked']} of {w['limit']} a {w['quota']}" for w in count["windows"])
            report.append(f"{vendor}: {count['requests']} requests, {count['refused']} refused; at most {windows}")
        report += [f"different {symbol} {datetime_of(at):%H:%M} {ours} {theirs}" for symbol, at, ours, theirs in
                 self.different[:12]]  # fmt: skip
        report += [f"missing {symbol} {datetime_of(at):%H:%M}" for symbol, at in self.missing[:12]]
        report += [f"unknown {symbol} {datetime_of(at):%H:%M}" for symbol, at in self.unknown[:12]]
        report += [f"incomplete {symbol} {datetime_of(at):%H:%M}" for symbol, at in self.incomplete[:12]]
        report += [f"overspent: {text}" for text in self.overspent()]
        report += [f"gap {gap['symbol']} {gap['from']} to {gap['to']}: {gap['status']} {gap.get('note') or ''}"
                 for gap in self.gaps[:20]]  # fmt: skip
        return report


@contextlib.contextmanager
def sandbox(folder: Path, day: Day) -> Iterator[dict[str, Any]]:
    """Run the sandbox as a process; yield its greeting: url, stream_url, clock."""
    script = folder / "script.txt"
    script.write_text(day.script)
    quotas = [argument for quota in day.quotas for argument in ("--quota", quota)]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tickerplant.sandbox", "--names", ",".join(day.symbols),
            "--rate", str(day.rate), "--seed", str(day.seed), "--sessions", "us", "--start", day.start,
            "--speed", str(day.speed), "--script", str(script), *quotas,
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE.seconds(10))
        if process.stdout is not None:
            process.stdout.close()


def plant_on(folder: Path, day: Day, vendor: Mapping[str, Any], port: int) -> Plant:
    """Return a plant that uses this sandbox as three vendors."""
    return Plant(
        folder / "data",
        {
            "TICKERPLANT_SYMBOLS": ",".join(day.symbols),
            "TICKERPLANT_HISTORY": day.history,
            "TICKERPLANT_SANDBOX__ENABLED": "true",
            "TICKERPLANT_SANDBOX__URL": vendor["url"],
            "TICKERPLANT_SANDBOX__VENDORS": ",".join(VENDORS),
            "TICKERPLANT_SANDBOX__SESSIONS": "us",
            "TICKERPLANT_API__PORT": str(port),
            "TICKERPLANT_VENDORS__QUOTAS": ", ".join(day.quotas),
        },
    )


def run(folder: Path, day: Day, port: int, *, report: Any = lambda text: None) -> Verdict:
    """Run the day and return the verdict."""
    start_us = micros_of(_moment(day.start))
    end_us = start_us + int(day.hours * 3_600 * SECOND_US)
    with sandbox(folder, day) as vendor:
        clock = vendor["clock"]

        def now_us() -> int:
            return int(clock["origin_us"] + (time.time_ns() // 1_000 - clock["epoch_us"]) * clock["speed"])

        plant = plant_on(folder, day, vendor, port)
        process = plant.start("up", output=folder / "plant.log")
        try:
            reported_s = 0.0
            while now_us() < end_us:
                assert process.poll() is None, (folder / "plant.log").read_text()[-4_000:]
                time.sleep(0.5)
                if time.monotonic() - reported_s > 30:
                    reported_s = time.monotonic()
                    report(f"{datetime_of(now_us()):%H:%M} {_progress(port)}")
            time.sleep(_AFTER_S / day.speed)  # the last minute must be old enough to count as missing
            _settle(port, day.settle_s, report)
            return compare_with_market(plant, day, vendor, port, start_us, end_us)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE.seconds(30))
            kill_trees([process])


def _moment(text: str) -> Any:
    import datetime as dt

    return dt.datetime.fromisoformat(text)


def _progress(port: int) -> Any:
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/coverage", timeout=PATIENCE.seconds(20)).json()
        return answer.get("backfill")
    return None


def _settle(port: int, patience_s: float, report: Any) -> None:
    """Wait until three consecutive checks find nothing to fetch, at most `patience_s`."""
    guard, idle = Guard(patience_s), 0
    while not guard.is_over() and idle < 3:
        time.sleep(1)
        found = _progress(port)
        idle = idle + 1 if found and not found.get("working") else 0
    report(f"settled: {idle >= 3}, {_progress(port)}")


def compare_with_market(
    plant: Plant, day: Day, vendor: Mapping[str, Any], port: int, start_us: int, end_us: int
) -> Verdict:
    """Compare the tables of a running plant with the sandbox's market, minute by minute."""
    verdict = Verdict()
    end_us -= end_us % MINUTE_US
    start_us += -start_us % MINUTE_US
    with plant.store() as dsn:
        stored = asyncio.run(_minutes(dsn, datetime_of(start_us), datetime_of(end_us)))
    for symbol in day.symbols:
        query = {"symbol": symbol, "interval": "1m", "from_us": start_us, "to_us": end_us}
        truth = httpx.get(f"{vendor['url']}/sandbox/bars", params=query, timeout=PATIENCE.seconds(60)).json()
        have = stored.get(symbol, {})
        verdict.bars += len(truth["time_us"])
        names = ("open", "high", "low", "close", "volume")
        for time_us, *theirs in zip(truth["time_us"], *(truth[name] for name in names), strict=True):
            mine = have.pop(time_us, None)
            if mine is None:
                verdict.missing.append((symbol, time_us))
                continue
            verdict.sources[mine["source"]] += 1
            verdict.reasons[mine["reason"]] += 1
            if not mine["complete"]:
                verdict.incomplete.append((symbol, time_us))
            ours = [mine[name] for name in names]
            if "/" in symbol and not symbol.startswith("BTC"):
                theirs[4] = ours[4] = 0.0  # no vendor reports volumes of currencies
            if any(abs(a - b) > 1e-9 * max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True)):
                verdict.different.append((symbol, time_us, ours, theirs))
        verdict.unknown += [(symbol, time_us) for time_us in have]
        window = {"interval": "1m", "from": datetime_of(start_us).isoformat(), "to": datetime_of(end_us).isoformat()}
        answer = httpx.get(
            f"http://127.0.0.1:{port}/v1/coverage/{symbol.replace('/', '%2F')}",
            params=window,
            timeout=PATIENCE.seconds(60),
        ).json()
        verdict.coverage[symbol] = answer["counts"]
        verdict.gaps += [
            {"symbol": symbol, **part}
            for part in answer["stretches"]
            if part["status"] not in ("have", "closed", "no_trade")
        ]
    verdict.counts = httpx.get(f"{vendor['url']}/sandbox/counts", timeout=PATIENCE.seconds(60)).json()["vendors"]
    return verdict


async def _minutes(dsn: str, begin: Any, end: Any) -> dict[str, dict[int, Any]]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        rows = await connection.fetch(
            "SELECT * FROM intraday_ohlcv WHERE interval = '1m' AND state = 'final' AND time >= $1 AND time < $2",
            begin,
            end,
        )
    finally:
        await connection.close()
    found: dict[str, dict[int, Any]] = {}
    for row in rows:
        found.setdefault(row["symbol"], {})[micros_of(row["time"])] = row
    return found
