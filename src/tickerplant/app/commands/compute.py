"""`tickerplant compute` and `tickerplant indicators`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import (
    ColumnOption,
    DateOrderOption,
    DecimalOption,
    StrictOption,
    cell,
    emit,
    notify,
    table,
    time_range,
)
from tickerplant.app.terminal.output import echo, write_csv
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from tickerplant.analytics.ondemand.calculation import Calculation
    from tickerplant.app.config.settings import Loaded
    from tickerplant.market_data.files.bars import FileBars

PRICE_ROWS, INDICATOR_ROWS = 14, 8
SHOWN_BELOW: Final = 5
"""Maximum rows in the table below a chart."""
_FEW_BROKEN: Final = 3


def compute(
    loaded: Loaded,
    file: Annotated[Path, typer.Argument(help="File of bars or closes: CSV (also .gz), Parquet or DBN.")],
    indicator: Annotated[
        list[str], typer.Option("--indicator", help="RSI(14), BBANDS(20,2), or a function of TA-Lib. Repeatable.")
    ],
    symbol: Annotated[
        str | None,
        typer.Option("--symbol", help="Use only bars of this symbol. Bars of a file without symbols get this symbol."),
    ] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="Interval of the bars in the file.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Time zone of times without one; default UTC.")] = None,
    date_order: DateOrderOption = None,
    column: ColumnOption = None,
    decimal: DecimalOption = None,
    strict: StrictOption = False,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Start of the printed range, inclusive. The calculation also uses earlier bars."),
    ] = None,
    end: Annotated[str | None, typer.Option("--end", help="End of the printed range, exclusive.")] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--limit", "--last", "-n", min=1, help="Maximum number of rows per symbol; the newest are printed."
        ),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the close and the indicators. Default for one symbol on a terminal.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Compute indicators over a file of bars or closes, with the same code as the stream. Needs no plant.

    Draws charts above the table on a terminal if there is one symbol. --csv and --json print only rows.
    """
    from tickerplant.app.wiring import files, on_demand
    from tickerplant.market_data.files.options import ReadOptions

    if draw + csv + json > 1:
        raise BadInput("--draw, --csv and --json exclude each other; use one of them")
    if not file.is_file():
        raise BadInput(f"there is no file {file}; check the path")
    start_us, end_us = time_range(start, end, ("--start", "--end"))
    chosen = on_demand.calculations(indicator)
    options = ReadOptions(symbol, interval, tz, date_order, columns=files.column_options(column), decimal=decimal)
    found = files.file_bars(file, options, strict=strict)
    _notify(file.name, found)
    shown = on_demand.computed(loaded.settings, found.bars, chosen, start_us, end_us, last)
    if not shown.num_rows:
        notify(f"{file.name} has no bars in this range")
        raise typer.Exit(1)
    symbols = shown.column("symbol").unique().to_pylist()
    if draw and len(symbols) > 1:
        raise BadInput(f"{file.name} has {len(symbols)} symbols; choose the one to draw with --symbol")
    if draw or (len(symbols) == 1 and not (csv or json) and sys.stdout.isatty()):
        echo("\n".join(charts(shown, chosen, symbols[0])))
        shown = shown.slice(max(0, shown.num_rows - SHOWN_BELOW))
    _print(shown, symbols, csv=csv, json=json)


def _notify(name: str, found: FileBars) -> None:
    """Print choices between two readings, reasons for the first unreadable rows, and the count of further such rows."""
    for choice in found.choices:
        notify(f"{name}: {choice}")
    for row in found.broken[:_FEW_BROKEN]:
        notify(row.reason)
    if len(found.broken) > _FEW_BROKEN:
        notify(f"{name}: {len(found.broken) - _FEW_BROKEN:,} more rows cannot be read")


def charts(bars: pa.Table, chosen: list[Calculation], symbol: str) -> list[str]:
    """Return the lines of a chart of the close, and of one or more charts for each indicator."""
    from tickerplant.app.terminal.price_chart import group_by_axis, panel

    times = [str(number) for number in range(1, bars.num_rows + 1)]
    if "time" in bars.schema.names:
        times = [moment.strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00") for moment in bars.column("time").to_pylist()]
    width = shutil.get_terminal_size((100, 24)).columns
    lines = panel(f"{symbol} close", {"close": bars.column("close").to_numpy()}, times, width=width, height=PRICE_ROWS)
    for each in chosen:
        for series in group_by_axis({name: bars.column(name).to_numpy() for name in each.columns}):
            title = f"{each}: {', '.join(series)}"
            lines += ["", *panel(title, series, times, width=width, height=INDICATOR_ROWS)]
    return [*lines, ""]


def _print(shown: pa.Table, symbols: list[str], *, csv: bool, json: bool) -> None:
    from tickerplant.core.times import iso

    names = [name for name in shown.schema.names if name != "symbol" or len(symbols) > 1 or json]
    rows = shown.select(names).to_pylist()
    for row in rows if "time" in names else ():
        row["time"] = iso(row["time"])
    if json:
        for row in rows:
            emit(row)
    elif csv:
        write_csv(names, ([row[name] for name in names] for row in rows))
    else:
        table(names, ([cell(row[name]) for name in names] for row in rows))


def indicators(
    loaded: Loaded,
    name: Annotated[str | None, typer.Argument(help="Print only this indicator, with all its details.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the indicators with parameters, defaults, columns and warm-up, then TA-Lib's functions."""
    from tickerplant.app.wiring import on_demand

    known = on_demand.on_demand(loaded.settings.rules.rules())
    for broken in on_demand.broken_plugins():
        notify(broken)
    found = [known.describe(name)] if name else known.listing()
    if json:
        for one in found:
            emit(one)
    elif name:
        for key, value in found[0].items():
            lines = [_parameter(each) for each in value] if key == "parameters" else value
            echo(f"{key:<11} {', '.join(map(str, lines)) if isinstance(lines, list) else lines}")
    else:
        for kind, title in (("declared", "indicators of the plant"), ("talib", "functions of TA-Lib")):
            rows = [_row(one) for one in found if one["kind"] == kind]
            table(("name", "parameters", "warm-up", "description", "inputs", "columns"), rows, title=title)


def _row(one: dict[str, Any]) -> list[str]:
    parameters = ", ".join(f"{each['name']}={cell(each['default'])}" for each in one["parameters"])
    title = one["title"].partition(":")[0].partition(",")[0].removesuffix(".")
    return [
        one["name"], parameters, cell(one["warmup"]), title, ", ".join(one["inputs"]), ", ".join(one["columns"])
    ]  # fmt: skip


def _parameter(one: dict[str, Any]) -> str:
    bounds = f" ({cell(one['least'])} to {cell(one['most'])})" if one["least"] is not None else ""
    return f"{one['name']}={cell(one['default'])}{bounds}"
