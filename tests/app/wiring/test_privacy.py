"""The data folder and its files belong to the user alone, and child processes get no keys."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tickerplant.app.config.settings import Settings
from tickerplant.app.runtime.plant import folder_alone
from tickerplant.app.wiring.database import _OwnerWatchdog
from tickerplant.app.wiring.log import open_log
from tickerplant.core.errors import ConfigError
from tickerplant.core.schemas import RAW
from tickerplant.log.port import EventLog
from tickerplant.store.server import embedded


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of the folder (".") and of everything in it that other users could read."""
    found = {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.rglob("*")]}
    return {name: mode for name, mode in found.items() if mode & 0o077}


def append_something(event_log: EventLog) -> None:
    with event_log.writer("w") as writer, writer.transaction() as transaction:
        transaction.append(RAW, 0, b"x")


def test_a_new_folder_and_the_log_are_private_with_any_umask(tmp_path: Path) -> None:
    folder, before = tmp_path / "data", os.umask(0)
    try:
        settings = Settings(data=folder, partitions=1)
        with folder_alone(settings), open_log(settings) as event_log:
            append_something(event_log)
            found = modes(folder)
    finally:
        os.umask(before)
    assert "." not in found
    assert found == {}
    assert stat.S_IMODE((folder / "market.log").stat().st_mode) == 0o600


def test_a_command_makes_only_private_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tickerplant.app", "create-topics", "--data", str(tmp_path / "data")]
    subprocess.run(command, check=True, capture_output=True, umask=0o022)
    assert modes(tmp_path / "data") == {}


@pytest.mark.parametrize(("mode", "warned"), [(0o755, True), (0o750, True), (0o711, False), (0o700, False)])
def test_an_existing_folder_that_others_can_read_is_kept_and_reported(tmp_path: Path, mode: int, warned: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    with capture_logs() as lines, folder_alone(Settings(data=folder)):
        pass
    assert [line["mode"] for line in lines if "read the data folder" in line["event"]] == [f"{mode:04o}"] * warned
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_symbolic_link_in_place_of_a_lock_of_the_log_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    settings = Settings(data=tmp_path / "data", partitions=1)
    (tmp_path / "data" / "market.log.d").mkdir(parents=True)
    (tmp_path / "data" / "market.log.d" / "writer.lock").symlink_to(precious)
    with pytest.raises(ConfigError, match="cannot be created"), open_log(settings):
        pass
    assert precious.read_text() == "mine"


def test_a_symbolic_link_in_place_of_the_output_of_a_child_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("store.log", "start.log"):
        (tmp_path / name).symlink_to(precious)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, stdout, **__: stdout.write(b"overwritten"))
    with pytest.raises(ConfigError, match=r"store.log cannot be written"):
        _OwnerWatchdog(Settings(data=tmp_path)).wait()
    embedded.EmbeddedPostgres(tmp_path)._spawn()
    assert precious.read_text() == "mine"


def test_the_database_server_gets_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TICKERPLANT_API__KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "LD_PRELOAD"):
        monkeypatch.setenv(name, "hush-hush")
    found = embedded._environment()
    assert "hush-hush" not in str(found)
    assert set(found) - set(embedded.ALLOCATOR) <= {"PATH", "HOME", "TMPDIR", "TZDIR", "LC_ALL", "TZ"}
