"""The command `rebuild` appends a record to the raw topic and counts the rebuilt bars.

A running plant executes the rebuild, or else a plant that the command starts.
"""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tests.aggregation.plant import at
from tests.e2e.support import replay, run_command
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant, kill_tree
from tests.support.waiting import PATIENCE, until

from tickerplant.app.commands.rebuild import _count_rebuilt
from tickerplant.core import records
from tickerplant.core.schemas import BARS, OHLCV, RAW, TOPICS
from tickerplant.core.symbols import partition_of
from tickerplant.core.version import make_version
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog, TopicPartition

FROM, TO = "2026-01-05T14:30", "2026-01-05T14:40Z"
RANGE = ("--from", FROM, "--to", TO)
PARTITIONS = 4


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Yield a stopped plant with a running store and ten minutes of ACME."""
    folder = tmp_path_factory.mktemp("rebuild")
    file = folder / "acme.csv"
    lines = [f"2026-01-05T14:{30 + minute}:10Z,ACME,{10 + minute},7" for minute in range(10)]
    file.write_text("\n".join(["time,symbol,price,size", *lines]) + "\n")
    plant = Plant(folder / "data")
    with plant.store():
        assert replay(plant, file)["ticks"] == 10
        yield plant


def orders(plant: Plant) -> dict[int, list[tuple[int, records.Record]]]:
    """Return the rebuild records of the raw topic by partition, with their offsets."""
    found: dict[int, list[tuple[int, records.Record]]] = {}
    log = open_log("embedded:", data=plant.data)
    try:
        for source, (first, end) in log.offsets(RAW).items():
            for delivery in log.read_range(source, first, end):
                record = records.decode(bytes(delivery.value))
                if isinstance(record.header, records.Rebuild):
                    found.setdefault(source.partition, []).append((delivery.offset, record))
    finally:
        log.close()
    return found


def assert_ordered(plant: Plant, offsets: dict[str, int], *symbols: str) -> None:
    """Check that the newest rebuild of each partition has the requested range and symbols."""
    last = {partition: rebuilds[-1] for partition, rebuilds in orders(plant).items()}
    assert {str(partition): offset for partition, (offset, _) in last.items()} == offsets
    assert len(last) == PARTITIONS
    for partition, (_, record) in last.items():
        assert isinstance(record.header, records.Rebuild)
        assert (record.header.from_us, record.header.to_us) == (at(FROM), at(TO[:-1]))
        wanted = [symbol for symbol in symbols if partition_of(symbol, PARTITIONS) == partition]
        assert record.batch["symbol"].to_pylist() == wanted


def test_a_rebuild_runs_without_a_plant_and_reports_symbols_without_ticks(plant: Plant) -> None:
    result = invoke(plant, "rebuild", "acme", "NOBODY", *RANGE, "--json")
    (report,) = result.lines
    assert result.code == 0
    assert_ordered(plant, report["offsets"], "ACME", "NOBODY")
    assert "NOBODY" in report["nothing"]
    assert "NOBODY" not in report["by_symbol"]
    assert sum(report["by_symbol"].values()) == sum(report["bars"].values()) + report["withdrawn"]
    log = open_log("embedded:", data=plant.data)
    try:
        for source, position in log.committed("aggregation").items():
            assert position > report["offsets"][str(source.partition)]
    finally:
        log.close()
    shown = invoke(plant, "rebuild", "NOBODY", *RANGE)
    assert shown.code == 0
    assert "NOBODY: nothing to rebuild" in shown.err
    assert [row["symbol"] for row in objects(invoke(plant, "query", "ACME", "-i", "1m", "--json"))] == ["ACME"] * 10


def test_with_no_wait_the_command_only_appends_the_record(plant: Plant) -> None:
    (report,) = objects(invoke(plant, "rebuild", "ACME", *RANGE, "--no-wait", "--json"))
    assert report["waited"] is False
    assert_ordered(plant, report["offsets"], "ACME")
    assert "when the plant reads this request" in invoke(plant, "rebuild", "ACME", *RANGE, "--no-wait").out


def test_a_running_plant_executes_the_rebuild(plant: Plant, tmp_path: Path) -> None:
    running = plant.start("up", "--no-sandbox", "--port", "0", output=tmp_path / "up.log")
    try:
        until(lambda: "tickerplant is up" in (tmp_path / "up.log").read_text(), "the plant to start")
        result = run_command(plant, "rebuild", "ACME", *RANGE, "--json")
        assert result.code == 0, result.err
        (report,) = result.lines
        assert report["waited"] is True
        assert_ordered(plant, report["offsets"], "ACME")
        running.terminate()
        assert running.wait(PATIENCE.seconds(30)) == 0
    except subprocess.TimeoutExpired:
        pytest.fail("the plant does not stop")
    finally:
        kill_tree(running)


def test_invalid_rebuilds_are_refused_in_one_sentence(plant: Plant, tmp_path: Path) -> None:
    before = orders(plant)
    assert_refused(invoke(plant, "rebuild", "ACME", "--from", TO, "--to", TO), 2, "is not before --to")
    assert_refused(invoke(plant, "rebuild", "ACME", "--from", "noon", "--to", TO), 2, "--from 'noon' is not a time")
    assert_refused(invoke(plant, "rebuild", "A B", *RANGE), 2, "is not a symbol")
    assert_refused(invoke(Plant(tmp_path / "none"), "rebuild", "ACME", *RANGE), 1, "there is no plant in")
    assert invoke(plant, "rebuild", "ACME", "--from", FROM).code == 2
    assert {p: [o for o, _ in found] for p, found in orders(plant).items()} == {
        p: [o for o, _ in found] for p, found in before.items()
    }


def bars(*rows: tuple[str, str, str], cause: int) -> bytes:
    made = [
        {
            "time": dt.datetime(2026, 1, 5, 14, 30, tzinfo=dt.UTC), "symbol": symbol, "interval": interval,
            "volume": 0.0, "state": state, "complete": True, "history": False, "revision": 1, "version": cause,
            "reason": "rebuild", "source": "s", "published_at": dt.datetime(2026, 1, 6, tzinfo=dt.UTC),
        }
        for symbol, interval, state in rows
    ]  # fmt: skip
    header = records.Bars(sent_at_us=0, cause=cause)
    return records.encode(header, pa.RecordBatch.from_pylist(made, schema=BARS)).to_pybytes()


def test_the_count_contains_bars_with_the_version_of_the_rebuild(tmp_path: Path) -> None:
    log: EventLog = open_log("embedded:", data=tmp_path)
    try:
        log.create_topics(TOPICS, 2)
        mine, others = make_version(1, 7), make_version(1, 8)
        with log.writer("w") as writer, writer.transaction() as transaction:
            transaction.append(OHLCV, 0, bars(("A", "1m", "final"), cause=mine))
            transaction.append(OHLCV, 0, bars(("A", "1m", "final"), ("A", "1m", "forming"), cause=mine))
            transaction.append(OHLCV, 0, bars(("A", "1d", "final"), ("B", "1m", "withdrawn"), cause=mine))
            transaction.append(OHLCV, 0, bars(("A", "1m", "final"), cause=others))
            transaction.append(OHLCV, 1, bars(("C", "1m", "final"), cause=mine))
        made = _count_rebuilt(log, {TopicPartition(OHLCV, 0): 1}, {0: 7, 1: 9})
        assert (made.by_interval, made.withdrawn) == ({"1m": 1, "1d": 1}, 1)
        assert made.by_symbol == {"A": 2, "B": 1}
    finally:
        log.close()
