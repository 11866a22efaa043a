"""The whole state of a partition as bytes, and back. Equal states give equal bytes: only what is remembered is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.analytics.alerts.rule_state import Crossings
from tickerplant.analytics.alerts.rules import Alerts
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.analytics.realtime.history import History
from tickerplant.analytics.realtime.indicator_state import Study
from tickerplant.analytics.realtime.interval_engine import Pane
from tickerplant.analytics.realtime.recompute_queue import Again, Mark, Series
from tickerplant.core.errors import SnapshotRefused, TickerplantError
from tickerplant.core.rules import rules_from, values_of
from tickerplant.core.times import NEVER_US

FORMAT: Final = 2


@dataclass(slots=True)
class State:
    """All that a partition's stage knows. `clock_us` and `cause`: the newest time sent and cause that the log has said.

    `known_to`: the state was made from the store and knows all records before that offset; `has_rules`: and under the
    newest rules; `cold`: it could not be, because the store was out of reach.
    """

    engine: Engine
    alerts: Alerts
    again: Again = field(default_factory=Again)
    clock_us: int = NEVER_US
    cause: int = 0
    known_to: int = 0
    has_rules: bool = False
    cold: bool = False


class _Study(msgspec.Struct, array_like=True):
    indicator: str
    state: bytes
    born: bytes
    checkpoints: bytes


class _Pane(msgspec.Struct, array_like=True):
    interval: str
    depth: int
    count: bytes
    kept: bytes
    last: bytes
    times: bytes
    columns: dict[str, bytes]
    studies: list[_Study]


class _Alerts(msgspec.Struct, array_like=True):
    memory: list[Crossings]
    symbols: list[str]
    panes: list[_Pane]
    stale: list[tuple[str, str]] = []


class _Mark(msgspec.Struct, array_like=True):
    interval: str
    symbol: str
    from_us: int
    position: int
    feeds: list[str]


class _Kept(msgspec.Struct, array_like=True):
    clock_us: int
    rules: dict[str, Any]
    symbols: list[str]
    panes: list[_Pane]
    alerts: _Alerts | None = None
    """None too in the snapshots of a version that had no alerts. What follows is left out by one that had no marks."""
    cause: int = 0
    known_to: int = 0
    has_rules: bool = False
    cold: bool = False
    marks: list[_Mark] = []
    feeds: list[tuple[str, int]] = []
    splits: list[tuple[str, list[tuple[int, float]]]] = []
    waiting: list[tuple[str, int, float]] = []


def take(state: State) -> bytes:
    """Return the state as bytes."""
    engine, again, splits = state.engine, state.again, state.engine.splits
    kept = _Kept(
        state.clock_us,
        values_of(engine.rules),
        engine.symbols,
        _panes(engine),
        _alerts(state.alerts),
        state.cause if again.marks or state.cold else 0,  # what is marked later has a later cause
        state.known_to,
        state.has_rules,
        state.cold,
        [_Mark(*series, mark.from_us, mark.position, sorted(mark.feeds)) for series, mark in again.marks.items()],
        sorted(again.feeds.items()),
        [(symbol, sorted(ratios.items())) for symbol, ratios in sorted(splits.effective.items())],
        sorted((*key, ratio) for key, ratio in splits.waiting.items()),
    )
    return msgspec.msgpack.encode(kept, order="sorted")


def _alerts(alerts: Alerts) -> _Alerts | None:
    alerts.settle()
    memory = [alerts.memory[name] for name in sorted(alerts.memory)]
    if not (alerts.watch.symbols or memory or alerts.stale):
        return None
    return _Alerts(memory, alerts.watch.symbols, _panes(alerts.watch), sorted(alerts.stale))


def restore(data: bytes) -> State:
    """Return the same state. Raises SnapshotRefused for other bytes."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        engine = Engine(rules_from(kept.rules))
        engine.add_symbols(kept.symbols)
        _fill_all(engine, kept.panes)
        engine.splits.restore({symbol: dict(ratios) for symbol, ratios in kept.splits}, kept.waiting)
        alerts = Alerts(engine.rules, engine.splits)
        if kept.alerts is not None:
            alerts.restore(kept.alerts.memory, kept.alerts.symbols)
            _fill_all(alerts.watch, kept.alerts.panes)
            alerts.stale = {Series(*series) for series in kept.alerts.stale}
    except (msgspec.MsgspecError, TickerplantError, ValueError, KeyError) as error:
        raise SnapshotRefused(f"the bytes are no state of analytics: {type(error).__name__}: {error}") from error
    again = Again()
    for one in kept.marks:
        again.marks[Series(one.interval, one.symbol)] = Mark(one.from_us, one.position, set(one.feeds))
    again.feeds = dict(kept.feeds)
    return State(engine, alerts, again, kept.clock_us, kept.cause, kept.known_to, kept.has_rules, kept.cold)


def _panes(engine: Engine) -> list[_Pane]:
    return [_pane(name, pane, len(engine.symbols)) for name, pane in engine.panes.items()]


def _fill_all(engine: Engine, panes: list[_Pane]) -> None:
    for saved in panes:
        _fill(engine.panes[saved.interval], saved, len(engine.symbols))


def _pane(name: str, pane: Pane, symbols: int) -> _Pane:
    history = pane.history
    valid = history.valid(symbols)
    return _Pane(
        name,
        history.depth,
        history.count[:symbols].tobytes(),
        history.kept[:symbols].tobytes(),
        history.last[:symbols].tobytes(),
        history.times[:symbols][valid].tobytes(),
        {name: ring[:symbols][valid].tobytes() for name, ring in history.columns.items()},
        [_study(study, history, symbols) for study in pane.studies],
    )


def _study(study: Study, history: History, symbols: int) -> _Study:
    valid = study.valid(history.count, symbols)
    return _Study(
        str(study.indicator),
        study.state[:, :symbols].tobytes(),
        study.born[:symbols].tobytes(),
        study.checkpoints[:symbols][valid].tobytes(),
    )


def _fill(pane: Pane, saved: _Pane, symbols: int) -> None:
    history = pane.history
    if saved.depth != history.depth or [str(study.indicator) for study in pane.studies] != [
        study.indicator for study in saved.studies
    ]:
        raise ValueError("depth or indicators are not what the rules say")
    for part, data in ((history.count, saved.count), (history.kept, saved.kept), (history.last, saved.last)):
        part[:symbols] = np.frombuffer(data, dtype=np.int64)
    valid = history.valid(symbols)
    history.times[:symbols][valid] = np.frombuffer(saved.times, dtype=np.int64)
    for name, ring in history.columns.items():
        ring[:symbols][valid] = np.frombuffer(saved.columns[name], dtype=np.float64)
    for study, own in zip(pane.studies, saved.studies, strict=True):
        study.state[:, :symbols] = np.frombuffer(own.state, dtype=np.float64).reshape(study.indicator.width, symbols)
        study.born[:symbols] = np.frombuffer(own.born, dtype=np.int64)
        chosen = study.valid(history.count, symbols)
        states = np.frombuffer(own.checkpoints, dtype=np.float64)
        study.checkpoints[:symbols][chosen] = states.reshape(-1, study.checkpoints.shape[2] or 1)[: chosen.sum()]
