"""The escape of CSV texts that a spreadsheet would compute as formulas. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

FORMULA: Final = r"^['=+\-@\t\r＝＋－＠]"
"""Pattern of a text that a spreadsheet may compute, or that begins like an escaped text. Valid in Python and Arrow."""
NUMBER: Final = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
"""Pattern of a number, which is never escaped."""

_FORMULA: Final = re.compile(FORMULA)
_NUMBER: Final = re.compile(NUMBER)


def without_formula(value: Any) -> Any:
    """Return `value` with a leading `'` if a spreadsheet may compute it as a formula, otherwise unchanged.

    >>> without_formula("=1+1"), without_formula("-1.5"), without_formula(-1.5)
    ("'=1+1", '-1.5', -1.5)
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.match(value):
        return f"'{value}"
    return value
