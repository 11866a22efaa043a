"""Backups of a plant under load, and `backup` and `restore` that are killed or run out of disk. Nothing is damaged.

`make test-all` runs these tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.chaos.single_plant import SinglePlant, explained, settings
from tests.e2e.support import assert_bars, bars_of_ticks, rows, stored_bars
from tests.e2e.test_services import free_port
from tests.support.commands import assert_refused, invoke
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE
from tests.upgrade import ticks

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

BACKUP_POINTS = (
    "backup.snapshots.after:1", "backup.log.step:1", "backup.database.step:1", "backup.manifest.before:1",
    "backup.rename.before:1", "backup.rename.after:1",
)  # fmt: skip
RESTORE_POINTS = (
    "restore.mark.after:1", "restore.log.step:1", "restore.log.after:1", "restore.store.before:1",
    "restore.store.after:1", "restore.unmark.before:1",
)  # fmt: skip
RANDOM = ("random:1.5", "random:3", "random:6")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SinglePlant]:
    """Yield a running plant with rows, which takes in ticks during all tests."""
    folder = tmp_path_factory.mktemp("running")
    plant = Plant(folder / "data", settings("embedded", free_port()) | {"TICKERPLANT_SANDBOX__RATE": "300"})
    with explained(SinglePlant(plant, folder / "up.log")) as found:
        found.grows("before")
        yield found
        found.grows("after all backups")
        found.stop()
        found.assert_equal()


@pytest.fixture(scope="module")
def backup(running: SinglePlant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "one"
    running.plant.run("backup", str(folder))
    return folder


def killed(plant: Plant, output: Path, *arguments: str, point: str) -> bool:
    """Run a command that is killed at a point. Return True if it was killed, False if it ended earlier."""
    process = plant.start(*arguments, output=output, TICKERPLANT_TESTING__CRASH_AT=point)
    code = process.wait(PATIENCE.seconds(120))
    assert code == -signal.SIGKILL or (point.startswith("random") and code == 0), output.read_text()
    return code != 0


def elsewhere(running: SinglePlant, data: Path) -> Plant:
    """Return a plant with the settings of `running`, but another folder and another port."""
    return Plant(data, {**running.plant.env, "TICKERPLANT_API__PORT": str(free_port())})


def assert_goes_on(plant: Plant, output: Path) -> None:
    """Assert that a restored plant passes `verify`, takes in ticks, and ends with equal ticks in log and store."""
    plant.run("verify")
    with explained(SinglePlant(plant, output)) as found:
        found.grows("after the restore")
        found.stop()
        found.assert_equal()


def test_backups_under_load_are_consistent_and_go_on(running: SinglePlant, tmp_path: Path) -> None:
    for number in range(3):
        running.grows(f"before backup {number}")
        running.plant.run("backup", str(tmp_path / f"b{number}"))
    for number in range(3):
        plant = elsewhere(running, tmp_path / f"data{number}")
        plant.run("restore", str(tmp_path / f"b{number}"))
        plant.run("verify")
    assert_goes_on(plant, tmp_path / "up.log")


@pytest.mark.parametrize("point", [*BACKUP_POINTS, *RANDOM])
def test_a_killed_backup_leaves_the_plant_and_other_backups(
    running: SinglePlant, backup: Path, tmp_path: Path, point: str
) -> None:
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    target = tmp_path / "two"
    was_killed = killed(running.plant, tmp_path / "killed.log", "backup", str(target), point=point)
    running.grows("after the kill")
    assert {path.name: path.read_bytes() for path in backup.iterdir()} == before
    if was_killed and point != "backup.rename.after:1":
        assert not target.exists()
        incomplete = tmp_path / "two.incomplete"
        if incomplete.exists():
            assert_refused(invoke(Plant(tmp_path / "none"), "restore", incomplete), 2, "incomplete")
        running.plant.run("backup", str(target))
        assert not incomplete.exists()
    plant = elsewhere(running, tmp_path / "data")
    plant.run("restore", str(target))
    plant.run("verify")


@pytest.mark.parametrize("point", [*RESTORE_POINTS, *RANDOM])
def test_a_killed_restore_is_refused_and_can_be_repeated(
    running: SinglePlant, backup: Path, tmp_path: Path, point: str
) -> None:
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    plant = elsewhere(running, tmp_path / "data")
    was_killed = killed(plant, tmp_path / "killed.log", "restore", str(backup), point=point)
    if was_killed and (plant.data / "restore.incomplete").exists():
        assert_refused(invoke(plant, "verify"), 2, "`tickerplant restore")
        assert_refused(invoke(plant, "up"), 2, "`tickerplant restore")
    if was_killed:
        plant.run("restore", str(backup))
    assert {path.name: path.read_bytes() for path in backup.iterdir()} == before
    plant.run("verify")
    if point == RESTORE_POINTS[-1]:
        assert_goes_on(plant, tmp_path / "up.log")


def test_a_killed_replay_is_resumed_in_a_restored_folder(tmp_path: Path) -> None:
    """Check a backup with unfinished windows, and with a feed's cursor in the middle of a file."""
    file, days = ticks.write_ticks(tmp_path / "ticks.csv"), ticks.write_days(tmp_path / "days.csv")
    plant = Plant(tmp_path / "data", {"TICKERPLANT_PARTITIONS": "2", "TICKERPLANT_GATHER_MS": "50"})
    plant.run("replay", str(days), "--symbol", "FILEDAYS", "--interval", "1d")
    output = tmp_path / "killed.log"
    process = plant.start("replay", str(file), "--speed", "240", output=output,
                          TICKERPLANT_TESTING__CRASH_AT="feed.commit.after:20")  # fmt: skip
    assert process.wait() == -signal.SIGKILL, output.read_text()
    plant.run("backup", str(tmp_path / "one"))
    restored = Plant(tmp_path / "restored")
    restored.run("restore", str(tmp_path / "one"))
    restored.run("verify")
    with restored.store() as dsn:
        assert rows(dsn, "SELECT count(*) FROM realtime_prices")[0][0] < ticks.TICKS
    summary = json.loads(restored.run("replay", str(file), "--json").splitlines()[-1])
    assert (summary["ticks"], summary["repeats"], summary["dead_lettered"]) == (ticks.TICKS, 0, 0)
    again = restored.run("replay", str(days), "--symbol", "FILEDAYS", "--interval", "1d", "--json")
    assert not json.loads(again.splitlines()[-1])["changed"]
    restored.run("verify")
    frame = pl.read_csv(file, try_parse_dates=True).with_columns(pl.col("size").cast(pl.Float64))
    with restored.store() as dsn:
        stored = rows(dsn, "SELECT time, symbol, price, size, trade_id FROM realtime_prices")
        assert sorted(stored) == sorted(frame.rows())
        for symbol in ticks.SYMBOLS:
            wanted = bars_of_ticks(frame.filter(pl.col("symbol") == symbol), "1m")
            assert_bars(stored_bars(dsn, symbol, "1m"), wanted)


