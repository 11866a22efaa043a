"""`tickerplant compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import END_HELP, START_HELP, emit, notify, table, time_range
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import UnreadableRecord

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog

SHOWN: Final = 30
PRICES: Final = ("open", "high", "low", "close")
KEY: Final = ("symbol", "interval", "time", "source", "other_source")


def compare(
    loaded: Loaded,
    symbols: Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Symbols; default: all.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", "-i", help="Print only bars of this interval.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help=START_HELP)] = None,
    to: Annotated[str | None, typer.Option("--to", help=END_HELP)] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", min=1, help=f"Number of newest rows to print. Default: {SHOWN}, or all with --json."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List bars that differ between two sources, newest last. Reads only records that are still in the log."""
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol

    names = {check_symbol(symbol) for symbol in symbols or ()}
    wanted = None if interval is None else parse(interval).name
    start_us, end_us = time_range(from_, to)
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    with open_readonly.log_of(loaded.settings) as event_log:
        for row in _differences(event_log, start_us, end_us):
            if (not names or row["symbol"] in names) and wanted in (None, row["interval"]):
                newest[tuple(row[name] for name in KEY)] = row  # all rows of a symbol are in one partition, in order
    rows = sorted(newest.values(), key=lambda row: (row["time"], row["symbol"], parse(row["interval"]).us))
    limit = count if count is not None else None if json else SHOWN
    shown = rows if limit is None else rows[-limit:]
    if json:
        for row in shown:
            emit({**row, "time": _iso(row), "price_bp": price_bp(row), "volume_percent": volume_percent(row)})
    elif shown:
        headings = ("time", "symbol", "interval", "source", "other", "close", "other close", "price bp", "volume %")
        table(headings, (_cells(row) for row in shown))
        echo(_summary(rows, len(shown)))
    if not shown:
        notify("no two sources differ in this range")


def _differences(event_log: EventLog, start_us: int | None, end_us: int | None) -> Iterator[dict[str, Any]]:
    """Yield the differences of bars that start in `[start_us, end_us)`, in order within each partition."""
    import pyarrow as pa

    from tickerplant.core.arrow_values import times_of
    from tickerplant.core.records import Differences, decode, header_of
    from tickerplant.core.schemas import STATUS
    from tickerplant.core.times import FOREVER_US, NEVER_US

    start_us, end_us = NEVER_US if start_us is None else start_us, FOREVER_US if end_us is None else end_us
    for source, (first, end) in event_log.offsets(STATUS).items():
        for record in event_log.read_range(source, first, end):
            try:
                if not isinstance(header_of(record.value), Differences):
                    continue
                batch = decode(record.value).batch
            except UnreadableRecord:
                continue
            times = times_of(batch["time"])
            yield from batch.filter(pa.array((times >= start_us) & (times < end_us))).to_pylist()


def price_bp(row: Mapping[str, Any]) -> float | None:
    """Return the largest difference of the four prices, in basis points of the published price.

    A published price of 0 is ignored. None if no other of the four prices is known from both sources.
    """
    pairs = [(row[name], row[f"other_{name}"]) for name in PRICES]
    found = [abs(other - price) / abs(price) * 10_000 for price, other in pairs if price and other is not None]
    return max(found, default=None)


def volume_percent(row: Mapping[str, Any]) -> float | None:
    """Return the difference of the volumes in percent of the published volume.

    None if a volume is unknown, or if the published volume is 0.
    """
    volume, other = row["volume"], row["other_volume"]
    return (other - volume) / volume * 100 if volume and other is not None else None


def _iso(row: Mapping[str, Any]) -> str:
    from tickerplant.core.times import iso

    return iso(row["time"])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    price, volume = price_bp(row), volume_percent(row)
    return (
        _iso(row), row["symbol"], row["interval"], row["source"], row["other_source"],
        *("" if value is None else f"{value:,.10g}" for value in (row["close"], row["other_close"])),
        "" if price is None else f"{price:,.2f}", "" if volume is None else f"{volume:+,.2f}",
    )  # fmt: skip


def _summary(rows: list[dict[str, Any]], shown: int) -> str:
    pairs = Counter((row["source"], row["other_source"], row["interval"]) for row in rows)
    counted = ", ".join(f"{source} / {other} {name}: {n:,}" for (source, other, name), n in sorted(pairs.items()))
    some = f" (the newest {shown:,} are shown)" if shown < len(rows) else ""
    return f"{len(rows):,} {'bar differs' if len(rows) == 1 else 'bars differ'}{some}: {counted}"
