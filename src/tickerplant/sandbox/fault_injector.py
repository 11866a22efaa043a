"""Applies faults to trades before they are streamed, and to responses. Pure: random numbers depend on a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import SECOND_US, BoolArray, Int64Array
from tickerplant.protocols.http_types import Response
from tickerplant.protocols.market import NO_VOLUME, TradeBatch
from tickerplant.sandbox.fault_script import Fault, FaultSchedule

MAX_DELAYED: Final = 1_000_000
"""Maximum delayed trades, exceeded by at most one batch. Further trades are sent without delay."""
_BACK_FACTOR: Final = 0.9
_JUMP_FACTOR: Final = 3


@dataclass(frozen=True, slots=True)
class FaultyResponse(Response):
    """A response with faults of the connection.

    `reset`: the connection is reset instead. `truncated`: the connection is closed after half of the body. `delay_s`:
    seconds of the sandbox's clock before the response is sent.
    """

    reset: bool = False
    truncated: bool = False
    delay_s: float = 0.0


class TradeFaults:
    """Applies a vendor's faults to the trades of its stream. Stores the delayed trades until they are due."""

    def __init__(self, vendor: str, seed: int, symbols: int) -> None:
        self._vendor = vendor
        self._rng = np.random.default_rng([seed % (1 << 63), *vendor.encode()])
        self._delayed: TradeBatch | None = None
        self._release_us: Int64Array = np.empty(0, np.int64)
        self._reset_from: Int64Array | None = None
        self._symbols = symbols
        self.counts: Counter[str] = Counter()
        """Number of trades affected, by the fault's name."""

    def apply(self, trades: TradeBatch, faults: FaultSchedule, now_us: int) -> TradeBatch:
        """Return the trades to send now: the batch after its faults, and delayed trades that are due."""
        vendor = self._vendor
        if fault := faults.active("skew", vendor, now_us):
            trades = replace(trades, times_us=trades.times_us + int(fault.number("by") * SECOND_US))
            self._count("skew", len(trades.codes))
        fault = faults.active("volume", vendor, now_us)
        if fault is not None:
            trades = self._volume(trades, fault)
        if fault is None or fault.choice("how") != "reset":
            self._reset_from = None
        if fault := faults.active("duplicate", vendor, now_us):
            again = self._sample(fault, len(trades.codes))
            trades = _take(trades, np.repeat(np.arange(len(again)), 1 + again))
            self._count("duplicate", int(again.sum()))
        for do in ("reorder", "late"):
            if fault := faults.active(do, vendor, now_us):
                trades = self._delay(trades, fault, now_us)
        return self._release_due(trades, now_us)

    def _count(self, do: str, trades: int) -> None:
        if trades:
            self.counts[do] += trades

    def _sample(self, fault: Fault, rows: int, share: float | None = None) -> BoolArray:
        result: BoolArray = self._rng.random(rows) < fault.number("share", share)
        return result

    def _volume(self, trades: TradeBatch, fault: Fault) -> TradeBatch:
        volumes, how = trades.day_volumes, fault.choice("how")
        rows = len(volumes)
        if how == "absent":
            which = self._sample(fault, rows, 1.0)
            volumes = np.where(which, NO_VOLUME, volumes)
        elif how == "reset":
            if self._reset_from is None:
                self._reset_from = np.full(self._symbols, -1, np.int64)
            codes, first = np.unique(trades.codes, return_index=True)
            new = self._reset_from[codes] < 0
            self._reset_from[codes[new]] = volumes[first[new]]
            which = np.ones(rows, np.bool_)
            volumes = np.maximum(volumes - self._reset_from[trades.codes], 0)
        else:
            which = self._sample(fault, rows)
            factor = _BACK_FACTOR if how == "back" else _JUMP_FACTOR
            volumes = np.where(which, (volumes * factor).astype(np.int64), volumes)
        self._count("volume", int(which.sum()))
        return replace(trades, day_volumes=volumes)

    def _delay(self, trades: TradeBatch, fault: Fault, now_us: int) -> TradeBatch:
        held = len(self._release_us)
        which = self._sample(fault, len(trades.codes)) if held < MAX_DELAYED else np.zeros(len(trades.codes), np.bool_)
        if not which.any():
            return trades
        by_us = fault.number("by") * SECOND_US
        delay = self._rng.random(int(which.sum())) * by_us if fault.do == "reorder" else np.full(which.sum(), by_us)
        late = _take(trades, np.flatnonzero(which))
        self._delayed = late if self._delayed is None else _concatenate(self._delayed, late)
        self._release_us = np.concatenate([self._release_us, now_us + delay.astype(np.int64)])
        self._count(fault.do, len(late.codes))
        return _take(trades, np.flatnonzero(~which))

    def _release_due(self, trades: TradeBatch, now_us: int) -> TradeBatch:
        if self._delayed is None:
            return trades
        due = self._release_us <= now_us
        if due.any():
            trades = _concatenate(trades, _take(self._delayed, np.flatnonzero(due)))
            self._delayed = _take(self._delayed, np.flatnonzero(~due)) if not due.all() else None
            self._release_us = self._release_us[~due]
        return trades


def _take(trades: TradeBatch, rows: Int64Array) -> TradeBatch:
    return TradeBatch(
        trades.codes[rows], trades.times_us[rows], trades.prices[rows], trades.day_volumes[rows], trades.sizes[rows]
    )


def _concatenate(a: TradeBatch, b: TradeBatch) -> TradeBatch:
    return TradeBatch(
        np.concatenate([a.codes, b.codes]), np.concatenate([a.times_us, b.times_us]),
        np.concatenate([a.prices, b.prices]), np.concatenate([a.day_volumes, b.day_volumes]),
        np.concatenate([a.sizes, b.sizes]),
    )  # fmt: skip


def malform(body: bytes, how: str) -> bytes:
    """Return a malformed body. `how`: `json` cuts the body into invalid JSON, `types` changes the types of values.

    `types` does not change text that is not a number, and reverses a body that is not JSON.
    """
    if how == "types":
        try:
            return msgspec.json.encode(_change_types(msgspec.json.decode(body)))
        except msgspec.MsgspecError:
            return body[::-1]
    return body[: len(body) * 2 // 3] + b'{"'


def _change_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _change_types(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_change_types(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return "maybe"
    if isinstance(value, int | float):
        return "n/a"
    try:
        float(value)
    except ValueError:
        return value
    return [value]
