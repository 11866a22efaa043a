"""Conversion of a date column and a clock column to one column of texts for `time_column`. Pure, column-wise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.column_names import normalise
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted
from tickerplant.core.time_values import clock_us

_HAS_DATE: Final = r"^\d{4}[-/.]\d|^\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|^\d{10,}"
_HOURS = 2
_PARTS: Final = ("minute", "minutes", "min", "second", "seconds", "sec")
"""Names of columns that complete a column of hours."""
_DAY_S: Final = 86_400
_OF_DAY: Final = {4: ("minutes", _DAY_S // 60), 6: ("seconds", _DAY_S), 9: ("milliseconds", 1_000 * _DAY_S)}
"""Other meaning of a clock without colons, by count of digits: the unit of a time since midnight, and units per day."""
_FEW: Final = 10
"""Minimum distinct values that prove a clock. A third of all seconds since midnight are valid clocks too."""
_MOSTLY: Final = 0.8
"""Share of valid clocks above which the other values are errors. See `_FEW`."""


def parts_of(clock: str, others: Mapping[str, str]) -> list[str]:
    """Return the columns of minutes and seconds that complete a column of hours; [] for other clocks.

    `others`: the columns without a role, by normalised name.

    >>> parts_of("Hour", {"minute": "Minute"}), parts_of("Time", {"minute": "Minute"})
    (['Minute'], [])
    """
    if not normalise(clock).startswith("hour"):
        return []
    return [others[name] for name in _PARTS if name in others]


class ClockColumn:
    """The join of dates and clocks, block by block. The first block defines the digits of a clock without colons.

    Digits are `HHMMSSmmm` if a value has 7 or more, `HHMMSS` if one has 5 or 6, otherwise `HHMM`. 1 or 2 digits
    in a column called Hour are hours, and columns of minutes and seconds complete them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digits: int | None = None
        role = normalise(name)
        self._is_hours = role.startswith("hour")
        self._is_minutes = role in _PARTS
        self.choice: str | None = None
        """A note about clocks that may be the time since midnight; None if there is none."""
        self._least = 6 if role in ("hhmmss", "timem") else 4

    def join(self, dates: pa.Array, clocks: pa.Array, parts: Sequence[pa.Array] = ()) -> pa.Array:
        """Return the joined texts; the clocks alone if they contain the date.

        Raises BadInput for digits that are no clock. `parts`: the columns of `parts_of`.
        """
        texts = _whole(clocks)
        if parts:
            padded = [pc.utf8_lpad(_whole(part), 2, "0") for part in (texts, *parts)]
            return self._with_dates(dates, pc.binary_join_element_wise(*padded, ":"))
        filled = texts.filter(pc.not_equal(texts, "")).drop_null()
        if self._is_minutes and len(filled) and not pc.any(pc.match_substring(filled, ":")).as_py():
            raise BadInput(
                f"the column {self._name} contains minutes such as {filled[0].as_py()}, and no column contains the "
                "hours; set --column clock=NAME"
            )
        if len(filled) and pc.all(pc.match_substring_regex(filled, _HAS_DATE)).as_py():
            return clocks
        if len(filled) and pc.all(pc.match_substring_regex(filled, r"^\d{1,9}$")).as_py():
            texts = self._padded(texts, int(pc.max(pc.utf8_length(filled)).as_py()))
            self._check_clock(filled)
        return self._with_dates(dates, texts)

    def _with_dates(self, dates: pa.Array, texts: pa.Array) -> pa.Array:
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
                f"the column {self._name} has a value of {longest} digits, but its first values are clocks of "
                f"{self._digits} digits; write the times as 09:30:00"
            )
        padded = pc.utf8_lpad(texts, self._digits, "0")
        return pc.binary_join_element_wise(padded, "00", "") if self._digits == _HOURS else padded

    def _check_clock(self, texts: pa.Array) -> None:
        """Raise BadInput if the digits are probably a time since midnight. Set `choice` if they may be either.

        Condition of the error: at most the share `_MOSTLY` of the values are clocks, and all values are below a day.
        """
        if self._digits not in _OF_DAY:
            return
        values = texts.cast(pa.int64()).to_numpy(zero_copy_only=False)
        valid = clock_us(values, self._digits)[1]
        unit, per_day = _OF_DAY[self._digits]
        if (values >= per_day).any():
            return
        if valid.mean() > _MOSTLY:
            if unit != "minutes" and len(np.unique(values)) < _FEW and not pc.any(pc.starts_with(texts, "0")).as_py():
                first = texts[0].as_py()
                self.choice = f"{first} in the column {self._name} is a clock of {self._digits} digits, not {unit}"
            return
        example = texts[int(np.argmin(valid))].as_py()
        raise BadInput(
            f"{quoted(example)} in the column {self._name} is not a clock of {self._digits} digits; if the values are "
            f"{unit} since midnight, write them as 09:30:00"
        )


def _whole(texts: pa.Array) -> pa.Array:
    """Return numbers as texts without a fraction of zero."""
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(texts.cast(pa.utf8())), r"^(\d+)\.0+$", r"\1")
