"""JSON of tables, encoded in steps or from the columns of the store; texts of times; and shared results."""

from __future__ import annotations

import datetime as dt
import json
import zoneinfo
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from tests.api.support import MINUTE, T0, bar_batch
from tests.support.waiting import eventually
from tickerplant.api.blocking import Shared
from tickerplant.api.http import formats
from tickerplant.api.http.formats import STEP_ROWS, format_columns, json_rows, time_values, to_json, with_rows
from tickerplant.core.arrow_values import TIMESTAMP
from tickerplant.core.times import datetime_of


@pytest.mark.parametrize("count", [0, 1, STEP_ROWS - 1, STEP_ROWS, STEP_ROWS + 1, 3 * STEP_ROWS])
def test_json_of_a_table_is_the_same_for_every_number_of_steps(count: int) -> None:
    rows = [{"t": str(n), "a b": None if n % 3 else n / 7, "list": ["x"] * (n % 3)} for n in range(count)]
    schema = pa.schema([("t", pa.utf8()), ("a b", pa.float64()), ("list", pa.list_(pa.utf8()))])
    text = to_json({"symbol": "A,B]}", "count": count}, "bars", pa.Table.from_pylist(rows, schema=schema))
    assert json.loads(text) == {"symbol": "A,B]}", "count": count, "bars": rows}
    assert list(json.loads(text)) == ["symbol", "count", "bars"]


def test_a_limited_number_of_texts_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_TEXTS", 10)
    times = T0 + 86_401_000_000 * np.arange(100)
    wanted = [datetime_of(time).isoformat() for time in times.tolist()]
    assert formats.iso_texts(times, dt.UTC) == wanted
    assert max(len(kept) for kept in (formats._dates, formats._clocks)) <= 10


@pytest.mark.parametrize("style", ["iso", "s", "ms", "us"])
@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_json_of_columns_is_that_of_formatted_columns(style: str, sessions: bool, zone: str) -> None:
    rows = [
        {"time": T0 + n * MINUTE, "symbol": "A", "close": [1.5, None, float("nan"), float("inf"), 1e300][n % 5],
         "trades": None if n % 2 else n, "state": "final" if n % 3 else "forming", "published_at": T0 + n}
        for n in range(12)
    ]  # fmt: skip
    for count in (0, 1, 12):
        table = pa.Table.from_batches([bar_batch(rows[:count])])
        tz = zoneinfo.ZoneInfo(zone)
        plain = to_json({"a": 1}, "rows", format_columns(table, tz, style, sessions=sessions))
        assert with_rows({"a": 1}, "rows", json_rows(table, tz, style, sessions=sessions)) == plain


def test_missing_times_are_null() -> None:
    table = pa.table({"at": pa.array([T0, None], pa.int64()).cast(TIMESTAMP)})
    assert json_rows(table, dt.UTC) == b'{"at":"2026-03-09T13:30:00+00:00"},{"at":null}'


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Europe/London"])
def test_times_are_those_of_the_standard_library(zone: str) -> None:
    random, tz = np.random.default_rng(7), zoneinfo.ZoneInfo(zone)
    whole = random.integers(-2_000_000_000, 4_000_000_000, 200) // 900 * 900 * 1_000_000
    for times in (whole, whole + random.integers(1, 1_000_000, 200)):
        expected = [datetime_of(us).astimezone(tz) for us in times.tolist()]
        unit = "seconds" if times is whole else "microseconds"
        usual = [moment.isoformat(timespec=unit) for moment in expected]
        assert time_values(times, tz, "iso", sessions=False) == usual
    days = whole // 86_400_000_000 * 86_400_000_000
    dates = [datetime_of(us).date().isoformat() for us in days.tolist()]
    assert time_values(days, tz, "iso", sessions=True) == dates


async def test_a_stale_result_is_returned_while_the_next_call_runs() -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(0)
        return len(calls)

    with ThreadPoolExecutor(1) as pool:
        shared = Shared(pool, call, stale_s=3_600)
        assert (await shared.get(60))[0] == 1
        found, age_s = await shared.get(60)
        assert found == 1
        assert age_s > 0
        await eventually(lambda: len(calls) == 2)
