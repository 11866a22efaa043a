"""Measure the rows of the first table in docs/benchmarks.md, and print them as Markdown.

    make bench ARGS='table'                     # all rows, one round: about an hour and a half
    make bench ARGS='table rest replay --rounds 3'
    make bench ARGS='table --list'

ROW is the beginning of a row's name. Rows of the same benchmark with equal arguments share its runs. With several
rounds, a row contains the median and the range.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.support.compare import CompareError, Tree, caches, number, run

NAMES: Final = {"embedded": "embedded", "kafka": "Kafka"}


class Row(NamedTuple):
    """One row: its name, the measured quantity, the aim, the benchmark with arguments, and figures that are added up.

    `most` and `least` are the bounds of the aim in `unit`. Both are None if the aim compares two commits.
    """

    name: str
    what: str
    aim: str
    command: str
    figures: tuple[str, ...]
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def benchmark(self) -> str:
        """Return the name of the benchmark."""
        return shlex.split(self.command)[0]

    def value(self, found: Mapping[str, float]) -> float | None:
        """Return the sum of the row's figures; None if one is missing."""
        names = [f"{self.benchmark}: {figure}" for figure in self.figures]
        return sum(found[name] for name in names) if all(name in found for name in names) else None

    def verdict(self, value: float) -> str:
        """Return whether the value reaches the aim; an empty text if the aim compares two commits."""
        if self.most is None and self.least is None:
            return ""
        reached = (self.most is None or value <= self.most) and (self.least is None or value >= self.least)
        return "reached" if reached else "**missed**"

    def line(self, values: Sequence[float]) -> str:
        """Return the row in Markdown with the median and the range of its values."""
        shown = "not measured"
        if values:
            middle = statistics.median(values)
            span = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
            shown = " ".join(f"{number(middle)}{span} {self.unit} {self.verdict(middle)}".split())
        return f"| {self.what} | {self.aim} | {shown} | `{self.command}` |"


def _at_rest(name: str, what: str, command: str, title: str, bounds: tuple[float, float, float]) -> Iterator[Row]:
    cpu, disk, memory = bounds
    yield Row(
        f"rest-{name}-cpu", f"{what}: CPU", f"≤ {cpu:g} % of a core", command,
        (f"{title}: cpu_percent_in_all",), "% of a core", most=cpu,
    )  # fmt: skip
    if disk:
        yield Row(
            f"rest-{name}-disk", f"{what}: growth of log and database", f"≤ {disk:g} GB a day", command,
            (f"{title}: log_gb_per_day", f"{title}: store_gb_per_day"), "GB a day", most=disk,
        )  # fmt: skip
    if memory:
        yield Row(
            f"rest-{name}-memory", f"{what}: memory of all processes", f"≤ {memory:g} MB", command,
            (f"{title}: memory_mb_in_all",), "MB", most=memory,
        )  # fmt: skip


def _shapes() -> Iterator[Row]:
    for symbols in (500, 10):
        for order in ("time", "symbol"):
            title = f"{symbols} symbols by {order}"
            yield Row(
                f"replay-{symbols}-{order}", f"replay of 200,000 `1m` bars, start-up subtracted: {title}",
                "≥ 120,000 bars/s", "shapes", (f"{title}: bars_per_s",), "bars/s", least=120_000,
            )  # fmt: skip
    yield Row("replay-ratio", "the slowest of these shapes to the fastest", "≥ 2/3", "shapes", ("worst / best",), "",
              least=2 / 3)  # fmt: skip


def _rest() -> Iterator[Row]:
    for title, ratio, bounds in (
        ("2,600 daily bars", 10, None), ("100 bars", 3, None), ("newest state", 0, 2), ("1,000 1h bars", 0, 10),
        ("RSI of 100 days", 0, 10), ("health", 0, 5),
    ):  # fmt: skip
        name, what = (
            title.lower().replace(",", "").replace(" ", "-"),
            f"REST beside the idle demo, 1 connection: {title}",
        )
        yield Row(f"api-{name}", f"{what}, p50", f"≤ {bounds} ms" if bounds else "none", "rest_api",
                  (f"{title}, plant: p50_ms",), "ms", most=bounds)  # fmt: skip
        if ratio:
            yield Row(f"api-{name}-ratio", f"{what}, speed to plain FastAPI and asyncpg", f"≥ {ratio} ×", "rest_api",
                      (f"{title}: plain / plant",), "×", least=ratio)  # fmt: skip
    yield Row("api-64", "REST, 64 connections, 100 bars", "none", "rest_api",
              ("64 connections, 100 bars, plant: requests_per_s",), "requests/s")  # fmt: skip
    yield Row("api-64-ratio", "REST, 64 connections, 100 bars, to plain FastAPI and asyncpg", "≥ 5 ×", "rest_api",
              ("64 connections, 100 bars: plant / plain",), "×", least=5)  # fmt: skip


