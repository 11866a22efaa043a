"""Figures of benchmarks: numbers with a name and a unit, which programs read from the file in `BENCH_FIGURES`."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

FILE: Final = "BENCH_FIGURES"
"""Name of the environment variable with the path of the file. Without it, figures are only printed."""

Better = Literal["more", "less"]

UNITS: Final[tuple[tuple[str, str, Better], ...]] = (
    (r"^cpu_percent", "% of a core", "less"),
    (r"^cpu_s_per_s", "cores", "less"),
    (r"^cpu_s\b", "CPU s", "less"),
    (r"^cpu_us", "CPU µs", "less"),
    (r"^records_per_s", "records/s", "less"),
    (r"_per_cpu_s$", "/CPU s", "more"),
    (r"_gb_per_day", "GB/day", "less"),
    (r"^memory_|_mb$", "MB", "less"),
    (r"_ms$", "ms", "less"),
    (r"^seconds$", "s", "less"),
    (r"_per_s$", "/s", "more"),
)
"""Patterns of names in `report`, each with a unit and the better direction. Other names are not figures."""


class Figure(NamedTuple):
    """One measured number. `better` is the direction of an improvement."""

    name: str
    value: float
    unit: str
    better: Better


def record(name: str, value: float, unit: str, better: Better = "more") -> None:
    """Append a figure to the file in `BENCH_FIGURES`, if there is one. A value that is not finite is left out."""
    path = os.environ.get(FILE)
    if path and math.isfinite(value):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(Figure(name, float(value), unit, better)._asdict()) + "\n")


def report(title: str, values: Mapping[str, Any]) -> None:
    """Print the title and values of one measurement, and record its figures."""
    print(title)
    for name, value in values.items():
        print(f"  {name:<30} {value:,.2f}" if isinstance(value, float) else f"  {name:<30} {value}")
    sys.stdout.flush()
    for figure in figures_of(title, values):
        record(*figure)


def figures_of(title: str, values: Mapping[str, Any]) -> Iterable[Figure]:
    """Yield the figures of a measurement by the patterns of `UNITS`. A mapping has one figure per number."""
    for key, value in values.items():
        found = next(((unit, better) for pattern, unit, better in UNITS if re.search(pattern, key)), None)
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in parts if found else ():
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield Figure(f"{title}: {key}{f'.{part}' if part else ''}", float(number), *found)


def read(path: Path) -> list[Figure]:
    """Return the figures of a file; [] if no benchmark has written it. The last figure of a name counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    every = [Figure(**json.loads(line)) for line in lines]
    return list({figure.name: figure for figure in every}.values())
