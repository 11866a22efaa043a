"""A date and a time of day in two columns become one column of texts for `time_column`. Pure, column-wise."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.column_names import normalise
from tickerplant.core.errors import BadInput

_HAS_DATE: Final = r"^\d{4}[-/.]\d|^\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|^\d{10,}"
_HOURS = 2


class ClockColumn:
    """Joins dates and clocks block by block. The first block decides how many digits a clock without colons has.

    Digits are `HHMMSSmmm` if a value has 7 or more, `HHMMSS` if one has 5 or 6, otherwise `HHMM`. In a column called
    Hour, 1 or 2 digits are hours.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digits: int | None = None
        role = normalise(name)
        self._is_hours = role.startswith("hour")
        self._least = 6 if role in ("hhmmss", "timem") else 4

    def join(self, dates: pa.Array, clocks: pa.Array) -> pa.Array:
        """Return the joined texts; the clocks alone if they contain the date. Raises BadInput for other digits."""
        texts = pc.utf8_trim_whitespace(clocks.cast(pa.utf8()))
        filled = texts.filter(pc.not_equal(texts, "")).drop_null()
        if len(filled) and pc.all(pc.match_substring_regex(filled, _HAS_DATE)).as_py():
            return clocks
        if len(filled) and pc.all(pc.match_substring_regex(filled, r"^\d{1,9}$")).as_py():
            texts = self._padded(texts, int(pc.max(pc.utf8_length(filled)).as_py()))
        days = pc.utf8_trim_whitespace(dates.cast(pa.utf8()))
        days = pc.replace_substring_regex(days, r"[ T]00:00(:00(\.0+)?)?(Z|[+-]00:?00)?$", "")
        days = pc.replace_substring_regex(days, r"^(\d{8})\.0$", r"\1")
        return pc.binary_join_element_wise(days, texts, " ")

    def _padded(self, texts: pa.Array, longest: int) -> pa.Array:
        digits = _HOURS if self._is_hours and longest <= _HOURS else 9 if longest > 6 else 6 if longest > 4 else 4
        digits = digits if digits == _HOURS else max(digits, self._least)
        self._digits = digits if self._digits is None else self._digits
        if digits > self._digits:
            raise BadInput(
                f"the column {self._name} has {longest} digits after values that were read as a clock of "
                f"{self._digits}; write the times as 09:30:00"
            )
        padded = pc.utf8_lpad(texts, self._digits, "0")
        return pc.binary_join_element_wise(padded, "00", "") if self._digits == _HOURS else padded
