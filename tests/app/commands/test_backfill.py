"""The command `backfill` with and without a running plant, and its report of bars that are still missing."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant, kill_tree
from tests.support.waiting import PATIENCE, until

from tickerplant.core.errors import LogError
from tickerplant.log.open import open_log
from tickerplant.market_data.backfill.progress import Progress, read_progress

SYMBOLS = ("AAPL", "MSFT")


@pytest.fixture(scope="module")
def vendor() -> Iterator[dict[str, Any]]:
    """Run a sandbox process and yield its address. The sandbox lists the requests that it received."""
    # The clock begins yesterday at 15:00 UTC: a new day, which adds a missing daily bar, cannot begin during a test.
    start = dt.datetime.combine(dt.datetime.now(dt.UTC) - dt.timedelta(days=1), dt.time(15), dt.UTC)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tickerplant.sandbox", "--names", ",".join(SYMBOLS), "--rate", "10",
            "--start", start.isoformat(),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE.seconds(10))
    process.stdout.close()


def plant_on(folder: Path, vendor: dict[str, Any], **env: str) -> Plant:
    return Plant(
        folder / "data",
        {
            "TICKERPLANT_SYMBOLS": ",".join(SYMBOLS),
            "TICKERPLANT_HISTORY": "1d:10,5m:2,1m:1",
            "TICKERPLANT_SANDBOX__ENABLED": "true",
            "TICKERPLANT_SANDBOX__URL": vendor["url"],
            "TICKERPLANT_PARTITIONS": "2",
            **env,
        },
    )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, vendor: dict[str, Any]) -> Plant:
    return plant_on(tmp_path_factory.mktemp("backfill"), vendor)


@contextmanager
def up(plant: Plant) -> Iterator[None]:
    """Run the plant during the block; check that it stops with exit code 0."""
    process = plant.start("up", output=plant.data.parent / "up.log")
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE.seconds(30)) == 0
    finally:
        kill_tree(process)


def progress_of(plant: Plant) -> Progress | None:
    """Return the newest progress of the backfill manager, or None if the log does not contain it yet."""
    if not (plant.data / "market.log").exists():
        return None
    log = open_log("embedded:", data=plant.data)
    try:
        return read_progress(log)
    except LogError:
        return None  # the topics of the log are being created
    finally:
        log.close()


def idle(plant: Plant) -> bool:
    """Return whether the backfill manager has fetched bars and has no work left."""
    progress = progress_of(plant)
    return progress is not None and progress.bars > 0 and not progress.working


def request_count(vendor: dict[str, Any]) -> int:
    found = httpx.get(f"{vendor['url']}/sandbox/requests", timeout=PATIENCE.seconds(30)).json()["requests"]
    return sum(call["path"] == "/time_series" for call in found)


def test_a_backfill_starts_its_own_plant_and_a_second_run_requests_little(plant: Plant, vendor: dict[str, Any]) -> None:
    [report] = objects(invoke(plant, "backfill", "--json"))
    assert report["bars"] > 2 * (1_400 + 250 + 9)
    assert report["gaps"] == []
    before = request_count(vendor)
    result = invoke(plant, "backfill", "-i", "1d")
    assert result.code == 0
    assert "0 bars from 0 requests" in result.out
    assert "nothing is missing" in result.out
    assert request_count(vendor) == before


def test_an_order_may_exceed_the_settings(plant: Plant) -> None:
    [report] = objects(
        invoke(plant, "backfill", "AAPL", "-i", "1d", "--from", "2026-01-05", "--to", "2026-01-15", "--json")
    )
    assert report["bars"] == 10
    assert report["gaps"] == []


def test_the_command_orders_a_backfill_from_a_running_plant_and_shows_its_result(
    tmp_path: Path, vendor: dict[str, Any]
) -> None:
    plant = plant_on(tmp_path, vendor, TICKERPLANT_HISTORY="1d:5", TICKERPLANT_API__PORT="0")
    with up(plant):
        until(lambda: idle(plant), "the plant to fetch its history", 60)
        [report] = objects(invoke(plant, "backfill", "MSFT", "-i", "1d", "--from", "2026-02-02", "--to", "2026-02-09",
                             "--json"))  # fmt: skip
        assert report["bars"] == 7, (
            "the command fetches the ordered bars, and none between them and the configured history"
        )
        assert report["gaps"] == []
        progress = progress_of(plant)
        assert progress is not None
        assert progress.orders


def test_two_concurrent_orders_are_both_executed_by_a_plant_without_history(
    tmp_path: Path, vendor: dict[str, Any]
) -> None:
    plant = plant_on(tmp_path, vendor, TICKERPLANT_HISTORY="none", TICKERPLANT_API__PORT="0")
    with up(plant):
        until(lambda: progress_of(plant) is not None, "the first progress record", 60)
        days = ("-i", "1d", "--from", "2026-02-02", "--to", "2026-02-09", "--json")
        outputs = [tmp_path / name for name in SYMBOLS]
        both = [plant.start("backfill", name, *days, output=out) for name, out in zip(SYMBOLS, outputs, strict=True)]
        assert [one.wait(PATIENCE.seconds(60)) for one in both] == [0, 0], [out.read_text() for out in outputs]
        assert [json.loads(out.read_text())["gaps"] for out in outputs] == [[], []]
        progress = progress_of(plant)
        assert progress is not None
        assert (progress.bars, len(progress.orders)) == (14, 2)


def test_missing_bars_are_listed_with_their_reason(tmp_path: Path, vendor: dict[str, Any]) -> None:
    plant = plant_on(
        tmp_path, vendor, TICKERPLANT_VENDORS__QUOTAS="sandbox=1/day", TICKERPLANT_VENDORS__GAP_FILL_RESERVE="0"
    )
    result = invoke(plant, "backfill", "-i", "1d", "--from", "2026-02-02", "--to", "2026-02-07")
    assert result.code == 0, result
    assert "5 bars from 1 requests" in result.out
    assert "5 bars are still missing" in result.out
    assert "quota" in result.out
    assert "sandbox" in result.out


def test_invalid_arguments_are_refused(tmp_path: Path, vendor: dict[str, Any]) -> None:
    plant = plant_on(tmp_path, vendor)
    assert_refused(invoke(plant, "backfill", "-i", "1w"), 2, "1m, 5m, 1d")
    assert_refused(invoke(plant, "backfill", "--from", "2026-02-02", "--to", "2026-02-01"), 2, "not before")
    assert_refused(invoke(plant, "backfill", "--from", "2126-02-02"), 2, "future")
    alone = Plant(tmp_path / "data", {"TICKERPLANT_SANDBOX__ENABLED": "false"})
    assert_refused(invoke(alone, "backfill"), 2, "no vendor is configured")
    assert not os.path.exists(plant.data / "market.log")
