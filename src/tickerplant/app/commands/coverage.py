"""`tickerplant coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import emit, notify, table, time_range
from tickerplant.app.terminal.output import console, echo
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.terminal.coverage_chart import CoverageChart
    from tickerplant.app.wiring.coverage_query import CoverageReport
    from tickerplant.core.coverage import StatusRange
    from tickerplant.core.interval import Interval

GAPS_SHOWN: Final = 20
PIPE_WIDTH: Final = 100
"""Width of the chart in a pipe, in characters."""
INTERVALS: Final = ("1m", "5m", "1d")


def coverage(
    loaded: Loaded,
    symbols: Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Symbols; default: all.")] = None,
    interval: Annotated[str, typer.Option("--interval", "-i", help="1m, 5m or 1d.")] = "1m",
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start of the range, inclusive; UTC if it has no time zone. Default: five sessions; 1d: one year.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of the range, exclusive; default: now.")] = None,
    count: Annotated[
        int, typer.Option("-n", min=0, help="Maximum number of gaps; the newest are listed.")
    ] = GAPS_SHOWN,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per symbol, each on one line.")] = False,
) -> None:
    """Print which bars of a range are stored and why others are missing, whether or not the plant runs.

    Prints a table, a chart over time, and the gaps with reasons. The chart has one line per symbol, and for a single
    symbol one line per day or year.
    """
    from tickerplant.app.terminal.coverage_chart import draw
    from tickerplant.app.wiring.coverage_query import read_coverage
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol

    names = [*dict.fromkeys(check_symbol(symbol) for symbol in symbols or ())]
    step = parse(interval)
    if step.name not in INTERVALS:
        raise BadInput(f"--interval {step}: coverage exists only for bars of {', '.join(INTERVALS)}; use one of them")
    start_us, end_us = time_range(from_, to)
    report = read_coverage(loaded.settings, names, step.name, start_us, end_us)
    for name in report.unknown:
        notify(f"the store has no data of {name}")
    if json:
        for symbol in report.found:
            emit(_as_dict(report, symbol, step))
        return
    if not report.found:
        notify("the store has no bars and no vendor's answers")
        return
    _print_counts(report, step)
    _print_chart(draw(report.found, report.calendars, step, _width()))
    _print_gaps(report, step, count)


def _as_dict(report: CoverageReport, symbol: str, step: Interval) -> dict[str, Any]:
    from tickerplant.core.coverage import HAVE, share, status_ranges
    from tickerplant.core.times import iso

    found = report.found[symbol]
    counts = found.counts()
    return {
        "symbol": symbol, "interval": step.name, "from": iso(report.start_us), "to": iso(report.end_us),
        "expected": len(found.starts), "have": counts[HAVE], "share": share(counts), "counts": counts,
        "stretches": [
            {
                "from": iso(one.from_us), "to": iso(one.to_us), "status": one.status, "bars": one.bars,
                "source": one.source or None, "note": one.note or None,
                "again_at": iso(one.again_us) if one.again_us else None,
            }
            for one in status_ranges(found, step.name, report.start_us, report.end_us)
        ],
    }  # fmt: skip


def _print_counts(report: CoverageReport, step: Interval) -> None:
    from tickerplant.core.coverage import STATUSES, share

    counts = {symbol: found.counts() for symbol, found in report.found.items()}
    shown = [status for status in STATUSES if any(each[status] for each in counts.values())]
    echo(
        f"{step} bars from {_time(report.start_us, step)} to {_time(report.end_us, step)} UTC"
    )  # not the table's title, which would wrap
    rows = []
    for symbol, each in counts.items():
        part = share(each)
        # One missing bar must not show as 100 %.
        covered = part if part in (None, 0, 1) else min(max(part, 0.0001), 0.9999)
        numbers = (f"{number:,}" for number in (sum(each.values()), *(each[status] for status in shown)))
        rows.append((symbol, *numbers, "" if covered is None else f"{covered:.2%}"))
    table(("symbol", "expected", *(status.replace("_", " ") for status in shown), "covered"), rows)


def _print_chart(chart: CoverageChart) -> None:
    from rich.text import Text

    from tickerplant.app.commands.common import console_for_tables
    from tickerplant.app.terminal.coverage_chart import MARKS

    terminal = console_for_tables()
    margin = max(len(line.label) for line in chart.lines) + 1
    across = max(len(line.columns) for line in chart.lines)
    terminal.print()
    for line in chart.lines:
        text = Text(line.label.ljust(margin))
        for status in line.columns:
            mark, colour = MARKS[status]
            text.append(mark, style=colour)
        terminal.print(text, soft_wrap=True)
    if chart.times:
        terminal.print(Text(" " * margin + _below(chart.times, across)), soft_wrap=True)
    legend = Text(" " * margin)
    for status in chart.legend:
        mark, colour = MARKS[status]
        legend.append(mark, style=colour).append(f" {status.replace('_', ' ')}   ")
    if chart.legend:
        legend.rstrip()
        terminal.print(legend, soft_wrap=True)


def _below(times: Sequence[str], across: int) -> str:
    """Return the line of axis labels: the first, the middle and the last time, as many as fit."""
    first, middle, last = times
    gap = across - len(first) - len(last)
    if gap < 1:
        return first
    return f"{first}{middle if gap >= len(middle) + 4 else '':^{gap}}{last}"


def _print_gaps(report: CoverageReport, step: Interval, count: int) -> None:
    from tickerplant.core.coverage import GAPS, status_ranges

    gaps = [
        (symbol, one)
        for symbol, found in report.found.items()
        for one in status_ranges(found, step.name, report.start_us, report.end_us)
        if one.status in GAPS
    ]
    newest = sorted(gaps, key=lambda gap: (gap[1].from_us, gap[0]))[-count:] if count else []
    echo()
    if not gaps:
        echo("no gaps")
    elif newest:
        headings = ("symbol", "from", "to", "bars", "status", "reason")
        rows = [
            (symbol, _time(one.from_us, step), _end(one, step), f"{one.bars:,}", one.status, _reason(one))
            for symbol, one in newest
        ]
        table(headings, rows)
    if more := len(gaps) - len(newest):
        echo(f"{more:,} gap{'s' * (more != 1)}{' more' * bool(newest)}")


def _reason(one: StatusRange) -> str:
    from tickerplant.core.coverage import MISSING, OUTAGE, PARTIAL

    reason = ": ".join(word for word in (one.source, one.note) if word)
    if not reason:
        reason = {
            MISSING: "not requested from a vendor yet",
            OUTAGE: "no feed was up",
            PARTIAL: "its feed was down for a part of the bar",
        }.get(one.status, "")
    return f"{reason}; next request at {_moment(one.again_us)}" if one.again_us else reason


def _end(one: StatusRange, step: Interval) -> str:
    """Return the exclusive end of a range as text, without the date if the end is on the same day as the start."""
    begin, end = _time(one.from_us, step), _time(one.to_us, step)
    return end[11:] if step.is_intraday and end[:10] == begin[:10] else end


def _time(us: int, step: Interval) -> str:
    return _moment(us) if step.is_intraday else _moment(us)[:10]


def _moment(us: int) -> str:
    from tickerplant.core.times import datetime_of

    return f"{datetime_of(us):%Y-%m-%d %H:%M}"


def _width() -> int:
    terminal = console()
    return terminal.width if terminal.is_terminal else PIPE_WIDTH
