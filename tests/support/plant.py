"""A plant started by the command line, in separate processes, on its own data folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import asyncpg

from tests.support import forkserver
from tests.support.clusters import copy_cluster
from tests.support.waiting import PATIENCE
from tickerplant.app.config.settings import load
from tickerplant.app.wiring.database import database

EXACT = {
    "realtime_prices": "symbol, time, price, size, source, trade_id, flags",
    "intraday_ohlcv": "symbol, interval, time, open, high, low, close, trades, state, complete, history, source",
    "historical_ohlcv": "symbol, interval, time, open, high, low, close, trades, state, complete, history, source",
    "intraday_analytics": "symbol, interval, time, state",
    "daily_analytics": "symbol, interval, time, state",
}
"""Columns that must be equal to the last bit after any disturbance.

`realtime_analytics` is excluded: it contains the last state of forming bars. Their publication depends on the marks
that a paced feed sends by its clock. `version`, `published_at` and `received_at` depend on the run."""

ROUNDED = {
    "intraday_ohlcv": ("volume", "vwap"),
    "historical_ohlcv": ("volume", "vwap"),
    "intraday_analytics": ("sma_20", "ema_12", "rsi_14", "bbands_20_2_upper", "bbands_20_2_lower", "atr_14"),
    "daily_analytics": ("sma_20", "ema_12", "rsi_14", "atr_14"),
}
"""Columns that may differ in the last digits, because float sums depend on the batches of ticks."""


CREATES_STORE = {
    ("backfill",),
    ("init-db",),
    ("replay",),
    ("up",),
    ("run", "api"),
    ("run", "persistence"),
    ("run", "store"),
}
"""Commands that create the embedded store if there is none."""


@dataclass
class Plant:
    """A data folder and environment, and the commands that use them."""

    data: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tickerplant.app", *arguments, "--data", str(self.data)]

    def create_store(self, *arguments: str) -> None:
        """Copy a cluster into the data folder if this command would create one."""
        if {arguments[:1], arguments[:2]} & CREATES_STORE and "TICKERPLANT_STORE" not in self.env:
            copy_cluster(self.data / "postgres")

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
        return {**kept, "TICKERPLANT_LOG_FORMAT": "json", "TICKERPLANT_PARTITIONS": "4", **self.env, **more}

    def run(self, *arguments: str, timeout_s: float = 120, check: bool = True, **env: str) -> str:
        """Run one command to its end and return its output."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self._begin(arguments, self.environment(**env), out, err)
            try:
                code = process.wait(PATIENCE.seconds(timeout_s))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            output, errors = out.read(), err.read()
        if check and code:
            raise AssertionError(f"{arguments} ended with {code}\n{output}\n{errors}")
        return output

    def start(self, *arguments: str, output: Path, **env: str) -> subprocess.Popen[bytes]:
        """Start a long-running command; its output is appended to a file."""
        with open(output, "ab") as sink:
            return self._begin(arguments, self.environment(**env), sink, sink)

    def _begin(
        self, arguments: tuple[str, ...], env: Mapping[str, str], out: IO[Any], err: IO[Any]
    ) -> subprocess.Popen[bytes]:
        self.create_store(*arguments)
        if forkserver.can_fork(env):
            return forkserver.fork([*arguments, "--data", str(self.data)], env, stdout=out, stderr=err)
        return subprocess.Popen(
            self.command(*arguments),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of the tables of `EXACT`, in key order; start the store if it is down."""
        with self.store() as dsn:
            return asyncio.run(_tables(dsn))

    @contextmanager
    def store(self) -> Iterator[str]:
        """Yield the address of the running store, or start the embedded store for the block."""
        flags: dict[str, Any] = {"data": self.data}
        if "TICKERPLANT_STORE" in self.env:
            flags["store"] = self.env["TICKERPLANT_STORE"]
        else:
            copy_cluster(self.data / "postgres")
        with database(load(flags).settings) as dsn:
            yield dsn


async def _tables(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        found = {}
        for table, columns in EXACT.items():
            more = "".join(f", {name}" for name in ROUNDED.get(table, ()))
            rows = await connection.fetch(f"SELECT {columns}{more} FROM {table} ORDER BY {columns}")
            found[table] = [tuple(row) for row in rows]
        return found
    finally:
        await connection.close()


def assert_same(
    found: Mapping[str, Sequence[tuple[Any, ...]]], wanted: Mapping[str, Sequence[tuple[Any, ...]]]
) -> None:
    """Assert that the tables are equal, except for the last digits of float sums."""
    for table, rows in wanted.items():
        exact = len(EXACT[table].split(","))
        assert len(found[table]) == len(rows), f"{table}: {len(found[table])} rows, not {len(rows)}"
        for mine, theirs in zip(found[table], rows, strict=True):
            assert mine[:exact] == theirs[:exact], table
            for a, b in zip(mine[exact:], theirs[exact:], strict=True):
                assert (a is None) == (b is None), (table, mine, theirs)
                assert a is None or abs(a - b) <= 1e-9 * max(abs(a), abs(b)), (table, mine, theirs)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants at once with SIGKILL, without handlers or clean-up."""
    kill_trees([process])


def kill_trees(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill several processes and their descendants at once with SIGKILL."""
    for pid in [pid for process in processes for pid in (process.pid, *_descendants(process.pid))]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the log lines of a file that are JSON objects."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines
