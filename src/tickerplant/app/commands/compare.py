"""`tickerplant compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import emit, say, table, time_option
from tickerplant.core.errors import BadInput, UnreadableRecord

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog

SHOWN: Final = 30
PRICES: Final = ("open", "high", "low", "close")
KEY: Final = ("symbol", "interval", "time", "source", "other_source")


def compare(
    loaded: Loaded,
    symbols: Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Only these symbols.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", "-i", help="Only bars of this interval.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Bars from this time on (UTC unless it says).")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Bars before this time.")] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help=f"At most so many, the newest ({SHOWN} without --json).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the bars that two sources give otherwise, newest last, as far as the log reaches back."""
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol

    lean()
    names = {check_symbol(symbol) for symbol in symbols or ()}
    wanted = None if interval is None else parse(interval).name
    from_us, to_us = time_option(from_, "--from"), time_option(to, "--to")
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise BadInput(f"--from {from_} is not before --to {to}")
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    with open_readonly.log_of(loaded.settings) as event_log:
        for row in _differences(event_log, from_us, to_us):
            if (not names or row["symbol"] in names) and wanted in (None, row["interval"]):
                newest[tuple(row[name] for name in KEY)] = row  # a symbol stands in one partition, in order
    rows = sorted(newest.values(), key=lambda row: (row["time"], row["symbol"], parse(row["interval"]).us))
    limit = count if count is not None else None if json else SHOWN
    shown = rows if limit is None else rows[-limit:]
    if json:
        for row in shown:
            emit({**row, "time": _iso(row), "price_bp": price_bp(row), "volume_percent": volume_percent(row)})
    elif shown:
        headings = ("time", "symbol", "interval", "source", "other", "close", "other close", "price bp", "volume %")
        table(headings, (_cells(row) for row in shown))
        print(_summary(rows, len(shown)))
    if not shown:
        say("no two sources disagree there")


def _differences(event_log: EventLog, from_us: int | None, to_us: int | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of bars that begin in `[from_us, to_us)`, in order within each partition."""
    import pyarrow as pa

    from tickerplant.core.records import Differences, decode, header_of
    from tickerplant.core.schemas import STATUS
    from tickerplant.core.times import FOREVER_US, NEVER_US, times_of

    from_us, to_us = NEVER_US if from_us is None else from_us, FOREVER_US if to_us is None else to_us
    for source, (first, end) in event_log.offsets(STATUS).items():
        for delivery in event_log.read_range(source, first, end):
            try:
                if not isinstance(header_of(delivery.value), Differences):
                    continue
                batch = decode(delivery.value).batch
            except UnreadableRecord:
                continue
            times = times_of(batch["time"])
            yield from batch.filter(pa.array((times >= from_us) & (times < to_us))).to_pylist()


def price_bp(row: Mapping[str, Any]) -> float | None:
    """Return the greatest difference of the four prices, in basis points of the published one; None without any."""
    pairs = [(row[name], row[f"other_{name}"]) for name in PRICES]
    found = [abs(other - price) / abs(price) * 10_000 for price, other in pairs if price and other is not None]
    return max(found, default=None)


def volume_percent(row: Mapping[str, Any]) -> float | None:
    """Return how much greater the other volume is, in per cent of the published one; None without a published one."""
    volume, other = row["volume"], row["other_volume"]
    return (other - volume) / volume * 100 if volume and other is not None else None


def _iso(row: Mapping[str, Any]) -> str:
    return str(row["time"].isoformat()).replace("+00:00", "Z")


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
