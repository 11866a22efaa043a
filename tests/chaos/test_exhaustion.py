"""A plant that runs out of descriptors, or loses a backend of its database. No data is lost.

Each test ends with the equality of laws 3 and 5: `verify` recomputes every byte, and the rows of the store are those of
the log. `make test-all` runs them; each takes up to a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.e2e.support import rows
from tests.e2e.test_services import free_port
from tests.support.plant import Plant, kill_tree
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, until
from tickerplant.app.wiring.store import positions
from tickerplant.core import records
from tickerplant.core.errors import LogError
from tickerplant.core.schemas import RAW
from tickerplant.core.times import times_of
from tickerplant.log.open import open_log

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

SYMBOLS = ("AAPL", "BTC/USD")


@dataclass
class LimitedPlant(Plant):
    """A plant whose commands run through the command `prefix`."""

    prefix: tuple[str, ...] = field(default=())

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, *super().command(*arguments)]


class Running:
    """A plant of one process (`up`) on the sandbox."""

    def __init__(self, plant: LimitedPlant, port: int, output: Path) -> None:
        self.plant, self.base, self.output = plant, f"http://127.0.0.1:{port}", output
        self.process = plant.start("up", output=output)

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the components by name; {} while the API does not answer."""
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{self.base}/health", timeout=PATIENCE.seconds(20))
            return {part["name"]: part for part in answer.json()["parts"]}
        return {}

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = 90) -> None:
        def checked() -> Any:
            assert self.process.poll() is None, f"the plant ended with {self.process.returncode}"
            return condition()

        until(checked, what, timeout_s)

    def logged(self) -> int:
        """Return the number of raw records; 0 before the log exists."""
        with contextlib.suppress(LogError), contextlib.closing(open_log("embedded:", data=self.plant.data)) as log:
            return sum(end for _, end in log.offsets(RAW).values())
        return 0

    def grows(self, what: str, timeout_s: float = 90) -> None:
        """Wait until ticks are appended and stored."""
        self.wait("the API", self.health)
        before = self.logged()
        self.wait(f"records {what}", lambda: self.logged() > before + 20, timeout_s)
        with self.plant.store() as dsn:
            sql = "SELECT count(*) FROM realtime_prices"
            stored = rows(dsn, sql)[0][0]
            self.wait(f"rows {what}", lambda: rows(dsn, sql)[0][0] > stored + 20, timeout_s)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE.seconds(60)) == 0

    def assert_equal(self) -> None:
        """Assert laws 3 and 5: the log recomputes to itself, and the store has the log's ticks."""
        self.plant.run("verify")
        with self.plant.store() as dsn, contextlib.closing(open_log("embedded:", data=self.plant.data)) as log:
            applied = positions(dsn)
            wanted = []
            for source, (first, _) in log.offsets(RAW).items():
                for record in log.read_range(source, first, applied.get((source.topic, source.partition), first)):
                    found = records.decode(record.value)
                    if isinstance(found.header, records.Ticks):
                        batch = found.batch
                        columns = (batch[name].to_pylist() for name in ("symbol", "price", "size"))
                        wanted += zip(times_of(batch["time"]).tolist(), *columns, strict=True)
            micros = "(extract(epoch FROM time) * 1000000)::bigint"
            stored = rows(dsn, f"SELECT {micros}, symbol, price, size FROM realtime_prices")
        assert len(wanted) > 100
        assert sorted(stored) == sorted(wanted)


@contextlib.contextmanager
def explained(running: Running) -> Iterator[Running]:
    """End the plant; show its output if the test fails."""
    try:
        yield running
    except BaseException:
        print(*running.output.read_text(errors="replace").splitlines()[-60:], sep="\n")
        raise
    finally:
        kill_tree(running.process)


def settings(dsn: str, port: int, **more: str) -> dict[str, str]:
    return {
        "TICKERPLANT_SYMBOLS": ",".join(SYMBOLS), "TICKERPLANT_PARTITIONS": "2", "TICKERPLANT_HISTORY": "none",
        "TICKERPLANT_SANDBOX__RATE": "60", "TICKERPLANT_API__PORT": str(port), "TICKERPLANT_STORE": dsn, **more,
    }  # fmt: skip


def state_of(running: Running, name: str) -> str:
    return str(running.health().get(name, {}).get("state", "no answer"))


def test_a_plant_without_descriptors_serves_again_when_they_are_free(
    tmp_path: Path, postgres: Postgres, empty_dsn: str
) -> None:
    port = free_port()
    plant = LimitedPlant(tmp_path / "data", settings(empty_dsn, port), ("prlimit", "--nofile=200:200"))
    with explained(Running(plant, port, tmp_path / "up.log")) as running:
        running.grows("before")
        idle: list[socket.socket] = []
        try:
            with contextlib.suppress(OSError):
                for _ in range(400):
                    idle.append(socket.create_connection(("127.0.0.1", port), timeout=1))
            descriptors = Path(f"/proc/{running.process.pid}/fd")
            with contextlib.suppress(AssertionError):  # a plant that limits its connections keeps some
                running.wait("no descriptors", lambda: len(list(descriptors.iterdir())) >= 199, 10)
            assert running.process.poll() is None
        finally:
            for one in idle:
                one.close()
        running.wait("services", lambda: all(
            part["state"] == "ok" for name, part in running.health().items() if name.startswith("service ")
        ) and running.health())  # fmt: skip
        running.grows("after")
        running.stop()
        running.assert_equal()


def test_a_killed_backend_of_the_database_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    env = settings("embedded:", port)
    plant = LimitedPlant(tmp_path / "data", {name: value for name, value in env.items() if name != "TICKERPLANT_STORE"})
    with explained(Running(plant, port, tmp_path / "up.log")) as running:
        running.wait("the store", lambda: state_of(running, "store") == "ok")
        with plant.store() as dsn:
            running.grows("before")
            for _ in range(2):
                os.kill(asyncio.run(backend_of(dsn)), signal.SIGKILL)
                running.wait("the store to answer", lambda: state_of(running, "store") == "ok")
                running.grows("after")
        running.stop()
        running.assert_equal()


async def backend_of(dsn: str) -> int:
    """Return the process of a backend that serves the plant."""
    connection = await asyncpg.connect(dsn, timeout=PATIENCE.seconds(10))
    try:
        found = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' ORDER BY query ILIKE '%realtime_prices%' DESC, pid LIMIT 1"
        )
    finally:
        await connection.close()
    assert isinstance(found, int)
    return found
