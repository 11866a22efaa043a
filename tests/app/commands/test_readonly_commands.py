"""Read-only commands and set-up commands, on one plant that has replayed a file.

The commands run in the test process through the same `main`. Separate processes would take ten times as long.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from tests.e2e.support import replay, rows, run_command
from tests.support.commands import assert_refused, invoke, objects
from tests.support.data import session
from tests.support.plant import Plant

from tickerplant.app.health import GROUPS
from tickerplant.core.schemas import TEXT, TOPICS
from tickerplant.core.schemas import TICKS as TICKS_SCHEMA
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.market_data.feed.writer import FeedWriter

MINUTES = 8


@pytest.fixture(scope="module")
def stored() -> pl.DataFrame:
    """Return the ticks of the first eight minutes of a session, in time order."""
    return session(MINUTES).frame


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Yield a stopped plant that has replayed the file. Its store runs, so that no command waits for its start."""
    plant = Plant(tmp_path_factory.mktemp("readonly") / "data")
    with plant.store():
        assert replay(plant, session(MINUTES).path)["ticks"] == session(MINUTES).count
        yield plant


def test_query_prints_the_bars_as_a_table_as_csv_and_as_objects(plant: Plant, stored: pl.DataFrame) -> None:
    prices = stored["price"].to_list()
    (day,) = objects(invoke(plant, "query", "goog", "--json"))
    assert (day["symbol"], day["interval"], day["time"]) == ("GOOG", "1d", "2012-06-21T00:00:00Z")
    assert [day[name] for name in ("open", "high", "low", "close")] == [
        prices[0], max(prices), min(prices), prices[-1]
    ]  # fmt: skip
    shown = invoke(plant, "query", "GOOG", "-i", "5m")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[0].strip() == "GOOG 5m"
    assert [line.split()[0] for line in shown.out.splitlines()[2:]] == ["2012-06-21T13:30:00Z", "2012-06-21T13:35:00Z"]
    lines = invoke(plant, "query", "GOOG", "-i", "5m", "--csv").out
    closes = stored.group_by(pl.col("time").dt.truncate("5m"), maintain_order=True).agg(pl.col("price").last())
    assert [row["close"] for row in csv.DictReader(io.StringIO(lines))] == [f"{close}" for close in closes["price"]]


def test_query_accepts_a_range_and_a_limit_of_newest_rows(plant: Plant) -> None:
    def times(*arguments: str) -> list[str]:
        return [row["time"][11:16] for row in objects(invoke(plant, "query", "GOOG", "-i", "1m", "--json", *arguments))]

    assert times() == [f"13:{30 + minute}" for minute in range(MINUTES)]
    # The start is inclusive and the end exclusive. A time without a zone is UTC.
    assert times("--start", "2012-06-21T13:31", "--end", "2012-06-21T09:33:00-04:00") == ["13:31", "13:32"]
    assert times("--start", "2012-06-21", "--limit", "2") == ["13:36", "13:37"]


def test_invalid_queries_are_refused_in_one_sentence(plant: Plant) -> None:
    assert_refused(invoke(plant, "query", "NONE", "--json"), 1, "no 1d bars of NONE")
    assert_refused(invoke(plant, "query", "GOOG", "--csv", "--json"), 2, "exclude each other")
    assert_refused(invoke(plant, "query", "GOOG", "-i", "7m"), 2, "use one of 1m, 5m, 15m")
    assert_refused(
        invoke(plant, "query", "GOOG", "--start", "2012-06-22", "--end", "2012-06-21"), 2, "not before --end 2012-06-21"
    )


