"""Descriptions of all indicators, as `/v1/indicators` and `tickerplant indicators` return them."""

from __future__ import annotations

from typing import Any

from tickerplant.analytics import plugins
from tickerplant.analytics.indicator import INDICATORS
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.ondemand import talib_functions
from tickerplant.analytics.ondemand.calculation import choose, parse_calculation
from tickerplant.core.errors import BadInput

DECLARED, TALIB = "declared", "talib"


def listing() -> list[dict[str, Any]]:
    """Return the descriptions of all indicators, sorted by name within each `kind`: `declared`, then `talib`.

    A function of TA-Lib whose name is also declared is listed with the prefix `TA_`.
    """
    plugins.load()
    return [_of_declared(kind) for _, kind in sorted(INDICATORS.items())] + [
        _of_talib(talib_functions.PREFIX + name if name in INDICATORS else name) for name in talib_functions.names()
    ]


def describe(name: str) -> dict[str, Any]:
    """Return the description of one indicator, under the requested name. Raises UnknownIndicator."""
    plugins.load()
    plain = name.strip().upper()
    if plain in INDICATORS:
        return _of_declared(INDICATORS[plain])
    choose(plain, {})  # raises UnknownIndicator with suggestions
    return _of_talib(plain)


def _of_declared(kind: type[Indicator]) -> dict[str, Any]:
    try:
        made: Indicator | None = kind()
    except BadInput:  # a parameter has no default
        made = None
    return {
        "name": kind.NAME,
        "kind": DECLARED,
        "title": " ".join((kind.__doc__ or "").split("\n\n")[0].split()),
        "parameters": [
            {"name": one.name, "default": one.default, "least": one.least, "most": one.most, "whole": one.whole}
            for one in kind.PARAMETERS
        ],
        "inputs": list(kind.INPUTS),
        "columns": list(made.columns) if made is not None else [],
        "warmup": made.warmup if made is not None else None,
        "recursive": made is not None and not made.block,
        "dialects": list(kind.DIALECTS),
        "source": kind.SOURCE,
    }


def _of_talib(name: str) -> dict[str, Any]:
    function = parse_calculation(name)
    about = talib_functions.describe(name.removeprefix(talib_functions.PREFIX))
    return {
        "name": name,
        "kind": TALIB,
        "title": about.title,
        "parameters": [
            {"name": key, "default": default, "least": None, "most": None, "whole": isinstance(default, int)}
            for key, default in about.parameters.items()
        ],
        "inputs": list(function.inputs),
        "columns": list(function.columns),
        "warmup": max(function.warmups),
        "recursive": function.memory is None,
        "dialects": [],
        "source": f"TA-Lib, {about.group}",
    }
