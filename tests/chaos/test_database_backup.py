"""The steps of docs/backup.md for Kafka and another database: a dump is restored, and the log fills it up again.

`make test-all` runs these tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import polars as pl
import pytest

from tests.e2e.support import assert_bars, bars_of_ticks, rows, stored_bars
from tests.e2e.test_services import free_port
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, until
from tests.upgrade import ticks
from tests.upgrade.fixture import BINARIES

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]


def run(program: str, dsn: str, *arguments: str) -> None:
    """Run a program of PostgreSQL on a database over TCP, as a user does."""
    parts = urlsplit(dsn)
    address = parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}").geturl()
    done = subprocess.run(
        [BINARIES / program, *arguments, f"--dbname={address}"], capture_output=True, text=True, check=False,
        env={**os.environ, "PGPASSWORD": unquote(parts.password or "")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def wait_for_bars(dsn: str, symbol: str, count: int) -> None:
    until(lambda: len(stored_bars(dsn, symbol, "1m")) == count, f"{count} bars of {symbol}")


def test_a_restored_dump_is_filled_up_from_the_log(
    tmp_path: Path, kafka_broker: KafkaBroker, postgres: Postgres, empty_dsn: str
) -> None:
    files = []
    for number in (0, 1):
        files.append(tmp_path / f"{number}.csv")
        lines = [",".join(row) for row in ticks.rows()[number * 300 : number * 300 + 300]]
        files[-1].write_text("\n".join(["time,symbol,price,size,trade_id", *lines]) + "\n")
    env = {
        "TICKERPLANT_LOG": f"kafka://{kafka_broker.bootstrap}?prefix=dump{os.getpid()}.",
        "TICKERPLANT_STORE": postgres.over_tcp(empty_dsn), "TICKERPLANT_HISTORY": "none", "TICKERPLANT_PARTITIONS": "2",
        "TICKERPLANT_API__PORT": str(free_port()), "TICKERPLANT_SANDBOX__ENABLED": "false",
    }  # fmt: skip
    plant, dump = Plant(tmp_path / "data", env), tmp_path / "market.dump"
    up = plant.start("up", output=tmp_path / "up.log")
    plant.run("replay", str(files[0]))
    run("pg_dump", env["TICKERPLANT_STORE"], "--format=custom", f"--file={dump}")  # while the plant runs
    plant.run("replay", str(files[1]))
    up.send_signal(signal.SIGTERM)
    up.wait(PATIENCE.seconds(60))

    name = postgres.new("template0")
    restored = postgres.over_tcp(postgres.dsn_of(name))
    run("pg_restore", restored, "--exit-on-error", str(dump))
    assert rows(restored, "SELECT count(*) FROM realtime_prices") == [(300,)]
    plant = Plant(plant.data, {**env, "TICKERPLANT_STORE": restored})
    up = plant.start("up", output=tmp_path / "up.log")
    try:
        until(lambda: rows(restored, "SELECT count(*) FROM realtime_prices") == [(600,)], "all ticks")
        frame = pl.concat(pl.read_csv(file, try_parse_dates=True) for file in files)
        frame = frame.with_columns(pl.col("size").cast(pl.Float64))
        for symbol in ticks.SYMBOLS:
            wanted = bars_of_ticks(frame.filter(pl.col("symbol") == symbol), "1m")
            wait_for_bars(restored, symbol, len(wanted))
            assert_bars(stored_bars(restored, symbol, "1m"), wanted)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(PATIENCE.seconds(60))
    postgres.drop(name)
