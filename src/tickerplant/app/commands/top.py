"""`tickerplant top`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import stored_interval

if TYPE_CHECKING:
    from tickerplant.app.settings import Loaded

REFRESH_S = 0.25
REWIND_RECORDS = 50  # so that the table is full at once, not only after each symbol's next bar


def top(
    loaded: Loaded,
    interval: Annotated[str, typer.Option("--interval", "-i", help="1m, 5m or 1d.")] = "1m",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after so long.")] = None,
) -> None:
    """Show each symbol's newest bar and indicators as they change. Ctrl-C ends."""
    import time

    from rich.console import Console
    from rich.live import Live

    from tickerplant.app import parts
    from tickerplant.app.supervisor import signals
    from tickerplant.core.schemas import ANALYTICS, OHLCV
    from tickerplant.log.port import at_positions

    wanted, stop = stored_interval(interval), threading.Event()
    bars: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, Any]] = {}
    deadline = None if seconds is None else time.monotonic() + seconds
    with parts.event_log(loaded.settings, make_topics=False) as event_log, signals(stop):
        offsets = event_log.offsets(OHLCV) | event_log.offsets(ANALYTICS)
        start = at_positions({tp: max(first, end - REWIND_RECORDS) for tp, (first, end) in offsets.items()})
        with (
            event_log.reader([OHLCV, ANALYTICS], start=start) as reader,
            Live(console=Console(), auto_refresh=False, screen=False) as live,
        ):
            drawn_s = 0.0
            while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
                for delivery in reader.poll(timeout_s=REFRESH_S):
                    _take(delivery, wanted, bars, values)
                if time.monotonic() - drawn_s >= REFRESH_S:
                    drawn_s = time.monotonic()
                    live.update(_picture(wanted, bars, values), refresh=True)


def _take(delivery: Any, wanted: str, bars: dict[str, dict[str, Any]], values: dict[str, dict[str, Any]]) -> None:
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
        known = target.get(row["symbol"])
        if row["interval"] == wanted and (known is None or known["time"] <= row["time"]):
            target[row["symbol"]] = row


def _picture(wanted: str, bars: dict[str, dict[str, Any]], values: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    outputs = list(dict.fromkeys(n for row in values.values() for n in list(row)[5:] if row[n] is not None))[:5]
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("symbol", f"{wanted} bar", "last", "open", "high", "low", "volume", "trades", "state", *outputs):
        numeric = heading not in ("symbol", "state", f"{wanted} bar")
        grid.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for symbol, bar in sorted(bars.items()):
        moved = (bar["close"] or 0) - (bar["open"] or 0)
        colour = "green" if moved > 0 else "red" if moved < 0 else ""
        row = values.get(symbol, {})
        when = f"{bar['time']:%Y-%m-%d}" if wanted in ("1d", "1w") else f"{bar['time']:%H:%M}"
        last = f"[{colour}]{_number(bar['close'])}[/]" if colour else _number(bar["close"])
        cells = [_number(bar[name]) for name in ("open", "high", "low", "volume", "trades")]
        grid.add_row(symbol, when, last, *cells, bar["state"], *(_number(row.get(name)) for name in outputs))
    return grid


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.7g}"
