"""Checks of the prose rules in CONTRIBUTING that a machine can check, in all docstrings, comments and pages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
CODE = [path for folder in ("src", "tests", "benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
CODE = [path for path in CODE if "node_modules" not in path.parts and path != Path(__file__)]

NO_FIRST_WORD = {"say", "take", "be", "let", "have", "give", "what", "how", "whether", "why", "of", "that"}
"""First words that a function's docstring must not have. It must begin with an imperative such as Return."""

BANNED = re.compile(
    r"\b(whoever|nobody|somebody|everybody|whatever|whereof|thereof|anew|in vain|how manieth|comes? to pass|to be had"
    r"|of which|is told|are told|says so|he|him|his)\b",
    re.IGNORECASE,
)
"""Words that hide the subject, personify a process or are archaic."""


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield line and text of each docstring, and True if it belongs to a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text, isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for statement in node.body:
                value = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield statement.lineno, value.value, False


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _without_code(text: str) -> str:
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"(?m)^    .*$", "", text)
    return re.sub(r"`[^`]*`", "", text)


def _faults(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.suffix == ".md":
        for found in BANNED.finditer(_without_code(text)):
            yield f"{path.relative_to(ROOT)}: the word {found[0]!r}"
        return
    for line, docstring, of_function in _docstrings(ast.parse(text)):
        where = f"{path.relative_to(ROOT)}:{line}"
        first = re.match(r"[A-Za-z]+", docstring)
        if of_function and first and first[0].lower() in NO_FIRST_WORD:
            yield f"{where}: a docstring that begins with {first[0]!r}"
        if docstring.split("\n\n")[0].rstrip().endswith("?"):
            yield f"{where}: a question as docstring"
        for found in BANNED.finditer(_without_code(docstring)):
            yield f"{where}: the word {found[0]!r}"
    for line, comment in _comments(text):
        for found in BANNED.finditer(_without_code(comment)):
            yield f"{path.relative_to(ROOT)}:{line}: the word {found[0]!r}"


@pytest.mark.parametrize("paths", [PAGES, CODE], ids=["pages", "code"])
def test_docstrings_comments_and_pages_avoid_the_banned_words(paths: list[Path]) -> None:
    faults = [fault for path in paths for fault in _faults(path)]
    assert not faults, "\n".join(faults)
