"""Which column of a file is what: names as vendors, exchanges and data frames write them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tickerplant.core.errors import BadInput

TICKS, BARS = "ticks", "bars"

_NAMES: Final[Mapping[str, Sequence[str]]] = {
    "time": (
        "time", "timestamp", "datetime", "ts", "t", "tradetime", "transacttime", "eventtime", "tsevent", "opentime",
        "gmttime", "timeutc", "datetimeutc", "timestampms", "unix", "epoch", "barstart", "start", "dateandtime", "date",
    ),
    "symbol": ("symbol", "ticker", "sym", "instrument", "pair"),
    "interval": ("interval", "timeframe", "resolution", "bar", "barsize"),
    "price": ("price", "last", "lastprice", "tradeprice", "px", "p"),
    "size": ("size", "quantity", "qty", "volume", "vol", "lastsize", "tradesize", "amount", "q", "v"),
    "trade_id": ("tradeid", "id", "aggtradeid", "tid"),
    "flags": ("flags",),
    "conditions": (
        "conditions", "condition", "saleconditions", "salecondition", "tradeconditions", "tradecondition", "conds",
        "cond", "trscond",
    ),
    "tape": ("tape",),
    "correction": ("correction", "tradecorrection", "tradecorrectionindicator", "trcorr", "corr"),
    "source": ("source", "vendor"),
    "open": ("open", "o", "openprice"),
    "high": ("high", "h", "highprice"),
    "low": ("low", "l", "lowprice"),
    "close": ("close", "c", "closeprice", "closelast"),
    "volume": ("volume", "vol", "v", "basevolume", "volumebase"),
    "vwap": ("vwap", "vw", "averageprice"),
    "trades": ("trades", "n", "tradecount", "numberoftrades", "count", "transactions"),
}  # fmt: skip
_OF_TICKS: Final = (
    "time", "symbol", "price", "size", "trade_id", "flags", "conditions", "tape", "correction", "source",
)  # fmt: skip
_OF_BARS: Final = (
    "time", "symbol", "interval", "open", "high", "low", "close", "volume", "vwap", "trades", "source",
)  # fmt: skip
_DATE, _CLOCK = "date", "time"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file holds: `columns` maps our names to the file's, `clock` is a second column with the time of day.

    `ignored` are columns that mean nothing to us; `notes` say to the user what was assumed.
    """

    kind: str
    columns: Mapping[str, str]
    clock: str | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def wanted(self) -> list[str]:
        """The file's columns that are read."""
        return [*self.columns.values(), *([self.clock] if self.clock else [])]


def recognise(header: Sequence[str], *, line: int | None = None) -> Shape:
    """Return what the columns mean. Raises BadInput that says which column is missing and what was found.

    >>> recognise(["Date", "Open", "High", "Low", "Close", "Volume"]).kind
    'bars'
    """
    plain: dict[str, str] = {}
    for name in header:
        plain.setdefault(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if list(header).count(name) > 1})
        raise BadInput(f"two columns have the same name: {', '.join(twice)}", line=line)
    if header and all(re.fullmatch(r"[-+]?[\d.:/T Z-]+", name) for name in header):
        raise BadInput("the first line must name the columns, and it holds numbers; add a header", line=line)
    is_bars = all(_find(plain, name) for name in ("open", "high", "low", "close"))
    columns: dict[str, str] = {}
    for role in _OF_BARS if is_bars else _OF_TICKS:
        found = _find(plain, role)
        if found is not None and found not in columns.values():
            columns[role] = found
    if "conditions" not in columns:
        columns.pop("tape", None)  # it says nothing but how to read them
    clock = None
    if columns.get("time") == plain.get(_CLOCK) and _DATE in plain and _CLOCK in plain:
        columns["time"], clock = plain[_DATE], plain[_CLOCK]
    required = ("time", "open", "high", "low", "close") if is_bars else ("time", "price")
    missing = [role for role in required if role not in columns]
    if missing:
        raise BadInput(
            f"no column for {' and '.join(missing)}: ticks need time, symbol, price and size, bars need time, symbol, "
            f"interval, open, high, low, close and volume; found {', '.join(header) or 'nothing'}",
            line=line,
        )
    notes = []
    amount = "volume" if is_bars else "size"
    if amount not in columns:
        notes.append(f"no column for {amount}: taken as 0")
    used = {*columns.values(), clock}
    ignored = tuple(name for name in header if name not in used)
    if ignored:
        notes.append(f"columns not used: {', '.join(ignored)}")
    return Shape(BARS if is_bars else TICKS, columns, clock, ignored, tuple(notes))


def _find(plain: Mapping[str, str], role: str) -> str | None:
    return next((plain[name] for name in _NAMES[role] if name in plain), None)
