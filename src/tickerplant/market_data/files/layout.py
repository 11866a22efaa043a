"""The layout of a file: the role of each column, by the names of `core.column_names`. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tickerplant.core.clock_column import parts_of
from tickerplant.core.column_names import NAMES, UTC_NAMES, by_name, find, find_all, normalise, with_clock
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted

TICKS, BARS, CLOSES = "ticks", "bars", "closes"
"""Kinds of files. CLOSES have a close only; indicators can be computed over them."""

_OF_TICKS: Final = (
    "time", "symbol", "price", "size", "trade_id", "exchange", "flags", "conditions", "tape", "correction", "source",
)  # fmt: skip
_OF_BARS: Final = (
    "time", "symbol", "interval", "open", "high", "low", "close", "volume", "vwap", "trades", "source",
)  # fmt: skip
_PRICES: Final = ("open", "high", "low", "close")
_ONLY_TICKS: Final = ("price", "size", "trade_id", "flags", "conditions", "tape", "correction")
_ONLY_BARS: Final = ("interval", *_PRICES, "volume", "vwap", "trades")
_MARKS_OF_TICKS: Final = ("trade_id", "conditions", "correction", "tape")
_SIZES: Final = ("size", "quantity", "qty", "lastsize", "tradesize")
_OF_TRADE, _VOLUMES = ("lastsize", "tradesize", "tradevolume", "lastvolume"), ("volume", "vol")
_SETTLEMENTS: Final = ("settle", "settlement", "settleprice", "settlementprice")
_OURS: Final = ("source", "tradeid", "flags")
"""Columns of the plant's own files. In other files `flags` has the bits of another system."""
_ASSET_VOLUME: Final = re.compile(
    r"(?:volume|vol)[\s_\-.(]+([a-z0-9]{2,10})\)?|([a-z0-9]{2,10})[\s_\-]+(?:volume|vol)", re.IGNORECASE
)
_NO_ASSETS: Final = frozenset(
    ("quote", "base", "taker", "avg", "average", "buy", "sell", "day", "total", "adj", "adjusted", "tick", "change",
     "traded", "ask", "bid", "pre", "post", "cum", "weighted", "asset", "open", "close")
)  # fmt: skip
_ROOT, _SUFFIX = "symroot", "symsuffix"
_MAX_LISTED, _MAX_NAME = 20, 40
_DATABENTO: Final = ("rtype", "publisherid", "instrumentid")


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The layout: `columns` maps roles to the file's column names; `clock` is a separate column with the time of day.

    `clock_parts`: columns of minutes and seconds that complete a clock of hours. `suffix`: TAQ's column with the
    share-class suffix of the symbol; None if there is none. `ignored`: columns that are not used. `notes`: facts for
    the user. `choices`: notes about a choice between readings, which --strict refuses. `zone`: the zone in the name of
    the time's column; None if there is none. `databento`: the names of Databento's columns by their normalised names;
    {} for other files. `assets`: volumes by the name of their asset, while none of them is chosen. `symbol`: the symbol
    above the header; None if there is none. `is_new`: the first version of the program read other columns of such a
    file. `has_commas`: the delimiter is a comma, or the file is not a text file.
    """

    kind: str
    columns: Mapping[str, str]
    clock: str | None = None
    clock_parts: tuple[str, ...] = ()
    suffix: str | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    choices: tuple[str, ...] = ()
    zone: str | None = None
    databento: Mapping[str, str] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)
    symbol: str | None = None
    is_new: bool = False
    has_commas: bool = True

    @property
    def used_columns(self) -> list[str]:
        """Return the names of the columns that are read."""
        return list(
            dict.fromkeys([*self.columns.values(), *self.clock_columns, *self.databento.values(), *self._suffix])
        )

    @property
    def clock_columns(self) -> list[str]:
        """Return the names of the columns with the time of day."""
        return [self.clock, *self.clock_parts] if self.clock else []

    @property
    def symbol_columns(self) -> list[str]:
        """Return the names of the columns with the symbol."""
        return [self.columns["symbol"], *self._suffix] if "symbol" in self.columns else []

    @property
    def _suffix(self) -> list[str]:
        return [self.suffix] if self.suffix else []


def detect_layout(
    header: Sequence[str],
    *,
    line: int | None = None,
    columns: Iterable[tuple[str, str]] = (),
    is_bars: bool = False,
    index: str | None = None,
) -> FileLayout:
    """Return the layout of a header.

    `index`: a column without a name that contains times; it is the column of times if the header names no other.
    `columns`: the user's columns by role, which take precedence over the known names. `is_bars`: an interval shows that
    the file has bars. Raises BadInput if a column is missing, and names both readings if the columns have two.

    >>> detect_layout(["Date", "Open", "High", "Low", "Close", "Volume"]).kind
    'bars'
    """
    _check_header(header, line)
    named = by_name(header)
    given = _given(columns, named, header, line)
    found = {role: column for role in NAMES if (column := given.get(role) or find(named, role)) is not None}
    if index is not None:
        found.setdefault("time", index)
    kind, choices = _kind(named, found, given, is_bars=is_bars, line=line)
    roles, notes = _roles(kind, found, given), []
    if index is not None and roles.get("time") == index:
        choices.append("a column without a name contains times; it is the time")
    closes_at_price = kind != TICKS and "close" not in roles and "price" in found
    if closes_at_price:
        roles["close"] = found["price"]
    choices += _other_columns(roles, given, header, line)
    if "flags" in roles and "flags" not in given and not all(name in named for name in _OURS):
        flags = roles.pop("flags")
        notes.append(
            f"the column {flags} has another system's bits; if they are the plant's, set --column flags={flags}"
        )
    clock = _clock(roles, named, given)
    if kind != CLOSES:
        _check_columns(kind, roles, header, line)
    assets = {} if "volume" in roles or kind != BARS else _asset_volumes(header)
    databento: dict[str, str] = {name: named[name] for name in (*_DATABENTO, "action") if name in named}
    if not all(name in databento for name in _DATABENTO):
        databento = {}
    amount = {BARS: "volume", TICKS: "size"}.get(kind)
    if amount is not None and amount not in roles and not assets:
        notes.append(f"no column for {amount}: 0 is used")
    others = {name: column for name, column in named.items() if column not in roles.values()}
    parts = tuple(parts_of(clock, others)) if clock is not None else ()
    suffix = named.get(_SUFFIX) if normalise(roles.get("symbol", "")) == _ROOT else None
    if suffix is not None:
        notes.append(f"the symbol is {roles['symbol']}, with {suffix} after a dot")
    used = {*roles.values(), clock, *parts, suffix, *databento.values(), *assets.values()}
    ignored = tuple(name for name in header if name not in used)
    if ignored:
        notes.append(f"columns not used: {_listed(ignored)}")
    zone = "UTC" if UTC_NAMES.intersection(map(normalise, (roles.get("time", ""), clock or ""))) else None
    is_new = closes_at_price or (clock is not None and normalise(clock) != "time") or _has_new_size(roles, header)
    return FileLayout(
        kind, roles, clock, parts, suffix, ignored, tuple(notes), tuple(choices), zone, databento, assets, is_new=is_new
    )


def _check_header(header: Sequence[str], line: int | None) -> None:
    if header and all(re.fullmatch(r"[-+]?[0-9.,:/T Z-]+|[A-Z]", name) for name in header):
        raise BadInput(
            f"the first line contains numbers, such as {quoted(header[0])}, and no known order of columns; add a first "
            "line with the names of the columns, such as time,price,size",
            line=line,
        )
    if len(set(header)) != len(header):
        twice = [name for name, count in Counter(header).items() if count > 1]
        raise BadInput(f"two columns have the same name: {_listed(twice)}; rename one of them", line=line)


def _given(
    columns: Iterable[tuple[str, str]], named: Mapping[str, str], header: Sequence[str], line: int | None
) -> dict[str, str]:
    """Return the user's columns by role, with the file's spelling. Raises BadInput for an unknown role or column."""
    given: dict[str, str] = {}
    for role, name in columns:
        if role not in NAMES:
            raise BadInput(f"--column {role}={name}: there is no role {role!r}; the roles are {', '.join(NAMES)}")
        column = name if name in header else named.get(normalise(name))
        if column is None:
            raise BadInput(
                f"--column {role}={name}: the file has no column {name!r}; it has {_listed(header)}", line=line
            )
        given[role] = column
    return given


def _listed(names: Sequence[str]) -> str:
    """Return names for a message: the first 20, each cut if it is long."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return (
        ", ".join(name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..." for name in names[:_MAX_LISTED]) + more
    )