def test_query_computes_indicators_beside_the_bars(plant: Plant) -> None:
    command = ("query", "GOOG", "-i", "1m", "--indicator", "SMA(2)", "--indicator", "TA_EMA(3)")
    found = objects(invoke(plant, *command, "--json"))
    close = [row["close"] for row in found]
    assert found[0]["sma_2"] is None
    assert [row["sma_2"] for row in found[1:]] == pytest.approx([(a + b) / 2 for a, b in pairwise(close)])
    assert [row["ta_ema_3"] is None for row in found] == [True, True] + [False] * (MINUTES - 2)
    # Earlier bars are read as warm-up.
    assert objects(invoke(plant, *command, "--json", "-n", "2")) == found[-2:]
    assert objects(invoke(plant, *command, "--json", "--start", "2012-06-21T13:33", "--limit", "2")) == found[-2:]
    lines = invoke(plant, *command, "--csv").out
    assert next(csv.DictReader(io.StringIO(lines))).keys() >= {"time", "close", "sma_2", "ta_ema_3"}
    assert invoke(plant, *command).out.splitlines()[1].split()[-2:] == ["sma_2", "ta_ema_3"]

    short = invoke(plant, "query", "GOOG", "-i", "1m", "--indicator", "RSI(14)", "--json")
    assert (short.code, short.err) == (0, f"rsi_14 needs {15 - MINUTES} more bars\n")
    assert_refused(invoke(plant, "query", "GOOG", "--indicator", "RSII"), 2, "did you mean")
    assert_refused(invoke(plant, "query", "NONE", "--indicator", "RSI"), 1, "no 1d bars of NONE")


def test_tail_prints_rows_of_a_topic(plant: Plant, stored: pl.DataFrame) -> None:
    found = objects(invoke(plant, "tail", "raw", "--symbol", "goog", "--from", "earliest", "-n", "1000", "--json"))
    ticks = [row for row in found if row["kind"] == "ticks"]
    assert len(ticks) == len(stored)
    assert {"partition", "offset", "kind", "time", "price", "size"} <= ticks[0].keys()
    time, _, *first = stored.row(0)[:4]
    assert [ticks[0][name] for name in ("time", "price", "size")] == [f"{time:%Y-%m-%dT%H:%M:%S.%f}Z", *first]
    assert len(objects(invoke(plant, "tail", "market.prices.ohlcv", "-n", "3", "--json"))) == 3
    assert len(invoke(plant, "tail", "status").out.splitlines()) > 0


