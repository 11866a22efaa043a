"""Output of commands: text, JSON, CSV and consoles whose foreign text contains no control characters.

Symbols, trade ids and error texts are from vendors and files. A terminal executes the control sequences in them. This
module escapes every control character, also in a pipe, because the text may reach a terminal later.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tickerplant.core.shown import escape

if TYPE_CHECKING:
    from rich.console import Console

_NOT_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters that JSON allows in a text."""


def echo(text: str = "", *, end: str = "\n", flush: bool = False) -> None:
    """Print a text on stdout, with control characters escaped."""
    print(escape(text), end=end, flush=flush)


def notify(text: str) -> None:
    """Print a message to stderr. It is not part of the command's output."""
    print(escape(text), file=sys.stderr, flush=True)


def emit(row: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json_line(row), flush=True)


def json_line(row: Mapping[str, Any]) -> str:
    """Return a JSON object as one line without control characters."""
    return escape_json(json.dumps(row, ensure_ascii=False, default=str, allow_nan=False))


def escape_json(text: str) -> str:
    """Return a JSON text without the control characters that JSON allows."""
    return _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write_csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows as CSV with a header line. None is an empty cell. A text that is a formula gets a leading `'`."""
    write_csv_rows([columns])
    write_csv_rows(rows)


def write_csv_rows(rows: Iterable[Iterable[Any]]) -> None:
    """Print rows as CSV, like `write_csv`."""
    import csv

    from tickerplant.core.csv_text import without_formula

    writer = csv.writer(_Escaped(), lineterminator="\n")
    for row in rows:
        writer.writerow(["" if value is None else without_formula(value) for value in row])


class _Escaped:
    """A file that escapes control characters and writes to stdout."""

    def write(self, text: str) -> int:
        return sys.stdout.write(escape(text))


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console for tables and charts. It interprets no markup in texts, and escapes control characters.

    `width` None is the width of the terminal.
    """
    from rich.console import Console
    from rich.segment import Segment

    class EscapedConsole(Console):
        """A console whose segments of text contain no control characters."""

        def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*args, **options):
                yield segment if segment.control else segment._replace(text=escape(segment.text))

    return EscapedConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
