"""Numbers in text. Only ASCII digits count; Python's `int`, `float` and `isdigit` accept those of all scripts. Pure."""

from __future__ import annotations


def is_digits(text: str) -> bool:
    """Return True for a text of one or more ASCII digits.

    >>> is_digits("15"), is_digits("١٥"), is_digits("²"), is_digits("")
    (True, False, False, False)
    """
    return text.isascii() and text.isdigit()


def parse_float(text: str) -> float:
    """Return the number that a text contains.

    `nan` and `inf` are numbers, as for Python's `float`. Raises ValueError for other texts, such as digits of another
    script or Python's `1_000`.

    >>> parse_float("1.5e3")
    1500.0
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text[:100]!r} is not a number in ASCII digits")
    return float(text)


def parse_int(text: str) -> int:
    """Return the integer that a text of at most 20 characters contains. Raises ValueError like `parse_float`."""
    if not text.isascii() or "_" in text or len(text) > 20:
        raise ValueError(f"{text[:100]!r} is not an integer of at most 20 ASCII characters")
    return int(text)
