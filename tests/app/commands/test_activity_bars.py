"""Activity bars and withdrawn bars in read-only commands, on a plant with rules for activity bars."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.api.support import bar_batch
from tests.core.samples import samples
from tests.e2e.support import replay, rows
from tests.support.commands import assert_refused, invoke, objects
from tests.support.data import session
from tests.support.plant import Plant

from tickerplant.app.commands.top import ROWS_PER_SYMBOL, NewestRows, draw
from tickerplant.app.config.settings import load
from tickerplant.app.wiring.log import open_log
from tickerplant.core import records, schemas
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import micros_of
from tickerplant.core.version import make_version

MINUTES = 8
"""Number of replayed minutes of the session. They contain more than 300 ticks."""
RULES = {
    "TICKERPLANT_RULES__ACTIVITY_BARS": json.dumps({"GOOG": ["100t", "1000v"]}),
    "TICKERPLANT_RULES__INDICATORS": json.dumps({"100t": ["SMA(2)"], "1m": ["SMA(2)"]}),
}


def withdraw(plant: Plant, bar: dict[str, Any]) -> None:
    """Append two records as aggregation does: a withdrawn bar, and differences between two sources."""
    row = dict.fromkeys(("open", "high", "low", "close", "vwap")) | {
        "time": micros_of(dt.datetime.fromisoformat(bar["time"])), "symbol": bar["symbol"], "interval": bar["interval"],
        "state": "withdrawn", "volume": 0.0, "trades": 0, "reason": "cancel", "version": make_version(1, 999),
    }  # fmt: skip
    differing = samples()["differences"]
    settings = load({"data": str(plant.data)}).settings
    with open_log(settings) as event_log, event_log.writer("test") as writer, writer.transaction() as out:
        partition = partition_of(bar["symbol"], event_log.partitions(schemas.OHLCV))
        header = records.Bars(sent_at_us=row["time"])
        out.append(schemas.OHLCV, partition, records.encode(header, bar_batch([row])))
        out.append(schemas.STATUS, partition, records.encode(differing.header, differing.batch))


def test_commands_show_activity_bars_and_withdrawn_bars(tmp_path: Path) -> None:
    plant, prices = Plant(tmp_path / "data", RULES), session(MINUTES).frame["price"].to_list()
    full, rest = divmod(len(prices), 100)
    with plant.store() as dsn:
        counted = replay(plant, session(MINUTES).path)["bars"]
        assert list(counted) == ["1m", "5m", "1d", "1000v", "100t"], "time intervals are listed first"
        bars = objects(invoke(plant, "query", "GOOG", "-i", "100t", "--json"))
        assert [bar["trades"] for bar in bars] == [100] * full + [rest]
        assert [bar["open"] for bar in bars] == prices[::100]
        first = bars[0]["time"]
        assert first.startswith("2012-06-21T13:30:00.")
        assert len(invoke(plant, "query", "GOOG", "-i", "1000v").out.splitlines()) == 2 + counted["1000v"]
        assert len(objects(invoke(plant, "query", "GOOG", "-i", "100t", "--start", bars[1]["time"], "--json"))) == full
        assert_refused(invoke(plant, "query", "GOOG", "-i", "77t"), 1, "no 77t bars of GOOG")
        assert_refused(invoke(plant, "query", "GOOG", "-i", "5d"), 2, "100t")

        def newest() -> list[str]:
            shown = invoke(plant, "top", "--seconds", "1", "-i", "100t").out
            _, goog = (line.split() for line in shown.splitlines() if line.strip())
            return goog[:3]

        assert newest() == ["GOOG", bars[-1]["time"][11:19], f"{bars[-1]['close']:.7g}"]
        withdraw(plant, bars[-1])
        assert newest() == ["GOOG", bars[-2]["time"][11:19], f"{bars[-2]['close']:.7g}"]
        (gone,) = objects(invoke(plant, "tail", "ohlcv", "-n", "1", "--json"))
        assert (gone["state"], gone["interval"], gone["close"], gone["volume"]) == ("withdrawn", "100t", None, 0.0)
        assert "state=withdrawn" in invoke(plant, "tail", "ohlcv", "-n", "1").out
        statuses = objects(invoke(plant, "tail", "status", "-n", "2", "--json"))
        assert [(row["kind"], row["symbol"], row["close"], row["other_high"]) for row in statuses] == [
            ("differences", "GOOG", 11.0, 12.5), ("differences", "EUR/USD", None, None),
        ]  # fmt: skip

        other = tmp_path / "other.csv"
        other.write_text("time,symbol,price,size\n2012-06-21T13:31:10Z,X,600,7\n")
        replay(plant, other)
        assert objects(invoke(plant, "query", "GOOG", "-i", "100t", "--json")) == bars[:-1]
        # The bars of the other file and the values of the remaining bars are stored.
        found = rows(dsn, "SELECT symbol, interval, count(*), count(sma_2) FROM intraday_analytics GROUP BY 1, 2")
        assert {row[:2]: row[2:] for row in found if row[1] == "100t"} == {("GOOG", "100t"): (full, full - 1)}
        (report,) = objects(invoke(plant, "health", "--json"))
        (part,) = (part for part in report["parts"] if part["name"] == "left out of bars")
        assert (part["state"], part["details"]) == (
            "ok", {"sandbox": {"late_ticks": 0, "unsupported": 0, "differences": 2}},
        )  # fmt: skip


def test_top_omits_columns_that_do_not_fit_a_narrow_terminal() -> None:
    bar = {"time": dt.datetime(2012, 6, 21, 13, 30, tzinfo=dt.UTC), "state": "forming"}
    bar |= dict.fromkeys(("open", "high", "low", "close", "volume"), 220.05) | {"trades": 12}
    key = dict.fromkeys(("time", "symbol", "interval", "state", "version"), 0)
    values = {"GOOG": key | dict.fromkeys(("sma_20", "sma_50", "ema_12", "bbands_20_2_upper", "rsi_14"), 220.05)}

    def shown(width: int) -> str:
        console = Console(width=width, file=io.StringIO())
        with console.capture() as captured:
            console.print(draw(console, "1m", {"GOOG": bar}, values))
        assert max(map(len, captured.get().splitlines())) <= width
        return captured.get()

    assert "…" not in shown(200) + shown(80) + shown(40)
    assert "no room" not in shown(200)
    assert shown(80).splitlines()[0].split()[:10] == [
        "symbol", "1m", "bar", "last", "open", "high", "low", "volume", "trades", "state"
    ]  # fmt: skip
    assert "no room for sma_50, ema_12, bbands_20_2_upper, rsi_14" in shown(80)
    assert shown(40).splitlines()[0].split()[:4] == ["symbol", "1m", "bar", "last"]


def test_top_shows_the_bar_before_a_withdrawn_one() -> None:
    rows = NewestRows()

    def take(time: int, version: int, state: str = "final") -> None:
        rows.add({"symbol": "A", "time": time, "version": version, "state": state})

    def there() -> int | None:
        return rows.rows()["A"]["time"] if rows.rows() else None

    for time in range(10):
        take(time, 1)
    take(9, 2, "withdrawn")
    take(9, 1, "forming")
    assert there() == 8
    take(9, 3)
    assert there() == 9
    for time in range(10 - ROWS_PER_SYMBOL, 10):
        take(time, 4, "withdrawn")
    assert there() is None


def test_activity_bars_in_a_file_are_refused(tmp_path: Path) -> None:
    plant, file = Plant(tmp_path / "data"), tmp_path / "bars.csv"
    file.write_text("time,symbol,open,high,low,close,volume\n2012-06-21T13:31:10Z,X,1,1,1,1,7\n")
    with plant.store():
        result = invoke(plant, "replay", file, "--interval", "100t")
        assert (result.code, result.out) == (2, "")
        assert "are aggregated from ticks" in result.err
        lines = ["time,symbol,interval,open,high,low,close,volume"]
        lines += [f"2012-06-21T13:31:00Z,X,{interval},1,1,1,1,7" for interval in ("1m", "100t")]
        file.write_text("\n".join(lines))
        summary = replay(plant, file)
        assert (summary["vendor_bars"], summary["dead_lettered"]) == (1, 1)


@pytest.mark.parametrize("interval", ["7m", "2w"])
def test_unknown_intervals_are_refused_with_the_known_ones(tmp_path: Path, interval: str) -> None:
    assert_refused(invoke(Plant(tmp_path), "query", "GOOG", "-i", interval), 2, "1m, 5m, 15m", "100t")
