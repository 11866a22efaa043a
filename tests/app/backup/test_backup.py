"""`backup` and `restore` of a stopped plant, and all refusals. `tests/chaos` has running plants and kills."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.e2e.support import assert_bars, bars_of_ticks, rows, stored_bars
from tests.support.commands import assert_refused, invoke
from tests.support.plant import Plant
from tests.upgrade import ticks

from tickerplant.app.backup.manifest import Manifest

HALF = 300
"""Ticks of each of the two files: two minutes of four symbols."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, made = tmp_path_factory.mktemp("files"), []
    for number in (0, 1):
        rows = ticks.rows()[number * HALF : (number + 1) * HALF]
        made.append(folder / f"ticks{number}.csv")
        made[-1].write_text("\n".join(["time,symbol,price,size,trade_id", *(",".join(row) for row in rows)]) + "\n")
    return made


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Plant:
    """Return a stopped plant with the ticks of the first file."""
    plant = Plant(tmp_path_factory.mktemp("plant") / "data", {"TICKERPLANT_PARTITIONS": "2"})
    plant.data.mkdir(mode=0o700)
    (plant.data / "tickerplant.toml").write_text("gather_ms = 50\n")
    assert invoke(plant, "replay", files[0]).code == 0
    return plant


@pytest.fixture(scope="module")
def backup(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "one"
    result = invoke(plant, "backup", folder)
    assert (result.code, result.err) == (0, ""), result.err
    assert f"wrote the backup {folder}" in result.out
    return folder


@pytest.fixture
def copied(backup: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(backup, tmp_path / "copied", copy_function=os.link))


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_a_restored_folder_goes_on(backup: Path, files: list[Path], tmp_path: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert modes(backup) == {0o600}
    assert not list(backup.parent.glob("*.incomplete"))
    plant = Plant(tmp_path / "new")
    result = invoke(plant, "restore", backup, "--json")
    assert (result.code, result.err) == (0, ""), result.err
    assert stat.S_IMODE(plant.data.stat().st_mode) == 0o700
    assert (plant.data / "tickerplant.toml").read_text() == "gather_ms = 50\n"
    assert not list(plant.data.glob("*incomplete*"))
    (summary,) = invoke(plant, "replay", files[1], "--json").lines
    assert (summary["ticks"], summary["repeats"], summary["dead_lettered"]) == (HALF, 0, 0)
    assert invoke(plant, "verify").code == 0
    frame = pl.concat(pl.read_csv(file, try_parse_dates=True) for file in files)
    frame = frame.with_columns(pl.col("size").cast(pl.Float64))
    with plant.store() as dsn:
        stored = rows(dsn, "SELECT time, symbol, price, size, trade_id FROM realtime_prices")
        assert sorted(stored) == sorted(frame.rows())
        for symbol in ticks.SYMBOLS:
            wanted = bars_of_ticks(frame.filter(pl.col("symbol") == symbol), "1m")
            assert_bars(stored_bars(dsn, symbol, "1m"), wanted)


def test_a_backup_is_never_written_over_or_into_the_plant(plant: Plant, backup: Path, tmp_path: Path) -> None:
    assert_refused(invoke(plant, "backup", backup), 2, str(backup), "exists")
    assert_refused(invoke(plant, "backup", plant.data / "one"), 2, "in the data folder")
    assert_refused(invoke(plant, "backup", tmp_path / "missing" / "one"), 2, f"{tmp_path}/missing does not exist")
    assert_refused(invoke(plant, "backup", tmp_path / "one.incomplete"), 2, "one.incomplete", "no name")
    foreign = tmp_path / "two.incomplete"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert_refused(invoke(plant, "backup", tmp_path / "two"), 2, "thesis.txt", "did not write")
    assert (foreign / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "one").exists()


def test_restore_prints_the_command_that_starts_the_restored_plant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Manifest("0.1.0", "2026-03-09T13:30:00Z", "a log", 1, {}, {}, 18, (), 0, {})
    monkeypatch.setattr("tickerplant.app.backup.restore.restore", lambda *_: found)
    plant = Plant(tmp_path / "a new plant")
    result = invoke(plant, "restore", tmp_path / "one")
    assert (result.code, result.err) == (0, ""), result.err
    assert result.out.endswith(f"start it with `tickerplant up --data '{plant.data}'`\n")


def test_only_an_embedded_plant_is_backed_up(plant: Plant, backup: Path, tmp_path: Path) -> None:
    for command in ("backup", "restore"):
        for option, address in (("--log", "kafka://127.0.0.1:1"), ("--store", "postgresql://127.0.0.1:1/none")):
            result = invoke(plant, command, tmp_path / "one", option, address)
            assert_refused(result, 2, f"`{command}` needs the embedded log", option.strip("-"), "docs/backup.md")
    assert_refused(invoke(Plant(tmp_path / "none"), "backup", tmp_path / "one"), 1, "there is no plant in")


def test_a_backup_leaves_the_plant_its_free_space(plant: Plant, tmp_path: Path) -> None:
    target = tmp_path / "one"
    if os.stat(tmp_path).st_dev != os.stat(plant.data).st_dev:
        pytest.fail("the temporary folders are on two disks")
    roomy = Plant(plant.data, {**plant.env, "TICKERPLANT_MIN_FREE_MB": "1000000"})
    assert_refused(invoke(roomy, "backup", target), 1, "was stopped and removed", "1,000,000 MiB (min_free_mb)")
    assert not list(tmp_path.iterdir())


def flip(path: Path) -> None:
    """Replace a file by a copy with one different byte in the middle. The original may have other hard links."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])


@pytest.mark.parametrize("change", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("name", ["market.log", "store.dump", "tickerplant.toml", "reader.password"])
def test_a_damaged_file_is_refused_by_name(
    copied: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(copied / name)
    plant = Plant(tmp_path / "new")
    assert_refused(invoke(plant, "restore", copied), 2, str(copied / name), "use another backup")
    assert not plant.data.exists()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", 2, "is damaged"),
        ("[1]", 2, "is damaged"),
        ('{"format": 1, "files": {"../../x": {"bytes": 1, "sha256": ""}}}', 2, "is damaged"),
        ('{"format": 99, "tickerplant": "7.0"}', 2, "the version that wrote it (7.0)"),
    ],
)
def test_a_wrong_manifest_is_refused(copied: Path, tmp_path: Path, text: str, code: int, words: str) -> None:
    path = copied / "backup.json"
    path.unlink()
    path.write_text(text)
    assert_refused(invoke(Plant(tmp_path / "new"), "restore", copied), code, str(path), words)


def test_a_backup_of_a_newer_version_is_refused(copied: Path, tmp_path: Path) -> None:
    path = copied / "backup.json"
    tree = json.loads(path.read_text())
    path.unlink()
    for part, value, words in (
        ("migrations", [*tree["store"]["migrations"], "9999_later.sql"], "9999_later.sql"),
        ("postgresql", 99, "install PostgreSQL 99"),
    ):
        path.write_text(json.dumps({**tree, "store": {**tree["store"], part: value}}))
        assert_refused(invoke(Plant(tmp_path / "new"), "restore", copied), 1, words)


def test_an_incomplete_backup_and_other_folders_are_refused(copied: Path, tmp_path: Path) -> None:
    plant = Plant(tmp_path / "new")
    incomplete = copied.rename(copied.with_name("copied.incomplete"))
    assert_refused(invoke(plant, "restore", incomplete), 2, str(incomplete), "incomplete")
    assert_refused(invoke(plant, "restore", tmp_path), 2, str(tmp_path), "contains no backup.json")
    assert_refused(invoke(plant, "restore", tmp_path / "none"), 2, str(tmp_path / "none"), "is not a folder")
    assert not plant.data.exists()


def test_a_folder_with_contents_is_not_restored_into(plant: Plant, backup: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in plant.data.iterdir())
    assert_refused(invoke(plant, "restore", backup), 2, str(plant.data), "is not empty")
    assert sorted(path.name for path in plant.data.iterdir()) == before
    other = Plant(tmp_path / "other")
    other.data.mkdir()
    (other.data / "thesis.txt").write_text("mine")
    assert_refused(invoke(other, "restore", backup), 2, str(other.data), "is not empty")


def test_every_command_refuses_a_folder_whose_restore_was_interrupted(
    plant: Plant, files: list[Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(plant.data / "market.log", data)
    (data / "restore.incomplete").write_text("/backups/one\n")
    half = Plant(data)
    for command in (["up", "--no-sandbox"], ["run", "aggregation"], ["run", "store"], ["query", "A"], ["verify"],
                    ["replay", str(files[1])], ["backup", str(tmp_path / "b")]):  # fmt: skip
        result = invoke(half, *command)
        assert_refused(result, 2, str(data), "`tickerplant restore /backups/one --data")
    assert not list(tmp_path.glob("b*"))
