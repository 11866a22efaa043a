"""Fuzz targets: each parser of vendors' answers with its seeds and invariants; and a mutator for JSON.

A parser must return valid batches of the right schema or dead letters, or raise VendorError. It must terminate and must
not raise another exception.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core.arrow_values import times_of
from tickerplant.core.schemas import DIVIDENDS, SPLITS, TICKS, VENDOR_BARS
from tickerplant.core.times import FOREVER_US
from tickerplant.market_data.clients.alphavantage import messages as alphavantage
from tickerplant.market_data.clients.twelvedata import messages as twelvedata
from tickerplant.market_data.clients.twelvedata import quotes as quotes
from tickerplant.market_data.clients.yahoo import messages as yahoo
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.port import BarsRequest

GOLDEN = Path(__file__).parents[1] / "tests" / "market_data" / "golden"
NOW_US = 1_893_456_000_000_000  # 2030: after all times in seeds
START_US, END_US = -FOREVER_US, FOREVER_US
STATUSES = (200, 400, 200, 429, 200, 500, 302)


@dataclass(frozen=True)
class Target:
    """A parser. `run` parses a payload; it raises AssertionError or another exception if the parser is wrong."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def good(batch: pa.RecordBatch, schema: pa.Schema) -> None:
    """Assert that a batch is valid, has the schema, and is sorted by time unless it contains ticks."""
    assert batch.schema.equals(schema), batch.schema
    batch.validate(full=True)
    for name, field in zip(schema.names, schema, strict=True):
        assert field.nullable or not batch[name].null_count, name
    if schema is not TICKS and batch.num_rows:
        assert (np.diff(times_of(batch["time"])) >= 0).all()


def _seeds(vendor: str, *beginnings: str) -> list[bytes]:
    """Return the golden answers whose names have one of the `beginnings`; those with the first occur five times."""
    paths = sorted((GOLDEN / vendor).glob("*.json"))
    data = [path for path in paths if path.name.startswith(beginnings[:1])]
    return [path.read_bytes().strip() for path in data * 4 + paths if path.name.startswith(beginnings)]


# Alpha Vantage -------------------------------------------------------------------------------------------------------


def _alphavantage_series(interval: str) -> Callable[[bytes], None]:
    def run(body: bytes) -> None:
        try:
            series = alphavantage.parse_series(body, "IBM", interval, START_US, END_US, NOW_US, "alphavantage")
        except VendorError:
            return
        good(series.bars, VENDOR_BARS)
        assert series.rows >= series.bars.num_rows

    return run


def alphavantage_actions(body: bytes) -> None:
    """Parse splits and dividends."""
    for parse, schema in ((alphavantage.parse_splits, SPLITS), (alphavantage.parse_dividends, DIVIDENDS)):
        try:
            good(parse(body, "IBM", START_US, END_US, NOW_US, "alphavantage"), schema)
        except VendorError:
            continue


# Yahoo ---------------------------------------------------------------------------------------------------------------

_NUMBERS = ("open", "high", "low", "close", "volume", "splits", "dividends")


