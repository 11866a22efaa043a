"""`tickerplant alert` with a plant that runs only during replays."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.plant import Plant

MINUTE = "2026-03-09T14:{:02d}:01Z,ACME,{},100\n"


def ticks(path: Path, first: int, *prices: float) -> str:
    rows = [MINUTE.format(first + i, price) for i, price in enumerate(prices)]
    path.write_text("time,symbol,price,size\n" + "".join(rows))
    return str(path)


def test_rules_are_stored_evaluated_by_the_next_replay_and_paused(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data", {"TICKERPLANT_RULES__CALENDARS": '{"*": "24/7"}', "TICKERPLANT_PARTITIONS": "1"})
    refused = subprocess.run(
        plant.command("alert", "list"), env=plant.environment(), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "no plant" in refused.stderr
    plant.run("replay", ticks(tmp_path / "a.csv", 0, 9, 9))
    rule = json.loads(plant.run("alert", "add", "acme", "close", "crosses_above", "10", "--json"))
    assert (rule["symbol"], rule["rule"], rule["in_log"]) == ("ACME", "close crosses_above 10", True)
    drop = json.loads(plant.run("alert", "add", "ACME", "close", "percent_change", "-10", "--bars", "2", "--json"))
    assert drop["rule"] == "close percent_change(2) -10"
    plant.run("replay", ticks(tmp_path / "b.csv", 5, 9, 11, 12, 9))
    assert [json.loads(line)["id"] for line in plant.run("alert", "list", "--json").splitlines()] == [
        rule["id"],
        drop["id"],
    ]
    plant.run("alert", "pause", rule["id"])
    assert json.loads(plant.run("alert", "show", rule["id"], "--json"))["active"] is False
    plant.run("alert", "remove", drop["id"])
    plant.run("replay", ticks(tmp_path / "c.csv", 15, 9, 11, 12, 5))
    fired = [json.loads(line) for line in plant.run("alert", "firings", "--json").splitlines()]
    found = sorted((row["rule_id"], row["time"], row["left"], row["webhook"]) for row in fired)
    wanted = [
        (rule["id"], "2026-03-09T14:06:00Z", 11.0, None),
        (drop["id"], "2026-03-09T14:08:00Z", 100.0 * (9 / 11 - 1), None),
    ]
    assert found == sorted(wanted)
    assert "close crosses_above 10" in plant.run("alert", "firings", rule["id"])
    unknown = subprocess.run(
        plant.command("alert", "show", "x"), env=plant.environment(), capture_output=True, text=True, check=False
    )
    assert (unknown.returncode, "alert list" in unknown.stderr) == (2, True)
