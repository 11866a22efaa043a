"""Shapes of answers that a page shows: the names of their fields and the kinds of their values.

A page shortens an answer with `…`: `{…}` is any object, `[…]` any list, and `[1,…]` a list with more values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

ANY = "…"
KEYED_BY_DATA = ("offsets", "counts", "channels", "warmup_remaining")
"""Fields whose names are data, such as the numbers of partitions."""


def parse(text: str) -> Any:
    """Return the value of JSON that may be shortened with `…`. Raises ValueError if it is no such JSON."""
    text = re.sub(r"\{\s*…\s*\}", f'{{"{ANY}":0}}', text)
    text = re.sub(r"([\[,])\s*…\s*(?=[\],}])", rf'\1"{ANY}"', text)
    return json.loads(re.sub(r":\s*…\s*(?=[,}])", f':"{ANY}"', text))


def differences(shown: Any, real: Any, place: str = "") -> Iterator[str]:
    """Yield one line for each field or kind of value in which a real answer differs from the shown one."""
    if shown == ANY or shown is None or real is None or shown == {ANY: 0}:
        return
    if isinstance(shown, dict) and isinstance(real, dict):
        if place.rpartition(".")[2] in KEYED_BY_DATA:
            return
        for name in sorted(set(shown) ^ set(real)):
            yield f"{place}.{name}: only in the {'page' if name in shown else 'answer'}"
        for name in sorted(set(shown) & set(real)):
            yield from differences(shown[name], real[name], f"{place}.{name}")
    elif isinstance(shown, list) and isinstance(real, list):
        if shown and real and shown[0] != ANY:
            yield from differences(shown[0], real[0], f"{place}[]")
    elif _kind(shown) != _kind(real):
        yield f"{place}: {_kind(shown)} in the page, {_kind(real)} in the answer"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number"
    return {str: "text", dict: "object", list: "list"}.get(type(value), "null")
