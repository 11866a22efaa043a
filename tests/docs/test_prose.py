"""Checks of the prose rules in CONTRIBUTING that a machine can check: in docstrings, comments, pages and messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
CODE = [path for folder in ("src", "tests", "benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
CODE = [path for path in CODE if "node_modules" not in path.parts and path != Path(__file__)]
WEB = [path for path in sorted((ROOT / "web").rglob("*.ts")) if "node_modules" not in path.parts]

NO_FIRST_WORD = {"say", "take", "be", "let", "have", "give", "what", "how", "whether", "why", "of", "that"}
"""First words that a function's docstring must not have. It must begin with an imperative such as Return."""

BANNED = re.compile(
    r"\b(whoever|nobody|somebody|everybody|whatever|whereof|thereof|anew|in vain|how manieth|comes? to pass|to be had"
    r"|of which|told|says so|whom|he|him|his|stretch(?:es)?|(?:lies|hangs?) (?:in|on|at|under|behind)|stands? for)\b",
    re.IGNORECASE,
)
"""Words that hide the subject, personify a process or data, or are archaic."""

STORED_TEXTS = {
    "raw does not reach back to before the stretch: nothing is changed",  # a rebuild's status on the log
}
"""Texts with a banned word that must not change, because logs and stores contain them."""


@lru_cache(maxsize=1)
def _nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield line and text of each docstring, and True if it belongs to a function."""
    for node in _nodes(tree):
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


def _comment_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each block of comments in adjacent lines."""
    lines: list[str] = []
    start = last = 0
    for line, comment in _comments(text):
        if lines and line != last + 1:
            yield start, "\n".join(lines)
            lines = []
        if not lines:
            start = line
        lines.append(comment.lstrip("#! "))
        last = line
    if lines:
        yield start, "\n".join(lines)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string constant with a space that is not a docstring: errors, help, log lines."""
    bodies = [node.body for node in _nodes(tree) if isinstance(getattr(node, "body", None), list)]
    docstrings = {id(each.value) for body in bodies for each in body if isinstance(each, ast.Expr)}
    for node in _nodes(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if " " in node.value and node.value not in STORED_TEXTS:
            yield node.lineno, node.value


def _typescript_texts(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each block of comments and each string or template with a space."""
    pattern = r"/\*.*?\*/|(?:^[ \t]*//[^\n]*\n?)+|//[^\n]*|\"[^\"\n]* [^\"\n]*\"|`[^`]* [^`]*`"
    for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        prose = re.sub(r"\$\{[^}]*\}", "", found[0].strip("`"))
        yield text.count("\n", 0, found.start()) + 1, re.sub(r"(?m)^\s*(?://|/?\*+/?)", "", prose)


def _banned(text: str) -> list[str]:
    """Return the banned words of a text. Line breaks and indentation count as one space; code does not count."""
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    return [found[0] for found in BANNED.finditer(re.sub(r"\s+", " ", text))]


def _faults(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.suffix == ".md":
        for word in _banned(text):
            yield f"{path.relative_to(ROOT)}: the word {word!r}"
        return
    if path.suffix == ".ts":
        for line, prose in _typescript_texts(text):
            for word in _banned(prose):
                yield f"{path.relative_to(ROOT)}:{line}: the word {word!r}"
        return
    tree = ast.parse(text)
    for line, docstring, of_function in _docstrings(tree):
        where = f"{path.relative_to(ROOT)}:{line}"
        first = re.match(r"[A-Za-z]+", docstring)
        if of_function and first and first[0].lower() in NO_FIRST_WORD:
            yield f"{where}: a docstring that begins with {first[0]!r}"
        if docstring.split("\n\n")[0].rstrip().endswith("?"):
            yield f"{where}: a question as docstring"
        for word in _banned(docstring):
            yield f"{where}: the word {word!r}"
    of_source = _texts(tree) if path.is_relative_to(ROOT / "src") else ()
    for line, prose in (*_comment_blocks(text), *of_source):
        for word in _banned(prose):
            yield f"{path.relative_to(ROOT)}:{line}: the word {word!r}"


def test_a_phrase_over_a_line_break_and_in_an_indented_block_is_found() -> None:
    assert _banned("a list, two of\n    which\n\n    in\n      vain") == ["of which", "in vain"]
    assert _banned("`whom` and ```\nhis\n```") == []
    assert list(_comment_blocks("# in\n# vain\nx = 1  # why\n")) == [(1, "in\nvain\nwhy")]
    assert list(_texts(ast.parse('"""no"""\nx = f"two {y} words"\n'))) == [(2, "two "), (2, " words")]
    found = list(_typescript_texts('// in\n// vain\nconst x = "two words";\n'))
    assert [_banned(prose) for _, prose in found] == [["in vain"], []]


@pytest.mark.parametrize("paths", [PAGES, CODE, WEB], ids=["pages", "code", "web"])
def test_docstrings_comments_pages_and_texts_avoid_the_banned_words(paths: list[Path]) -> None:
    faults = [fault for path in paths for fault in _faults(path)]
    assert not faults, "\n".join(faults)
