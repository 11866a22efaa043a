"""Only ASCII digits are digits, in every parser of the plant."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import tickerplant
from tickerplant.analytics.indicator.registry import parse as parse_indicator
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.core.alerts import number_of
from tickerplant.core.digits import is_digits, parse_float, parse_int
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import parse as parse_interval
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.time_values import INVALID, parse_times
from tickerplant.core.web_address import parse_authority

SOURCE = Path(tickerplant.__file__).parent
FOREIGN = ("٣", "３", "३", "²", "1٣", "1_000")


@pytest.mark.parametrize("text", FOREIGN)
def test_a_number_of_another_script_is_no_number(text: str) -> None:
    assert not is_digits(text)
    for parse in (parse_float, parse_int):
        with pytest.raises(ValueError, match="ASCII"):
            parse(text)
    assert number_of(text) is None
    assert parse_authority(f"host:{text}") is None
    assert parse_times(pa.array([text])).kind[0] == INVALID
    for call in (
        lambda: parse_indicator(f"RSI({text})"),
        lambda: OnDemand(DEFAULT_RULES).choose("RSI", {"period": text}),
        lambda: OnDemand(DEFAULT_RULES).choose("TA_RSI", {"timeperiod": text}),
        lambda: parse_interval(f"{text}t"),
    ):
        with pytest.raises(BadInput):
            call()


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("isdigit", "isdecimal", "isnumeric"):
            yield f"line {node.lineno}: .{node.attr}()"
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            for argument in node.args[:1]:
                if r"\d" in ast.unparse(argument).replace("\\\\", "\\") and "re.ASCII" not in ast.unparse(node):
                    yield f"line {node.lineno}: \\d in a pattern of `re`"


def test_no_module_accepts_digits_of_other_scripts() -> None:
    found = [
        f"{path.relative_to(SOURCE)} {call}; use core.digits, or [0-9]"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "digits.py"
        for call in _calls(ast.parse(path.read_text()))
    ]
    assert found == []
