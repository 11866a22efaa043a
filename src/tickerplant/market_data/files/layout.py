"""The layout of a file: the role of each column, by the names that vendors, exchanges and data frames use. Pure."""

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
class FileLayout:
    """The layout: `columns` maps roles to the file's column names; `clock` is a separate column with the time of day.

    `ignored`: columns that are not used. `notes`: assumptions, for the user.
    """

    kind: str
    columns: Mapping[str, str]
    clock: str | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def used_columns(self) -> list[str]:
        """Return the names of the columns that are read."""
        return [*self.columns.values(), *([self.clock] if self.clock else [])]


def detect_layout(header: Sequence[str], *, line: int | None = None) -> FileLayout:
    """Return the layout of a header.

    Raises BadInput, which lists the missing and the found columns, if a column is missing.

    >>> detect_layout(["Date", "Open", "High", "Low", "Close", "Volume"]).kind
    'bars'
    """
    normalised: dict[str, str] = {}
    for name in header:
        normalised.setdefault(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if list(header).count(name) > 1})
        raise BadInput(f"two columns have the same name: {', '.join(twice)}; rename one of them", line=line)
    if header and all(re.fullmatch(r"[-+]?[\d.:/T Z-]+", name) for name in header):
        raise BadInput("the first line contains numbers; it must contain the names of the columns", line=line)
    is_bars = all(_find(normalised, name) for name in ("open", "high", "low", "close"))
    columns: dict[str, str] = {}
    for role in _OF_BARS if is_bars else _OF_TICKS:
        found = _find(normalised, role)
        if found is not None and found not in columns.values():
            columns[role] = found
    if "conditions" not in columns:
        columns.pop("tape", None)  # it only selects the table of conditions
    clock = None
    if columns.get("time") == normalised.get(_CLOCK) and _DATE in normalised and _CLOCK in normalised:
        columns["time"], clock = normalised[_DATE], normalised[_CLOCK]
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
        notes.append(f"no column for {amount}: 0 is used")
    used = {*columns.values(), clock}
    ignored = tuple(name for name in header if name not in used)
    if ignored:
        notes.append(f"columns not used: {', '.join(ignored)}")
    return FileLayout(BARS if is_bars else TICKS, columns, clock, ignored, tuple(notes))


def _find(normalised: Mapping[str, str], role: str) -> str | None:
    return next((normalised[name] for name in _NAMES[role] if name in normalised), None)
