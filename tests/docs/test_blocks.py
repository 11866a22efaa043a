"""Every code block of the documents has a known language or mark, so that `make check-docs` executes it, and parses."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import LANGUAGES, MARKS, PAGES, REASONS, ROOT, Block, blocks, blocks_of, commands, fences
from tests.docs.pages.shapes import parse

ALL = [block for page in PAGES for block in blocks(page)]
NOT_EXECUTED = {
    "needs Docker": 3,
    "needs Kubernetes": 1,
    "needs a download": 1,
    "needs a vendor's key": 2,
    "needs root and systemd": 1,
    "needs servers": 10,
}
"""Number of blocks that are not executed, by reason. A new one must be added here."""


def faults(block: Block) -> Iterator[str]:
    """Yield the errors in the language and the mark of a block."""
    if block.language not in LANGUAGES:
        yield f"{block.place}: unknown language {block.language!r}; `text` is for output and diagrams"
    if block.mark and block.mark not in MARKS:
        yield f"{block.place}: unknown mark {block.mark!r}; see tests/docs/blocks.py"
    if block.mark == "not executed" and block.value not in REASONS:
        yield f"{block.place}: unknown reason {block.value!r}; see tests/docs/blocks.py"
    if block.mark in ("runs until", "keeps running", "repeats until") and not block.value:
        yield f"{block.place}: the mark needs the text of the output to wait for"


def check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SyntaxError(done.stderr)


def check_console(text: str) -> None:
    found = commands(text)
    if not found:
        raise SyntaxError("no line begins with `$ `")
    check_shell("\n".join(command.text for command in found))
    for command in found:
        if command.output.startswith("{"):
            parse(command.output)


def check_json(text: str) -> None:
    for line in re.sub(r"(?m)^[→←] ", "\0", text).split("\0"):
        if line.strip():
            parse(line)


def check_http(text: str) -> None:
    head, _, body = text.partition("\n\n")
    first, *headers = head.splitlines()
    if not re.fullmatch(r"[A-Z]+ /\S* HTTP/1\.1", first) or any(": " not in line for line in headers):
        raise SyntaxError("no request")
    json.loads(body)


def check_statements(text: str) -> None:
    """Check that the statements end with a semicolon and close all brackets and quotes. `make check-docs` runs them."""
    code = re.sub(r"--[^\n]*|'[^']*'", "", text)
    if code.count("(") != code.count(")") or "'" in code or not code.rstrip().endswith(";"):
        raise SyntaxError("no complete statement")


def check_nginx(text: str) -> None:
    """Check that the lines are in the example of deploy/, which tests/docs/pages/test_nginx.py executes."""
    example = (ROOT / "deploy" / "nginx" / "tickerplant.conf").read_text()
    if text not in example:
        raise SyntaxError("not a part of deploy/nginx/tickerplant.conf")


SYNTAX: Mapping[str, Callable[[str], object]] = {
    "bash": check_shell, "sh": check_shell, "console": check_console, "json": check_json, "http": check_http,
    "python": ast.parse, "toml": tomllib.loads, "yaml": lambda text: list(yaml.safe_load_all(text)),
    "sql": check_statements, "nginx": check_nginx, "ini": str, "text": str,
}  # fmt: skip


def test_the_checks_cover_every_language() -> None:
    assert set(SYNTAX) == LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_a_page_can_go_unexecuted(page: Path) -> None:
    text, found = page.read_text(), blocks(page)
    wrong = [fault for block in found for fault in faults(block)]
    assert not wrong, "\n".join(wrong)
    assert fences(text) == 2 * len(found), "a block does not end, or has another form than the pattern of blocks.py"
    assert len(re.findall(rf"(?m)^ *<!-- (?:{'|'.join(MARKS)})", text)) == sum(bool(block.mark) for block in found), (
        "a mark is not in the line before a block"
    )
    assert not re.search(r"(?m)^(?!\s|[-*\d]).*\n\n {4,}\S", text), "an indented block; use a fence with a language"


def syntax_error(block: Block) -> str:
    """Return the place of a block and its error; "" if it has none."""
    try:
        SYNTAX[block.language](block.text)
    except (SyntaxError, ValueError, yaml.YAMLError) as error:
        return f"{block.place}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_have_valid_syntax(page: Path) -> None:
    wrong = [error for block in blocks(page) if (error := syntax_error(block))]
    assert not wrong, "\n".join(wrong)


def unknown_targets(text: str) -> set[str]:
    """Return the targets of make, and the paths of tests, that commands name and that do not exist."""
    made = set(re.findall(r"(?m)^([\w-]+(?: [\w-]+)*):(?!=)", (ROOT / "Makefile").read_text()))
    known = {name for names in made for name in names.split()}
    paths = re.findall(r"\btests/\w+", text)
    return set(re.findall(r"(?m)^make ([\w-]+)", text)) - known | {path for path in paths if not (ROOT / path).exists()}


def test_commands_of_a_dry_run_name_targets_and_tests_that_exist() -> None:
    blocks_of_make = [block for block in ALL if block.mark == "dry run"]
    assert len(blocks_of_make) > 10
    for block in blocks_of_make:
        assert not unknown_targets(block.text), block.place
    assert unknown_targets("make testt\nmake test ARGS='tests/nothing -x'\n") == {"testt", "tests/nothing"}


def test_the_blocks_that_are_not_executed_are_counted() -> None:
    assert Counter(block.value for block in ALL if not block.is_executed) == NOT_EXECUTED


def test_blocks_and_their_marks_are_found() -> None:
    text = (
        "<!-- not executed: needs Docker -->\n```sh\ndocker build .\n```\n\n"
        "- item\n\n  <!-- dry run -->\n  ```sh\n  make test\n    next\n  ```\n\n````\n```\n````\n"
        "<!-- keeps running: is up -->\n```sh\ntickerplant up\n```\n<!-- note -->\n\n```python\nx = 1\n```\n"
    )
    assert list(blocks_of(text, "p")) == [
        Block("p", 2, "sh", "docker build .\n", "not executed", "needs Docker"),
        Block("p", 9, "sh", "make test\n  next\n", "dry run"),
        Block("p", 14, "", "```\n"),
        Block("p", 18, "sh", "tickerplant up\n", "keeps running", "is up"),
        Block("p", 23, "python", "x = 1\n"),
    ]
    wrong = [Block("p", 1, ""), Block("p", 2, "sh", "", "skipped"), Block("p", 3, "sh", "", "not executed", "slow")]
    assert [fault.partition(";")[0] for block in wrong for fault in faults(block)] == [
        "p:1: unknown language ''",
        "p:2: unknown mark 'skipped'",
        "p:3: unknown reason 'slow'",
    ]


def test_the_commands_of_a_console_and_their_output_are_found() -> None:
    found = commands("$ curl 'a\n  b' \\\n  c\n{\"x\": 1}\n$ ls  # all\n")
    assert [(command.text, command.output) for command in found] == [
        ("curl 'a\n  b' \\\n  c\n", '{"x": 1}\n'),
        ("ls  # all\n", ""),
    ]
    with pytest.raises(SyntaxError):
        check_console("ls\n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "for x in; do"), ("python", "x ="), ("toml", "[a"), ("json", "{"), ("http", "GET x\n\n{}"),
        ("sql", "SELECT (1;"), ("yaml", "a: ["), ("nginx", "server {}"),
    ],
)  # fmt: skip
def test_wrong_syntax_is_found(language: str, text: str) -> None:
    assert syntax_error(Block("page.md", 7, language, text)).startswith("page.md:7: ")
