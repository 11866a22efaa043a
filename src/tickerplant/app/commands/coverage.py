"""`tickerplant coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import emit, say, table, time_option
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.terminal.coverage_chart import Picture
    from tickerplant.app.wiring.coverage_query import Covered
    from tickerplant.core.coverage import StatusRange
    from tickerplant.core.interval import Interval

GAPS_SHOWN: Final = 20
PIPE_WIDTH: Final = 100
"""Of the picture where there is no terminal to say."""
INTERVALS: Final = ("1m", "5m", "1d")


def coverage(
    loaded: Loaded,
    symbols: Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Only these symbols.")] = None,
    interval: Annotated[str, typer.Option("--interval", "-i", help="1m, 5m or 1d.")] = "1m",
    from_: Annotated[
        str | None, typer.Option("--from", help="From this time on (UTC unless it says); the last five sessions.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Before this time; now.")] = None,
    count: Annotated[int, typer.Option("-n", min=0, help="List at most so many gaps, the newest.")] = GAPS_SHOWN,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, of each symbol.")] = False,
) -> None:
    """Say which bars there are of a stretch, and why the others are missing, whether the plant runs or not.

    A table, a picture with time along it (of one symbol a line a day), and the gaps with their reasons.
    """
    from tickerplant.app.terminal.coverage_chart import picture
    from tickerplant.app.wiring.coverage_query import covered
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol

    names = [*dict.fromkeys(check_symbol(symbol) for symbol in symbols or ())]
    step = parse(interval)
    if step.name not in INTERVALS:
        raise BadInput(f"coverage is of bars of {', '.join(INTERVALS)}, not of {step}")
    from_us, to_us = time_option(from_, "--from"), time_option(to, "--to")
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise BadInput(f"--from {from_} is not before --to {to}")
    seen = covered(loaded.settings, names, step.name, from_us, to_us)
    for name in seen.unknown:
        say(f"{name} has never been seen")
    if json:
        for symbol in seen.found:
            emit(_as_dict(seen, symbol, step))
        return
    if not seen.found:
        say("the store has no bars, and no vendor has said anything")
        return
    _print_counts(seen, step)
    _print_picture(picture(seen.found, seen.calendars, step, _width()))
    _print_gaps(seen, step, count)


def _as_dict(seen: Covered, symbol: str, step: Interval) -> dict[str, Any]:
    from tickerplant.core.coverage import HAVE, share, status_ranges
    from tickerplant.core.times import iso

    found = seen.found[symbol]
    counts = found.counts()
    return {
        "symbol": symbol, "interval": step.name, "from": iso(seen.from_us), "to": iso(seen.to_us),
        "expected": len(found.starts), "have": counts[HAVE], "share": share(counts), "counts": counts,
        "stretches": [
            {
                "from": iso(one.from_us), "to": iso(one.to_us), "status": one.status, "bars": one.bars,
                "source": one.source or None, "note": one.note or None,
                "again_at": iso(one.again_us) if one.again_us else None,
            }
            for one in status_ranges(found, step.name, seen.from_us, seen.to_us)
        ],
    }  # fmt: skip


def _print_counts(seen: Covered, step: Interval) -> None:
    from tickerplant.core.coverage import STATUSES, share

    counts = {symbol: found.counts() for symbol, found in seen.found.items()}
    shown = [status for status in STATUSES if any(each[status] for each in counts.values())]
    print(f"{step} bars from {_time(seen.from_us, step)} to {_time(seen.to_us, step)} UTC")  # a title would wrap
    rows = []
    for symbol, each in counts.items():
        part = share(each)
        whole = part if part in (None, 0, 1) else min(max(part, 0.0001), 0.9999)  # a bar missing is not all
        numbers = (f"{number:,}" for number in (sum(each.values()), *(each[status] for status in shown)))
        rows.append((symbol, *numbers, "" if whole is None else f"{whole:.2%}"))
    table(("symbol", "expected", *(status.replace("_", " ") for status in shown), "covered"), rows)


def _print_picture(drawn: Picture) -> None:
    from rich.text import Text

    from tickerplant.app.commands.common import console_for_tables
    from tickerplant.app.terminal.coverage_chart import MARKS

    console = console_for_tables()
    margin = max(len(line.label) for line in drawn.lines) + 1
    across = max(len(line.columns) for line in drawn.lines)
    console.print()
    for line in drawn.lines:
        text = Text(line.label.ljust(margin))
        for status in line.columns:
            mark, colour = MARKS[status]
            text.append(mark, style=colour)
        console.print(text, soft_wrap=True)
    if drawn.times:
        console.print(Text(" " * margin + _below(drawn.times, across)), soft_wrap=True)
    legend = Text(" " * margin)
    for status in drawn.legend:
        mark, colour = MARKS[status]
        legend.append(mark, style=colour).append(f" {status.replace('_', ' ')}   ")
    if drawn.legend:
        legend.rstrip()
        console.print(legend, soft_wrap=True)


def _below(times: Sequence[str], across: int) -> str:
    """Return as many of the first, middle and last time as there is room for, each at its place."""
    first, middle, last = times
    gap = across - len(first) - len(last)
    if gap < 1:
        return first
    return f"{first}{middle if gap >= len(middle) + 4 else '':^{gap}}{last}"


def _print_gaps(seen: Covered, step: Interval, count: int) -> None:
    from tickerplant.core.coverage import GAPS, status_ranges

    gaps = [
        (symbol, one)
        for symbol, found in seen.found.items()
        for one in status_ranges(found, step.name, seen.from_us, seen.to_us)
        if one.status in GAPS
    ]
    newest = sorted(gaps, key=lambda gap: (gap[1].from_us, gap[0]))[-count:] if count else []
    print()
    if not gaps:
        print("no gaps")
    elif newest:
        headings = ("symbol", "from", "to", "bars", "status", "why")
        rows = [
            (symbol, _time(one.from_us, step), _end(one, step), f"{one.bars:,}", one.status, _why(one))
            for symbol, one in newest
        ]
        table(headings, rows)
    if more := len(gaps) - len(newest):
        print(f"{more:,} gap{'s' * (more != 1)}{' more' * bool(newest)}")


def _why(one: StatusRange) -> str:
    from tickerplant.core.coverage import MISSING, OUTAGE, PARTIAL

    said = ": ".join(word for word in (one.source, one.note) if word)
    if not said:
        said = {
            MISSING: "no vendor has been asked yet",
            OUTAGE: "no feed was up",
            PARTIAL: "its feed was not up for all of it",
        }.get(one.status, "")
    return f"{said}; again at {_moment(one.again_us)}" if one.again_us else said


def _end(one: StatusRange, step: Interval) -> str:
    """Return the first instant after a stretch, on the same day by its time alone."""
    begin, end = _time(one.from_us, step), _time(one.to_us, step)
    return end[11:] if step.is_intraday and end[:10] == begin[:10] else end


def _time(us: int, step: Interval) -> str:
    return _moment(us) if step.is_intraday else _moment(us)[:10]


def _moment(us: int) -> str:
    from tickerplant.core.times import datetime_of

    return f"{datetime_of(us):%Y-%m-%d %H:%M}"


def _width() -> int:
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else PIPE_WIDTH