def _other_columns(
    roles: Mapping[str, str], given: Mapping[str, str], header: Sequence[str], line: int | None
) -> list[str]:
    """Return a choice for each role that several columns may have. Raises BadInput if such a role is a price."""
    choices: list[str] = []
    for role in (*_PRICES, "price", "volume", "size", "symbol", "interval"):
        column = roles.get(role)
        if column is None or role in given or (role == "close" and "price" in given):
            continue
        taken = {name for other, name in roles.items() if other != role}
        named_as = "price" if role == "close" and normalise(column) in NAMES["price"] else role
        others = [name for name in find_all(header, named_as) if name != column and name not in taken]
        if not others:
            continue
        if role in (*_PRICES, "price"):
            raise BadInput(
                f"the {role} can be {column} or {others[0]}; set --column {role}={column} or --column "
                f"{role}={others[0]}",
                line=line,
            )
        choices.append(f"the column {column} is the {role}, not {_listed(others)}")
    return choices


def _kind(
    named: Mapping[str, str], found: Mapping[str, str], given: Mapping[str, str], *, is_bars: bool, line: int | None
) -> tuple[str, list[str]]:
    """Return the kind of a file, and the choices that it implies. Raises BadInput if two kinds are possible."""
    is_bars = is_bars or "interval" in found  # ticks have no interval
    by_user_bars = is_bars or any(role in given for role in _ONLY_BARS)
    by_user_ticks = any(role in given for role in _ONLY_TICKS)
    price = found.get("price")
    if not all(role in found for role in ("open", "high", "low")):
        return (CLOSES if "close" in found and price is None else TICKS), []
    settlement = next((named[name] for name in _SETTLEMENTS if name in named), None)
    if "close" in found:
        if price is None or by_user_bars:
            return BARS, []
        if by_user_ticks:
            return TICKS, []
        raise _two_readings(f"bars that close at {found['close']}", "close", found["close"], price, line)
    if price is None:
        return BARS, []  # the missing close is reported
    if settlement is not None and "close" not in given and not by_user_ticks:
        raise BadInput(
            f"the close can be {price} or {settlement}; set --column close={price} or --column close={settlement}",
            line=line,
        )
    if by_user_ticks and not by_user_bars:
        return TICKS, []
    of_ticks = [role for role in _MARKS_OF_TICKS if role in found] or [name for name in _SIZES if name in named]
    if of_ticks and not by_user_bars:
        raise _two_readings(f"bars that close at {price}", "close", price, price, line)
    return BARS, [f"the column {price} is the close of the bars"]


