"""Update the list in docs/indicators.md from the declarations: `.venv/bin/python tools/indicators.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from tickerplant.analytics.indicator import FAMILIES, INDICATORS, parse
from tickerplant.analytics.indicator.declaration import Indicator, Parameter

PAGE = Path(__file__).parents[1] / "docs" / "indicators.md"
BEGIN, END = "<!-- the list, made by tools/indicators.py -->\n", "<!-- end of the list -->\n"


def indicator_list() -> str:
    """Return the list: a heading and a table for each family."""
    return "\n".join(_family(family) for family in FAMILIES)


def updated_page(page: str) -> str:
    """Return the page with an updated list between its two markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{indicator_list()}\n{END}{after}"


def _family(family: str) -> str:
    kinds = [kind for kind in INDICATORS.values() if kind.__module__.split(".")[-2] == family]
    lines = [
        f"### {family.capitalize()}",
        "",
        "| indicator | parameters | columns | warm-up | reads | what | source |",
        "|---|---|---|---|---|---|---|",
        *(_line(kind) for kind in sorted(kinds, key=lambda kind: kind.NAME)),
        "",
    ]
    return "\n".join(lines)


def _line(kind: type[Indicator]) -> str:
    indicator = parse(kind.NAME)
    due = [indicator.warmup] if len(set(indicator.warmups)) == 1 else indicator.warmups
    what = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    cells = [
        f"`{kind.NAME}`",
        "<br>".join(_parameter(parameter) for parameter in kind.PARAMETERS),
        "<br>".join(f"`{column}`" for column in indicator.columns),
        "<br>".join(map(str, due)),
        ", ".join(kind.INPUTS),
        what,
        kind.SOURCE,
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _parameter(parameter: Parameter) -> str:
    return f"{parameter.name} {parameter.default:g} ({parameter.least:g}–{parameter.most:g})"


if __name__ == "__main__":
    PAGE.write_text(updated_page(PAGE.read_text()))
