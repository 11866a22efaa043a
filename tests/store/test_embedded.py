"""The embedded PostgreSQL, with real servers and real kills."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.waiting import PATIENCE, until
from tickerplant.core.errors import FolderHeld, StoreError
from tickerplant.store.server.binaries import wheel_binaries
from tickerplant.store.server.embedded import EmbeddedPostgres

APP = """
import sys, time
from pathlib import Path
from tickerplant.store.server.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), binaries=Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(100)
"""


def fetch_value(dsn: str, sql: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn, timeout=PATIENCE.seconds(10))
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def app(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    programs = wheel_binaries()  # those of `make check-postgres`, if it runs the test
    assert programs is not None
    command = [sys.executable, "-c", APP, str(tmp_path), str(programs.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    yield process, pid
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_cluster_is_created_once_and_keeps_its_rows_and_address(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        dsn = server.dsn
        fetch_value(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        assert fetch_value(dsn, "SHOW fsync") == "on"
        assert fetch_value(dsn, "SHOW listen_addresses") == ""
    with EmbeddedPostgres(tmp_path) as server:
        assert server.dsn == dsn
        assert fetch_value(dsn, "SELECT n FROM kept") == 7
    assert server.pid is None


def test_a_login_without_the_password_is_refused(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        wrong = server.dsn.replace((tmp_path / "password").read_text(), "wrong")
        with pytest.raises(asyncpg.InvalidPasswordError):
            fetch_value(wrong, "SELECT 1")
    assert (tmp_path / "password").stat().st_mode & 0o077 == 0


def test_a_killed_server_is_restarted(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        fetch_value(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        fetch_value(server.dsn, "CHECKPOINT")  # commits do not wait for the disk
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: server.restarts == 1)
        assert server.pid not in (None, first)
        assert fetch_value(server.dsn, "SELECT n FROM kept") == 7


def test_the_server_of_a_killed_app_ends_and_the_next_start_works(
    tmp_path: Path, app: tuple[subprocess.Popen[str], int]
) -> None:
    process, pid = app
    process.kill()
    process.wait()
    with EmbeddedPostgres(tmp_path) as server:
        assert server.pid != pid
        assert not alive(pid)
        assert fetch_value(server.dsn, "SELECT 1") == 1


def test_a_server_that_outlives_its_app_is_ended_by_the_next_start(
    tmp_path: Path, app: tuple[subprocess.Popen[str], int]
) -> None:
    process, pid = app
    os.kill(pid, signal.SIGSTOP)  # a stopped process does not handle the death signal
    process.kill()
    process.wait()
    server = EmbeddedPostgres(tmp_path)
    waker = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {pid}"])
    with server:
        assert not alive(pid)
        assert fetch_value(server.dsn, "SELECT 1") == 1
    waker.wait()


def test_a_folder_in_use_is_refused_with_the_holders_process(
    tmp_path: Path, app: tuple[subprocess.Popen[str], int]
) -> None:
    with pytest.raises(FolderHeld, match=str(app[0].pid)):
        EmbeddedPostgres(tmp_path).start()
    assert alive(app[1])


def test_a_status_file_with_the_pid_of_another_program_is_ignored(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        text = (tmp_path / "cluster" / "postmaster.pid").read_text()
    other_process = subprocess.Popen(["sleep", "100"])
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it ends, but its exit status is not collected
    try:
        for process in (other_process, zombie):
            stale = text.replace(text.split("\n")[0], str(process.pid), 1)
            (tmp_path / "cluster" / "postmaster.pid").write_text(stale)
            with EmbeddedPostgres(tmp_path) as server:
                assert fetch_value(server.dsn, "SELECT 1") == 1
        assert other_process.poll() is None
    finally:
        other_process.kill()
        other_process.wait()
        zombie.wait()


def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    (tmp_path / "cluster" / "PG_VERSION").write_text("14\n")
    with pytest.raises(StoreError, match="PostgreSQL 14"):
        EmbeddedPostgres(tmp_path).start()


def test_an_interrupted_first_start_leaves_no_incomplete_cluster(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").mkdir()
    (tmp_path / "cluster.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path) as server:
        assert fetch_value(server.dsn, "SELECT 1") == 1


def test_the_output_of_the_server_is_in_the_error(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    (tmp_path / "cluster" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(StoreError, match="no_such_setting"):
        EmbeddedPostgres(tmp_path).start()


def test_a_folder_below_a_private_folder_works(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    deep = private / ("a" * 60) / ("b" * 60)
    with EmbeddedPostgres(deep) as server:
        assert fetch_value(server.dsn, "SELECT 1") == 1
        assert len(server.dsn) < 200
    assert private.stat().st_mode & 0o777 == 0o700
    assert private.stat().st_uid == os.geteuid()


def test_programs_and_data_may_be_unreachable_for_other_users(tmp_path: Path) -> None:
    wheel = wheel_binaries()
    assert wheel is not None
    # The wheel has libraries beside its package; other servers have one folder.
    is_wheel = wheel.folder.parent.name == "pginstall"
    closed, installed = tmp_path / "closed", wheel.folder.parents[1] if is_wheel else wheel.folder.parent
    closed.mkdir(mode=0o700)
    for name in (installed.name, f"{installed.name}.libs") if is_wheel else (installed.name,):
        shutil.copytree(installed.parent / name, closed / name)
    programs = closed / installed.name / wheel.folder.relative_to(installed)
    with EmbeddedPostgres(closed / "data", binaries=programs) as server:
        assert fetch_value(server.dsn, "SELECT 1") == 1
