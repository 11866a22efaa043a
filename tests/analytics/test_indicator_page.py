"""The list, the dialects and the examples of docs/indicators.md agree with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talib

from tests.analytics.support import FILES, closes
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import INDICATORS, register
from tickerplant.analytics.indicator.declaration import Indicator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "indicators.md").read_text()


def updated_page(page: str) -> str:
    spec = spec_from_file_location("indicators_tool", ROOT / "tools" / "indicators.py")
    assert spec is not None
    assert spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    made: str = tool.updated_page(page)
    return made


def test_the_list_equals_the_declarations() -> None:
    assert updated_page(PAGE) == PAGE, "docs/indicators.md is out of date: run tools/indicators.py"
    assert all(f"| `{name}` |" in PAGE for name in INDICATORS)


def test_every_dialect_is_in_the_table() -> None:
    table = PAGE.split("## Dialects")[1].split("## Adding one")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for name, kind in INDICATORS.items():
        about = [row for row in rows if f"`{name}`" in row.split(" | ")[0]]
        assert all(any(f"`{dialect}`" in row for row in about) for dialect in kind.DIALECTS[1:]), name


@pytest.fixture
def examples() -> Iterator[dict[str, Any]]:
    """Run the page's examples, register their indicators, and yield the names that they define."""
    names: dict[str, Any] = {"__name__": "examples"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile("from __future__ import annotations\n" + block, "docs/indicators.md", "exec"), names)
    kinds = [value for value in names.values() if isinstance(value, type) and value.__module__ == "examples"]
    for kind in kinds:
        assert issubclass(kind, Indicator)
        register(kind)
    yield names
    for kind in kinds:
        del INDICATORS[kind.NAME]


@pytest.mark.parametrize("name", FILES)
def test_the_examples_equal_talib(examples: dict[str, Any], name: str) -> None:
    x = closes(name)
    for text, theirs in (("ROCPEXAMPLE(7)", talib.ROCP(x, 7)), ("TRIXEXAMPLE(30)", talib.TRIX(x, 30))):
        (ours,) = compute(x, text).values()
        assert (np.isnan(ours) == np.isnan(theirs)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
