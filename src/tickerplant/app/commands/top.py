"""`tickerplant top`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import STORED_INTERVALS, console_for_tables, stored_interval

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded

REFRESH_S = 0.25
REWIND_RECORDS = 50  # fills the table at once, not only after each symbol's next bar
COLUMNS = ("symbol", "bar", "last", "open", "high", "low", "volume", "trades", "state")
OPTIONAL_COLUMNS = ("trades", "open", "low", "high", "state", "volume")
"""Columns that are omitted on a narrow terminal, in this order, after the indicators."""
_TEXTS = ("symbol", "bar", "state")
_ANY_WIDTH = 10_000
ROWS_PER_SYMBOL = 4  # a withdrawn bar is replaced by the bar before it; several in a row are rare


def top(
    loaded: Loaded,
    interval: Annotated[str, typer.Option("--interval", "-i", help=STORED_INTERVALS)] = "1m",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after this many seconds.")] = None,
) -> None:
    """Show each symbol's newest bar and indicators, live, until Ctrl-C."""
    import time

    from rich.live import Live

    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.schemas import ANALYTICS, OHLCV
    from tickerplant.log.port import at_positions

    wanted, stop = stored_interval(interval), threading.Event()
    bars, values, console = NewestRows(), NewestRows(), console_for_tables()
    deadline = None if seconds is None else time.monotonic() + seconds
    with open_readonly.log_of(loaded.settings) as event_log, signals(stop):
        offsets = event_log.offsets(OHLCV) | event_log.offsets(ANALYTICS)
        start = at_positions({tp: max(first, end - REWIND_RECORDS) for tp, (first, end) in offsets.items()})
        with (
            event_log.reader([OHLCV, ANALYTICS], start=start) as reader,
            Live(console=console, auto_refresh=False, screen=False) as live,
        ):
            drawn_s = 0.0
            while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
                for record in reader.poll(timeout_s=REFRESH_S):
                    _add(record, wanted, bars, values)
                if time.monotonic() - drawn_s >= REFRESH_S:
                    drawn_s = time.monotonic()
                    live.update(draw(console, wanted, bars.rows(), values.rows()), refresh=True)


class NewestRows:
    """Each symbol's newest row that is not withdrawn."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Any, dict[str, Any]]] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of `Bars` or `Values`. The newest version of a time replaces older versions, even if withdrawn."""
        known = self._rows.setdefault(row["symbol"], {})
        former = known.get(row["time"])
        if former is None or former["version"] <= row["version"]:
            known[row["time"]] = row
        if len(known) > ROWS_PER_SYMBOL:
            del known[min(known)]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the newest row by symbol; symbols whose rows are all withdrawn are absent."""
        found = {}
        for symbol, known in self._rows.items():
            there = [row for row in known.values() if row["state"] != "withdrawn"]
            if there:
                found[symbol] = max(there, key=lambda row: row["time"])
        return found


def _add(consumed: Any, wanted: str, bars: NewestRows, values: NewestRows) -> None:
    from tickerplant.core.errors import UnreadableRecord
    from tickerplant.core.records import Bars, Values, decode

    try:
        record = decode(consumed.value)
    except UnreadableRecord:
        return
    target = bars if isinstance(record.header, Bars) else values if isinstance(record.header, Values) else None
    if target is None:
        return
    for row in record.batch.to_pylist():
        if row["interval"] == wanted:
            target.add(row)


def draw(console: Any, wanted: str, bars: dict[str, dict[str, Any]], values: dict[str, dict[str, Any]]) -> Any:
    """Return the table with as many columns as fit the console, and a caption with the names of the omitted columns."""
    from rich.measure import Measurement

    outputs = list(dict.fromkeys(n for row in values.values() for n in list(row)[5:] if row[n] is not None))[:5]
    shown = [*COLUMNS, *outputs]
    left_out: list[str] = []
    for name in (*reversed(outputs), *OPTIONAL_COLUMNS):
        grid = _grid(shown, wanted, bars, values)
        if Measurement.get(console, console.options.update(width=_ANY_WIDTH), grid).maximum <= console.width:
            break
        shown.remove(name)
        left_out.append(name)
    grid = _grid(shown, wanted, bars, values)
    if left_out:
        grid.caption, grid.caption_justify = f"no room for {', '.join(reversed(left_out))}", "left"
    return grid


def _grid(
    columns: Sequence[str], wanted: str, bars: dict[str, dict[str, Any]], values: dict[str, dict[str, Any]]
) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        heading = f"{wanted} bar" if name == "bar" else name
        grid.add_column(heading, justify="left" if name in _TEXTS else "right", no_wrap=True)
    for symbol, bar in sorted(bars.items()):
        moved = (bar["close"] or 0) - (bar["open"] or 0)
        colour = "green" if moved > 0 else "red" if moved < 0 else ""
        last = Text(_number(bar["close"]), style=colour)
        texts = {"symbol": symbol, "bar": f"{bar['time']:{_time_format(wanted)}}", "last": last, "state": bar["state"]}
        numbers = {**values.get(symbol, {}), **bar}
        grid.add_row(*(texts[name] if name in texts else _number(numbers.get(name)) for name in columns))
    return grid


def _time_format(interval: str) -> str:
    """Return the time format of an interval's bars: date, minute or, for activity intervals, second."""
    from tickerplant.core.interval import parse

    step = parse(interval)
    return "%H:%M:%S" if step.is_activity else "%H:%M" if step.is_intraday else "%Y-%m-%d"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.7g}"
