"""Files of users: each gives values that were worked out by hand, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.market_data.files.formats import ohlcv, replayed, trade, write
from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.bar_folder import BarFolder
from tickerplant.market_data.files.options import ReadOptions

MINUTE = {"symbol": "A", "interval": "1m"}
DAY = {"symbol": "A", "interval": "1d"}
BAR = ("2024-03-28 00:01:00", 1.0, 4.0, 0.5, 2.0, 30.0)
"""Time, open, high, low, close and volume of the bar that most of these files contain."""

READ = {
    "MetaTrader 4 without header": ("2024.03.28,00:01,1,4,0.5,2,30\n", {**MINUTE, "tz": "UTC"}),
    "MetaTrader 5": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2024.03.28\t02:01:00\t1\t4\t0.5\t2\t12\t30\t3\n",
        {**MINUTE, "tz": "Europe/Athens"},
    ),
    "Dukascopy in UTC": (
        "Gmt time,Open,High,Low,Close,Volume\n28.03.2024 00:01:00.000,1,4,0.5,2,30\n",
        MINUTE,
    ),
    "Dukascopy in local time": (
        "Local time,Open,High,Low,Close,Volume\n28.03.2024 01:01:00.000 GMT+0100,1,4,0.5,2,30\n",
        MINUTE,
    ),
    "a minute file of Massive": (
        "ticker,volume,open,close,high,low,window_start,transactions\nA,30,1,2,4,0.5,1711584060000000000,7\n",
        {"interval": "1m"},
    ),
    "bars by their column of intervals, in spite of the trade ids": (
        "time,symbol,interval,open,high,low,last,volume,trade_id\n1711584060,A,1m,1,4,0.5,2,30,t1\n",
        {},
    ),
    "HistData": ("20240327 190100;1;4;0.5;2;30\n", {**MINUTE, "tz": "Etc/GMT+5"}),
    "klines without header": (
        "1711584060000,1,4,0.5,2,30,1711584119999,60,7,10,20,0\n",
        MINUTE,
    ),
    "klines in microseconds": (
        "1711584060000000,1,4,0.5,2,30,1711584119999999,60,7,10,20,0\n",
        MINUTE,
    ),
    "a banner, and volumes by asset": (
        "https://www.example.com\nunix,date,symbol,open,high,low,close,Volume USDT,Volume BTC,tradecount\n"
        "1711584060,2024-03-28 00:01:00,BTC/USDT,1,4,0.5,2,60,30,7\n",
        {"interval": "1m"},
    ),
    "volumes by asset without a symbol column": (
        "time,open,high,low,close,Volume ETH,Volume BTC\n1711584060,1,4,0.5,2,30,60\n",
        {"interval": "1m", "symbol": "ETHBTC"},
    ),
    "Excel's separator, and decimal commas": (
        "sep=;\nDatum;Zeit;Open;High;Low;Close;Volume\n28.03.2024;01:01;1,0;4,0;0,5;2,00;30\n",
        {**MINUTE, "tz": "Europe/Berlin", "columns": {"time": "Datum", "clock": "Zeit"}},
    ),
    "a comma at the end of every row": (
        "time,open,high,low,close,volume\n1711584060,1,4,0.5,2,30,\n",
        MINUTE,
    ),
    "yfinance with three header lines": (
        "Price,Close,High,Low,Open,Volume\nTicker,A,A,A,A,A\nDatetime,,,,,\n2024-03-28 00:01:00+00:00,2,4,0.5,1,30\n",
        {"interval": "1m"},
    ),
    "Stooq": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "A,1,20240328,000100,1,4,0.5,2,30,0\n",
        {"tz": "UTC"},
    ),
    "minutes whose clock has no colon": (
        "Date,Time,Open,High,Low,Close,Volume\n03/28/2024,1,1,4,0.5,2,30\n",
        {**MINUTE, "tz": "UTC"},
    ),
    "AM and PM": (
        "Date,Open,High,Low,Close,Volume\n3/28/2024 12:01 AM,1,4,0.5,2,30\n",
        {**MINUTE, "tz": "UTC"},
    ),
    "bars of Databento with prices in 1e-9": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "1711584060000000000,33,2,7,1000000000,4000000000,500000000,2000000000,30,A\n",
        {},
    ),
    "bars of Databento with a decimal point": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "2024-03-28T00:01:00.000000000Z,33,2,7,1.000000000,4.000000000,0.500000000,2.000000000,30,A\n",
        {},
    ),
    "a separator and a zone in the header's name": (
        "sep=|\nDatetime (UTC)|Open|High|Low|Close|Volume\n2024-03-28 00:01|1|4|0.5|2|30\n",
        MINUTE,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_minute_of_each_format_is_read(tmp_path: Path, name: str) -> None:
    text, options = READ[name]
    summary, (bar,), dead = replayed(tmp_path, write(tmp_path, text), **options)
    assert (ohlcv(bar), dead, summary.kind) == (BAR, [], "bars")


DAYS = {
    "yfinance with three header lines": (
        "Price,Close,High,Low,Open,Volume\nTicker,A,A,A,A,A\nDate,,,,,\n2024-03-28,2,4,0.5,1,30\n",
        {"interval": "1d"},
    ),
    "a page of quotes with thousands and K": (
        '"Date","Price","Open","High","Low","Vol.","Change %"\n'
        '"03/28/2024","2.00","1.00","4.00","0.50","0.03K","0.11%"\n',
        DAY,
    ),
    "a page of quotes with currency signs": (
        "Date,Close/Last,Volume,Open,High,Low\n03/28/2024,$2.00,30,$1.00,$4.00,$0.50\n",
        DAY,
    ),
    "bars that close at Last": ("Time,Open,High,Low,Last,Change,Volume\n2024-03-28,1,4,0.5,2,1,30\n", DAY),
    "a daily file of Massive": (
        "ticker,volume,open,close,high,low,window_start,transactions\nA,30,1,2,4,0.5,1711598400000000000,7\n",
        {"interval": "1d", "tz": "America/New_York"},
    ),
    "days without header, with a symbol": ("A,20240328,1,4,0.5,2,30\n", {"interval": "1d"}),
    "month names": ('Date,Open,High,Low,Close,Volume\n"Mar 28, 2024",1,4,0.5,2,30\n', DAY),
    "MetaTrader": ("<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<VOL>\n2024.03.28\t1\t4\t0.5\t2\t30\n", DAY),
    "decimal commas with thousands": (
        "Datum;Open;High;Low;Close;Volume\n2024-03-28;1,0;4,0;0,5;2,0;30\n",
        {**DAY, "columns": {"time": "Datum"}},
    ),
}


@pytest.mark.parametrize("name", DAYS)
def test_a_day_of_each_format_is_read(tmp_path: Path, name: str) -> None:
    text, options = DAYS[name]
    _, (bar,), dead = replayed(tmp_path, write(tmp_path, text), **options)
    assert (ohlcv(bar), dead) == (("2024-03-28 00:00:00", *BAR[1:]), [])


TRADES = {
    "trades of Massive": (
        "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
        "trf_id,trf_timestamp\n"
        'A,"12,37",0,11,5,1711618200000000001,1.5,9,1711618200123456789,100,1,0,0\n',
        {},
        ("2024-03-28 09:30:00.123456", "A", 1.5, 100.0),
    ),
    "trades of an exchange without header": (
        "41,1.5,2,3.0,1711618200123,True,True\n42,1.5,4,6.0,1711618200124,False,True\n",
        {"symbol": "BTCUSDT"},
        ("2024-03-28 09:30:00.123000", "BTCUSDT", 1.5, 2.0),
    ),
    "aggregate trades without header": (
        "41,1.5,2,70,71,1711618200123456,True,True\n",
        {"symbol": "BTCUSDT"},
        ("2024-03-28 09:30:00.123456", "BTCUSDT", 1.5, 2.0),
    ),
    "TAQ": (
        "DATE,TIME_M,SYM_ROOT,SIZE,PRICE,TR_SCOND\n20240328,9:30:00.123456789,A,100,1.5,@\n",
        {"tz": "UTC"},
        ("2024-03-28 09:30:00.123456", "A", 1.5, 100.0),
    ),
    "trades of Databento, with a cancel": (
        "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence,symbol\n"
        "1711618200123456999,1711618200123456789,0,2,7,T,B,0,1500000000,100,130,1,9,A\n"
        "1711618200123456999,1711618200123456789,0,2,7,C,B,0,1600000000,100,130,1,9,A\n",
        {},
        ("2024-03-28 09:30:00.123456", "A", 1.5, 100.0),
    ),
    "a clock as HHMMSS": (
        "Date,HHMMSS,Symbol,Price,Size\n2024-03-28,93000,A,1.5,100\n",
        {"tz": "UTC"},
        ("2024-03-28 09:30:00.000000", "A", 1.5, 100.0),
    ),
    "a clock as time of day": (
        "trade_date,time_of_day,Symbol,Price,Size\n28.03.2024,09:30:00,A,1.5,100\n",
        {"tz": "UTC"},
        ("2024-03-28 09:30:00.000000", "A", 1.5, 100.0),
    ),
    "a clock as Hour": (
        "Date,Hour,Symbol,Price,Size\n2024-03-28,9:30,A,1.5,100\n",
        {"tz": "UTC"},
        ("2024-03-28 09:30:00.000000", "A", 1.5, 100.0),
    ),
}


@pytest.mark.parametrize("name", TRADES)
def test_a_trade_of_each_format_is_read(tmp_path: Path, name: str) -> None:
    text, options, expected = TRADES[name]
    _, ticks, dead = replayed(tmp_path, write(tmp_path, text), **options)
    assert (trade(ticks[0]), dead) == (expected, [])
    assert {row["flags"] for row in ticks} <= {0, 1, 17}  # the flags of another system are not the plant's
    assert not any(row["price"] == 1.6 for row in ticks)  # a cancel of an order is no trade


HEAD = "time,open,high,low,close,volume\n"
REFUSED = {
    "quotes": (
        "Gmt time,Ask,Bid,AskVolume,BidVolume\n28.03.2024 00:01:00.000,1,1,1,1\n",
        MINUTE,
        "quotes .bid and ask. and no trades",
    ),
    "quotes of MetaTrader": (
        "<DATE>\t<TIME>\t<BID>\t<ASK>\t<LAST>\t<VOLUME>\n2024.03.28\t00:01:00\t1\t1\t\t\n",
        {"symbol": "A"},
        "line 2: the time .* has no zone",
    ),
    "yfinance with two symbols": (
        "Price,Close,Close,Open,Open\nTicker,A,B,A,B\nDate,,,,\n2024-03-28,1,1,1,1\n",
        {"interval": "1d"},
        "several symbols side by side .A, B.",
    ),
    "yfinance and another symbol": (
        "Price,Close,High,Low,Open,Volume\nTicker,A,A,A,A,A\nDate,,,,,\n2024-03-28,2,4,0.5,1,30\n",
        {**DAY, "symbol": "B"},
        "header contains the symbol A, not B",
    ),
    "a local time of MetaTrader": (
        HEAD + "2024.03.28 00:01,1,4,0.5,2,30\n",
        MINUTE,
        "line 2: the time 2024.03.28 00:01 has no zone; set it with --tz",
    ),
    "only bare dates": (
        HEAD + "2024-03-28,1,4,0.5,2,30\n",
        MINUTE,
        "line 2: all times are dates .* such as 2024-03-28",
    ),
    "ticks with bare dates": (
        "date,symbol,price\n20240328,A,1\n",
        {},
        "line 2: all times are dates .* such as 20240328",
    ),
    "Excel's numbers": (
        HEAD + "45379.0007,1,4,0.5,2,30\n",
        MINUTE,
        "line 2: 45379.0007 is not a time: .* Excel's number of 2024-03-28",
    ),
    "numbers with two readings": (
        "time;open;high;low;close\n1711584060;1,234;1,234;1,234;1,234\n",
        MINUTE,
        "1,234 has two readings: .*--decimal comma.*--decimal point",
    ),
    "a close with two readings": (
        "Date,Open,High,Low,Last,Settle\n2024-03-28,1,4,0.5,2,3\n",
        DAY,
        "Last or Settle; set --column close=Last or --column close=Settle",
    ),
    "two readings of a price": (
        "time,symbol,price,size,open,high,low,close\n1711584060,A,2,1,1,4,0.5,2\n",
        {},
        "two readings: bars that close at close .*--column close=close.*, or ticks with the price price "
        ".*--column price=price",
    ),
    "a trade with the day's prices": (
        "time,symbol,last,qty,open,high,low\n1711584060,A,2,1,1,4,0.5\n",
        {},
        "two readings: bars that close at last .*or ticks with the price last",
    ),
    "a volume in another asset": (
        "time,open,high,low,close,Volume USDT\n1711584060,1,4,0.5,2,60\n",
        {**MINUTE, "symbol": "BTCUSDT"},
        "the volume of BTCUSDT in its own units: Volume USDT; set --column 'volume=Volume USDT'",
    ),
    "several instruments without symbols": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume\n"
        "1711584060000000000,33,2,7,1,1,1,1,1\n1711584060000000000,33,2,8,1,1,1,1,1\n",
        {"symbol": "A"},
        "several instruments: 7, 8",
    ),
    "a role that does not exist": (
        HEAD + "1711584060,1,4,0.5,2,30\n",
        {**MINUTE, "columns": {"cls": "close"}},
        "no role 'cls'; the roles are time",
    ),
    "a column that does not exist": (
        HEAD + "1711584060,1,4,0.5,2,30\n",
        {**MINUTE, "columns": {"close": "Settle"}},
        "no column 'Settle'; it has time, open",
    ),
    "closes": ("date,close\n2024-03-28,1\n", {"symbol": "A"}, "line 1: .*neither a file of bars nor of ticks"),
    "no header and an unknown order": ("1711584060,1,5,9,2\n", MINUTE, "line 1: the first line contains numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    text, options, reason = REFUSED[name]
    with pytest.raises(BadInput, match=reason) as refused:
        replayed(tmp_path, write(tmp_path, text), **options)
    assert "\n" not in str(refused.value)
    assert "f.csv" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "options", "kind"),
    [
        (
            "time,symbol,price,size,open,high,low,close\n1711584060,A,2,1,1,4,0.5,2\n",
            {"columns": {"price": "price"}},
            "ticks",
        ),
        ("time,symbol,price,size,open,high,low,close\n1711584060,A,2,1,1,4,0.5,2\n", {"interval": "1m"}, "bars"),
        ("time,symbol,last,qty,open,high,low\n1711584060,A,2,1,1,4,0.5\n", {"columns": {"price": "last"}}, "ticks"),
        (
            "time,symbol,last,qty,open,high,low\n1711584060,A,2,1,1,4,0.5\n",
            {"columns": {"close": "last"}, "interval": "1m"},
            "bars",
        ),
        ("Date,Open,High,Low,Last,Settle\n2024-03-28,1,4,0.5,9,2\n", {"columns": {"close": "settle"}, **DAY}, "bars"),
        ("time;open;high;low;close\n1711584060;1,000;4,000;0,500;2,000\n", MINUTE, "bars"),
        ("date,close\n1711584060,2\n", {"symbol": "A", "columns": {"price": "close"}}, "ticks"),
        (
            "time,open,high,low,close,Volume USDT\n1711584060,1,4,0.5,2,60\n",
            {**MINUTE, "columns": {"volume": "Volume USDT"}},
            "bars",
        ),
    ],
)
def test_an_option_decides_between_two_readings(tmp_path: Path, text: str, options: dict, kind: str) -> None:
    summary, (row,), _ = replayed(tmp_path, write(tmp_path, text), **options)
    assert (summary.kind, row["price" if kind == "ticks" else "close"]) == (kind, 2.0)


@pytest.mark.parametrize(
    ("text", "options", "note"),
    [
        ("Date,Price,Open,High,Low\n2024-03-28,2,1,4,0.5\n", DAY, "the column Price is the close of the bars"),
        (
            "2024.03.28,00:01,1,4,0.5,2,30\n",
            {**MINUTE, "tz": "UTC"},
            "there is no header; the columns are read as date, time",
        ),
        ("time;open;high;low;close\n1711584060;1,0;4,0;0,5;2,0\n", MINUTE, "numbers are read with a decimal comma"),
        (
            "time,open,high,low,close,Volume BTC\n1711584060,1,4,0.5,2,60\n",
            {**MINUTE, "symbol": "BTC/USD"},
            "the column Volume BTC is the volume",
        ),
        ("Date,Open,High,Low,Close\n03.04.2024,1,4,0.5,2\n", DAY, "the day is first in 03.04.2024"),
    ],
)
def test_a_choice_is_noted_and_refused_by_strict(tmp_path: Path, text: str, options: dict, note: str) -> None:
    path = write(tmp_path, text)
    summary, _, _ = replayed(tmp_path, path, **options)
    assert any(each.startswith(note) for each in summary.notes)
    with pytest.raises(BadInput, match=f"--strict: {note}"):
        replayed(tmp_path, path, **options, strict=True)


def test_a_comma_at_the_end_of_every_row_is_noted(tmp_path: Path) -> None:
    summary, _, _ = replayed(tmp_path, write(tmp_path, HEAD + "1711584060,1,4,0.5,2,30,\n"), **MINUTE)
    assert summary.notes[0].startswith("every row ends with a comma that the header does not have")


def test_lines_above_the_header_keep_the_numbers_of_the_rows(tmp_path: Path) -> None:
    text = "Generated on 2024-03-29\n\nSource: example\n" + HEAD + "1711584060,1,4,0.5,2,30\n1711584120,1,4,0.5,x,30\n"
    summary, bars, (dead,) = replayed(tmp_path, write(tmp_path, text), **MINUTE)
    assert "line 4" in summary.notes[0]
    assert (len(bars), dead["reason"]) == (
        1,
        "f.csv line 6: close 'x' is not a number; write it in digits, or set --column close=NAME",
    )


def test_thousands_and_scales_are_numbers(tmp_path: Path) -> None:
    text = (
        "Date,Price,Open,High,Low,Vol.\n"
        '03/28/2024,"5,254.35","5,248.03","5,264.85","5,245.82",3.81B\n'
        '03/27/2024,"5,248.49","5,226.31","5,249.26","5,213.92","1,234.5M"\n'
        "03/26/2024,999.5,999.5,999.5,999.5,-\n"
    )
    _, bars, dead = replayed(tmp_path, write(tmp_path, text), **DAY)
    assert [bar["close"] for bar in bars] == [5254.35, 5248.49, 999.5]
    assert [bar["volume"] for bar in bars] == [3.81e9, 1234.5e6, 0.0]
    assert dead == []


def test_a_decimal_comma_counts_for_numbers_that_have_no_comma(tmp_path: Path) -> None:
    text = "time;open;high;low;close;volume\n1711584060;1.000,5;1.000,5;1.000,5;1.000,5;12.345\n"
    _, (bar,), _ = replayed(tmp_path, write(tmp_path, text), **MINUTE)
    assert (bar["close"], bar["volume"]) == (1000.5, 12345.0)


def test_databentos_prices_in_parquet_have_the_unit_of_their_type(tmp_path: Path) -> None:
    for kind, price in ((pa.int64(), 1_500_000_000), (pa.float64(), 1.5)):
        prices = dict.fromkeys(("open", "high", "low", "close"), pa.array([price], kind))
        time = pa.array([1711584060_000_000_000]).cast(pa.timestamp("ns", tz="UTC"))
        ids = {"rtype": [33], "publisher_id": [2], "instrument_id": [7]}
        pa.parquet.write_table(pa.table({"ts_event": time, **ids, **prices, "volume": [30]}), tmp_path / "t.parquet")
        _, (bar,), _ = replayed(tmp_path, tmp_path / "t.parquet", symbol="A")
        assert (bar["close"], bar["interval"]) == (1.5, "1m")


def test_turnover_shows_which_volume_is_of_the_base_asset(tmp_path: Path) -> None:
    # The file calls bitcoin XBT. 3 × 70,000 is 210,000, and 210,000 × 70,000 is no column.
    text = "time,open,high,low,close,Volume USD,Volume XBT\n1711584060,70000,70000,70000,70000,210000,3\n"
    _, (bar,), _ = replayed(tmp_path, write(tmp_path, text), interval="1m", symbol="BTCUSD")
    assert bar["volume"] == 3.0


def test_symbols_of_any_script_are_read(tmp_path: Path) -> None:
    names = ["M&M.NS", "贵州茅台", "сбер", "A B"]
    text = "time,symbol,price\n" + "".join(f"1711584060,{name},1\n" for name in names)
    _, ticks, (dead,) = replayed(tmp_path, write(tmp_path, text))
    assert [tick["symbol"] for tick in ticks] == ["M&M.NS", "贵州茅台", "СБЕР"]
    assert "line 5: 'A B' is not a symbol" in dead["reason"]


def test_the_options_of_the_vendors_folder_decide_too(tmp_path: Path) -> None:
    days = "".join(f"2024-03-{day};1,000;4,000;0,500;2,000;3,000\n" for day in range(10, 24))
    write(tmp_path, "Date;Open;High;Low;Last;Settle\n" + days, "A.csv")
    (refused,) = BarFolder(tmp_path, ReadOptions()).scan()
    assert "Last or Settle" in (refused.error or "")
    folder = BarFolder(tmp_path, ReadOptions(columns=(("close", "Settle"),), decimal="comma"))
    (indexed,) = folder.scan()
    assert (indexed.error, list(indexed.series)) == (None, [("A", "1d")])
    start_us, end_us = indexed.series["A", "1d"].start_us, indexed.series["A", "1d"].end_us
    bars = folder.bars(["A"], "1d", start_us, end_us, "files")[0]["A"].bars
    assert bars is not None
    assert bars["close"].to_pylist() == [3.0] * 14
