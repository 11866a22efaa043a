"""A full disk is `failed` in health at once, and nothing is lost or stored twice when space is free again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from tickerplant.app import disk, health
from tickerplant.app.component import DEGRADED, FAILED, OK
from tickerplant.app.config.settings import Settings
from tickerplant.app.wiring.log import open_log
from tickerplant.core.outage import Outage
from tickerplant.core.times import SECOND_US
from tickerplant.persistence import status

FULL = """
import json, os, sys
from pathlib import Path
import numpy as np
from tests.market_data.support import OPEN_US, SECOND, Clock, rows, ticks
from tickerplant.app.disk import disk_health
from tickerplant.core import records
from tickerplant.core.errors import LogUnavailable
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.core.schemas import TOPICS
from tickerplant.market_data.feed.writer import FeedWriter

folder = Path(sys.argv[1])
states = []
def state():
    [part] = disk_health(folder)
    states.append([part.state, part.sentence])
log = EmbeddedLog(folder / "market.log")
log.create_topics(TOPICS, 1)
symbols = ["A", "B"]
feed = FeedWriter(log, "vendor", clock=Clock(OPEN_US + 6_000_000 * SECOND))
feed.start(symbols, start_us=OPEN_US, live=True)
at = 0
def append():
    global at
    at += 1
    feed.append_ticks(ticks(symbols, [OPEN_US + at * SECOND] * 2), OPEN_US + at * SECOND)
for _ in range(20):
    append()
state()
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(1 << 16))
    except OSError:
        pass
    try:
        while True:
            filler.write(b"x")
    except OSError:
        pass
state()
errors = 0
try:
    for _ in range(5_000):
        append()
except LogUnavailable as error:
    text = str(error)
for _ in range(3):
    try:
        feed.recover()
    except LogUnavailable:
        errors += 1
readable = len(rows(log, records.Ticks))
os.unlink(folder / "filler")
state()
feed.recover()
append()
feed.close()
found = [(row["symbol"], row["time"].timestamp()) for row in rows(log, records.Ticks)]
print(json.dumps({"states": states, "text": text, "errors": errors, "readable": readable, "at": at,
                  "rows": len(found), "distinct": len(set(found))}))
"""


def in_small_file_system(
    folder: Path, size: str, *command: str, prepare: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run a command with a small separate file system at `folder`, after the shell's `prepare`."""
    script = f'mount -t tmpfs -o size={size} none "$0" && {prepare} && exec "$@"'
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(folder), *command], capture_output=True, text=True, check=False
    )


def test_a_full_disk_is_failed_at_once_and_the_feed_continues_without_loss(tmp_path: Path) -> None:
    done = in_small_file_system(tmp_path, "16m", sys.executable, "-c", FULL, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before, full, after = found["states"]
    assert before[0] == DEGRADED, "16 MiB is little free space"
    assert full[0] == FAILED
    assert "No space left on device" in full[1]
    assert after[0] == DEGRADED
    assert "no space left for the event log" in found["text"]
    assert found["errors"] == 3
    assert 40 <= found["readable"] < found["rows"]
    assert found["rows"] == found["distinct"] == 2 * found["at"], "each tick is stored once"


def test_a_start_on_a_full_disk_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tickerplant.app", "run", "store", "--data", str(tmp_path)]
    fill = 'chmod 700 "$0" && { dd if=/dev/zero of="$0/filler" bs=4k 2>/dev/null || true; }'
    done = in_small_file_system(tmp_path, "1m", *command, prepare=fill)
    path = tmp_path / "store.lock"
    wanted = f"tickerplant: nothing can be written to {path}: No space left on device; free some space\n"
    assert (done.returncode, done.stderr) == (1, wanted)


def test_the_check_of_a_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOW_BYTES", 0)
    [part] = disk.disk_health(tmp_path)
    assert part.state == OK
    assert list(tmp_path.iterdir()) == []
    assert list(disk.disk_health(tmp_path / "missing")) == []
    monkeypatch.setattr(disk, "LOW_BYTES", 1 << 60)
    assert [part.state for part in disk.disk_health(tmp_path)] == [DEGRADED]


def test_a_disk_below_the_minimum_is_failed_and_states_when_the_plant_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOW_BYTES", 0)
    [part] = disk.disk_health(tmp_path, least_bytes=1 << 60)
    assert part.state == FAILED
    assert part.sentence.startswith("the plant takes in no data: only ")
    assert part.sentence.endswith("the plant continues at 1,374,389,534,720 MiB")
    free = part.details["free_bytes"]
    [part] = disk.disk_health(tmp_path, least_bytes=free * 9 // 10)
    assert (part.state, "Feeds that have stopped continue at" in part.sentence) == (DEGRADED, True)
    [part] = disk.disk_health(tmp_path, least_bytes=free // 3)
    assert part.state == OK


@pytest.mark.parametrize(
    ("log", "store", "folders"),
    [
        ("embedded:", "embedded:", ["data"]),
        ("kafka://b:9092", "embedded:", ["data"]),
        ("sqlite:///var/l/market.log", "postgresql://h/d", ["/var/l"]),
        ("sqlite:///var/l/market.log", "embedded:", ["data", "/var/l"]),
        ("kafka://b:9092", "postgresql://h/d", []),
    ],
)
def test_the_disks_of_the_embedded_parts_stop_the_intake(
    tmp_path: Path, log: str, store: str, folders: list[str]
) -> None:
    settings = Settings(data=tmp_path, log=log, store=SecretStr(store), min_free_mb=1_000_000)
    wanted = [tmp_path if one == "data" else Path(one) for one in folders]
    assert disk.intake_folders(settings) == wanted
    if not folders:
        assert not disk.free_space(settings).is_low()
    if wanted == [tmp_path]:
        assert disk.free_space(settings).is_low() == (disk._free_bytes(wanted) < 1_000_000 << 20)
        assert not disk.free_space(settings.model_copy(update={"min_free_mb": 0})).is_low()


def test_a_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    [part] = disk.disk_health(tmp_path)
    assert (part.state, "Disk quota exceeded" in part.sentence) == (FAILED, True)


def test_a_full_disk_of_the_database_is_failed(tmp_path: Path) -> None:
    with open_log(Settings(data=tmp_path, partitions=1)) as event_log:
        for error, state in (("could not extend file (SQLSTATE 53100)", FAILED), ("timeout", DEGRADED)):
            outage = Outage()
            outage.fail(f"the database is unavailable: {error}", 1_000.0)
            status.write(event_log, "0", dict([status.outage_change("0", outage, 1_000.0)]))
            [part] = health.persistence_health(event_log, dict, 1_001 * SECOND_US)
            assert (part.state, error in part.sentence) == (state, True)
