"""The roles of columns, by the names that vendors, exchanges and data frames use. Pure.

The readers of files and of data frames use the same names. Names are compared in lower case, by letters and digits
only: `Open Price` and `open_price` are the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

NAMES: Final[Mapping[str, Sequence[str]]] = {
    "time": (
        "time", "timestamp", "datetime", "ts", "t", "tradetime", "transacttime", "eventtime", "tsevent", "opentime",
        "gmttime", "localtime", "timeutc", "utctime", "datetimeutc", "timegmt", "datetimegmt", "timestamputc",
        "timestampms", "unix", "unixtime", "unixtimestamp", "epoch", "siptimestamp", "participanttimestamp",
        "windowstart", "barstart", "barstarttime", "start", "starttime", "begin", "dateandtime", "datetimestamp",
        "timem", "date", "tradedate", "tradingday", "tradingdate", "day", "caldt", "datadate",
    ),
    "clock": (
        "time", "clock", "timem", "timeofday", "tradetime", "hhmmss", "hhmm", "hour", "hours", "tod", "clocktime",
        "localtime", "exchtime", "exchangetime", "bartime", "timeutc", "timegmt", "gmttime", "utctime", "minute",
    ),
    "symbol": ("symbol", "ticker", "sym", "symroot", "instrument", "pair", "tic", "rawsymbol"),
    "interval": ("interval", "timeframe", "resolution", "bar", "barsize", "per"),
    "price": ("price", "last", "lastprice", "tradeprice", "px", "p", "latest", "lasttrade"),
    "size": (
        "size", "lastsize", "tradesize", "quantity", "qty", "tradevolume", "lastvolume", "volume", "vol", "amount", "q",
        "v",
    ),
    "trade_id": ("tradeid", "id", "aggtradeid", "tid"),
    "exchange": (
        "exchange", "exch", "ex", "venue", "mic", "exchangeid", "exchangecode", "marketcenter", "participantid", "x",
    ),
    "flags": ("flags",),
    "conditions": (
        "conditions", "condition", "saleconditions", "salecondition", "tradeconditions", "tradecondition", "conds",
        "cond", "trscond",
    ),
    "tape": ("tape",),
    "correction": ("correction", "tradecorrection", "tradecorrectionindicator", "trcorr", "corr"),
    "source": ("source", "vendor"),
    "open": ("open", "o", "openprice", "priceopen", "openingprice"),
    "high": ("high", "h", "highprice", "pricehigh"),
    "low": ("low", "l", "lowprice", "pricelow"),
    "close": ("close", "c", "closeprice", "closelast", "priceclose", "closingprice"),
    "volume": (
        "volume", "vol", "v", "basevolume", "volumebase", "shares", "sharevolume", "tradedvolume", "totalvolume",
        "realvolume",
    ),
    "vwap": ("vwap", "vw", "averageprice", "weightedaverage"),
    "trades": ("trades", "n", "tradecount", "numberoftrades", "count", "transactions", "numtrades"),
}  # fmt: skip
"""Normalised names by role, the preferred name first."""

UTC_NAMES: Final = frozenset(
    ("gmttime", "timeutc", "datetimeutc", "timegmt", "datetimegmt", "timestamputc", "utctime", "opentimeutc")
)
"""Names of times that are in UTC."""

DATE_NAMES: Final = frozenset(("date", "tradedate", "tradingday", "tradingdate", "day", "caldt", "datadate"))
"""Names of columns with dates. A column with a clock completes such a column."""


def normalise(name: str) -> str:
    """Return a column's name for comparison: lower case, letters and digits only.

    >>> normalise("<Open Price>")
    'openprice'
    """
    return re.sub(r"[\W_]", "", name.lower())


def by_name(header: Iterable[str]) -> dict[str, str]:
    """Return the columns by normalised name; the first column if several names are equal."""
    found: dict[str, str] = {}
    for name in header:
        found.setdefault(normalise(name), name)
    return found


def find(columns: Mapping[str, str], role: str) -> str | None:
    """Return the column of a role; None if no column has a name of the role. `columns`: the result of `by_name`."""
    return next((columns[name] for name in NAMES[role] if name in columns), None)


def find_all(header: Iterable[str], role: str) -> list[str]:
    """Return all columns with a name of the role, the preferred name first."""
    named = [(NAMES[role].index(plain), name) for name in header if (plain := normalise(name)) in NAMES[role]]
    return [name for _, name in sorted(named, key=lambda found: found[0])]


def with_clock(time: str, others: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the column of the date and the column of the time of day; None if no column completes `time`.

    `time`: the column found for the time. `others`: the columns without a role, by normalised name.

    >>> with_clock("Time", {"date": "Date"}), with_clock("Date", {"timem": "TIME_M"}), with_clock("Date", {})
    (('Date', 'Time'), ('Date', 'TIME_M'), ('Date', None))
    """
    name = normalise(time)
    if name in DATE_NAMES:
        return time, next((others[clock] for clock in NAMES["clock"] if clock in others), None)
    date = next((others[date] for date in NAMES["time"] if date in DATE_NAMES and date in others), None)
    return (date, time) if name in NAMES["clock"] and date is not None else (time, None)
