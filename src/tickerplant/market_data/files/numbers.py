"""Numbers of a text file: decimal points and commas, thousands, currency signs, and K, M, B. Pure, column-wise.

The first block determines for the whole file whether a comma is a decimal mark or separates thousands. `1,5` and
`1.234,5` show a decimal comma; `1.5` and `1,234.5` show a point. A file that has only numbers such as `1,234` has two
readings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted
from tickerplant.core.time_values import is_text
from tickerplant.core.times import BoolArray, Float64Array

POINT, COMMA = "point", "comma"
DECIMALS: Final = (POINT, COMMA)

_SIGNS: Final = r"^[-+]?[$€£¥]?"
_SCALE: Final = r"[KMBTkmbt]?$"
_SPACE: Final = r"\s\x{A0}\x{2009}\x{202F}"
"""Spaces between thousands: plain, no-break (U+00A0), thin (U+2009) and narrow no-break (U+202F) spaces."""
_SHOWS_COMMA: Final = (
    _SIGNS
    + r"(\d*,(\d{1,2}|\d{4,})|\d{4,},\d{3}|\d{1,3}([.'’"
    + _SPACE
    + r"]\d{3})+,\d+|0,\d+|\d{1,3}(\.\d{3}){2,})"
    + _SCALE
)
_SHOWS_POINT: Final = (
    _SIGNS
    + r"(\d*\.(\d{1,2}|\d{4,})|\d{4,}\.\d{3}|\d{1,3}([,'’"
    + _SPACE
    + r"]\d{3})+\.\d+|0\.\d+|\d{1,3}(,\d{3}){2,})"
    + _SCALE
)
_EITHER: Final = _SIGNS + r"\d{1,3},\d{3}" + _SCALE
_POINT_OR_THOUSANDS: Final = _SIGNS + r"[1-9]\d{0,2}\.\d{3}" + _SCALE
_SCALES: Final = (("K", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12))
_ABSENT: Final = r"^(-|–|—|N/?A|nan|null|None)$"


class NumberFormat:
    """The format of a file's numbers. `decimal`: `point` or `comma`, from the options or from the first block.

    `is_given`: the option has an effect. `choice`: a note about a format that follows from the values; None if there is
    none. `has_commas`: the delimiter is a comma, so numbers without quotes have no decimal comma.
    """

    def __init__(self, decimal: str | None = None, *, has_commas: bool = True) -> None:
        self._given = decimal
        self._has_commas = has_commas
        self._is_shown = decimal is not None
        self.decimal: str | None = None
        self.is_given = False
        self.choice: str | None = None

    def detect(self, columns: Iterable[pa.Array], line: int | None = None) -> None:
        """Decide the format from columns of the first block. Raises BadInput if the values have two readings."""
        if self.decimal is not None:
            return
        comma = point = False
        either: str | None = None
        texts_of = [
            pc.utf8_trim_whitespace(column.cast(pa.utf8())).drop_null() for column in columns if _is_text(column)
        ]
        are_plain = all(_cast(texts) is not None for texts in texts_of)
        for texts in () if are_plain else texts_of:
            comma |= _any(texts, _SHOWS_COMMA)
            point |= _any(texts, _SHOWS_POINT)
            ambiguous = texts.filter(pc.match_substring_regex(texts, _EITHER))
            either = either or (ambiguous[0].as_py() if len(ambiguous) else None)
        if are_plain:
            dotted = _dotted_choice(texts_of) if self._given is None and not self._has_commas else None
            self.choice = dotted
            point = any(_any(texts, r"\.") for texts in texts_of)
        self._is_shown |= comma or point
        found = COMMA if comma and not point else POINT
        unknown = either is not None and not comma and not point
        if unknown and self._given is None:
            raise BadInput(
                f"{either} has two readings: with a decimal comma (set --decimal comma), or with thousands (set "
                "--decimal point)",
                line=line,
            )
        self.is_given = self._given is not None and (not (comma or point) or self._given != found)
        self.decimal = self._given or found
        if self.decimal == COMMA and self._given is None:
            self.choice = "numbers are read with a decimal comma"

    def why_invalid(self, role: str, text: str) -> str:
        """Return the reason why a text of a role is not a number, with advice."""
        if "," in text and self.decimal == POINT:
            return f"{role} {quoted(text)} is not a number with a decimal point; set --decimal comma or correct it"
        if "." in text and self.decimal == COMMA:
            return f"{role} {quoted(text)} is not a number with a decimal comma; set --decimal point or correct it"
        return f"{role} {quoted(text)} is not a number; write it in digits, or set --column {role}=NAME"

    def read(self, column: pa.Array) -> tuple[Float64Array, BoolArray, BoolArray]:
        """Return the values (0 where invalid or missing), and masks of the missing and of the invalid values."""
        texts = column.cast(pa.utf8())
        values = _cast(texts) if self.decimal != COMMA else None
        if values is not None:
            missing = values.is_null().to_numpy(zero_copy_only=False)
            plain = values.fill_null(0.0) if values.null_count else values
            return plain.to_numpy(zero_copy_only=False), missing, np.zeros(len(texts), np.bool_)
        texts = pc.utf8_trim_whitespace(texts).fill_null("")
        missing = pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, _ABSENT)).to_numpy(zero_copy_only=False)
        plain = pc.replace_substring_regex(texts, r"^([-+]?)[$€£¥]\s?", r"\1")
        scale = np.ones(len(texts))
        for sign, factor in _SCALES:
            marked = pc.match_substring_regex(plain, rf"(?i)\d{sign}$").to_numpy(zero_copy_only=False)
            scale[marked] = factor
        plain = pc.replace_substring_regex(plain, r"(\d)[KMBTkmbt]$", r"\1")
        mark, point = (rf"[.'’{_SPACE}]", ",") if self.decimal == COMMA else (rf"[,'’{_SPACE}]", r"\.")
        grouped = pc.match_substring_regex(plain, rf"^[-+]?\d{{1,3}}(?:{mark}\d{{3}})+(?:{point}\d*)?$")
        if not self._is_shown:
            grouped = pc.and_not(grouped, pc.match_substring_regex(plain, _EITHER))
        plain = pc.if_else(grouped, pc.replace_substring_regex(plain, mark, ""), plain)
        if self.decimal == COMMA:
            foreign = pc.match_substring_regex(plain, r"\.")
            plain = pc.if_else(foreign, pa.scalar("x"), pc.replace_substring(plain, ",", "."))
        numbers, invalid = _floats(pc.if_else(pa.array(missing), pa.scalar("0"), plain))
        return np.where(missing | invalid, 0.0, numbers * scale), missing, invalid


def _any(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())


def _dotted_choice(columns: Iterable[pa.Array]) -> str | None:
    """Return a note if all numbers with a point may be thousands, such as 38.450; otherwise return None."""
    first: str | None = None
    for texts in columns:
        dotted = texts.filter(pc.match_substring(texts, "."))
        if not len(dotted):
            continue
        if not pc.all(pc.match_substring_regex(dotted, _POINT_OR_THOUSANDS)).as_py():
            return None
        first = first or dotted[0].as_py()
    return (
        f"numbers such as {first} are read with a decimal point; for thousands set --decimal comma" if first else None
    )


def _is_text(column: pa.Array) -> bool:
    return is_text(column.type)


def _cast(texts: pa.Array) -> pa.Array | None:
    """Return texts as float64; None if a text is not a plain number."""
    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        return None


def _floats(texts: pa.Array) -> tuple[Float64Array, BoolArray]:
    """Return texts as float64, and a mask of the invalid texts. They are parsed one by one only if the cast fails."""
    invalid = np.zeros(len(texts), np.bool_)
    try:
        whole: Float64Array = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
        return whole, invalid
    except pa.ArrowInvalid:
        pass
    values = np.zeros(len(texts))
    for row, text in enumerate(texts.to_pylist()):
        try:
            values[row] = np.nan if "_" in text else parse_float(text)
        except ValueError:
            invalid[row] = True
    return values, invalid
