"""Foreign text in messages for people: cut, and with control characters escaped. Pure."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARS: Final = 100
"""Maximum characters of a foreign value in an error."""

_CONTROL: Final = re.compile(r"[^\n\t -~\u00a0-\U0010ffff]|[\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Pattern of control characters: C0, C1 without line end and tab; characters that reverse or hide text; surrogates."""


def cut(text: str, most: int = MAX_CHARS) -> str:
    """Return at most `most` characters of a text, with … if it is longer."""
    return text if len(text) <= most else text[:most] + "…"


def quoted(value: object) -> str:
    """Return the `repr` of a value for a message, cut to `MAX_CHARS` characters.

    >>> quoted("12:30")
    "'12:30'"
    """
    return cut(repr(value[: MAX_CHARS + 1] if isinstance(value, str) else value))


def escape(text: str) -> str:
    r"""Return a text in which characters that control a terminal are escaped, as in a Python literal.

    Line ends and tabs remain.

    >>> escape("\x1b[2J"), escape("a\u202eb")
    ('\\x1b[2J', 'a\\u202eb')
    """
    return _CONTROL.sub(_escaped, text) if _CONTROL.search(text) else text


def escape_line(text: str) -> str:
    r"""Return the text of `escape` with line ends and tabs escaped too, so that it is one line.

    >>> escape_line("a\nb")
    'a\\nb'
    """
    return escape(text).replace("\n", r"\n").replace("\t", r"\t")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
