"""`tickerplant query`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import (
    END_HELP,
    READABLE_INTERVALS,
    START_HELP,
    cell,
    emit,
    notify,
    readable_interval,
    table,
    time_range,
)
from tickerplant.app.terminal.output import write_csv
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.analytics.ondemand.calculation import Calculation
    from tickerplant.analytics.ondemand.query import InputBars
    from tickerplant.app.config.settings import Loaded

COLUMNS = ("time", "open", "high", "low", "close", "volume", "vwap", "trades", "complete", "revision", "source")
VALUE_COLUMNS = ("time", "open", "high", "low", "close", "volume", "state")


def query(
    loaded: Loaded,
    symbol: Annotated[str, typer.Argument(help="A symbol, e.g. AAPL or EUR/USD.")],
    interval: Annotated[str, typer.Option("--interval", "-i", help=READABLE_INTERVALS)] = "1d",
    start: Annotated[str | None, typer.Option("--start", help=START_HELP)] = None,
    end: Annotated[str | None, typer.Option("--end", help=END_HELP)] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Maximum number of bars; the newest are printed.")
    ] = 500,
    indicator: Annotated[
        list[str] | None,
        typer.Option("--indicator", help="Compute this indicator: RSI(14), or any function of TA-Lib. Repeatable."),
    ] = None,
    adjust: Annotated[
        str,
        typer.Option("--adjust", help="Adjust prices: none (as traded), splits, or all (splits and dividends)."),
    ] = "none",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print a symbol's bars from the store, oldest first, whether or not the plant runs.

    --indicator also prints indicator values. Their computation includes the earlier bars that they need.
    """
    from tickerplant.app.wiring import on_demand, open_readonly
    from tickerplant.app.wiring.store import BarSelection
    from tickerplant.app.wiring.stored_bars import bars
    from tickerplant.core.adjustment import check_adjustment
    from tickerplant.core.symbols import check_symbol

    if csv and json:
        raise BadInput("--csv and --json exclude each other; use one of them")
    symbol, interval, adjust = check_symbol(symbol), readable_interval(interval), check_adjustment(adjust)
    start_us, end_us = time_range(start, end, ("--start", "--end"))
    columns: tuple[str, ...] = COLUMNS
    selection = BarSelection(symbol, interval, start_us, end_us, limit)
    chosen = on_demand.calculations(indicator or [])
    with open_readonly.store_of(loaded.settings) as dsn:
        if chosen:
            rows, input_bars = on_demand.values(loaded.settings, dsn, chosen, selection, adjust)
        else:
            rows = bars(loaded.settings, dsn, selection, adjust)
    if chosen:
        columns = (*VALUE_COLUMNS, *(name for each in chosen for name in each.columns))
        _notify_about(input_bars, chosen)
    if json:
        for row in rows:
            emit({"symbol": symbol, "interval": interval, "adjust": adjust, **row})
    elif csv:
        write_csv(columns, ([row[name] for name in columns] for row in rows))
    elif rows:
        table(columns, ([cell(row[name]) for name in columns] for row in rows), title=_title(symbol, interval, adjust))
    if not rows:
        notify(f"the store has no {interval} bars of {symbol} in this range")
        raise typer.Exit(1)


def _title(symbol: str, interval: str, adjust: str) -> str:
    how = {"splits": ", adjusted for splits", "all": ", adjusted for splits and dividends"}
    return f"{symbol} {interval}{how.get(adjust, '')}"


def _notify_about(input_bars: InputBars, chosen: list[Calculation]) -> None:
    """Print how many more bars each indicator needs, and the first bar that was read if older bars were not read."""
    from tickerplant.analytics.ondemand.query import MAX_BARS, remaining
    from tickerplant.core.times import iso

    for name, bars in remaining(input_bars, chosen).items():
        notify(f"{name} needs {bars} more bars")
    if input_bars.limited and input_bars.computed_from_us is not None:
        notify(
            f"computed from bars since {iso(input_bars.computed_from_us)}: at most {MAX_BARS:,} earlier bars are read"
        )
