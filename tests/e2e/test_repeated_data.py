"""Files with parts of a minute, and several rows of one bar: the command line reports both, the store has one bar."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from tests.e2e.support import rows
from tests.support.plant import Plant

pytestmark = [pytest.mark.slow]

HEAD = "time,symbol,price,size\n"
BARS = """
    SELECT interval, to_char(time AT TIME ZONE 'UTC', 'HH24:MI'), close, complete FROM intraday_ohlcv
    WHERE state = 'final' ORDER BY interval, time
"""


def test_replay_names_a_minute_that_two_files_cut_until_the_user_decides(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(HEAD + "2012-06-21T13:30:01Z,A,1,1\n2012-06-21T13:31:10Z,A,2,1\n")
    second.write_text(HEAD + "2012-06-21T13:31:40Z,A,3,1\n2012-06-21T13:33:00Z,A,4,1\n")
    plant.run("replay", str(first), "--no-wait")
    done = json.loads(plant.run("replay", str(second), "--json"))
    assert done["cut_minutes"] == [{"symbol": "A", "time": "2012-06-21T13:31:00Z"}]
    with plant.store() as dsn:
        assert rows(dsn, BARS) == [
            ("1m", "13:30", 1.0, True), ("1m", "13:31", 2.0, False), ("1m", "13:33", 4.0, True),
            ("5m", "13:30", 4.0, False),
        ]  # fmt: skip
    decided = json.loads(plant.run("replay", str(second), "--whole", "--json"))
    assert decided["changed"]
    with plant.store() as dsn:
        assert rows(dsn, BARS) == [
            ("1m", "13:30", 1.0, True), ("1m", "13:31", 3.0, True), ("1m", "13:33", 4.0, True),
            ("5m", "13:30", 4.0, True),
        ]  # fmt: skip


def test_the_last_of_several_rows_of_a_bar_is_stored(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data")
    first = dt.date(1960, 1, 1)
    days = [first + dt.timedelta(days=number) for number in range(17_000)]  # more than one record of the log
    lines = [f"{day},1,1,1,1,1\n" for day in days] + [f"{days[5]},2,2,2,2,1\n", f"{days[-1]},3,3,3,3,1\n"]
    file = tmp_path / "days.csv"
    file.write_text("date,open,high,low,close,volume\n" + "".join(lines))
    done = json.loads(plant.run("replay", str(file), "--symbol", "A", "--interval", "1d", "--json"))
    assert (done["vendor_bars"], done["conflicts"], done["errors"]) == (17_002, 2, [])
    assert "2 rows differ from an earlier row of the same bar" in done["notes"][-1]
    with plant.store() as dsn:
        found = rows(dsn, "SELECT time::date, close FROM historical_ohlcv WHERE close <> 1 ORDER BY time")
        assert found == [(days[5], 2.0), (days[-1], 3.0)]
        assert rows(dsn, "SELECT count(*) FROM historical_ohlcv WHERE symbol = 'A'") == [(17_000,)]
    head = "time,symbol,price,size,source,trade_id,flags\n"
    file.write_text(head + "2012-06-21T13:30:01Z,B,1,1,file,1,0\n2012-06-21T13:30:02Z,B,1,1,file,9,4\n")
    done = json.loads(plant.run("replay", str(file), "--json"))
    assert done["unused"] == {"cancel or correction of a print that has not come": 1}
