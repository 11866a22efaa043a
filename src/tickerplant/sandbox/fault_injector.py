"""What orders do to prints on their way into a stream, and to the text of an answer. Pure; chance comes from a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import SECOND_US, BoolArray, Int64Array
from tickerplant.protocols.twelvedata.stream import NO_VOLUME
from tickerplant.sandbox.fault_script import Order, Orders
from tickerplant.sandbox.model import Prints

MAX_HELD: Final = 1_000_000
"""Prints held back at most; beyond that they are sent at once, and not late."""
_BACK: Final = 0.9
_JUMP: Final = 3


class Mangler:
    """Prints of one vendor's stream, as its orders spoil them. Keeps those that are to come late."""

    def __init__(self, vendor: str, seed: int, symbols: int) -> None:
        self._vendor = vendor
        self._dice = np.random.default_rng([seed % (1 << 63), *vendor.encode()])
        self._held: Prints | None = None
        self._release_us: Int64Array = np.empty(0, np.int64)
        self._reset_from: Int64Array | None = None
        self._symbols = symbols
        self.counts: Counter[str] = Counter()
        """How many prints were spoiled, by the order's name."""

    def mangle(self, prints: Prints, orders: Orders, now_us: int) -> Prints:
        """Return what is to be sent now."""
        vendor = self._vendor
        if order := orders.active("skew", vendor, now_us):
            prints = replace(prints, times_us=prints.times_us + int(order.number("by") * SECOND_US))
            self._count("skew", len(prints.codes))
        order = orders.active("volume", vendor, now_us)
        if order is not None:
            prints = self._volume(prints, order)
        if order is None or order.choice("how") != "reset":
            self._reset_from = None
        if order := orders.active("duplicate", vendor, now_us):
            again = self._some(order, len(prints.codes))
            prints = _take(prints, np.repeat(np.arange(len(again)), 1 + again))
            self._count("duplicate", int(again.sum()))
        for do in ("reorder", "late"):
            if order := orders.active(do, vendor, now_us):
                prints = self._hold(prints, order, now_us)
        return self._released(prints, now_us)

    def _count(self, do: str, prints: int) -> None:
        if prints:
            self.counts[do] += prints

    def _some(self, order: Order, rows: int, share: float | None = None) -> BoolArray:
        result: BoolArray = self._dice.random(rows) < order.number("share", share)
        return result

    def _volume(self, prints: Prints, order: Order) -> Prints:
        volumes, how = prints.day_volumes, order.choice("how")
        rows = len(volumes)
        if how == "absent":
            which = self._some(order, rows, 1.0)
            volumes = np.where(which, NO_VOLUME, volumes)
        elif how == "reset":
            if self._reset_from is None:
                self._reset_from = np.full(self._symbols, -1, np.int64)
            codes, first = np.unique(prints.codes, return_index=True)
            new = self._reset_from[codes] < 0
            self._reset_from[codes[new]] = volumes[first[new]]
            which = np.ones(rows, np.bool_)
            volumes = np.maximum(volumes - self._reset_from[prints.codes], 0)
        else:
            which = self._some(order, rows)
            factor = _BACK if how == "back" else _JUMP
            volumes = np.where(which, (volumes * factor).astype(np.int64), volumes)
        self._count("volume", int(which.sum()))
        return replace(prints, day_volumes=volumes)

    def _hold(self, prints: Prints, order: Order, now_us: int) -> Prints:
        held = len(self._release_us)
        which = self._some(order, len(prints.codes)) if held < MAX_HELD else np.zeros(len(prints.codes), np.bool_)
        if not which.any():
            return prints
        by_us = order.number("by") * SECOND_US
        delay = self._dice.random(int(which.sum())) * by_us if order.do == "reorder" else np.full(which.sum(), by_us)
        late = _take(prints, np.flatnonzero(which))
        self._held = late if self._held is None else _joined(self._held, late)
        self._release_us = np.concatenate([self._release_us, now_us + delay.astype(np.int64)])
        self._count(order.do, len(late.codes))
        return _take(prints, np.flatnonzero(~which))

    def _released(self, prints: Prints, now_us: int) -> Prints:
        if self._held is None:
            return prints
        due = self._release_us <= now_us
        if due.any():
            prints = _joined(prints, _take(self._held, np.flatnonzero(due)))
            self._held = _take(self._held, np.flatnonzero(~due)) if not due.all() else None
            self._release_us = self._release_us[~due]
        return prints


def _take(prints: Prints, rows: Int64Array) -> Prints:
    return Prints(
        prints.codes[rows], prints.times_us[rows], prints.prices[rows], prints.day_volumes[rows], prints.sizes[rows]
    )


def _joined(a: Prints, b: Prints) -> Prints:
    return Prints(
        np.concatenate([a.codes, b.codes]), np.concatenate([a.times_us, b.times_us]),
        np.concatenate([a.prices, b.prices]), np.concatenate([a.day_volumes, b.day_volumes]),
        np.concatenate([a.sizes, b.sizes]),
    )  # fmt: skip


def malformed(body: bytes, how: str) -> bytes:
    """Return a body that nobody can read: `json` breaks it off in the middle, `types` makes text of numbers."""
    if how == "types":
        try:
            return msgspec.json.encode(_other_types(msgspec.json.decode(body)))
        except msgspec.MsgspecError:
            return body[::-1]
    return body[: len(body) * 2 // 3] + b'{"'


def _other_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _other_types(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_other_types(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return "maybe"
    if isinstance(value, int | float):
        return "n/a"
    try:
        float(value)
    except ValueError:
        return value
    return [value]
