"""Foreign text on a terminal: no control character of it is printed."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

import tickerplant.app
from tickerplant.app.commands.common import table
from tickerplant.app.commands.tail import _line
from tickerplant.app.runtime import logging as logging_setup
from tickerplant.app.terminal.output import console, echo, emit, notify, write_csv
from tickerplant.core.shown import escape

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\x00\b\u202egnp.\u2066[bold]:smile:[/x]"
"""Foreign text with control sequences (title, screen, colour, deletion, direction) and markup of the table library."""
ALLOWED = {"\n", "\t"}
ROOT = Path(tickerplant.app.__file__).parent


def controls(text: str) -> set[str]:
    """Return the characters of a text that are not printable, as Unicode defines them."""
    return {char for char in text if not char.isprintable()} - ALLOWED


@pytest.mark.parametrize(
    "show",
    [
        lambda: echo(f"trade {HOSTILE}"),
        lambda: notify(HOSTILE),
        lambda: emit({"id": HOSTILE, HOSTILE: [HOSTILE]}),
        lambda: write_csv(["id"], [[HOSTILE]]),
        lambda: table(["id", HOSTILE], [[HOSTILE, None]], title=HOSTILE),
        lambda: console().print(HOSTILE),
        lambda: console(stderr=True).print(HOSTILE),
    ],
)
def test_control_characters_are_escaped(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    show()
    printed = "".join(capsys.readouterr())
    assert printed
    assert controls(printed) == set()
    assert "title" in printed
    assert "[bold]:smile:[/x]" in printed


def test_json_remains_exact(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"id": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"id": HOSTILE}


def test_tables_have_colours_on_a_terminal_and_foreign_text_has_none() -> None:
    from rich.text import Text

    output = console(width=200)
    output.file, output._force_terminal, output._color_system = io.StringIO(), True, None
    output.print(Text(HOSTILE))
    assert "\x1b" not in output.file.getvalue()  # type: ignore[attr-defined]
    assert "\\x1b[2J" in output.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_of_a_topic_is_one_line() -> None:
    line = _line({"partition": 0, "offset": 7, "kind": "ticks", "trade_id": f"{HOSTILE}\n0/8 ticks forged"})
    assert {char for char in line if not char.isprintable()} == set()
    assert r"\n0/8" in line


def test_a_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    table(["vendor", "state"], [["acme", "down: 500\nplant   ok"]])
    assert r"down: 500\nplant   ok" in capsys.readouterr().out


def test_printable_text_is_unchanged() -> None:
    for text in ("Zürich 株価 ▁▂▃ ⠿ €1,234.5", "a\tb\n", "👩‍🚀"):
        assert escape(text) == text


def test_csv_has_no_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(["symbol", "close"], [["=1+1", -1.5], ["@ES", None], ["-7", 2]])
    assert capsys.readouterr().out == "symbol,close\n'=1+1,-1.5\n'@ES,\n-7,2\n"


@pytest.mark.parametrize("style", ["json", "console"])
def test_log_lines_contain_no_control_characters(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root, written = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(sys, "stderr", written)
    try:
        logging_setup.configure("info", style)
        structlog.get_logger("test").warning(f"line {HOSTILE}", symbol=f"{HOSTILE}\n2026-03-09 [info] forged")
        logging.getLogger("library").warning(HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            structlog.get_logger("test").exception("failed")
    finally:
        root.handlers[:], root.level = before[0], before[1]
        structlog.configure(**before[2])
    assert "title" in written.getvalue()
    assert controls(written.getvalue()) == set()
    assert not any(line.startswith("2026-03-09 [info]") for line in written.getvalue().splitlines())


def test_no_command_prints_in_another_way() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "typer.echo", "Console", "sys.stdout.write", "sys.stderr.write") or (
                name == "csv.writer"
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}; use app.terminal.output")  # type: ignore[attr-defined]
    assert found == []
