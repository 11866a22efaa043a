"""The whole plant with the portable twin of the module for Linux: live prices, and nothing remains after a kill."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.plant import Plant
from tests.support.postgres import let_every_user_enter, reachable_programs
from tests.support.waiting import PATIENCE, until
from tickerplant.machine import linux

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that every user may enter, because the portable twin gives the database's user no capability."""
    with tempfile.TemporaryDirectory(prefix="tp-", ignore_cleanup_errors=True) as name:
        let_every_user_enter(Path(name), Path(name) / "data", Path(name) / "data" / "postgres")
        yield Path(name)


def count(plant: Plant) -> int:
    """Return the count of symbols with a live price; 0 while the database does not answer."""

    async def run(dsn: str) -> int:
        connection = await asyncpg.connect(dsn)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM latest_prices"))
        finally:
            await connection.close()

    try:
        return asyncio.run(run(plant.run("dsn").strip()))
    except (AssertionError, OSError, asyncpg.PostgresError):
        return 0


def test_a_plant_runs_ends_with_its_kill_and_starts_again(folder: Path) -> None:
    env = {
        "_TICKERPLANT_PORTABLE": "1", "TICKERPLANT_STORE__BINARIES": str(reachable_programs(folder)),
        "TICKERPLANT_API__PORT": "0", "TICKERPLANT_SANDBOX__ENABLED": "true", "TICKERPLANT_HISTORY": "none",
    }  # fmt: skip
    plant = Plant(folder / "data", env)

    def start() -> subprocess.Popen[bytes]:
        with (folder / "up.txt").open("ab") as output:
            return subprocess.Popen(plant.command("up"), env=plant.environment(), stdout=output, stderr=output)

    up = start()
    until(lambda: up.poll() is not None or count(plant) > 3, "live prices", 120)
    assert up.poll() is None, (folder / "up.txt").read_text()
    cluster = folder / "data" / "postgres" / "cluster"
    server = int((cluster / "postmaster.pid").read_text().splitlines()[0])
    up.kill()
    up.wait()
    until(lambda: not linux.is_process_in(server, b"postgres", cluster), "the end of the database")
    up = start()
    until(lambda: up.poll() is not None or count(plant) > 3, "live prices", 120)
    up.send_signal(signal.SIGTERM)
    assert up.wait(PATIENCE.seconds(60)) == 0
    assert not (cluster / "postmaster.pid").exists()
