"""Shared by commands that append raw records and wait for the tables: `replay`, `rebuild`, `action`, `backfill`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import typer

from tickerplant.app.commands.common import notify
from tickerplant.core.errors import LogError, StoreError, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.runtime.plant import Plant
    from tickerplant.log.port import TopicPartition

POLL_S: Final = 0.05
STOPPED: Final = "stopped before {}; all records are in the log, and a running plant completes this"
HINT_S: Final = 15.0
GIVE_UP_S: Final = 60.0
"""Seconds without progress of the tables after which a command gives up, if no service runs."""
COMPUTED_S: Final = 120.0
"""Maximum seconds to wait for recomputed indicators without progress. A running backfill can delay them for longer."""
REFUSALS_S: Final = 2.0
"""Seconds between two checks for records that the database refuses."""
WORK_REMAINS: Final = 3
"""Exit code of a command that has waited but leaves work to another process."""

LOCAL: Final = ("aggregation", "analytics", "persistence")
"""The services that convert raw records to rows of the tables."""


@contextlib.contextmanager
def plant_to_feed(loaded: Loaded, *, made_up: bool = False) -> Iterator[tuple[Plant, bool]]:
    """Yield a plant on the log of the settings, and whether this process runs its services.

    If the log is embedded and no plant runs, this process runs the services `LOCAL` during the block. Otherwise, and
    always on Kafka, other processes run them. `made_up` is true if the sandbox feeds the plant. The sandbox's stocks
    may trade round the clock.
    """
    from tickerplant.app.runtime import plant as plants
    from tickerplant.app.wiring.rules import always_open, ensure_rules

    settings = loaded.settings
    if not settings.embedded_log or plants.folder_is_held(settings):
        with plants.opened(settings) as plant:
            ensure_rules(plant.event_log, settings, only_first=True)
            yield plant, False
        return
    with plants.folder_alone(settings), plants.opened(settings) as plant:
        ensure_rules(plant.event_log, settings, always_open=always_open(settings, made_up))
        supervisor = plant.supervise(LOCAL)
        supervisor.start()
        try:
            yield plant, True
        finally:
            supervisor.stop()


def wait_until_stored(
    plant: Plant,
    last: Mapping[int, int],
    stop: threading.Event,
    *,
    own_services: bool,
    report: Callable[[int, int], None] = lambda total, missing: None,
) -> None:
    """Block until all results of the raw records up to the offsets `last`, by partition, are in the tables.

    `own_services` is true if this process runs the services. If it is false, a long wait prints which results are
    missing. Calls `report(total, missing)` with two counts of partitions. `total` counts the partitions of `last` in
    the three topics that fill the tables. `missing` counts those with records that are not stored yet. Raises
    TickerplantError when stopped, when a service of this process has failed, or when the database refuses a record.
    Also raises it when nothing arrives and no service runs.
    """
    from tickerplant.app.ingest_progress import STAGES, ProgressTracker
    from tickerplant.app.wiring.positions import StorePositions, read_positions

    tracker = ProgressTracker(last, plant.event_log.identity().generation)
    hint_s: float | None = time.monotonic() + HINT_S
    give_up_s = time.monotonic() + GIVE_UP_S
    refusals_s = time.monotonic() + REFUSALS_S
    before: list[tuple[str, int]] = []
    with StorePositions(plant.dsn) as store:
        while missing := tracker.missing(read_positions(plant.event_log, store)):
            report(3 * len(last), len(missing))
            if stop.wait(POLL_S):
                raise TickerplantError(STOPPED.format("everything was in the tables"))
            check_services(plant)
            if time.monotonic() > refusals_s:
                refusals_s = time.monotonic() + REFUSALS_S
                _check_refusals(plant, missing)
            if missing != before:
                before, hint_s = missing, time.monotonic() + HINT_S
                give_up_s = time.monotonic() + GIVE_UP_S
            elif not own_services and hint_s is not None and time.monotonic() > hint_s:
                hint_s = None
                notify(f"waiting until all {STAGES[missing[0][0]]} are stored; make sure that {', '.join(LOCAL)} run")
            elif not own_services and time.monotonic() > give_up_s:
                if not _any_service_runs(plant):
                    raise TickerplantError(
                        "no service fills the tables; all records are in the log. Start `tickerplant up`, or "
                        "`tickerplant run NAME` for each of aggregation, analytics and persistence"
                    )
                give_up_s = time.monotonic() + GIVE_UP_S
        report(3 * len(last), 0)


def _check_refusals(plant: Plant, missing: Collection[tuple[str, int]]) -> None:
    """Raise StoreError if the database refuses a record of a partition that is still missing."""
    from tickerplant.app.wiring.store import positions
    from tickerplant.persistence.status import read_refusals

    refusals = [one for one in read_refusals(plant.event_log) if one.source in missing]
    applied = positions(plant.dsn) if refusals else {}
    for refusal in refusals:
        if applied.get(refusal.source, 0) <= refusal.offset:
            raise StoreError(f"not everything is stored: {refusal}")


def _any_service_runs(plant: Plant) -> bool:
    """Return True if a service of `LOCAL` runs, or if the log does not answer."""
    try:
        return any(plant.event_log.members(name) for name in LOCAL)
    except LogError:
        return True


def check_services(plant: Plant) -> None:
    """Raise the error of a failed service of this process."""
    failure = plant.supervisor.failure()
    if failure is not None:
        raise failure if isinstance(failure, TickerplantError) else LogError(f"a service failed: {failure}")


def wait_until_computed(
    plant: Plant, partitions: Collection[int], stop: threading.Event, *, own_services: bool, symbol: str | None = None
) -> str:
    """Block until analytics has recomputed its queued series and their values are in the tables; return "".

    Call it after `wait_until_stored`. `symbol`: wait for the series of this symbol only. After `COMPUTED_S` without
    progress, return a sentence about the remaining work and the process that completes it. Raises TickerplantError when
    stopped, or when a service of this process has failed.
    """
    from tickerplant.app.wiring.positions import StorePositions, queued_series
    from tickerplant.core.schemas import ANALYTICS
    from tickerplant.persistence.service import GROUP as PERSISTENCE

    deadline, before = time.monotonic() + COMPUTED_S, -1
    due: dict[TopicPartition, int] | None = None
    with StorePositions(plant.dsn) as store:
        while True:
            left = queued_series(plant.event_log, partitions, symbol) if due is None else 0
            if due is None and not left:
                ends = plant.event_log.offsets(ANALYTICS, read_uncommitted=True)
                due = {tp: end for tp, (_, end) in ends.items() if tp.partition in partitions and end}
            if due is not None:
                applied = store.applied()
                left = sum(max(0, end - applied[tp].position) if tp in applied else end for tp, end in due.items())
                # On Kafka, an end is after the markers of transactions, and a position after the last record.
                if not left or not any(plant.event_log.lag(PERSISTENCE, [ANALYTICS]).get(tp) for tp in due):
                    return ""
            check_services(plant)
            if left != before:
                deadline, before = time.monotonic() + COMPUTED_S, left
            elif time.monotonic() > deadline:
                what = "series of indicators are not recomputed" if due is None else "records of values are not stored"
                who = "the next plant on this folder (`tickerplant up`)" if own_services else "the running plant"
                return f"{left:,} {what} yet; {who} completes this"
            if stop.wait(POLL_S):
                raise TickerplantError(STOPPED.format("all indicators were recomputed"))


def exit_if_remaining(remaining: str) -> None:
    """Print a command's remaining work and exit with `WORK_REMAINS`; return if `remaining` is ""."""
    if remaining:
        notify(remaining)
        raise typer.Exit(WORK_REMAINS)
