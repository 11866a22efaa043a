"""The whole state of an engine as bytes, and back. Equal states give equal bytes: only what is remembered is kept."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.analytics.alerts import Alerts
from tickerplant.analytics.crossings import Crossings
from tickerplant.analytics.engine import Engine
from tickerplant.analytics.history import History
from tickerplant.analytics.pane import Pane
from tickerplant.analytics.study import Study
from tickerplant.core.errors import SnapshotRefused, TickerplantError
from tickerplant.core.rules import rules_from, values_of

FORMAT: Final = 2


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


class _Kept(msgspec.Struct, array_like=True):
    clock_us: int
    rules: dict[str, Any]
    symbols: list[str]
    panes: list[_Pane]
    alerts: _Alerts | None = None
    """None too in the snapshots of a version that had no alerts."""


def take(engine: Engine, alerts: Alerts, clock_us: int) -> bytes:
    """Return the engine's state, the alerts' and the log's clock."""
    alerts.settle()
    memory = [alerts.memory[name] for name in sorted(alerts.memory)]
    kept = _Kept(
        clock_us,
        values_of(engine.rules),
        engine.symbols,
        _panes(engine),
        _Alerts(memory, alerts.watch.symbols, _panes(alerts.watch)) if alerts.watch.symbols or memory else None,
    )
    return msgspec.msgpack.encode(kept, order="sorted")


def restore(data: bytes) -> tuple[Engine, Alerts, int]:
    """Return an engine and alerts of the same state, and the clock. Raises SnapshotRefused for other bytes."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        engine = Engine(rules_from(kept.rules))
        engine.add_symbols(kept.symbols)
        _fill_all(engine, kept.panes)
        alerts = Alerts(engine.rules)
        if kept.alerts is not None:
            alerts.restore(kept.alerts.memory, kept.alerts.symbols)
            _fill_all(alerts.watch, kept.alerts.panes)
    except (msgspec.MsgspecError, TickerplantError, ValueError, KeyError) as error:
        raise SnapshotRefused(f"the bytes are no state of analytics: {type(error).__name__}: {error}") from error
    return engine, alerts, kept.clock_us


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
