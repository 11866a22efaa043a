"""Locks of the data folder, across real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tickerplant.app.runtime.locks import FolderLock
from tickerplant.core.errors import ConfigError, FolderHeld

HOLD = """
import sys, time
from pathlib import Path
from tickerplant.app.runtime.locks import FolderLock
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


def test_a_held_folder_names_the_holder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    with hold(tmp_path, "alone") as process:
        with pytest.raises(FolderHeld, match=rf"in use by process {process.pid} "):
            FolderLock(tmp_path, "plant.lock").acquire_or_raise()
        assert FolderLock(tmp_path, "plant.lock").is_held()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with FolderLock(tmp_path, "plant.lock").acquire_or_raise():
            pass


def test_several_share_and_one_alone_must_wait(tmp_path: Path) -> None:
    with hold(tmp_path, "shared") as process:
        shared = FolderLock(tmp_path, "plant.lock").acquire_or_raise(shared=True)
        shared.release()
        with pytest.raises(FolderHeld):
            FolderLock(tmp_path, "plant.lock").acquire_or_raise()
        process.kill()


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        FolderLock(tmp_path / "file" / "data", "plant.lock").acquire()
