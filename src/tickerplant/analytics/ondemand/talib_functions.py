"""Every function of TA-Lib as a calculation over bars, through its abstract interface.

TA-Lib is imported on the first use of one of its functions.

`WINDOWED` and `WINDOWED_GROUPS` list the functions whose value depends only on the bars of their lookback. All other
functions are computed from the first bar on: functions with an unstable period, cumulative sums, and functions that
return the index of a bar. Functions with exponential averages are among them, although TA-Lib does not mark these
functions as unstable. A function in `WINDOWED` is windowed only if its averages are of the kinds SMA, WMA or TRIMA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

import numpy as np

from tickerplant.analytics.indicator.declaration import plain
from tickerplant.analytics.ondemand.parameter_names import SERIES_TYPE, DuplicateName, match_name, series_type
from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array

PREFIX: Final = "TA_"
"""Prefix that selects TA-Lib's function if an indicator of that name is declared too."""
UNSUPPORTED: Final = ("MAVP",)
"""Functions that are not offered, because they need an array of periods, one per bar."""
WINDOWED_GROUPS: Final = ("Pattern Recognition", "Math Transform")
WINDOWED: Final = frozenset(
    {
        "ACCBANDS", "ADD", "AO", "AROON", "AROONOSC", "AVGDEV", "AVGPRICE", "BBANDS", "BETA", "BOP", "CCI", "CORREL",
        "DIV", "DONCHIAN", "HMA", "IMI", "LINEARREG", "LINEARREG_ANGLE", "LINEARREG_INTERCEPT", "LINEARREG_SLOPE", "MA",
        "MACDEXT", "MAX", "MEDPRICE", "MFI", "MIDPOINT", "MIDPRICE", "MIN", "MINMAX", "MOM", "MULT", "ROC", "ROCP",
        "ROCR", "ROCR100", "SMA", "STDDEV", "STOCH", "STOCHF", "SUB", "SUM", "TRANGE", "TRIMA", "TSF", "TYPPRICE",
        "ULTOSC", "VAR", "WCLPRICE", "WILLR", "WMA",
    }
)  # fmt: skip
_WINDOWED_AVERAGES: Final = frozenset({0, 2, 5})  # SMA, WMA, TRIMA


