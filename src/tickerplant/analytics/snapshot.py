"""Conversion of a partition's state to bytes and back. Unused slots are omitted. Equal states give equal bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from tickerplant.analytics.alerts.evaluator import AlertEvaluator
from tickerplant.analytics.alerts.rule_state import RuleState
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.analytics.realtime.history import BarHistory
from tickerplant.analytics.realtime.indicator_state import IndicatorState
from tickerplant.analytics.realtime.interval_engine import IntervalEngine
from tickerplant.analytics.realtime.recompute_queue import RecomputeMark, RecomputeQueue
from tickerplant.analytics.realtime.series import Series
from tickerplant.core.errors import SnapshotRefused, TickerplantError
from tickerplant.core.rules import rules_from, values_of
from tickerplant.core.times import NEVER_US

FORMAT: Final = 2


@dataclass(slots=True)
class PartitionState:
    """The state of a partition's stage.

    `clock_us` is log time. `cause` is the newest cause of the applied records. A state that was built from the store
    contains all records before the offset `known_to`. `has_rules` is true if this state was built under the rules of
    the log. `cold` is true if the store was unavailable at the start and the stored series are not queued yet.
    """

    engine: Engine
    alerts: AlertEvaluator
    recompute_queue: RecomputeQueue = field(default_factory=RecomputeQueue)
    clock_us: int = NEVER_US
    cause: int = 0
    known_to: int = 0
    has_rules: bool = False
    cold: bool = False


class _StoredIndicator(msgspec.Struct, array_like=True):
    indicator: str
    state: bytes
    start: bytes
    checkpoints: bytes


class _StoredInterval(msgspec.Struct, array_like=True):
    interval: str
    depth: int
    count: bytes
    retained: bytes
    last_us: bytes
    times: bytes
    columns: dict[str, bytes]
    indicators: list[_StoredIndicator]


class _StoredAlerts(msgspec.Struct, array_like=True):
    rule_states: list[RuleState]
    symbols: list[str]
    intervals: list[_StoredInterval]
    stale: list[tuple[str, str]] = []


class _StoredMark(msgspec.Struct, array_like=True):
    interval: str
    symbol: str
    start_us: int
    position: int
    feeds: list[str]


class _StoredState(msgspec.Struct, array_like=True):
    clock_us: int
    rules: msgspec.Raw
    """The rules' values, encoded separately: the encoder sorts the keys of the state, but the order of the rules'
    patterns must remain."""
    symbols: list[str]
    intervals: list[_StoredInterval]
    alerts: _StoredAlerts | None = None
    """None without alert rules, or in snapshots of earlier versions. Versions without marks end with this field."""
    cause: int = 0
    known_to: int = 0
    has_rules: bool = False
    cold: bool = False
    marks: list[_StoredMark] = []
    feeds: list[tuple[str, int]] = []
    splits: list[tuple[str, list[tuple[int, float]]]] = []
    pending_splits: list[tuple[str, int, float]] = []


def encode_snapshot(state: PartitionState) -> bytes:
    """Return the state of a partition as bytes."""
    engine, queue, splits = state.engine, state.recompute_queue, state.engine.splits
    stored = _StoredState(
        state.clock_us,
        msgspec.Raw(msgspec.msgpack.encode(values_of(engine.rules))),
        engine.symbols,
        _stored_intervals(engine),
        _stored_alerts(state.alerts),
        state.cause if queue.marks or state.cold else 0,  # a mark that is added later has a later cause
        state.known_to,
        state.has_rules,
        state.cold,
        [
            _StoredMark(*series, mark.start_us, mark.position, sorted(mark.feeds))
            for series, mark in queue.marks.items()
        ],
        sorted(queue.feeds.items()),
        [(symbol, sorted(ratios.items())) for symbol, ratios in sorted(splits.effective.items())],
        sorted((*key, ratio) for key, ratio in splits.pending.items()),
    )
    return msgspec.msgpack.encode(stored, order="sorted")


def _stored_alerts(alerts: AlertEvaluator) -> _StoredAlerts | None:
    alerts.sync_states()
    states = [alerts.rule_states[name] for name in sorted(alerts.rule_states)]
    if not (alerts.watch.symbols or states or alerts.stale):
        return None
    return _StoredAlerts(states, alerts.watch.symbols, _stored_intervals(alerts.watch), sorted(alerts.stale))


def decode_snapshot(data: bytes) -> PartitionState:
    """Return the state that `encode_snapshot` encoded. Raises SnapshotRefused for other bytes."""
    try:
        stored = msgspec.msgpack.decode(data, type=_StoredState)
        engine = Engine(rules_from(msgspec.msgpack.decode(stored.rules)))
        engine.add_symbols(stored.symbols)
        _restore_intervals(engine, stored.intervals)
        engine.splits.restore({symbol: dict(ratios) for symbol, ratios in stored.splits}, stored.pending_splits)
        alerts = AlertEvaluator(engine.rules, engine.splits)
        if stored.alerts is not None:
            alerts.restore(stored.alerts.rule_states, stored.alerts.symbols)
            _restore_intervals(alerts.watch, stored.alerts.intervals)
            alerts.stale = {Series(*series) for series in stored.alerts.stale}
    except (msgspec.MsgspecError, TickerplantError, ValueError, KeyError) as error:
        raise SnapshotRefused(
            f"not a snapshot of analytics: {type(error).__name__}: {error}; run the version that wrote it"
        ) from error
    queue = RecomputeQueue()
    for one in stored.marks:
        queue.marks[Series(one.interval, one.symbol)] = RecomputeMark(one.start_us, one.position, set(one.feeds))
    queue.feeds = dict(stored.feeds)
    return PartitionState(
        engine, alerts, queue, stored.clock_us, stored.cause, stored.known_to, stored.has_rules, stored.cold
    )


def _stored_intervals(engine: Engine) -> list[_StoredInterval]:
    return [_stored_interval(name, one, len(engine.symbols)) for name, one in engine.interval_engines.items()]


def _restore_intervals(engine: Engine, stored: list[_StoredInterval]) -> None:
    for one in stored:
        _restore_interval(engine.interval_engines[one.interval], one, len(engine.symbols))


def _stored_interval(name: str, engine: IntervalEngine, symbols: int) -> _StoredInterval:
    history = engine.history
    valid = history.valid_slots(symbols)
    return _StoredInterval(
        name,
        history.depth,
        history.count[:symbols].tobytes(),
        history.retained[:symbols].tobytes(),
        history.last_us[:symbols].tobytes(),
        history.times[:symbols][valid].tobytes(),
        {name: ring[:symbols][valid].tobytes() for name, ring in history.columns.items()},
        [_stored_indicator(state, history, symbols) for state in engine.states],
    )


def _stored_indicator(state: IndicatorState, history: BarHistory, symbols: int) -> _StoredIndicator:
    valid = state.valid_checkpoints(history.count, symbols)
    return _StoredIndicator(
        str(state.indicator),
        state.state[:, :symbols].tobytes(),
        state.start[:symbols].tobytes(),
        state.checkpoints[:symbols][valid].tobytes(),
    )


def _restore_interval(engine: IntervalEngine, stored: _StoredInterval, symbols: int) -> None:
    history = engine.history
    if stored.depth != history.depth or [str(state.indicator) for state in engine.states] != [
        one.indicator for one in stored.indicators
    ]:
        raise ValueError("depth or indicators differ from those of the rules")
    arrays = ((history.count, stored.count), (history.retained, stored.retained), (history.last_us, stored.last_us))
    for array, data in arrays:
        array[:symbols] = np.frombuffer(data, dtype=np.int64)
    valid = history.valid_slots(symbols)
    history.times[:symbols][valid] = np.frombuffer(stored.times, dtype=np.int64)
    for name, ring in history.columns.items():
        ring[:symbols][valid] = np.frombuffer(stored.columns[name], dtype=np.float64)
    for state, one in zip(engine.states, stored.indicators, strict=True):
        state.state[:, :symbols] = np.frombuffer(one.state, dtype=np.float64).reshape(state.indicator.width, symbols)
        state.start[:symbols] = np.frombuffer(one.start, dtype=np.int64)
        chosen = state.valid_checkpoints(history.count, symbols)
        states = np.frombuffer(one.checkpoints, dtype=np.float64)
        state.checkpoints[:symbols][chosen] = states.reshape(-1, state.checkpoints.shape[2] or 1)[: chosen.sum()]
