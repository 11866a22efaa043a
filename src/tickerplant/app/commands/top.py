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
REWIND_RECORDS = 50  # so that the table is full at once, not only after each symbol's next bar
COLUMNS = ("symbol", "bar", "last", "open", "high", "low", "volume", "trades", "state")
SPARED = ("trades", "open", "low", "high", "state", "volume")
"""The order in which columns go where the terminal is narrow, behind the indicators."""
_TEXTS = ("symbol", "bar", "state")
_ANY_WIDTH = 10_000
REMEMBERED_ROWS = 4  # of a symbol: a withdrawn bar gives way to the one before, and rarely are there several


def top(
    loaded: Loaded,
    interval: Annotated[str, typer.Option("--interval", "-i", help=STORED_INTERVALS)] = "1m",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after so long.")] = None,
) -> None:
    """Show each symbol's newest bar and indicators as they change. Ctrl-C ends."""
    import time

    from rich.live import Live

    from tickerplant.app.runtime.supervisor import signals
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.schemas import ANALYTICS, OHLCV
    from tickerplant.log.port import at_positions

    wanted, stop = stored_interval(interval), threading.Event()
    bars, values, console = Newest(), Newest(), console_for_tables()
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
                for delivery in reader.poll(timeout_s=REFRESH_S):
                    _take(delivery, wanted, bars, values)
                if time.monotonic() - drawn_s >= REFRESH_S:
                    drawn_s = time.monotonic()
                    live.update(picture(console, wanted, bars.rows(), values.rows()), refresh=True)


class Newest:
    """The newest row of each symbol; where it is withdrawn, the one before."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Any, dict[str, Any]]] = {}

    def take(self, row: dict[str, Any]) -> None:
        """Take a row of `Bars` or `Values`; the newest version of a time counts, withdrawn or not."""
        known = self._rows.setdefault(row["symbol"], {})
        former = known.get(row["time"])
        if former is None or former["version"] <= row["version"]:
            known[row["time"]] = row
        if len(known) > REMEMBERED_ROWS:
            del known[min(known)]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the newest row by symbol; none for one whose rows are all withdrawn."""
        found = {}
        for symbol, known in self._rows.items():
            there = [row for row in known.values() if row["state"] != "withdrawn"]
            if there:
                found[symbol] = max(there, key=lambda row: row["time"])
        return found


def _take(delivery: Any, wanted: str, bars: Newest, values: Newest) -> None:
    from tickerplant.core.errors import UnreadableRecord
    from tickerplant.core.records import Bars, Values, decode

    try:
        record = decode(delivery.value)
    except UnreadableRecord:
        return
    target = bars if isinstance(record.header, Bars) else values if isinstance(record.header, Values) else None
    if target is None:
        return
    for row in record.batch.to_pylist():
        if row["interval"] == wanted:
            target.take(row)


def picture(console: Any, wanted: str, bars: dict[str, dict[str, Any]], values: dict[str, dict[str, Any]]) -> Any:
    """Return the table with as many columns as the console has room for, and what was left out below it."""
    from rich.measure import Measurement

    outputs = list(dict.fromkeys(n for row in values.values() for n in list(row)[5:] if row[n] is not None))[:5]
    shown = [*COLUMNS, *outputs]
    left_out: list[str] = []
    for name in (*reversed(outputs), *SPARED):
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

    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        heading = f"{wanted} bar" if name == "bar" else name
        grid.add_column(heading, justify="left" if name in _TEXTS else "right", no_wrap=True)
    for symbol, bar in sorted(bars.items()):
        moved = (bar["close"] or 0) - (bar["open"] or 0)
        colour = "green" if moved > 0 else "red" if moved < 0 else ""
        last = f"[{colour}]{_number(bar['close'])}[/]" if colour else _number(bar["close"])
        texts = {"symbol": symbol, "bar": f"{bar['time']:{_time_format(wanted)}}", "last": last, "state": bar["state"]}
        numbers = {**values.get(symbol, {}), **bar}
        grid.add_row(*(texts[name] if name in texts else _number(numbers.get(name)) for name in columns))
    return grid


def _time_format(interval: str) -> str:
    """Return how bars of an interval are told apart: by date, by minute or, of activity, by second."""
    from tickerplant.core.interval import parse

    step = parse(interval)
    return "%H:%M:%S" if step.is_activity else "%H:%M" if step.is_intraday else "%Y-%m-%d"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.7g}"