@dataclass(frozen=True, slots=True)
class TalibFunction:
    """A function of TA-Lib with its parameters. `name` is TA-Lib's name; its column names begin with `stem`."""

    name: str
    stem: str
    parameters: tuple[tuple[str, float | int], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookback: int
    windowed: bool
    series: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the output columns: `apo_12_26_1`, `stoch_5_3_0_3_0_slowk`."""
        values = (plain(value).replace(".", "p").replace("-", "m") for _, value in self.parameters)
        stem = "_".join([self.stem, *values])
        names = (f"{stem}_{output}" if len(self.outputs) > 1 else stem for output in self.outputs)
        return tuple(f"{name}_{self.series}" if self.series else name for name in names)

    @property
    def warmups(self) -> tuple[int, ...]:
        """Return the ordinal of the first bar with a value, counted from 1, for each output.

        All outputs of a TA-Lib function start together.
        """
        return (self.lookback + 1,) * len(self.outputs)

    @property
    def memory(self) -> int | None:
        """Return the count of earlier bars that determine a bar's value; None if all bars do."""
        return self.lookback if self.windowed else None

    def run(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return float64[outputs, bars] over one symbol's bars; NaN for no value."""
        bars = len(inputs[0])
        made = np.full((len(self.outputs), bars), np.nan)
        if bars > self.lookback:
            found = getattr(_talib(), self.name)(*inputs, **dict(self.parameters))
            for row, values in zip(made, found if isinstance(found, tuple | list) else (found,), strict=True):
                row[self.lookback :] = values[self.lookback :]  # integer outputs are 0 during the lookback, not NaN
            made[~np.isfinite(made)] = np.nan
        return made

    def __str__(self) -> str:
        call = f"{self.stem.upper()}({','.join(plain(value) for _, value in self.parameters)})"
        return f"{call} of {self.series}" if self.series else call


@dataclass(frozen=True, slots=True)
class Description:
    """TA-Lib's description of a function.

    `inputs` maps a name to a column, or to a list if the input consists of several columns.
    """

    name: str
    title: str
    group: str
    parameters: Mapping[str, float | int]
    inputs: Mapping[str, str | Sequence[str]]
    outputs: tuple[str, ...]


@cache
def names() -> tuple[str, ...]:
    """Return the names of all supported functions, sorted."""
    return tuple(sorted(name for name in _talib().get_functions() if name not in UNSUPPORTED))


def name_of(text: str) -> str | None:
    """Return TA-Lib's name of a function, given with or without `TA_`; None if there is none."""
    name = text.upper().removeprefix(PREFIX)
    return name if name in names() else None


@cache
def describe(name: str) -> Description:
    """Return TA-Lib's description of a function in `names()`."""
    info = _abstract(name).info
    return Description(
        name, info["display_name"], info["group"], dict(info["parameters"]), dict(info["input_names"]),
        tuple(info["output_names"]),
    )  # fmt: skip


def choose(requested: str, named: Mapping[str, str], ordered: Sequence[str] = ()) -> TalibFunction:
    """Return the function with these parameters: positional in TA-Lib's order, named, or the defaults.

    Its inputs of one column (`price`, `price0`, `price1`) may be named too; `series_type` is a synonym for `price`.
    Raises BadInput with the known parameters, or if TA-Lib refuses the values.
    """
    name = name_of(requested)
    if name is None:
        raise BadInput(f"TA-Lib has no function {requested!r}; see `tickerplant indicators`")
    about = describe(name)
    known = list(about.parameters)
    if len(ordered) > len(known):
        raise BadInput(f"{requested} takes {len(known)} parameters ({', '.join(known)}), not {len(ordered)}")
    free = {SERIES_TYPE if key == "price" else key: key for key, of in about.inputs.items() if isinstance(of, str)}
    texts = dict(zip(known, ordered, strict=False))
    inputs = dict(about.inputs)
    replaced: list[str] = []
    for given, value in named.items():
        chosen = match_name(given, [*known, *free], requested)
        if chosen in texts or chosen in replaced:
            raise DuplicateName(requested, chosen)
        if chosen in free:
            inputs[free[chosen]] = series_type(value)
            replaced.append(chosen)
        else:
            texts[chosen] = value
    values = tuple((key, _value(requested, key, texts.get(key), default)) for key, default in about.parameters.items())
    lookback = _abstract(name, dict(values)).lookback
    if lookback < 0:
        given = ", ".join(f"{key}={value:g}" for key, value in values)
        raise BadInput(f"{requested} cannot be computed with {given}: TA-Lib refuses a value; try the defaults")
    columns = tuple(column for of in inputs.values() for column in ((of,) if isinstance(of, str) else of))
    other = "_".join(inputs[key] for key in free.values()) if inputs != about.inputs else ""  # type: ignore[misc]
    windowed = _is_windowed(about, dict(values))
    return TalibFunction(name, requested.lower(), values, columns, about.outputs, lookback, windowed, other)


def _is_windowed(about: Description, values: Mapping[str, float | int]) -> bool:
    if about.group in WINDOWED_GROUPS:
        return True
    averages = {value for key, value in values.items() if key.endswith("matype")}
    return about.name in WINDOWED and averages <= _WINDOWED_AVERAGES


def _value(name: str, key: str, text: str | None, default: float | int) -> float | int:
    if text is None:
        return default
    if key.endswith("matype") and text.lower() in _averages():
        return _averages()[text.lower()]
    try:
        value = parse_float(text)
    except ValueError:
        words = (
            f"; it must be a number or one of {', '.join(_averages())}" if key.endswith("matype") else "; use a number"
        )
        raise BadInput(f"{name}: {key} is {text[:64]!r}{words}") from None
    if not np.isfinite(value) or abs(value) > 1e9:
        raise BadInput(f"{name}: {key} is {text[:64]!r}, which is out of range; use a number within ±1e9")
    if isinstance(default, int):
        if value != int(value):
            raise BadInput(f"{name}: {key} is {value:g}; it must be an integer")
        return int(value)
    return value


@cache
def _averages() -> dict[str, int]:
    """Return TA-Lib's code of each kind of moving average, by name: `sma`, `ema`, …"""
    kinds = vars(type(_talib().MA_Type))
    return {key.lower(): value for key, value in kinds.items() if isinstance(value, int) and not key.startswith("_")}


def _talib() -> Any:
    return import_module("talib")


def _abstract(name: str, parameters: Mapping[str, float | int] | None = None) -> Any:
    return import_module("talib.abstract").Function(name, **(parameters or {}))
