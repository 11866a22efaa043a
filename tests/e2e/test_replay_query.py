"""The commands `replay` and `query` on a file, and a second `replay` of the same file."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

MINUTES = 390
PRINTS_A_MINUTE = 7


def tickerplant(*arguments: str | Path, code: int = 0) -> str:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
    result = subprocess.run(
        [sys.executable, "-m", "tickerplant.app", *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE.seconds(200), env=bare, check=False,
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout


@pytest.fixture
def session(tmp_path: Path) -> tuple[Path, dict[str, list[tuple[float, int]]]]:
    """Return the file of a generated session (one symbol, 2012-06-21 in New York) and its prints by minute."""
    path, minutes = tmp_path / "session.csv.gz", defaultdict(list)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "symbol", "price", "size"])
        for minute in range(MINUTES):
            start = f"2012-06-21T{13 + (30 + minute) // 60:02d}:{(30 + minute) % 60:02d}"
            for number in range(PRINTS_A_MINUTE):
                price, size = 500 + ((minute * 13 + number * 29) % 97) / 100, 1 + (minute + number) % 50
                writer.writerow([f"{start}:{number * 8 + 1:02d}.250Z", "GOOG", f"{price:.4f}", size])
                minutes[f"{start}:00Z"].append((price, size))
    return path, minutes


@pytest.mark.slow
def test_a_replayed_session_is_stored_and_a_second_replay_changes_nothing(session, tmp_path_factory) -> None:
    path, minutes = session
    data = tmp_path_factory.mktemp("d")
    summary = json.loads(tickerplant("replay", path, "--data", data, "--json"))
    assert summary["changed"]
    assert summary["ticks"] == MINUTES * PRINTS_A_MINUTE
    assert summary["bars"] == {"1m": MINUTES, "5m": MINUTES // 5, "1d": 1}

    text = tickerplant("query", "GOOG", "--interval", "1m", "--csv", "--data", data)
    bars = {row["time"]: row for row in csv.DictReader(io.StringIO(text))}
    assert bars.keys() == minutes.keys()
    for time, prints in minutes.items():
        prices = [price for price, _ in prints]
        bar = bars[time]
        assert [float(bar[name]) for name in ("open", "high", "low", "close")] == [
            prices[0], max(prices), min(prices), prices[-1]
        ]  # fmt: skip
        assert float(bar["volume"]) == sum(size for _, size in prints)
        assert int(bar["trades"]) == PRINTS_A_MINUTE

    (day,) = [json.loads(line) for line in tickerplant("query", "goog", "--json", "--data", data).splitlines()]
    every = [tick for prints in minutes.values() for tick in prints]
    assert day["time"] == "2012-06-21T00:00:00Z"
    assert day["volume"] == sum(size for _, size in every)
    assert (day["high"], day["low"]) == (max(p for p, _ in every), min(p for p, _ in every))

    again = json.loads(tickerplant("replay", path, "--data", data, "--json"))
    assert not again["changed"]
    assert again["bars"] == {}
    assert tickerplant("query", "GOOG", "--interval", "1m", "--csv", "--data", data) == text

    health = json.loads(tickerplant("health", "--data", data, "--json", code=1))
    assert [part["name"] for part in health["parts"] if part["state"] != "ok"] == ["plant"], (
        health
    )  # no plant runs, so `health` exits with 1