def _two_readings(bars: str, role: str, close: str, price: str, line: int | None) -> BadInput:
    return BadInput(
        f"the columns have two readings: {bars} (set --column {role}={close}), or ticks with the price {price} (set "
        f"--column price={price})",
        line=line,
    )


def _has_new_size(roles: Mapping[str, str], header: Sequence[str]) -> bool:
    """Return True if the file has a trade's size beside a volume: the first version read the volume as the size."""
    return normalise(roles.get("size", "")) in _OF_TRADE and any(normalise(name) in _VOLUMES for name in header)


def _roles(kind: str, found: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the columns by role. A column has one role; the user's roles take precedence."""
    roles: dict[str, str] = {}
    taken = set(given.values())
    for role in _OF_TICKS if kind == TICKS else _OF_BARS:
        column = found.get(role)
        if column is not None and (role in given or column not in taken):
            roles[role] = column
            taken.add(column)
    if "conditions" not in roles:
        roles.pop("tape", None)  # it only selects the table of conditions
    if "trade_id" not in roles:
        roles.pop("exchange", None)  # it only distinguishes equal ids
    return roles


def _clock(roles: dict[str, str], named: Mapping[str, str], given: Mapping[str, str]) -> str | None:
    """Return the column with the time of day if the date is in another column; otherwise None.

    In `roles`, `time` becomes the date's column.
    """
    if "clock" in given or "time" not in roles:
        return given.get("clock")
    others = {name: column for name, column in named.items() if column not in roles.values()}
    time, clock = with_clock(roles["time"], others)
    if "time" in given and time != given["time"]:
        return None
    roles["time"] = time
    return clock


def _check_columns(kind: str, roles: Mapping[str, str], header: Sequence[str], line: int | None) -> None:
    missing = [role for role in (("time", *_PRICES) if kind == BARS else ("time", "price")) if role not in roles]
    if not missing:
        return
    names = [normalise(name) for name in header]
    if kind == TICKS and any("bid" in name for name in names) and any("ask" in name for name in names):
        raise BadInput(
            "the file has quotes (bid and ask) and no trades; bars are built from trades. Set --column price=NAME to "
            "read one of the columns as the price",
            line=line,
        )
    raise BadInput(
        f"no column for {' and '.join(missing)}: ticks need time, symbol, price and size, bars need time, symbol, "
        f"interval, open, high, low, close and volume; found {_listed(header) or 'nothing'}. Set --column ROLE=NAME "
        "for a column of another name",
        line=line,
    )


def _asset_volumes(header: Sequence[str]) -> dict[str, str]:
    """Return the columns that are named after an asset, such as `Volume BTC`, by asset."""
    found: dict[str, str] = {}
    for name in header:
        match = _ASSET_VOLUME.fullmatch(name.strip())
        asset = (match[1] or match[2]).upper() if match else ""
        if asset and asset.lower() not in _NO_ASSETS:
            found.setdefault(asset, name)
    return found