def _latency() -> Iterator[Row]:
    def rows(
        log: str, rate: int, gather: str, partitions: int, most: float | None, aim: str, seconds: int = 30
    ) -> Iterator[Row]:
        command = f"plant --only latency --log {log} --rates {rate} --gather {gather}"
        command += f" --seconds {seconds}" if seconds != 30 else ""
        title = f"{log}: tick to WebSocket, {rate}/s" + (f", gather_ms {gather}" if gather != "default" else "")
        what = f"tick to WebSocket, {NAMES[log]}, {rate:,}/s, " + ("no gathering" if gather == "0" else "default")
        if partitions != 4:
            command, title = f"{command} --partitions {partitions}", f"{title}, {partitions} partitions"
            what += f", {partitions} partition"
        for percent, bound, text in ((50, None, "none"), (99, most, aim)):
            yield Row(
                f"latency-{log}-{rate}-{gather}-{partitions}-p{percent}", f"{what}: p{percent}", text, command,
                (f"{title}: p{percent}_ms",), "ms", most=bound,
            )  # fmt: skip

    yield from rows("embedded", 10_000, "default", 4, 20, "≤ 20 ms")
    yield from rows("kafka", 10_000, "default", 4, 100, "≤ 100 ms")
    yield from rows("embedded", 100, "0", 4, 8, "≤ 8 ms", 60)
    yield from rows("embedded", 1_000, "0", 4, 15, "≤ 15 ms")
    yield from rows("embedded", 100, "default", 4, 115, "≤ 115 ms", 60)
    yield from rows("embedded", 1_000, "default", 4, 115, "≤ 115 ms")
    yield from rows("kafka", 1_000, "0", 4, 60, "≤ 60 ms")
    yield from rows("kafka", 1_000, "0", 1, 60, "≤ 60 ms")


def _ticks() -> Iterator[Row]:
    title = "feed to committed rows"
    for log, count, aim in (("embedded", 5, "≥ 2 × the former rate"), ("kafka", 3, "≥ 1.5 × the former rate")):
        command = f"plant --only throughput --log {log} --ticks {count}000000"
        what = f"ticks from a file, {NAMES[log]}, {count} M dense"
        yield Row(f"ticks-{log}-rate", what, aim, command, (f"{log}: {title}: ticks_per_s",), "ticks/s")
        yield Row(f"ticks-{log}-cpu", f"{what}: CPU of plant, database, feed and clients", "none", command,
                  (f"{log}: {title}: cpu_us_per_tick",), "µs a tick")  # fmt: skip
    yield Row("ticks-questdb-rate", "the same 5 M ticks by ILP into QuestDB, stored only", "none", "questdb",
              ("QuestDB: ticks_per_s",), "ticks/s")  # fmt: skip
    yield Row("ticks-questdb-cpu", "the same: CPU of QuestDB", "none", "questdb",
              ("QuestDB: cpu_us_per_tick",), "µs a tick")  # fmt: skip
    for query in ("1m bars of a symbol", "1m bars of all symbols", "newest 500 ticks"):
        yield Row(f"ticks-questdb-{query.replace(' ', '-')}", f"time of a query, plant to QuestDB: {query}", "none",
                  "questdb", (f"plant / QuestDB: {query}, p50_ms",), "×")  # fmt: skip
    yield Row("memory-20M", "memory peak over 20 M ticks, embedded", "≤ 400 MB",
              "plant --only throughput --log embedded --ticks 20000000",
              (f"embedded: {title}: memory_max_mb",), "MB", most=400)  # fmt: skip