def test_two_commands_do_not_write_one_backup_or_one_folder(running: SinglePlant, backup: Path, tmp_path: Path) -> None:
    target = tmp_path / "two"
    commands = [("backup", str(target))] * 3
    codes = run_together(running.plant, commands, tmp_path)
    assert codes.count(0) == 1, codes
    plant = elsewhere(running, tmp_path / "data")
    codes = run_together(plant, [("restore", str(backup))] * 3, tmp_path)
    assert codes.count(0) == 1, codes
    plant.run("verify")


def run_together(plant: Plant, commands: list[tuple[str, ...]], folder: Path) -> list[int]:
    processes = [plant.start(*arguments, output=folder / f"{number}.log") for number, arguments in enumerate(commands)]
    return [process.wait(PATIENCE.seconds(120)) for process in processes]


INSIDE = """
import sys
from pathlib import Path
from tests.support.commands import invoke
from tests.support.plant import Plant
command, argument, data = sys.argv[1:]
result = invoke(Plant(Path(data)), command, argument)
print(result.code, result.out, result.err)
"""


def on_small_disk(disk: Path, kib: int, *arguments: str) -> str:
    """Run a command with a small disk mounted on a folder.

    Returns the exit code, output and errors, then the names of the files on the disk, as one text.
    """
    own = f"unshare -U --map-user={os.getuid()} --map-group={os.getgid()}" if os.getuid() else ""
    script = f'mount -t tmpfs -o size={kib}k none "$0" && {own} "$@"; ls -A "$0"'
    done = subprocess.run(
        ["unshare", "-rm" if own else "-m", "sh", "-c", script, str(disk), sys.executable, "-c", INSIDE, *arguments],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=PATIENCE.seconds(120),
    )  # fmt: skip
    return done.stdout


def test_a_full_disk_ends_a_backup_with_one_line(running: SinglePlant, backup: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    log, dump = ((backup / name).stat().st_size >> 10 for name in ("market.log", "store.dump"))
    for kib in (log // 2, log + dump // 2):  # the plant's log has grown, so the log alone may fill either disk
        found = on_small_disk(disk, kib, "backup", str(disk / "one"), str(running.plant.data))
        assert found.startswith("1 "), found
        assert "cannot be written to" in found or "no space left" in found, found
        assert "Traceback" not in found
        assert "\n" not in found.strip(), f"something is left on the disk: {found}"
    running.grows("after full disks")


def test_a_full_disk_ends_a_restore_with_one_line(running: SinglePlant, backup: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    found = on_small_disk(disk, 8192, "restore", str(backup), str(disk / "data"))
    assert found.startswith("1 "), found
    assert "the backup needs" in found, found


def test_a_backup_taken_before_an_upgrade_rolls_it_back(running: SinglePlant, backup: Path, tmp_path: Path) -> None:
    """Add a migration as a newer version does. Check that this version refuses the folder and restores the backup."""
    plant = elsewhere(running, tmp_path / "data")
    plant.run("restore", str(backup))
    with plant.store() as dsn:
        rows(dsn, "INSERT INTO schema_migrations (number, name, checksum, flavour) "
                  "VALUES (9999, '9999_later.sql', '', 'postgresql') RETURNING 1")  # fmt: skip
    assert_refused(invoke(plant, "up"), 1, "9999_later.sql", "newer Tickerplant")
    shutil.move(plant.data, tmp_path / "upgraded")
    plant.run("restore", str(backup))
    assert_goes_on(plant, tmp_path / "up.log")
