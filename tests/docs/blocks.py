"""Code blocks of the documents, and the marks in the line before a block.

A block without a mark is executed by `make check-docs`. A mark is a comment that readers of the page do not see:

    <!-- not executed: needs Docker -->      only its syntax is checked; REASONS lists the reasons
    <!-- dry run -->                         only the names of targets and tests, and arguments, are checked
    <!-- runs until: TEXT -->                the block is interrupted when its output contains TEXT
    <!-- keeps running: TEXT -->             it runs beside the later blocks, which start when its output contains TEXT
    <!-- repeats until: TEXT -->             it is repeated until its output contains TEXT
    <!-- as: USER -->                        a statement of SQL that needs the rights of `owner`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

REASONS = frozenset(
    {
        "needs Docker",
        "needs Kubernetes",
        "needs macOS",
        "needs a vendor's key",
        "needs root and systemd",
        "needs a download",
        "needs servers",
    }
)
"""Reasons for which a block is not executed."""

LANGUAGES = frozenset(
    {"bash", "console", "http", "ini", "json", "nginx", "python", "sh", "sql", "text", "toml", "yaml"}
)
"""Languages of blocks. `text` is for diagrams and printed output; it is no code."""

MARKS = ("not executed", "dry run", "runs until", "keeps running", "repeats until", "as")

_BLOCK = re.compile(
    r"(?:^(?P<indent>[ ]*)<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<own>[ ]*)(?P<fence>```+)(?P<language>[^\n`]*)\n"
    r"(?P<text>.*?)^(?P=own)(?P=fence)[ ]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One block of code with its place, and the name and text of its mark; both are "" without a mark."""

    page: str
    line: int
    language: str
    text: str = ""
    mark: str = ""
    value: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_executed(self) -> bool:
        return self.mark != "not executed"


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """Yield the blocks of a page in their order."""
    for found in _BLOCK.finditer(text):
        mark, _, value = (found["mark"] or "").partition(": ")
        line = text.count("\n", 0, found.start("fence")) + 1
        indent = found["own"]
        body = "".join(row.removeprefix(indent) for row in found["text"].splitlines(keepends=True))
        yield Block(page, line, found["language"].strip(), body, mark.strip(), value.strip())


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page of the repository."""
    return list(blocks_of(page.read_text(), page.relative_to(ROOT).as_posix()))


def fences(text: str) -> int:
    """Return the number of lines that open or close a block, counted without the pattern of `blocks_of`."""
    return sum(line.lstrip().startswith("```") for line in text.splitlines())


@dataclass(frozen=True)
class Command:
    """A command of a `console` block, and the output that the page shows; "" if it shows none."""

    text: str
    output: str


def commands(text: str) -> list[Command]:
    """Return the commands of a `console` block: each begins with `$ `, and a backslash or a quote continues it."""
    found: list[Command] = []
    command, output = "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                found.append(Command(command, output))
            command, output = line[2:], ""
        elif not output and command and _is_open(command):
            command += line
        else:
            output += line
    if command:
        found.append(Command(command, output))
    return found


def _is_open(command: str) -> bool:
    """Return True if the next line continues the command."""
    quotes = re.sub(r"\\.", "", command)
    return command.endswith("\\\n") or quotes.count("'") % 2 == 1 or quotes.count('"') % 2 == 1