def yahoo_columns(body: bytes) -> None:
    """Parse columns like those of yfinance: numbers of any kind in columns of one length."""
    try:
        decoded = msgspec.json.decode(body, type=dict[str, list[float | None]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    rows = min((len(decoded.get(name, ())) for name in ("time", *_NUMBERS)), default=0)

    def column(name: str) -> Any:
        values = [
            np.nan if value is None else np.inf * value if abs(value) > 1e300 else value for value in decoded[name]
        ]
        return np.array(values[:rows], np.float64)

    time = np.zeros(0, np.int64)
    if rows:
        time = np.clip(np.nan_to_num(column("time")), -9e12, 9e12).astype(np.int64) * 1_000_000
    numbers = [column(name) if rows else np.empty(0) for name in _NUMBERS]
    _read_yahoo(yahoo.Columns(time, time - 14_400_000_000, *numbers, "USD", None))


def _read_yahoo(columns: yahoo.Columns) -> None:
    splits = yahoo.Splits().merged_with(columns)
    for interval in ("1m", "1h", "1d"):
        try:
            series = yahoo.read_columns(
                columns, BarsRequest(("AAPL",), interval, START_US, END_US), NOW_US, splits, "yahoo"
            )
        except VendorError:
            continue
        good(series.bars, VENDOR_BARS)
        good(series.splits, SPLITS)
        good(series.dividends, DIVIDENDS)


def yahoo_refusal(body: bytes) -> None:
    """Parse an error response to a request for a chart."""
    try:
        yahoo.raise_error(STATUSES[len(body) % len(STATUSES)], body)
    except VendorError:
        return


class _Answer:
    """The part of a response that yfinance reads."""

    def __init__(self, body: bytes) -> None:
        self.content, self.status_code, self.url = body, 200, ""

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return msgspec.json.decode(self.content)

    def raise_for_status(self) -> None:
        return


class _Chart:
    """Parses charts with yfinance and the client's conversion. The first call imports yfinance."""

    def __init__(self) -> None:
        self._yfinance: Any = None
        self._body = b""

    def __call__(self, body: bytes) -> None:
        from tickerplant.market_data.clients.yahoo import client as client

        if self._yfinance is None:
            self._yfinance = client._Yfinance(client._import(""), "http://127.0.0.1:1")
            data = self._yfinance._data
            data.get = data.cache_get = lambda *args, **options: _Answer(self._body)
        self._body = body
        from yfinance import cache

        kept, cache._TzCacheManager._tz_cache = cache._TzCacheManager._tz_cache, cache._TzCacheDummy()
        try:  # use the zone of each chart, not of the previous chart
            interval = "1d" if b'"1d"' in body[:2_000] else "1m"
            columns = self._yfinance.history(
                "AAPL", interval=interval, start=1, end=NOW_US // 1_000_000, prepost=False, auto_adjust=False, timeout=1
            )
        except VendorError:
            return
        finally:
            cache._TzCacheManager._tz_cache = kept
        _read_yahoo(columns)


# Twelve Data ---------------------------------------------------------------------------------------------------------


def _twelvedata_series(symbols: Sequence[str], interval: str) -> Callable[[bytes], None]:
    asked = twelvedata.Asked(symbols, interval, START_US, END_US, 2)

    def run(body: bytes) -> None:
        try:
            series = twelvedata.parse_series(body, STATUSES[len(body) % len(STATUSES)], asked, NOW_US)
        except VendorError:
            return
        assert set(series.found) == set(symbols)
        for found in series.found.values():
            if not isinstance(found, VendorError):
                good(found, VENDOR_BARS)

    return run


def twelvedata_actions(body: bytes) -> None:
    """Parse splits and dividends."""
    for parse, schema in ((twelvedata.parse_splits, SPLITS), (twelvedata.parse_dividends, DIVIDENDS)):
        try:
            good(parse(body, "AAPL", START_US, END_US), schema)
        except VendorError:
            continue


def twelvedata_stream(body: bytes) -> None:
    """Parse messages, one per line, twice, as if they were received over two connections."""
    decoder = quotes.QuoteDecoder(stamped=len(body) % 2 == 0)
    decoder.add_symbols(["AAPL"])
    texts = body.split(b"\n")
    for _ in range(2):
        messages = quotes.read_messages(texts)
        counted = len(messages.prices) + len(messages.statuses) + len(messages.dead)
        assert counted + messages.heartbeats + messages.others == len(texts)
        columns, dead = decoder.columns(messages.prices)
        batch = decoder.ticks(columns, NOW_US)
        good(batch, TICKS)
        assert batch.num_rows + len(dead) == len(messages.prices)
        assert all(len(row.payload) and row.reason for row in dead)
        decoder.forget_volumes()


def _messages() -> list[bytes]:
    one = _seeds("twelvedata", "price.", "price_metal", "subscribe", "unsubscribe", "heartbeat")
    more = [price.replace(b"27631112", str(volume).encode()) for price in one for volume in (27631200, 27631100, 5)]
    return [*one, b"\n".join(one), b"\n".join([one[1], *more])]


def _columns_of_charts() -> list[bytes]:
    found = []
    for chart in _seeds("yahoo", "chart_1", "chart_3", "chart_5"):
        result = msgspec.json.decode(chart)["chart"]["result"][0]
        columns = {"time": result["timestamp"], **result["indicators"]["quote"][0]}
        rows = len(columns["time"])
        columns["splits"] = [4.0 if row == rows - 2 else 0.0 for row in range(rows)]
        columns["dividends"] = [0.25 if row == 1 else 0.0 for row in range(rows)]
        found.append(msgspec.json.encode(columns))
    return found


_REFUSALS = ("information", "error", "note", "empty")
TARGETS = {
    "alphavantage_intraday": Target(_alphavantage_series("1m"), _seeds("alphavantage", "intraday", *_REFUSALS)),
    "alphavantage_daily": Target(_alphavantage_series("1d"), _seeds("alphavantage", "daily", *_REFUSALS)),
    "alphavantage_actions": Target(alphavantage_actions, _seeds("alphavantage", "splits", "dividends", *_REFUSALS)),
    "yahoo_columns": Target(yahoo_columns, _columns_of_charts()),
    "yahoo_refusal": Target(yahoo_refusal, _seeds("yahoo", "error", "chart_nothing")),
    "yahoo_chart": Target(_Chart(), _seeds("yahoo", "chart")),
    "twelvedata_series": Target(_twelvedata_series(["AAPL"], "1m"), _seeds("twelvedata", "series", "error")),
    "twelvedata_batch": Target(
        _twelvedata_series(["AAPL", "NIKK", "RY:TSX"], "1d"), _seeds("twelvedata", "series", "error", "price_single")
    ),
    "twelvedata_actions": Target(twelvedata_actions, _seeds("twelvedata", "splits", "dividends", "error")),
    "twelvedata_stream": Target(twelvedata_stream, _messages()),
}


# The mutator ---------------------------------------------------------------------------------------------------------

_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**30, 0.1, "",
    "0", "-0", "nan", "NaN", "inf", "-Infinity", "1e999", "1_000", "0x10", " 1 ", "1,5", "None", "-", "é", "\x00",
    "\ud7ff", "a" * 300, "2017-12-18",
    "2017-12-18 14:56:00", "2018-03-11 02:30:00", "2018-11-04 01:30:00", "0000-00-00",
    "9999-12-31 23:59:59", "300000-01-01", "-2000-01-01", "2017-02-30", "2017-12-18T14:56:00Z", "2017-12-18 24:00:00",
    "1600-01-01", "US/Eastern", "UTC", "../etc/passwd", "America/Atlantis", [], {}, [[]], [None], {"": None}, "AAPL",
    "ok", "error", 429, 404, "premium", "per day", "4:1",
]  # fmt: skip
_NUMBER_TEXTS = (
    "0",
    "-0.0",
    "86.5",
    "-1",
    "1e308",
    "-1e308",
    "5e-324",
    "9007199254740993",
    "1e-9",
    "0.0667",
    "nan",
    "inf",
)
_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"1e5",
    b"null",
)