def _others() -> Iterator[Row]:
    indicators, history = "analytics --bars 150", "plant --only latency --log embedded --rates 1000 --warm 5 --history"
    title = "embedded: tick to WebSocket, 1000/s, first backfill"
    crowd = "fanout --clients 400 5000"
    yield Row("indicators-rate", "indicators, ragged symbols", "≥ 60 M outputs/s", indicators,
              ("engine, ragged",), "M outputs/s", least=60)  # fmt: skip
    yield Row("indicators-talipp", "the same to talipp", "≥ 80 ×", indicators,
              ("engine, ragged: × talipp",), "×", least=80)  # fmt: skip
    yield Row("history-rate", "first backfill with 1,000 live ticks/s", "≥ 30,000 bars/s", history,
              (f"{title}: history_bars_per_s",), "bars/s", least=30_000)  # fmt: skip
    yield Row("history-p99", "the same: p99 of tick to WebSocket", "≤ 50 ms", history,
              (f"{title}: p99_ms",), "ms", most=50)  # fmt: skip
    yield Row("stream-400", "stream, 400 clients of all symbols: messages for each CPU second", "≥ 200,000", crowd,
              ("400 clients: messages_per_cpu_s",), "/CPU s", least=200_000)  # fmt: skip
    yield Row("stream-5000", "stream, 5,000 clients: messages for each CPU second", "≥ 200,000", crowd,
              ("5000 clients: messages_per_cpu_s",), "/CPU s", least=200_000)  # fmt: skip
    yield Row("stream-5000-clients", "the same: admitted clients", "5,000", crowd,
              ("5000 clients: clients",), "clients", least=5_000)  # fmt: skip


ROWS: Final = (
    *_at_rest("12", "plant at rest, 12 symbols, 50 ticks/s", "rest", "12 symbols, 50 ticks/s", (10, 0.5, 300)),
    *_at_rest("1", "one symbol, 50 ticks/s", "rest --symbols 1", "1 symbols, 50 ticks/s", (8, 0.4, 250)),
    *_at_rest("1000", "1,000 symbols, 100 ticks/s", "rest --symbols 1000 --rate 100", "1000 symbols, 100 ticks/s",
              (20, 0, 0)),
    *_shapes(),
    *_rest(),
    *_ticks(),
    *_latency(),
    *_others(),
)  # fmt: skip
"""All rows in the order of the page."""


def chosen(words: Sequence[str]) -> list[Row]:
    """Return the rows whose names begin with one of the words; all rows if there are no words.

    Raises CompareError for a word that begins no name.
    """
    for word in words:
        if not any(row.name.startswith(word) for row in ROWS):
            raise CompareError(f"no row begins with {word!r}; `table --list` prints all names")
    return [row for row in ROWS if not words or any(row.name.startswith(word) for word in words)]


def measure(root: Path, rows: Sequence[Row], rounds: int) -> Iterator[str]:
    """Yield the lines of the table after all runs. A failed benchmark is reported; its rows are not measured."""
    tree, extra = Tree("here", root, sys.executable), caches(root, root)
    found: dict[str, list[dict[str, float]]] = {row.command: [] for row in rows}
    for turn in range(rounds):
        for command, results in found.items():
            print(f"round {turn + 1} of {rounds}: {command}", file=sys.stderr, flush=True)
            name, *arguments = shlex.split(command)
            try:
                results.append({figure.name: figure.value for figure in run(tree, name, arguments, extra)})
            except CompareError as error:
                print(error, file=sys.stderr, flush=True)
    yield "| what | aim | measured | `make bench ARGS=…` |"
    yield "|---|---|---|---|"
    for row in rows:
        values = [row.value(result) for result in found[row.command]]
        yield row.line([value for value in values if value is not None])


def main(root: Path, words: Sequence[str]) -> None:
    """Run the command `table`."""
    parser = argparse.ArgumentParser(
        prog="table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", metavar="ROW", nargs="*", help="beginning of the names of rows; default: all rows")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the names and commands of the rows")
    asked = parser.parse_intermixed_args(list(words))
    try:
        rows = chosen(asked.rows)
    except CompareError as error:
        sys.exit(f"table: {error}")
    lines = [f"{row.name:<40}{row.command}" for row in rows] if asked.list else measure(root, rows, asked.rounds)
    for line in lines:
        print(line, flush=True)
