"""`tickerplant doctor` on a real TimescaleDB: the extension, the background workers and their settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from tickerplant.app.config.settings import Settings
from tickerplant.app.doctor import store
from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding

pytestmark = pytest.mark.timescale


def findings(dsn: str, data: Path) -> dict[str, Finding]:
    return {one.name: one for one in store.store(Settings(data=data, store=SecretStr(dsn)))}


def test_a_timescaledb_is_recognised_with_its_workers(timescale_dsn: str, tmp_path: Path) -> None:
    found = findings(timescale_dsn, tmp_path)
    assert found["store"].state == OK, found
    assert found["timescaledb"].state == OK, found
    assert found["timescaledb"].sentence.startswith("TimescaleDB 2.")
    workers = found["background workers"]
    assert "timescaledb.max_background_workers is" in workers.sentence
    assert workers.state in (OK, WARN, FAIL)
    assert bool(workers.advice) == (workers.state != OK)
    assert {"connections", "migrations"} <= found.keys()
