"""A session of ticks from its file to the tables: each tick is stored exactly once, with every log and store."""

from __future__ import annotations

import datetime as dt
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.support import (
    CONTENTS,
    Row,
    assert_bars,
    assert_indicators,
    assert_same_contents,
    bars_of_ticks,
    contents,
    midnight,
    replay,
    rows,
    stored_bars,
)
from tests.support.data import SESSION, SILENT_MINUTES, session
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant
from tests.support.waiting import until
from tickerplant.store.server.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.slow]

SYMBOLS = 7
SERVICES = ("aggregation", "analytics", "persistence")


@pytest.fixture(scope="module")
def ticks() -> pl.DataFrame:
    """Return the ticks of the file, without repeats and in time order."""
    assert min(session().repeats, session().late, session().duplicates_without_id) > 20
    return session().frame


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Return a plant with default settings and the replayed file."""
    plant = Plant(tmp_path_factory.mktemp("session") / "data")
    summary = replay(plant, session().path)
    assert summary["changed"]
    found = (summary["ticks"], summary["dead_lettered"], summary["repeats"])
    assert found == (session().count, 0, session().repeats)
    return plant


@pytest.fixture(scope="module")
def dsn(plant: Plant) -> Iterator[str]:
    with plant.store() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def goog(dsn: str) -> dict[str, list[Row]]:
    return contents(dsn)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the session and a copy of it under other symbols, so that several partitions have rows."""
    path = tmp_path_factory.mktemp("many") / "many.csv.gz"
    with gzip.open(session().path, "rt") as source, gzip.open(path, "wt") as target:
        target.write(next(source))
        for line in source:  # equal lines get one symbol, so that a repeat stays a repeat
            target.write(line + line.replace("GOOG", f"S{zlib.crc32(line.encode()) % SYMBOLS}"))
    return path


@pytest.fixture(scope="module")
def four(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    return embedded(many, tmp_path_factory.mktemp("four"), 4)


def embedded(file: Path, folder: Path, partitions: int) -> dict[str, list[Row]]:
    plant = Plant(folder / "data")
    assert replay(plant, file, "--partitions", str(partitions))["ticks"] == 2 * session().count
    with plant.store() as dsn:
        return contents(dsn)


def test_every_tick_of_the_file_is_stored_exactly_once(dsn: str, ticks: pl.DataFrame) -> None:
    stored = rows(dsn, "SELECT time, symbol, price, size, coalesce(trade_id, '') FROM realtime_prices")
    wanted = ticks.select("time", "symbol", "price", "size", pl.col("trade_id").fill_null("")).rows()
    assert sorted(stored) == sorted(wanted)


@pytest.mark.parametrize(("interval", "most"), [("1m", 390 - len(SILENT_MINUTES)), ("5m", 78)])
def test_intraday_bars_equal_an_independent_computation(
    dsn: str, ticks: pl.DataFrame, interval: str, most: int
) -> None:
    wanted = bars_of_ticks(ticks, interval)
    assert 0.9 * most < len(wanted) <= most
    assert_bars(stored_bars(dsn, "GOOG", interval), wanted)


def test_bars_of_stored_ticks_in_order_of_arrival_equal_the_published_minutes(dsn: str) -> None:
    stored = rows(dsn, 'SELECT time, price, size FROM realtime_prices ORDER BY time, version, "row"')
    frame = pl.DataFrame(stored, schema=["time", "price", "size"], orient="row")
    assert frame["time"].n_unique() < len(frame), "some ticks share an instant"
    assert_bars(stored_bars(dsn, "GOOG", "1m"), bars_of_ticks(frame, "1m"))


def test_the_daily_bar_contains_the_regular_session(dsn: str, ticks: pl.DataFrame) -> None:
    clock = pl.col("time").dt.convert_time_zone("America/New_York").dt.time()
    (wanted,) = bars_of_ticks(ticks.filter(clock >= dt.time(9, 30), clock < dt.time(16)), "1d")
    assert_bars(stored_bars(dsn, "GOOG", "1d"), [(midnight(SESSION), *wanted[1:])])


@pytest.mark.parametrize("interval", ["5m", "1d"])
def test_stored_indicators_equal_ta_lib(dsn: str, ticks: pl.DataFrame, interval: str) -> None:
    wanted = bars_of_ticks(ticks, interval)
    assert_indicators(dsn, "GOOG", interval, wanted)


def test_every_bar_is_final_and_complete(dsn: str) -> None:
    for table in ("intraday_ohlcv", "historical_ohlcv"):
        found = rows(dsn, f"SELECT DISTINCT state, complete, history, source FROM {table}")
        assert found == [("final", True, False, "file")]


def test_the_same_file_again_changes_nothing(plant: Plant, dsn: str) -> None:
    everything = {table: f"SELECT * FROM {table} ORDER BY symbol, time, {table}::text" for table in CONTENTS}
    before = {table: rows(dsn, sql) for table, sql in everything.items()}
    summary = replay(plant, session().path)
    assert not summary["changed"]
    assert summary["bars"] == {}
    assert {table: rows(dsn, sql) for table, sql in everything.items()} == before


def test_other_symbols_do_not_change_a_symbol(four: dict[str, list[Row]], goog: dict[str, list[Row]]) -> None:
    assert_same_contents({table: [r for r in found if r[0] == "GOOG"] for table, found in four.items()}, goog)


@pytest.mark.parametrize("partitions", [1, 16])
def test_the_number_of_partitions_does_not_matter(
    many: Path, tmp_path: Path, four: dict[str, list[Row]], partitions: int
) -> None:
    assert_same_contents(embedded(many, tmp_path, partitions), four)


@pytest.mark.kafka
def test_kafka_and_an_external_postgresql_give_the_same_tables(
    many: Path, tmp_path: Path, four: dict[str, list[Row]], kafka_broker: KafkaBroker
) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        env = {"TICKERPLANT_LOG": f"kafka://{kafka_broker.bootstrap}?prefix=session.", "TICKERPLANT_STORE": server.dsn}
        plant = Plant(tmp_path / "data", env)
        running = []
        try:
            plant.run("create-topics", "--partitions", "4")
            plant.run("init-db")
            running = [plant.start("run", name, output=tmp_path / f"{name}.log") for name in SERVICES]
            assert replay(plant, many)["ticks"] == 2 * session().count
            assert_same_contents(contents(server.dsn), four)
            assert not replay(plant, many)["changed"]
            assert_same_contents(contents(server.dsn), four)
        finally:
            for process in running:
                process.terminate()
            until(lambda: all(p.poll() is not None for p in running), "the services to stop")
        logs = "".join((tmp_path / f"{name}.log").read_text() for name in SERVICES)
        assert [process.returncode for process in running] == [0] * len(SERVICES), logs
        assert "Traceback" not in logs, logs
