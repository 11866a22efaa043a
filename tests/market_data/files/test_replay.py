"""A replay appends each row of a file once, and resumes after a kill. Each option has only its own effect."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import tickerplant.market_data.files.replay as replay_module
from tests.market_data.support import OPEN_US, SECOND, Clock, embedded, headers, read_all, rows
from tests.support import data
from tests.support.data import Ticks
from tests.support.killed import Killed
from tickerplant.core import faults, records, schemas
from tickerplant.core.errors import BadInput
from tickerplant.core.times import MINUTE_US
from tickerplant.log.port import EventLog
from tickerplant.market_data.files import csv_file
from tickerplant.market_data.files.layout import FileLayout
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, replay
from tickerplant.market_data.files.row_reader import RowReader


def write(folder: Path, text: str | bytes, name: str = "f.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


FILES = {
    "a session of ticks": (lambda: data.session().path, ReplayOptions()),
    "trades of an exchange": (lambda: data.trades().path, ReplayOptions(symbol="BTCUSDT")),
    "minutes of a 24/7 market": (data.round_the_clock, ReplayOptions(symbol="BTCPERP", interval="1m", tz="UTC")),
    "minutes in local time": (data.new_york, ReplayOptions(symbol="SPY", interval="1m", tz=data.NEW_YORK)),
    "days by month and day": (data.years, ReplayOptions(symbol="SPY", interval="1d")),
    "days by ISO dates": (data.real_days, ReplayOptions(symbol="MSFT", interval="1d")),
}


@pytest.mark.parametrize("name", FILES)
def test_each_form_of_file_is_appended_completely_and_only_once(tmp_path: Path, name: str) -> None:
    path, options = FILES[name][0](), FILES[name][1]
    read = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path, options)
        assert (summary.ticks + summary.bars + summary.repeats, summary.dead) == (len(read), 0)
        kinds = [type(header) for header in headers(log)]
        assert kinds[0] is records.Start
        assert kinds[-1] is records.End
        again = replay(log, path, options)
        assert again.already
        assert len(headers(log)) == len(kinds)
        assert summary.ends == {0: len(kinds) - 1}


@pytest.mark.parametrize("made", [data.session, data.trades])
def test_repeats_of_a_trade_id_are_dropped_and_equal_ticks_are_not(tmp_path: Path, made: Callable[[], Ticks]) -> None:
    ticks = made()
    with embedded(tmp_path, 1) as log:
        summary = replay(log, ticks.path, ReplayOptions(symbol=None if "session" in ticks.path.name else ticks.symbol))
        assert ticks.repeats > 20
        assert (summary.ticks, summary.repeats) == (ticks.count, ticks.repeats)
        stored = [(r["time"], r["price"], r["size"], r["trade_id"]) for r in rows(log, records.Ticks)]
        wanted = ticks.frame.select("time", "price", "size", "trade_id").rows()
        assert sorted(stored, key=lambda row: row[0]) == wanted


def test_local_times_before_and_after_a_clock_change_are_converted_to_utc(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        replay(log, data.new_york(), FILES["minutes in local time"][1])
        found = rows(log, records.VendorBars)
        # New York's sessions begin at 09:30, which is 13:30 UTC until 2020-10-31 and 14:30 UTC from 2020-11-01 on.
        opens = [found[391 * session]["time"].isoformat() for session in range(4)]
        assert opens == [f"2020-{day}:30:00+00:00" for day in ("10-29T13", "10-30T13", "11-02T14", "11-03T14")]
        first = data.new_york().read_text("utf-8-sig").splitlines()[1].split(",")
        bar = found[0]
        assert [bar[name] for name in ("open", "high", "low", "close", "volume")] == [float(text) for text in first[1:]]
        assert (bar["symbol"], bar["interval"]) == ("SPY", "1m")


def test_each_supported_form_of_a_time_gives_the_same_instant(tmp_path: Path) -> None:
    forms = {
        "1340285400": ReplayOptions(),
        "1340285400000": ReplayOptions(),
        "1340285400000000": ReplayOptions(),
        "1340285400000000000": ReplayOptions(),
        "2012-06-21T13:30:00Z": ReplayOptions(),
        "2012-06-21 15:30:00+02:00": ReplayOptions(),
        "2012-06-21 13:30:00.000000000Z": ReplayOptions(),
        "2012-06-21 13:30:00 UTC": ReplayOptions(),
        "2012/06/21 13:30": ReplayOptions(tz="UTC"),
        "2012-06-21 09:30": ReplayOptions(tz="America/New_York"),
        "20120621 093000": ReplayOptions(tz="America/New_York"),
        "20120621 09:30:00": ReplayOptions(tz="America/New_York"),
        "6/21/2012 9:30": ReplayOptions(tz="America/New_York"),
        "21.06.2012 09:30:00": ReplayOptions(tz="America/New_York"),
        "1340285400.0": ReplayOptions(),
    }
    for at, (text, options) in enumerate(forms.items()):
        with embedded(_folder(tmp_path, at), 1) as log:
            replay(log, write(tmp_path, f"time,symbol,price\n{text},A,1\n"), options)
            (row,) = rows(log, records.Ticks)
            assert row["time"].isoformat() == "2012-06-21T13:30:00+00:00", text


def _folder(parent: Path, at: int) -> Path:
    folder = parent / str(at)
    folder.mkdir()
    return folder


def test_a_date_is_midnight_utc_and_an_ambiguous_date_needs_an_option(tmp_path: Path) -> None:
    head = "date,ticker,interval,open,high,low,close,volume\n"
    text = head + "1/2/1990,A,1d,1,1,1,1,0\n"
    with embedded(tmp_path, 1) as log:
        with pytest.raises(BadInput, match=r"line 2: .*--date-order"):
            replay(log, write(tmp_path, text))
        replay(log, write(tmp_path, text), ReplayOptions(date_order="dmy"))
        replay(log, write(tmp_path, text + "1/13/1990,A,1d,1,1,1,1,0\n"))
        assert [row["time"].isoformat()[:10] for row in rows(log, records.VendorBars)] == [
            "1990-02-01",
            "1990-01-02",
            "1990-01-13",
        ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_delimiter_byte_order_mark_and_line_end_is_read(
    tmp_path: Path, delimiter: str, mark: str, end: str
) -> None:
    lines = ["Timestamp,Ticker,Last,Qty,Trade ID", '1340285400,"aapl",1.5,2,x1', "", "1340285401,MSFT,2.5,3,"]
    text = mark + end.join(lines).replace(",", delimiter)
    with embedded(tmp_path, 1) as log:
        summary = replay(log, write(tmp_path, gzip.compress(text.encode()), "x.csv.gz"))
        assert summary.rows_read == 2
        found = [(r["symbol"], r["price"], r["size"], r["trade_id"]) for r in rows(log, records.Ticks)]
        assert found == [("AAPL", 1.5, 2.0, "x1"), ("MSFT", 2.5, 3.0, None)]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, packed: bool) -> None:
    lines = ["<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>"]
    lines += [f"2024.03.28\t{9 + n // 60:02d}:{n % 60:02d}:00\t1\t4\t0.5\t2\t30\t7" for n in range(400)]
    lines += ["2024.03.28\t17:00:00\t1\t4\t0.5\t€\t30\t7"]
    content = "\ufeff".encode(encoding) + "\r\n".join(lines).encode(encoding)
    path = write(tmp_path, gzip.compress(content) if packed else content, "x.csv.gz")
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path, ReplayOptions(symbol="A", interval="1m", tz="UTC"))
        bars = rows(log, records.VendorBars)
    assert (summary.bars, summary.dead) == (400, 1)
    assert "line 402: close '€' is not a number" in summary.errors[0]
    assert [str(bars[at]["time"])[:19] for at in (0, 399)] == ["2024-03-28 09:00:00", "2024-03-28 15:39:00"]
    assert {(bar["high"], bar["close"], bar["volume"]) for bar in bars} == {(4.0, 2.0, 7.0)}


@pytest.mark.parametrize("strict", [False, True])
def test_ticks_of_equal_times_in_a_file_with_the_newest_first_are_a_choice(tmp_path: Path, strict: bool) -> None:
    head, lines = "time,symbol,price,size", ["1340285402,A,3,1", "1340285401,A,2,1", "1340285401,A,1,1"]
    path = write(tmp_path, "\n".join([head, *lines]) + "\n")
    others = {"up.csv": lines[::-1], "distinct.csv": lines[:2], "mixed.csv": [*lines, "1340285403,A,1,1"]}
    with embedded(tmp_path, 1) as log:
        for name, rows_of in others.items():
            other = write(tmp_path, "\n".join([head, *rows_of]) + "\n", name)
            assert replay(log, other, ReplayOptions(strict=strict)).notes == ()
        if strict:
            with pytest.raises(BadInput, match="--strict: the file has the newest trades first"):
                replay(log, path, ReplayOptions(strict=True))
            return
        (note,) = replay(log, path).notes
    assert note.startswith("the file has the newest trades first; of two trades with equal times")


def test_broken_rows_are_dead_letters_with_their_line_and_others_are_appended(tmp_path: Path) -> None:
    text = (
        "time,symbol,price,size\n"
        "1340285400,A,1,1\n"
        "1340285401,A,abc,1\n"
        "\n"
        "1340285402,A,1\n"
        "never,A,1,1\n"
        "1340285403,A,1,-1\n"
        "1340285404,,1,1\n"
        "1340285405,A,,1\n"
        "1340285406,A,2,1\n"
    )
    with embedded(tmp_path, 1) as log:
        summary = replay(log, write(tmp_path, text))
        assert (summary.ticks, summary.dead, summary.rows_read) == (2, 6, 8)
        dead = rows(log, records.Dead, schemas.DEADLETTER)
        assert [row["reason"] for row in dead] == [
            "f.csv line 3: price 'abc' is not a number; write it in digits, or set --column price=NAME",
            "f.csv line 5: 3 values where the header has 4: '1340285402,A,1'; write a value for each column, in quotes "
            "if it contains the delimiter",
            "f.csv line 6: 'never' is not a time; write it like 2024-03-28T09:30:00Z, or like 2024-03-28",
            "f.csv line 7: the size -1.0 is negative or not a finite number",
            "f.csv line 8: '' is not a symbol: use 1 to 32 printable characters without space, quote or comma, "
            "with a letter or digit; a first * means all symbols",
            "f.csv line 9: the price is missing",
        ]
        assert b"abc" in dead[0]["payload"]
        assert dead[1]["payload"] == b"1340285402,A,1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: .* is empty"),
        ("time,symbol,price\n", "line 2: .* no rows"),
        ("when,symbol,price\n1,A,1\n", "line 1: no column for time: .* found when, symbol, price"),
        ("1340285400,1.5\n", "line 1: the first line contains numbers"),
        ("time,price\n1,1\n", "line 1: .*--symbol"),
        ("time,symbol,open,high,low,close\n1,A,1,1,1,1\n", "line 1: .*--interval"),
        ("time;symbol;price\n1340285400;A;1;5\n", "no row of f.csv can be read; line 2: 4 values where the header"),
        ("time,symbol,price\nyesterday,A,1\n", "line 2: 'yesterday' is not a time"),
        ("\n\ntime,symbol,price\n2020-01-01 10:00,A,1\n", "line 4: .*--tz"),
    ],
)
def test_a_missing_option_is_named_and_nothing_is_appended(tmp_path: Path, text: str, reason: str) -> None:
    with embedded(tmp_path, 1) as log:
        with pytest.raises(BadInput, match=reason):
            replay(log, write(tmp_path, text))
        assert read_all(log) == {}


def test_unused_columns_are_named_in_the_summary(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        summary = replay(log, write(tmp_path, "time,symbol,price,mood\n1340285400,A,1,good\n"))
        assert summary.notes == ("no column for size: 0 is used", "columns not used: mood")


def test_times_of_the_hour_that_occurs_twice_are_converted_in_file_order(tmp_path: Path) -> None:
    local = ["00:30", "01:15", "01:45", "01:15", "01:45", "02:30"]
    text = "time,symbol,price\n" + "".join(f"2021-11-07 {at},A,1\n" for at in local)
    with embedded(tmp_path, 1) as log:
        replay(log, write(tmp_path, text), ReplayOptions(tz="America/New_York"))
        found = [row["time"].strftime("%H:%M") for row in rows(log, records.Ticks)]
        assert found == ["04:30", "05:15", "05:45", "06:15", "06:45", "07:30"]


def test_a_time_that_the_clocks_skip_is_a_dead_letter(tmp_path: Path) -> None:
    text = "time,symbol,price\n2021-03-14 01:30,A,1\n2021-03-14 02:30,A,1\n2021-03-14 03:30,A,1\n"
    with embedded(tmp_path, 1) as log:
        assert replay(log, write(tmp_path, text), ReplayOptions(tz="America/New_York")).ticks == 2
        (dead,) = rows(log, records.Dead, schemas.DEADLETTER)
        assert dead["reason"] == (
            "f.csv line 3: the local time 2021-03-14 02:30 does not exist in America/New_York: the clocks skip it; "
            "correct it, or set another --tz"
        )


def parquet(folder: Path, count: int, symbols: int, *, by_symbol: bool = False) -> Path:
    number = np.arange(count)
    which = number * symbols // count if by_symbol else number % symbols
    times = OPEN_US + (number % (count // symbols) if by_symbol else number) * 1_000
    table = pa.table(
        {
            "time": pa.array(times).view(schemas.TIMESTAMP),
            "symbol": pa.DictionaryArray.from_arrays(pa.array(which, pa.int32()), [f"S{i}" for i in range(symbols)]),
            "price": number.astype(np.float64),
            "size": np.ones(count),
        }
    )
    path = folder / "t.parquet"
    pa.parquet.write_table(table, path, row_group_size=10_000)
    return path


@pytest.mark.parametrize("by_symbol", [False, True])
def test_no_tick_is_older_than_an_earlier_watermark(tmp_path: Path, by_symbol: bool) -> None:
    path = parquet(tmp_path, 40_000, 10, by_symbol=by_symbol)
    with embedded(tmp_path) as log:
        replay(log, path)
        for part in read_all(log).values():
            watermark_us = 0
            for record in part:
                if isinstance(record.header, records.Ticks):
                    assert record.batch["time"].cast(pa.int64()).to_numpy().min() >= watermark_us
                watermark_us = max(watermark_us, getattr(record.header, "watermark_us", 0))
        if not by_symbol:
            assert watermark_us > OPEN_US + 20_000_000


POINTS = ("feed.append.before", "feed.append.after", "feed.commit.before", "feed.commit.after")
CASES = [(20_000, point, hits) for point in POINTS for hits in (1, 2, 3)]


@pytest.mark.parametrize(("count", "point", "hits"), [*CASES, (200_000, "feed.commit.after", 2)])
def test_a_killed_replay_resumes_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, point: str, hits: int
) -> None:
    if count < 200_000:  # a tenth of each limit gives as many batches, transactions and blocks as the large file
        monkeypatch.setattr(replay_module, "BATCH_ROWS", replay_module.BATCH_ROWS // 10)
        monkeypatch.setattr(replay_module, "TRANSACTION_BYTES", replay_module.TRANSACTION_BYTES // 10)
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", csv_file.BLOCK_BYTES // 10)
    lines = [f"{1340285400 + n},S{n % 7},{n},{'x' if n % 1000 == 5 else 1}\n" for n in range(count)]
    path = write(tmp_path, "time,symbol,price,size\n" + "".join(lines))
    left = hits

    def hook(name: str) -> None:
        nonlocal left
        left -= name == point
        if not left and name == point:
            raise Killed

    with embedded(tmp_path) as log:
        faults.install(hook)
        try:
            with pytest.raises(Killed):
                replay(log, path)
        finally:
            faults.install(None)
        summary = replay(log, path)
        assert (summary.ticks, summary.dead) == (count - count // 1000, count // 1000)
        prices = np.sort(column(log, "price"))
        assert prices.tolist() == [n for n in range(count) if n % 1000 != 5]
        assert len(rows(log, records.Dead, schemas.DEADLETTER)) == count // 1000
        assert [type(h) for h in headers(log)].count(records.Start) == 1


def column(log: EventLog, name: str) -> np.ndarray:
    """Return a column of all ticks in the log as an array."""
    batches = [r.batch for part in read_all(log).values() for r in part if isinstance(r.header, records.Ticks)]
    return np.concatenate([batch[name].to_numpy() for batch in batches])


def test_a_stopped_replay_appends_down_and_resumes(tmp_path: Path) -> None:
    path = parquet(tmp_path, 40_000, 10)
    stop = threading.Event()
    with embedded(tmp_path) as log:
        first = replay(log, path, progress=lambda p: stop.set(), stop=stop)
        assert first.stopped
        assert 0 < first.ticks < 40_000
        assert isinstance(headers(log)[-1], records.Down)
        second = replay(log, path)
        assert second.ticks == 40_000
        start = [h for h in headers(log) if isinstance(h, records.Start)][-1]
        assert not start.hole
        assert np.sort(column(log, "price")).tolist() == list(range(40_000))


def test_a_replay_with_a_speed_follows_the_times_of_the_file(tmp_path: Path) -> None:
    text = "time,symbol,price\n" + "".join(f"{1340285400 + n},A,1\n" for n in range(0, 600, 10))
    clock = Clock(2_000_000_000 * SECOND)
    began = clock.us

    def sleep(seconds: float) -> None:
        clock.us += int(seconds * SECOND)

    with embedded(tmp_path, 1) as log:
        replay(log, write(tmp_path, text), ReplayOptions(speed=60), clock=clock, sleep=sleep)
        assert clock.us - began == pytest.approx(590 / 60 * SECOND, abs=SECOND)
        for header in headers(log):
            watermark_us = getattr(header, "watermark_us", OPEN_US)
            assert watermark_us <= OPEN_US + (header.sent_at_us - began) * 60 + 1
        marks = [h for h in headers(log) if isinstance(h, records.Mark)]
        assert len(marks) <= 4 * 11


def test_a_replay_with_a_speed_marks_its_feed_if_rows_are_always_due(tmp_path: Path) -> None:
    rows = [1340285400_000 + n + (5 if n % 50 == 10 else 0) for n in range(2_000)]  # some are out of order
    text = "time,symbol,price\n" + "".join(f"{ms},A,1\n" for ms in rows)
    clock = Clock(2_000_000_000 * SECOND)

    def busy_clock() -> int:
        clock.us += 5_000  # each call to the log takes longer than the distance of two rows
        return clock.us

    def sleep(seconds: float) -> None:
        raise AssertionError("no row is due")

    with embedded(tmp_path, 1) as log:
        assert replay(log, write(tmp_path, text), ReplayOptions(speed=1), clock=busy_clock, sleep=sleep).ticks == 2_000
        marks = [header.watermark_us for header in headers(log) if isinstance(header, records.Mark)]
        assert 4 <= len(marks) <= 12
        assert marks == sorted(marks)
        assert set(marks) <= {ms * 1_000 for ms in rows}


def test_a_killed_replay_with_a_speed_resumes_at_its_time(tmp_path: Path) -> None:
    path = write(tmp_path, "time,symbol,price\n" + "".join(f"{1340285400 + n},A,1\n" for n in range(0, 600, 10)))
    clock = Clock(2_000_000_000 * SECOND)

    def sleep(seconds: float) -> None:
        clock.us += int(seconds * SECOND)

    def dies(progress: ReplayProgress) -> None:
        if progress.rows >= 50:
            raise Killed

    with embedded(tmp_path, 1) as log:
        with pytest.raises(Killed):
            replay(log, path, ReplayOptions(speed=60), progress=dies, clock=clock, sleep=sleep)
        again = clock.us
        assert replay(log, path, ReplayOptions(speed=60), clock=clock, sleep=sleep).ticks == 60
        assert clock.us - again == pytest.approx(90 / 60 * SECOND, abs=SECOND)


def test_a_replay_with_other_options_is_another_feed(tmp_path: Path) -> None:
    path = write(tmp_path, "time,price\n1340285400,1\n")
    with embedded(tmp_path, 1) as log:
        first = replay(log, path, ReplayOptions(symbol="A"))
        second = replay(log, path, ReplayOptions(symbol="B"))
        assert first.feed != second.feed
        assert not second.already


BAR = "open,high,low,close"
SAME = {
    "tz of times with a zone": ("time,symbol,price\n2012-06-21T13:30:00Z,A,1\n", {"tz": "Asia/Tokyo"}),
    "tz of epoch times": ("time,symbol,price\n1340285400,A,1\n", {"tz": "Asia/Tokyo"}),
    "tz of dates": (f"date,symbol,interval,{BAR}\n2012-06-21,A,1d,1,1,1,1\n", {"tz": "Asia/Tokyo"}),
    "date_order of ISO dates": ("time,symbol,price\n2012-06-05T13:30:00Z,A,1\n", {"date_order": "dmy"}),
    "date_order that the file shows": (f"date,symbol,interval,{BAR}\n1/13/2012,A,1d,1,1,1,1\n", {"date_order": "mdy"}),
    "the default source": ("time,symbol,price\n1340285400,A,1\n", {"source": "file"}),
    "source of a file with sources": ("time,symbol,price,source\n1340285400,A,1,me\n", {"source": "you"}),
    "conditions of a file without conditions": ("time,symbol,price\n1340285400,A,1\n", {"conditions": "utp"}),
    "conditions of the tape of the file": ("time,symbol,price,cond,tape\n1340285400,A,1,I,C\n", {"conditions": "utp"}),
}


@pytest.mark.parametrize(("text", "given"), SAME.values(), ids=SAME.keys())
def test_an_option_without_effect_keeps_the_feed(tmp_path: Path, text: str, given: dict[str, str]) -> None:
    path = write(tmp_path, text)
    with embedded(tmp_path, 1) as log:
        replay(log, path)
        assert replay(log, path, ReplayOptions(**given)).already  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "given", "other"),
    [
        ("time,symbol,price\n2012-06-21T13:30,A,1\n", {"tz": "US/Eastern"}, {"tz": "America/New_York"}),
        ("time,symbol,price\n2012-06-21T13:30,A,1\n", {"tz": "Etc/GMT"}, {"tz": "UTC"}),
        ("time,price\n1340285400,1\n", {"symbol": "aapl"}, {"symbol": "AAPL"}),
        (f"date,{BAR}\n2012-06-21,1,1,1,1\n", {"symbol": "A", "interval": "1day"}, {"symbol": "A", "interval": "1d"}),
    ],
)
def test_another_spelling_of_an_option_keeps_the_feed(
    tmp_path: Path, text: str, given: dict[str, str], other: dict[str, str]
) -> None:
    path = write(tmp_path, text)
    with embedded(tmp_path, 1) as log:
        replay(log, path, ReplayOptions(**given))  # type: ignore[arg-type]
        assert replay(log, path, ReplayOptions(**other)).already  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("time,symbol,price,source\n1340285400,A,1,me\n1340285401,A,1,\n", {"source": "you"}),
        ("time,symbol,price,cond\n1340285400,A,1,B\n", {"conditions": "utp"}),
        (f"date,symbol,interval,{BAR}\n2012-06-21T01:00Z,A,1d,1,1,1,1\n", {"tz": "America/New_York"}),
        (f"date,symbol,interval,{BAR}\n1/13/2012,A,1d,1,1,1,1\n3/4/2012,A,1d,1,1,1,1\n", {"date_order": "dmy"}),
    ],
)
def test_an_option_with_an_effect_is_another_feed(tmp_path: Path, text: str, given: dict[str, str]) -> None:
    path = write(tmp_path, text)
    with embedded(tmp_path, 1) as log:
        replay(log, path)
        assert not replay(log, path, ReplayOptions(**given)).already  # type: ignore[arg-type]


def test_an_option_without_effect_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path, "time,symbol,price,size\n1340285400,A,1,1\n")
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path, ReplayOptions(tz="Asia/Tokyo", date_order="mdy"))
        assert [note.partition(":")[0] for note in summary.notes] == [
            "--tz has no effect", "--date-order has no effect",
        ]  # fmt: skip


def test_an_invalid_bar_is_a_dead_letter(tmp_path: Path) -> None:
    minute = OPEN_US // MINUTE_US * 60
    text = (
        "time,symbol,interval,open,high,low,close,volume,vwap,trades\n"
        f"{minute},A,1m,1,2,0.5,1.5,10,1.2,4\n"
        f"{minute + 60},A,1m,1,0.5,2,1,10,,\n"
        f"{minute + 90},A,1m,1,2,0.5,1.5,10,,\n"
        f"{minute + 120},A,2m,1,2,0.5,1.5,10,,\n"
        f"{minute + 300},A,5min,1,2,0.5,1.5,,,\n"
    )
    with embedded(tmp_path, 1) as log:
        assert replay(log, write(tmp_path, text)).bars == 2
        first, second = rows(log, records.VendorBars)
        assert (first["vwap"], first["trades"], second["vwap"], second["trades"]) == (1.2, 4, None, None)
        assert (second["interval"], second["volume"]) == ("5m", 0.0)
        dead = [row["reason"].split(": ", 1)[1] for row in rows(log, records.Dead, schemas.DEADLETTER)]
        assert dead[0] == "low 2.0 is above high 0.5"
        assert "is not the start of a 1m interval" in dead[1]
        assert dead[2].startswith("unknown interval '2m'")


@pytest.mark.parametrize(
    ("kind", "columns", "options", "reason"),
    [
        ("ticks", ("time", "symbol", "price", "size"), ReadOptions(symbol="X"), "omit --symbol"),
        ("ticks", ("time", "price", "size"), ReadOptions(symbol="X", interval="1m"), "omit --interval"),
        ("bars", ("time", "open"), ReadOptions(symbol="X", interval="15m"), "may have bars of 1m, 5m, 1d"),
        ("bars", ("time", "interval"), ReadOptions(symbol="X", interval="1m"), "omit --interval"),
    ],
)
def test_an_option_that_contradicts_the_file_is_rejected(
    kind: str, columns: tuple[str, ...], options: ReadOptions, reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        RowReader("file", "line", FileLayout(kind, {name: name for name in columns}), options)
