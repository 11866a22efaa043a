"""The module for Linux and its portable twin: equal signatures and effects, and programs that end with their plant."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.postgres import let_every_user_enter, reachable_programs
from tests.support.waiting import until

from tickerplant import machine
from tickerplant.machine import linux, portable

TWINS = pytest.mark.parametrize("twin", [linux, portable], ids=["linux", "portable"])
LINUX_ONLY = (
    "prctl", "mallopt", "/proc/", "fdatasync", "sched_setaffinity", "sched_getaffinity", "O_TMPFILE", "posix_fallocate",
    "SOCK_NONBLOCK", "memfd_create", "eventfd", "epoll", "signalfd", "inotify", "pidfd_open", "setpriority",
    "copy_file_range", "adjtimex",
)  # fmt: skip


def test_the_twins_have_the_same_functions() -> None:
    def interface(module: ModuleType) -> dict[str, object]:
        return {
            name: str(inspect.signature(value)) if callable(value) else type(value)
            for name in machine.__all__
            for value in [getattr(module, name)]
        }

    assert interface(linux) == interface(portable)


def test_no_other_module_uses_what_only_linux_has() -> None:
    source = Path(machine.__file__).parents[1]
    found = [
        f"{path.relative_to(source)}: {word}"
        for path in source.rglob("*.py")
        if path.parent != Path(machine.__file__).parent
        for word in LINUX_ONLY
        if word in "".join(_code(path))
    ]
    assert found == []


def _code(path: Path) -> Iterator[str]:
    """Yield the attributes, names and one-line texts of a module, without comments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield f" {node.attr}"
        elif isinstance(node, ast.Name):
            yield f" {node.id}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield f" {node.value}"


@TWINS
def test_a_process_is_recognised_by_its_program_and_folder(twin: ModuleType, tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/sleep", "100"], cwd=tmp_path)
    until(lambda: twin.is_process_in(process.pid, b"sleep", tmp_path))
    assert not twin.is_process_in(process.pid, b"postgres", tmp_path)
    assert not twin.is_process_in(process.pid, b"sleep", tmp_path.parent)
    assert not twin.is_process_in(process.pid, b"sleep", tmp_path / "missing")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not twin.is_process_in(process.pid, b"sleep", tmp_path), "a zombie has ended"
    process.wait()
    assert not twin.is_process_in(process.pid, b"sleep", tmp_path)


@TWINS
def test_an_allocation_leaves_no_file(twin: ModuleType, tmp_path: Path) -> None:
    twin.allocate_unnamed(tmp_path, 200_000)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(FileNotFoundError):
        twin.allocate_unnamed(tmp_path / "missing", 1)


@TWINS
def test_data_are_synced_and_memory_is_returned(twin: ModuleType, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"content")
        twin.sync_data(file.fileno())
    twin.return_freed_memory()
    twin.trim_memory()
    with pytest.raises((OSError, ValueError), match=r"Bad file descriptor|negative"):
        twin.sync_data(-1)


@TWINS
def test_cores_and_capabilities_are_read(twin: ModuleType) -> None:
    assert twin.cores() == (sorted(os.sched_getaffinity(0)) if twin is linux else [])
    assert twin.capabilities() >= 0
    busy = twin.busy_seconds(twin.cores())
    assert set(busy) == set(twin.cores())


@pytest.fixture
def launched(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a plant that launches a program and waits; yield the plant and the program's process id."""
    twin: ModuleType = request.param
    plant = subprocess.Popen(
        [sys.executable, "-c", PLANT, str(twin.LAUNCHER), str(twin.LAUNCHER_NEEDS_PIPE), str(int(signal.SIGINT))],
        stdout=subprocess.PIPE,
    )
    assert plant.stdout is not None
    program = int(plant.stdout.readline())
    yield plant, program
    plant.kill()
    plant.wait()
    plant.stdout.close()


PLANT = """
import os, subprocess, sys, time
launcher, pipe, number = sys.argv[1:]
program = "import signal, time; print('ready', flush=True); time.sleep(1000)"
child = subprocess.Popen(
    [sys.executable, "-I", "-S", launcher, str(os.getpid()), "-1", "-1", "-1", number, sys.executable, "-c", program],
    stdin=subprocess.PIPE if pipe == "True" else subprocess.DEVNULL, stdout=subprocess.PIPE,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("launched", [linux, portable], ids=["linux", "portable"], indirect=True)
def test_a_program_ends_when_its_plant_is_killed(launched: tuple[subprocess.Popen[bytes], int]) -> None:
    plant, program = launched
    assert _is_alive(program)
    plant.kill()
    until(lambda: not _is_alive(program))


def _is_alive(pid: int) -> bool:
    return linux.is_process_in(pid, b"python", Path.cwd()) or linux.is_process_in(
        pid, os.fsencode(Path(sys.executable).name), Path.cwd()
    )


STORE = """
import asyncio, sys
from pathlib import Path
import asyncpg
from tickerplant import machine
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.store.server.embedded import EmbeddedPostgres

assert machine.LAUNCHER.name == "launch_portable.py"
folder = Path(sys.argv[1])
server = EmbeddedPostgres(folder / "postgres", binaries=Path(sys.argv[2]))
server.start()

async def answer():
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval("SELECT 6 * 7")
    finally:
        await connection.close()

print(asyncio.run(answer()), server.pid, flush=True)
log = EmbeddedLog(folder / "market.log")
log.make_durable()
log.close()
if sys.argv[3:] == ["wait"]:
    sys.stdin.readline()
server.stop()
"""


def test_the_embedded_database_runs_with_the_portable_twin() -> None:
    environment = {**os.environ, "_TICKERPLANT_PORTABLE": "1"}
    with tempfile.TemporaryDirectory(prefix="tp-", ignore_cleanup_errors=True) as name:
        folder, programs = Path(name), reachable_programs(Path(name))
        let_every_user_enter(folder, folder / "postgres")
        command = [sys.executable, "-c", STORE, name, os.fspath(programs)]
        killed = subprocess.Popen([*command, "wait"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert killed.stdout is not None
        answer, server = map(int, killed.stdout.readline().split())
        assert answer == 42
        killed.kill()
        killed.communicate()
        cluster = folder / "postgres" / "cluster"
        until(lambda: not linux.is_process_in(server, b"postgres", cluster))
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert again.stdout.startswith("42 ")
        assert not (cluster / "postmaster.pid").exists()
