"""`move` on a real broker and a real database: `move` is killed and repeated, and then a killed replay resumes.

`make test-all` runs these tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.support import assert_bars, bars_of_ticks, rows, run_command, stored_bars
from tests.e2e.test_services import free_port
from tests.support.commands import assert_refused, invoke
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, until
from tests.upgrade import ticks
from tickerplant.core.errors import UnknownTopic
from tickerplant.core.schemas import RAW, TOPICS
from tickerplant.log.kafka import KafkaLog

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

POINTS = (
    "move.claim.after:1", "move.log.step:2", "move.records.after:1", "move.store.before:1", "move.store.step:3",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ticks.write_ticks(tmp_path_factory.mktemp("file") / "ticks.csv")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    """Return the data folder of a plant with stored days and a replay that was killed in the middle."""
    plant = Plant(tmp_path_factory.mktemp("embedded") / "data", {"TICKERPLANT_PARTITIONS": "2"})
    days = ticks.write_days(plant.data.parent / "days.csv")
    plant.run("replay", str(days), "--symbol", "FILEDAYS", "--interval", "1d")
    output = plant.data.parent / "killed.log"
    process = plant.start("replay", str(file), "--speed", "240", output=output,
                          TICKERPLANT_GATHER_MS="50", TICKERPLANT_TESTING__CRASH_AT="feed.commit.after:20")  # fmt: skip
    assert process.wait() == -signal.SIGKILL, output.read_text()
    with plant.store():  # waits for the database of the killed process, and stops it at the end
        pass
    return plant.data


@pytest.mark.parametrize("point", POINTS)
def test_a_moved_plant_continues_with_all_history(
    embedded: Path,
    file: Path,
    tmp_path: Path,
    kafka_broker: KafkaBroker,
    postgres: Postgres,
    empty_dsn: str,
    point: str,
) -> None:
    source = tmp_path / "source"
    subprocess.run(["cp", "-a", embedded, source], check=True)  # -a keeps the owner of the cluster's files
    prefix = f"moved{os.getpid()}-{POINTS.index(point)}."
    plant = Plant(tmp_path / "data", {
        "TICKERPLANT_LOG": f"kafka://{kafka_broker.bootstrap}?prefix={prefix}",
        "TICKERPLANT_STORE": postgres.over_tcp(empty_dsn), "TICKERPLANT_HISTORY": "none",
        "TICKERPLANT_API__PORT": str(free_port()), "TICKERPLANT_SANDBOX__ENABLED": "false",
    })  # fmt: skip
    output = tmp_path / "up.log"
    process = plant.start("move", str(source), output=output, TICKERPLANT_TESTING__CRASH_AT=point)
    assert process.wait() == -signal.SIGKILL, output.read_text()
    refused = run_command(plant, "up")
    assert refused.code == 1
    assert "the store follows log" in refused.err
    moved = json.loads(plant.run("move", str(source), "--json"))
    assert moved["rows"]["historical_ohlcv"] == 60
    assert moved["skipped"] == []
    again = invoke(plant, "move", source)
    assert_refused(again, 1, f"follows log {moved['log_id']} (generation 1) already", "start the services")
    plant.run("verify")
    up = plant.start("up", output=output)
    try:
        summary = json.loads(plant.run("replay", str(file), "--json").splitlines()[-1])
        assert (summary["ticks"], summary["repeats"], summary["dead_lettered"]) == (ticks.TICKS, 0, 0)
        days = file.parent / "days.csv"
        ticks.write_days(days)
        replayed = plant.run("replay", str(days), "--symbol", "FILEDAYS", "--interval", "1d", "--json")
        assert json.loads(replayed.splitlines()[-1])["read"] == 0
        frame = pl.read_csv(file, try_parse_dates=True).with_columns(pl.col("size").cast(pl.Float64))
        dsn = plant.env["TICKERPLANT_STORE"]
        until(lambda: rows(dsn, "SELECT count(*) FROM realtime_prices") == [(ticks.TICKS,)], "all ticks")
        stored = rows(dsn, "SELECT time, symbol, price, size, trade_id FROM realtime_prices")
        assert sorted(stored) == sorted(frame.rows())
        for symbol in ticks.SYMBOLS:
            assert_bars(stored_bars(dsn, symbol, "1m"), bars_of_ticks(frame.filter(pl.col("symbol") == symbol), "1m"))
        assert rows(dsn, "SELECT count(*) FROM historical_ohlcv WHERE symbol = 'FILEDAYS'") == [(60,)]
    except BaseException as error:
        error.add_note(output.read_text()[-4000:])
        raise
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(PATIENCE.seconds(60))
    plant.run("verify")


def test_used_targets_and_wrong_settings_are_refused(
    embedded: Path, tmp_path: Path, kafka_broker: KafkaBroker, postgres: Postgres, empty_dsn: str
) -> None:
    prefix = f"used{os.getpid()}."
    log = f"kafka://{kafka_broker.bootstrap}?prefix={prefix}"
    env = {"TICKERPLANT_LOG": log, "TICKERPLANT_STORE": postgres.over_tcp(empty_dsn)}
    plant = Plant(tmp_path / "a", env)
    assert_refused(invoke(Plant(tmp_path / "a"), "move", embedded), 2, "set log")
    assert_refused(invoke(Plant(tmp_path / "a", {"TICKERPLANT_LOG": log}), "move", embedded), 2, "set store")
    assert_refused(invoke(plant, "move", tmp_path), 2, str(tmp_path), "is not the data folder of an embedded plant")
    older = tmp_path / "older"
    subprocess.run(["cp", "-a", embedded, older], check=True)
    with Plant(older).store() as dsn:
        rows(dsn, "DELETE FROM schema_migrations WHERE number = (SELECT max(number) FROM schema_migrations)")
    assert_refused(invoke(plant, "move", older), 1, "the embedded database lacks migration", "start and stop the plant")
    plant.run("init-db")
    rows(empty_dsn, "INSERT INTO plant (log_id, generation) VALUES ('other', 1)")
    with KafkaLog(kafka_broker.bootstrap, topic_prefix=prefix, patience_s=PATIENCE.seconds(30)) as new:
        assert_refused(invoke(plant, "move", embedded), 1, "the database follows log other (generation 1) already")
        with pytest.raises(UnknownTopic):  # the refused command has created no topics
            new.identity()
        rows(empty_dsn, "DELETE FROM plant")
        new.create_topics(TOPICS, 2)
        with new.writer("test") as writer, writer.transaction() as transaction:
            transaction.append(RAW, 1, b"record")
    assert_refused(invoke(plant, "move", embedded), 1, "the topic market.prices.raw has records already; use other")
    assert rows(empty_dsn, "SELECT count(*) FROM plant") == [(0,)]
