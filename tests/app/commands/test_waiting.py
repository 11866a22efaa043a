"""Commands that wait report their completed work; otherwise they name the remaining work and exit with code 3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.app.commands.test_action import DATES, RULES, SPLIT_AT, batch, values
from tests.e2e.support import replay, rows, run_command
from tests.support.commands import invoke
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until

from tickerplant.analytics.service import _StoreStage
from tickerplant.app.commands import feeding

DAY = DATES[SPLIT_AT].isoformat()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Yield a stopped plant with daily bars of ACME and a running store."""
    (tmp_path / "settings.toml").write_text(RULES)
    plant = Plant(tmp_path / "data", {"TICKERPLANT_CONFIG": str(tmp_path / "settings.toml")})
    lines = [f"{day},ACME,{p},{p},{p},{p},{1000 + i % 7}" for i, day in enumerate(DATES) if (p := 100 + i % 11)]
    (tmp_path / "acme.csv").write_text("\n".join(["date,symbol,open,high,low,close,volume", *lines]) + "\n")
    with plant.store():
        replay(plant, tmp_path / "acme.csv", "--interval", "1d")
        yield plant


def test_a_split_whose_indicators_are_not_recomputed_exits_with_3_and_names_what_remains(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_StoreStage, "run_background_work", lambda self, position: None)
        patch.setattr(feeding, "COMPUTED_S", 1.0)
        result = invoke(plant, "action", "split", "ACME", DAY, "4:1")
    assert result.code == feeding.WORK_REMAINS == 3
    assert result.out == f"ACME {DAY}: split 4:1 is in the tables\n"
    who = "the next plant on this folder (`tickerplant up`)"
    assert result.err == f"1 series of indicators are not recomputed yet; {who} completes this\n"
    np.testing.assert_allclose(values(plant), batch(plant, 1.0), rtol=1e-12)
    # The same split changes nothing in the log's state, but the command waits for the queued series.
    result = invoke(plant, "action", "split", "ACME", DAY, "4:1", "--json")
    assert (result.code, result.lines[0]["remaining"]) == (0, None)
    np.testing.assert_allclose(values(plant), batch(plant, 4.0), rtol=1e-12)


def test_a_split_waits_until_a_running_plant_has_recomputed_the_indicators(plant: Plant, tmp_path: Path) -> None:
    running = plant.start("up", "--no-sandbox", "--port", "0", output=tmp_path / "up.log")
    try:
        until(lambda: "tickerplant is up" in (tmp_path / "up.log").read_text(), "the plant to start")
        result = run_command(plant, "action", "split", "ACME", DAY, "4:1")
        assert (result.code, result.out) == (0, f"ACME {DAY}: split 4:1 is in the tables\n"), result.err
        np.testing.assert_allclose(values(plant), batch(plant, 4.0), rtol=1e-12)
    finally:
        running.terminate()
        running.wait(PATIENCE.seconds(30))


def test_a_replay_whose_rows_the_database_refuses_ends_with_the_text_of_the_database(
    plant: Plant, tmp_path: Path
) -> None:
    with plant.store() as dsn:
        rows(dsn, "ALTER TABLE historical_ohlcv ADD CONSTRAINT cheap CHECK (close < 500)")
    (tmp_path / "b.csv").write_text(f"date,symbol,open,high,low,close,volume\n{DAY},DEAR,900,900,900,900,1\n")
    result = invoke(plant, "replay", tmp_path / "b.csv", "--interval", "1d")
    assert result.code == 1
    *_, last = result.err.splitlines()  # after the log line of the refusal
    assert last.startswith("tickerplant: not everything is stored: market.prices.ohlcv/")
    assert " stopped at offset " in last
    assert '"cheap"' in last
    health = invoke(plant, "health")
    assert health.code == 1
    assert "cheap" in health.out