def test_tail_finds_the_last_rows_of_a_symbol_at_any_depth(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    with EmbeddedLog(plant.data / "market.log") as log:
        log.create_topics(TOPICS, 2)
        with FeedWriter(log, "feed", clock=count(2_000_000_000_000_000, 1_000_000).__next__) as feed:
            feed.start(["A", "B"], start_us=0)
            for price in range(1, 7):
                feed.append_ticks(ticks([("A", price), ("A", price + 0.5)] if price < 4 else [("B", price)]), 0)
            for second in range(100):
                assert feed.mark(1_400_000_000_000_000 + second)
    found = objects(invoke(plant, "tail", "raw", "--symbol", "a", "-n", "4", "--json"))
    assert [row["price"] for row in found] == [2.0, 2.5, 3.0, 3.5]
    # A start and six ticks.
    assert len(objects(invoke(plant, "tail", "raw", "--symbol", "A", "-n", "50", "--json"))) == 7
    assert [row["kind"] for row in objects(invoke(plant, "tail", "raw", "-n", "3", "--json"))] == ["mark"] * 3
    assert_refused(invoke(plant, "tail", "raw", "--symbol", "C"), 0, "no matching records")


def ticks(prints: list[tuple[str, float]]) -> pa.RecordBatch:
    """Return prints with these symbols and prices, all with one time and with size 1."""
    symbols, prices = zip(*prints, strict=True)
    times, size = pa.array([1_340_285_400_000_000] * len(prints), pa.timestamp("us", tz="UTC")), len(prints)
    texts = [pa.array(texts).dictionary_encode().cast(TEXT) for texts in (symbols, ["x"] * size)]
    columns = [
        times, texts[0], pa.array(prices, pa.float64()), pa.array([1.0] * size), texts[1],
        pa.nulls(size, pa.utf8()), pa.array([0] * size, pa.uint16()), times,
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=TICKS_SCHEMA)


def test_tail_reports_missing_rows_and_invalid_arguments(plant: Plant) -> None:
    assert_refused(invoke(plant, "tail", "deadletter", "--json"), 0, "market.deadletter has no matching records")
    assert_refused(invoke(plant, "tail", "prices", "--json"), 2, "no topic 'prices'", "raw, ohlcv, analytics")
    assert_refused(invoke(plant, "tail", "raw", "--from", "noon"), 2, "--from 'noon' is not a time")


def test_top_shows_each_symbols_newest_bar(plant: Plant, stored: pl.DataFrame) -> None:
    shown = invoke(plant, "top", "--seconds", "1")
    assert (shown.code, shown.err) == (0, "")
    heading, goog = (line.split() for line in shown.out.splitlines() if line.strip())
    assert heading[:3] == ["symbol", "1m", "bar"]
    assert goog[:3] == ["GOOG", "13:37", f"{stored['price'][-1]:.7g}"]
    assert_refused(invoke(plant, "top", "--seconds", "1", "-i", "15m"), 2, "1m, 5m, 1d")


def test_health_exits_with_0_for_a_healthy_running_plant_and_1_otherwise(plant: Plant, tmp_path: Path) -> None:
    result = invoke(plant, "health", "--json")
    (report,) = objects(result)
    assert (result.code, report["status"]) == (1, "failed"), report
    parts = {part["name"]: part for part in report["parts"]}
    assert {"plant", "log", "store", "lag aggregation", "lag analytics", "lag persistence"} <= parts.keys()
    assert [name for name, part in parts.items() if part["state"] != "ok"] == ["plant"]
    assert parts["plant"]["sentence"] == f"not running; start it with `tickerplant up --data {plant.data}`"
    with running(plant):
        result = invoke(plant, "health")
    assert (result.code, result.out.splitlines()[-1]) == (0, "ok"), result.out


@contextmanager
def running(plant: Plant) -> Iterator[None]:
    """Join the consumer groups as a running plant does."""
    with EmbeddedLog(plant.data / "market.log") as log, ExitStack() as stack:
        for group, topics in GROUPS.items():
            stack.enter_context(log.reader(topics, group=group)).poll(timeout_s=0.1)
        yield


LOOKING = (
    "query A", "tail raw", "top --seconds 1", "compare", "verify", "migrate --status", "adopt", "adopt --yes",
    "rebuild A --from 2012-06-21 --to 2012-06-22",
)  # fmt: skip


@pytest.mark.parametrize("command", LOOKING)
def test_read_only_commands_create_no_plant(command: str, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        result = invoke(Plant(folder), *command.split())
        assert_refused(result, 1, f"there is no plant in {folder};", f"`tickerplant up --data {folder}`")
        assert list(tmp_path.iterdir()) == []


def test_health_reports_a_missing_plant_and_creates_none(tmp_path: Path) -> None:
    result = invoke(Plant(tmp_path), "health", "--json")
    (report,) = objects(result)
    assert (result.code, report["status"]) == (1, "failed")
    (part,) = report["parts"]
    assert (part["name"], part["state"]) == ("plant", "failed")
    assert f"there is no plant in {tmp_path};" in part["sentence"]
    assert list(tmp_path.iterdir()) == []


def test_read_only_commands_report_unavailable_brokers_and_the_time_waited(plant: Plant) -> None:
    unreachable = ("--log", "kafka://127.0.0.1:1")
    result = invoke(plant, "health", "--json", *unreachable)
    (report,) = objects(result)
    parts = {part["name"]: part for part in report["parts"]}
    assert (result.code, parts["plant"]["state"], parts["log"]["state"]) == (1, "failed", "failed")
    assert (
        "no broker at kafka://127.0.0.1:1 answered within 4 s; start a broker, or correct --log"
        in parts["log"]["sentence"]
    )
    assert parts["store"]["sentence"] == "postgresql answers"
    refusal = "no broker at kafka://127.0.0.1:1 answered within"
    assert_refused(invoke(plant, "tail", "raw", *unreachable), 1, refusal, "correct --log")


def test_a_short_command_logs_no_service_lines_unless_requested(tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("time,symbol,price,size\n2012-06-21T13:30:00Z,A,1,1\n")
    assert run_command(Plant(tmp_path / "one"), "replay", file, "--json").err == ""
    result = run_command(Plant(tmp_path / "two"), "replay", file, "--json", "--log-level", "info")
    assert '"level": "info"' in result.err


def test_config_names_every_setting_and_its_origin(plant: Plant) -> None:
    found = {row["name"]: row for row in objects(invoke(plant, "config", "--json"))}
    assert (found["data"]["value"], found["data"]["origin"]) == (str(plant.data), "flag")
    shown = invoke(plant, "config")
    assert (shown.code, shown.err) == (0, "")
    assert len(shown.out.splitlines()) == 1 + len(found)


def test_set_up_commands_keep_existing_parts(plant: Plant) -> None:
    migrations = objects(invoke(plant, "migrate", "--status", "--json"))
    assert migrations
    assert all(row["applied"] for row in migrations)
    shown = invoke(plant, "migrate", "--status").out.splitlines()
    assert [line.split() for line in shown[1:]] == [[row["name"], "yes"] for row in migrations]
    assert objects(invoke(plant, "init-db", "--json")) == [{"applied": [], "reader": "tickerplant_reader"}]
    assert invoke(plant, "init-db").out == "all migrations are applied\n"
    (topics,) = objects(invoke(plant, "create-topics", "--json"))
    assert (topics["made"], topics["partitions"], topics["generation"]) == ([], 4, 1)
    assert_refused(invoke(plant, "create-topics", "--partitions", "9"), 1, "has 4 partitions, not 9")
    unset = Plant(plant.data, {**plant.env, "TICKERPLANT_PARTITIONS": ""})
    (topics,) = objects(invoke(unset, "create-topics", "--json"))
    assert (topics["made"], topics["partitions"]) == ([], 4), "an existing log keeps its count"


def test_a_store_of_a_lost_log_continues_with_a_new_one_after_adopt(tmp_path: Path) -> None:
    plant, file = Plant(tmp_path / "data"), session(MINUTES).path
    with plant.store() as dsn:
        assert invoke(plant, "create-topics").code == 0
        backup = {path.name: path.read_bytes() for path in plant.data.glob("market.log*") if path.is_file()}
        assert replay(plant, file)["ticks"] == session(MINUTES).count
        followed = invoke(plant, "adopt")
        assert (followed.code, followed.err) == (0, "")
        assert "generation 1; nothing changed" in followed.out

        # A log from a backup is behind the store. `adopt` refuses it, because the store already follows this log.
        lost_log(plant)
        for name, content in backup.items():
            (plant.data / name).write_bytes(content)
        assert_refused(invoke(plant, "adopt", "--yes"), 1, "ahead of its log", "create a new log", "adopt --yes")

        # Another existing log is refused: its generation is not greater than that of the lost log.
        other = ["--log", f"sqlite://{tmp_path}/other.log"]
        assert invoke(plant, "create-topics", *other).code == 0
        assert_refused(invoke(plant, "adopt", "--yes", *other), 1, "generation 1", "that does not exist yet")

        # Every command refuses a new log before `adopt --yes`.
        lost_log(plant)
        for command in (["replay", file], ["run", "persistence"]):
            assert_refused(run_command(plant, *command), 1, "this log is new", "`tickerplant adopt --yes`")
        result = invoke(plant, "adopt")
        assert (result.code, result.out) == (1, "")
        assert "again with --yes" in result.err
        (adopted,) = objects(invoke(plant, "adopt", "--yes", "--json"))
        assert adopted["changed"]
        assert adopted["adopted"].endswith("generation 2")
        (again,) = objects(invoke(plant, "adopt", "--yes", "--json"))
        assert again == {"adopted": adopted["adopted"], "changed": False}

        # Bars of the new generation replace older ones. Other bars remain.
        restated = tmp_path / "restated.csv"
        lines = [f"2012-06-21T13:{minute}:10Z,GOOG,{price},7" for minute, price in ((31, 600), (32, 601))]
        restated.write_text("\n".join(["time,symbol,price,size", *lines]))
        assert replay(plant, restated)["changed"]
        bars = rows(
            dsn,
            "SELECT to_char(time AT TIME ZONE 'UTC', 'HH24:MI'), close, trades, version >> 40 FROM intraday_ohlcv "
            "WHERE interval = '1m' ORDER BY time",
        )
        assert len(bars) == MINUTES
        assert [bar[:3] for bar in bars if bar[3] == 2] == [("13:31", 600.0, 1), ("13:32", 601.0, 1)]
        with running(plant):
            assert invoke(plant, "health").code == 0


def lost_log(plant: Plant) -> Path:
    """Move the log out of the data folder and return the folder that contains it now."""
    folder = plant.data.parent / f"lost{len(list(plant.data.parent.iterdir()))}"
    folder.mkdir()
    for path in plant.data.glob("market.log*"):
        path.rename(folder / path.name)
    return folder
