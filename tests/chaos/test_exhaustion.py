"""A plant with a full disk, without free descriptors, with a moved clock, or with a killed database backend.

No data is lost: at the end of each test, `verify` recomputes every byte, and the rows of the store are those of the
log. `make test-all` runs these tests; each takes up to two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.single_plant import PrefixedPlant, SinglePlant, explained, settings
from tests.e2e.support import rows
from tests.e2e.test_services import free_port
from tests.support.plant import Plant
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CLOCK = ROOT / "tests" / "support" / "clock"
HOUR_S = 3_600
DISK = "256m"
"""Size of the disk: a new cluster has 60 MB, and tables and log need as much."""


@pytest.mark.parametrize(("store", "scenario"), [("embedded", "full"), ("elsewhere", "full"), ("embedded", "low")])
def test_a_full_disk_is_failed_at_once_and_loses_nothing(
    tmp_path: Path, postgres: Postgres, empty_dsn: str, store: str, scenario: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    address = store if store == "embedded" else postgres.over_tcp(empty_dsn)
    # Root starts the embedded PostgreSQL as another user, who does not exist in a new user namespace. Root therefore
    # mounts without one. Other users need one for the mount. They then return to their own id, because PostgreSQL does
    # not run as root.
    own = f"unshare -U --map-user={os.getuid()} --map-group={os.getgid()}" if os.getuid() else ""
    script = f'mount -t tmpfs -o size={DISK} none "$0" && exec {own} "$@"'
    inside = [sys.executable, "-m", "tests.chaos.full_disk", str(tmp_path), address, scenario]
    done = subprocess.run(
        ["unshare", "-rm" if own else "-m", "sh", "-c", script, str(disk), *inside],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE.seconds(280),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "equal\n"


def test_a_plant_without_descriptors_serves_again_when_they_are_free(tmp_path: Path, empty_dsn: str) -> None:
    port = free_port()
    plant = PrefixedPlant(tmp_path / "data", settings(empty_dsn, port), ("prlimit", "--nofile=200:200"))
    with explained(SinglePlant(plant, tmp_path / "up.log")) as running:
        running.grows("before")
        idle: list[socket.socket] = []
        try:
            with contextlib.suppress(OSError):
                for _ in range(400):
                    idle.append(socket.create_connection(("127.0.0.1", port), timeout=1))
            descriptors = Path(f"/proc/{running.process.pid}/fd")
            with contextlib.suppress(AssertionError):  # the limit of connections keeps some descriptors free
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


def moved_clock(file: Path) -> dict[str, str]:
    """Return the environment of processes whose clock is moved by the offset in `file`, such as `-1h`."""
    found = [str(path) for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    assert found, "install the Debian package faketime"
    return {
        "LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "PYTHONPATH": str(CLOCK),
    }  # fmt: skip


def test_a_clock_that_is_moved_by_an_hour_back_and_forth_loses_nothing(tmp_path: Path, empty_dsn: str) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = settings(empty_dsn, free_port())
    plant = Plant(tmp_path / "data", {**env, **moved_clock(offset)})
    with explained(SinglePlant(plant, tmp_path / "up.log")) as running:
        running.grows("before")
        for hours in (-1, 1, 0):
            before = ticks_near(running, hours)
            offset.with_suffix(".new").write_text(f"{hours:+}h")
            offset.with_suffix(".new").rename(offset)
            running.wait(f"ticks at {hours} h", lambda h=hours, n=before: ticks_near(running, h) > n + 40)
            running.grows(f"at {hours} h")
        running.stop()
        plant.env = env
        running.assert_equal()


def ticks_near(running: SinglePlant, hours: int) -> int:
    """Return the number of stored ticks within ten minutes of the database's time plus `hours`."""
    with running.plant.store() as dsn:
        distance = f"abs(extract(epoch FROM time - now()) - {hours} * 3600)"
        return int(rows(dsn, f"SELECT count(*) FROM realtime_prices WHERE {distance} < 600")[0][0])


def test_a_killed_backend_of_the_database_loses_nothing(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data", settings("embedded", free_port()))
    with explained(SinglePlant(plant, tmp_path / "up.log")) as running:
        running.wait("the store", lambda: running.state("store") == "ok")
        with plant.store() as dsn:
            running.grows("before")
            for _ in range(2):
                os.kill(asyncio.run(backend_of(dsn)), signal.SIGKILL)
                running.wait("the store to answer", lambda: running.state("store") == "ok")
                running.grows("after")
        running.stop()
        running.assert_equal()


async def backend_of(dsn: str) -> int:
    """Return the process id of a database backend that serves the plant."""
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