def mutate(data: bytes, seeds: Sequence[bytes], dice: random.Random) -> bytes:
    """Return the payload with one to four changes, most of them in JSON nodes, some in bytes."""
    if dice.random() < 0.1:
        data = dice.choice(seeds)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4))):
        if dice.random() < 0.05:
            data = _bytes_changed(data, dice)
            continue
        lines = data.split(b"\n")
        at = dice.randrange(len(lines))
        try:
            tree = msgspec.json.decode(lines[at])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            data = _bytes_changed(data, dice)
            continue
        lines[at] = _encoded(_node_changed(tree, dice))
        if dice.random() < 0.05:
            lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
        data = b"\n".join(lines)
    return data


def _encoded(tree: Any) -> bytes:
    try:
        return msgspec.json.encode(tree)
    except (OverflowError, UnicodeEncodeError, RecursionError):  # integers beyond 64 bits
        return msgspec.json.encode(repr(tree))


def _bytes_changed(data: bytes, dice: random.Random) -> bytes:
    at, length = dice.randint(0, len(data)), dice.choice((0, 1, 1, 2, 9))
    return data[:at] + dice.choice(_BYTES) + data[at + length :]


def _node_changed(tree: Any, dice: random.Random) -> Any:
    """Return the tree with a random node changed. The tree is changed in place, unless the node is its root."""
    here, parent, key = tree, None, None
    while isinstance(here, dict | list) and here and dice.random() < 0.95:
        parent, key = here, dice.choice(list(here)) if isinstance(here, dict) else dice.randrange(len(here))
        here = here[key]
    changed = _changed(here, dice)
    if parent is None:
        return changed
    what = dice.random()
    if what < 0.1:
        del parent[key]
    elif what < 0.2 and isinstance(parent, dict):
        other = dice.choice(_ODD)
        parent[other if isinstance(other, str) else str(key) + " "] = parent.pop(key)
    elif what < 0.3 and isinstance(parent, list):
        parent.insert(dice.randrange(len(parent) + 1), dice.choice(parent))
    else:
        parent[key] = changed
    return tree


def _changed(node: Any, dice: random.Random) -> Any:
    what = dice.random()
    if what < 0.3:
        return dice.choice(_ODD)
    if what < 0.6 and isinstance(node, str | int | float):
        return dice.choice(_NUMBER_TEXTS) if isinstance(node, str) else float(dice.choice(_NUMBER_TEXTS))
    if isinstance(node, bool) or node is None:
        return not node
    if isinstance(node, int | float):
        return dice.choice((-node, node * 1e3, node + 1, float(node), str(node), node // 7 if node else 1))
    if isinstance(node, str):
        at = dice.randint(0, len(node))
        return dice.choice((node[:at], node + node, node[at:], node.upper(), _as_number(node)))
    if isinstance(node, list):
        return dice.choice((node[:1], node * 2, node[::-1], {"0": node}))
    return dice.choice((list(node.values()), list(node), {**node, "": node}, {}))


def _as_number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text[::-1]
