"""Ownership of the embedded PostgreSQL, with real servers and real kills."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from tests.support.waiting import PATIENCE, until

from tickerplant.app.config.settings import Settings
from tickerplant.app.wiring import database as module
from tickerplant.app.wiring.database import database
from tickerplant.app.wiring.locks import FolderLock

USER = """
import sys, time
from pathlib import Path
from tickerplant.app.wiring.database import database
from tickerplant.app.config.settings import Settings
with database(Settings(data=Path(sys.argv[1])), lasting=True) as dsn:
    print(dsn, flush=True)
    time.sleep(100)
"""


def answers(dsn: str) -> bool:
    async def query() -> bool:
        connection = await asyncpg.connect(dsn, timeout=PATIENCE.seconds(5))
        try:
            return bool(await connection.fetchval("SELECT 1"))
        finally:
            await connection.close()

    try:
        return asyncio.run(query())
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("d")
    yield folder
    # A store that was started for user processes must stop by itself after the last of them has ended.
    until(lambda: not FolderLock(folder, "store.lock").is_held())


def owner(data: Path) -> int:
    return int(json.loads((data / "store.lock").read_text())["pid"])


def test_a_command_owns_the_server_while_it_runs_and_others_share_it(data: Path) -> None:
    settings = Settings(data=data)
    with database(settings) as dsn:
        assert answers(dsn)
        assert owner(data) == os.getpid()
        with database(settings) as shared:
            assert shared == dsn
        assert answers(dsn)
    assert not answers(dsn)
    assert (data / "store.lock").stat().st_mode & 0o077 == 0


def start_user(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", USER, str(data)], stdout=subprocess.PIPE, text=True)


def address(user: subprocess.Popen[str]) -> str:
    """Return the address of the store, which a user process prints when the store is up."""
    assert user.stdout is not None
    return user.stdout.readline().strip()


@pytest.mark.slow
def test_services_share_a_server_that_outlives_each_of_them(data: Path) -> None:
    users = [start_user(data) for _ in range(2)]
    try:
        dsns = {address(user) for user in users}
        assert len(dsns) == 1, (data / "store.log").read_text()
        (dsn,) = dsns
        assert answers(dsn)
        assert owner(data) not in {user.pid for user in users}

        users[0].kill()
        users[0].wait()
        first = owner(data)
        users.append(start_user(data))
        assert address(users[-1]) == dsn
        assert owner(data) == first, "the server ended when a service was killed"
        assert answers(dsn)

        os.kill(first, signal.SIGKILL)
        until(lambda: answers(dsn) and owner(data) != first)
    finally:
        began = time.monotonic()
        for user in users:
            user.kill()
            user.communicate()
    until(lambda: not FolderLock(data, "store.lock").is_held())
    assert time.monotonic() - began > module.IDLE_S / 2
    assert not answers(dsn)
