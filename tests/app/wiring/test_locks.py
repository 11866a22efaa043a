"""Locks of the data folder between real processes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tickerplant.app.wiring.locks import FolderLock
from tickerplant.core.errors import ConfigError, FolderHeld

HOLD = """
import sys, time
from pathlib import Path
from tickerplant.app.wiring.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]), "plant.lock").acquire_or_raise(shared=sys.argv[2] == "shared")
lock.write_holder()
print("held", flush=True)
time.sleep(60)
"""


def hold(folder: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_names_its_holder_and_a_kill_releases_it(tmp_path: Path) -> None:
    with hold(tmp_path, "alone") as process:
        with pytest.raises(FolderHeld, match=rf"in use by process {process.pid} "):
            FolderLock(tmp_path, "plant.lock").acquire_or_raise()
        assert FolderLock(tmp_path, "plant.lock").is_held()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with FolderLock(tmp_path, "plant.lock").acquire_or_raise():
            pass


def test_processes_share_a_lock_and_an_exclusive_holder_is_refused(tmp_path: Path) -> None:
    with hold(tmp_path, "shared") as process:
        shared = FolderLock(tmp_path, "plant.lock").acquire_or_raise(shared=True)
        shared.release()
        with pytest.raises(FolderHeld):
            FolderLock(tmp_path, "plant.lock").acquire_or_raise()
        process.kill()


def test_a_folder_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        FolderLock(tmp_path / "file" / "data", "plant.lock").acquire()


@pytest.mark.parametrize("name", ["plant.lock", "store.lock", "service-api-0.lock"])
def test_a_symbolic_link_in_place_of_a_lock_is_refused_and_not_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).symlink_to(precious)
    with pytest.raises(ConfigError, match=rf"{name} is a symbolic link; remove it"):
        FolderLock(folder, name).acquire_or_raise()
    with pytest.raises(ConfigError, match="symbolic link"):
        FolderLock(folder, name).is_held()
    assert precious.read_text() == "mine"


def test_a_pipe_in_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plant.lock")
    with pytest.raises(ConfigError, match=r"plant\.lock is not a regular file; remove it"):
        FolderLock(tmp_path, "plant.lock").acquire_or_raise()


def test_a_full_disk_is_an_error_that_names_the_file_and_prevents_no_withdrawal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with FolderLock(tmp_path, "store.lock").acquire_or_raise() as lock:
        lock.write_holder(dsn="postgresql://x")
        assert lock.holder()["dsn"] == "postgresql://x"
        monkeypatch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match=r"No space left on device: .*store\.lock"):
            lock.write_holder(dsn="postgresql://y")
        lock.withdraw()
        assert lock.holder() == {}
