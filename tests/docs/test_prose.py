"""Checks of the prose rules in CONTRIBUTING that a machine can check: in docstrings, comments, pages and messages."""

from __future__ import annotations

import ast
import inspect
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

_VERBS = """
abort accept accumulate acquire activate adapt add adjust admit advance aggregate align allocate annotate answer
append apply arm ask assemble assert assign attach authenticate authorise await begin bind block broadcast build
calculate call cancel capture change check choose claim clamp clean clear close collapse collect combine commit
compare complete compress compute concatenate configure confirm connect consume continue convert copy correct count
create cut deactivate debit decide declare decode decompress decrement deduplicate define delay delete deliver derive
describe deselect detach detect determine discard dispatch display divide do download draw drop duplicate emit empty
enable encode encrypt end enqueue ensure enter enumerate estimate evaluate evict exclude execute exit expand expect
expire explain export expose extend extract fail feed fetch fill filter find finish fix flatten flush follow forget
fork format forward free freeze fuzz generate grant group handle hold identify ignore import include increase
increment infer inform initialise inject insert inspect install interpolate interrupt invalidate invert invoke isolate
iterate join keep kill launch leave list listen load localise locate lock log look make mark match materialise measure
merge migrate modify monitor move multiply negotiate normalise note notify observe offer omit open order overwrite own
parse pass pause perform permit persist place plan poll pop post postpone prefer prepare prepend preserve prevent
print probe process produce propagate protect prove provide prune publish pull purge push put queue raise read
rearrange rebalance rebind rebuild receive reclaim recognise recommend recompute reconcile reconnect record recover
redirect reduce reflect refresh refuse register reindex reject release remove rename render renew reopen repair repeat
replace replay report request rescale reserve reset resize resolve respond restart restore resume retain retry return
reuse revert revise rewind rewrite roll rotate round route run save scan schedule search seek select send separate
serialise serve set shorten show shut simulate skip sleep slice slow sort spend split squash start step stop store
strip submit subscribe substitute subtract suspend swap sync synchronise throttle transfer transform translate trigger
trim truncate try unlock unpack unregister unsubscribe unwrap update upload upsert use vacuum validate verify wait
wake warn widen withdraw withhold wrap write yield zip
"""
IMPERATIVES = frozenset(_VERBS.split())
"""First words that a function's docstring may have, in lower case. Add a missing verb if the field uses it."""

NOT_AFTER_IMPERATIVE = {"of", "is", "are", "was", "were", "has", "have"}
"""Second words that show that the first word is a noun, as in "Count of rows" and "Times are integers"."""

MAX_WORDS = 26
"""Maximum words of a sentence. CONTRIBUTING names 25; one more is no fault if the sentence is easy to read."""

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


def _is_imperative(docstring: str) -> bool:
    """Return True if the first word is a capitalised imperative and the second does not make it a noun."""
    first, second, *_ = [*docstring.split(maxsplit=2), "", ""]
    verb = first.rstrip(",;:.")
    return verb == verb.capitalize() and verb.lower() in IMPERATIVES and second.lower() not in NOT_AFTER_IMPERATIVE


def _paragraphs(text: str) -> Iterator[str]:
    """Yield each paragraph and list item as one line. Code, tables, headings and lines of links are left out."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        lines = [re.sub(r"^\s*(?:[-*]|\d+\.) ", "", line) for line in block.split("\n") if line.strip()]
        is_code = ">>>" in block or all(line.startswith("    ") for line in lines)
        if is_code or "====" in block or " · " in block or block.lstrip().startswith(("|", "#")):
            continue
        yield " ".join(line.strip() for line in lines)


def _long_sentences(text: str) -> Iterator[str]:
    """Yield the beginning of each sentence with more than `MAX_WORDS` words. Code in backquotes is one word."""
    for paragraph in _paragraphs(text):
        prose = re.sub(r"`[^`]*`", "CODE", paragraph)
        for sentence in re.split(r"(?<=[.!?])[)\"*]*\s+(?=[A-Z0-9(\"*−-])", prose):
            words = sentence.split()
            if len(words) > MAX_WORDS:
                yield f"{len(words)} words: {' '.join(words[:8])} …"


def _faults(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.suffix == ".md":
        for word in _banned(text):
            yield f"{path.relative_to(ROOT)}: the word {word!r}"
        for sentence in _long_sentences(text):
            yield f"{path.relative_to(ROOT)}: {sentence}"
        return
    if path.suffix == ".ts":
        for line, prose in _typescript_texts(text):
            for word in _banned(prose):
                yield f"{path.relative_to(ROOT)}:{line}: the word {word!r}"
        return
    tree = ast.parse(text)
    for line, docstring, of_function in _docstrings(tree):
        where = f"{path.relative_to(ROOT)}:{line}"
        if of_function and not _is_imperative(docstring):
            yield f"{where}: {docstring[:30]!r} does not begin with a verb of IMPERATIVES"
        for sentence in _long_sentences(inspect.cleandoc(docstring)):
            yield f"{where}: {sentence}"
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


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the rows.", True),
        ("Return, and clear, the rows.", True),
        ("Count the rows.", True),
        ("Count of rows.", False),
        ("Record is stored.", False),
        ("The rows of a batch.", False),
        ("Every row.", False),
        ("Rows without a price.", False),
        ("While the thread runs, wait.", False),
        ("Returns the rows.", False),
        ("`rows` of a batch.", False),
        ("kill -9 one process.", False),
    ],
)
def test_the_first_word_of_a_functions_docstring_is_an_imperative(docstring: str, expected: bool) -> None:
    assert _is_imperative(docstring) is expected


def test_a_long_sentence_is_found_in_prose_only() -> None:
    words = " ".join(["word"] * MAX_WORDS)
    assert list(_long_sentences(f"{words}.\n\n- {words}. A new one.\n\n{words}.")) == []
    assert list(_long_sentences(f"First, {words}.")) == ["27 words: First, word word word word word word word …"]
    assert len(list(_long_sentences(f"- One {words}.\n- two, {words}: `a b c`"))) == 2
    assert list(_long_sentences(f"```\nx {words}\n```\n| x {words} |\n\n    x {words}\n\n# x {words}")) == []


@pytest.mark.parametrize("paths", [PAGES, CODE, WEB], ids=["pages", "code", "web"])
def test_docstrings_comments_pages_and_texts_follow_the_rules_of_prose(paths: list[Path]) -> None:
    faults = dict.fromkeys(fault for path in paths for fault in _faults(path))
    assert not faults, "\n".join(faults)
