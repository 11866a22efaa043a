"""`tickerplant health`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tickerplant.app.commands.common import emit, table
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.component import ComponentHealth
    from tickerplant.app.config.settings import Loaded, Settings
    from tickerplant.app.health import Positions
    from tickerplant.log.port import EventLog

LOG_S: Final = 4.0
STORE_S: Final = 4.0
"""Maximum seconds to wait for the store. If the store does not answer, most later checks do not use it. `LOG_S` is the
maximum for the log."""


def health(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the health of each component, whether or not the plant runs.

    Exits with 0 if a plant runs and every component is ok, else with 1. Takes about 10 s if the log or the store does
    not answer.
    """
    from tickerplant.app import component
    from tickerplant.app import health as plant_health
    from tickerplant.app.wiring import open_readonly

    settings = loaded.settings
    if open_readonly.has_plant(settings):
        found = [*_check_log(settings)]
    else:
        reason = str(open_readonly.no_plant(settings))
        found = [component.ComponentHealth("plant", component.FAILED, reason, {"running": False})]
    result = plant_health.Health(found)
    if json:
        emit(result.as_dict())
    else:
        table(["component", "state", "details"], ([part.name, part.state, part.sentence] for part in result.parts))
        echo(f"\n{result.state}")
    raise typer.Exit(0 if result.state == component.OK else 1)


def _check_log(settings: Settings) -> Iterator[ComponentHealth]:
    """Yield the health of all components. If the log does not answer, the store is not compared with the log."""
    from tickerplant.app import health
    from tickerplant.app.component import FAILED, ComponentHealth, check
    from tickerplant.app.disk import plant_disk_health
    from tickerplant.app.runtime import plant
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.vendors import skipped_health

    held, start = plant.folder_is_held(settings), settings.command("up")
    yield from check("disk", lambda: plant_disk_health(settings))
    yield from check("vendors", lambda: skipped_health(settings))
    try:
        with open_readonly.log_of(settings, patience_s=LOG_S) as event_log:
            yield from check("plant", lambda: health.plant_health(event_log, held=held, start=start))
            yield from check("log", lambda: health.log_health(event_log))
            yield from check("feeds", lambda: health.feed_health(event_log, time.time_ns() // 1_000))
            yield from check("troubles", lambda: health.trouble_health(event_log, time.time_ns() // 1_000))
            yield from _check_store(settings, event_log)
    except TickerplantError as error:
        unknown = (
            f"not running; start it with `{start}`" if settings.embedded_log else "unknown: the log does not answer"
        )
        sentence = "running, but its log does not answer" if held else unknown
        yield ComponentHealth("plant", FAILED, sentence, {"running": held})
        yield ComponentHealth("log", FAILED, str(error))
        yield from _check_store(settings, None)


def _check_store(settings: Settings, event_log: EventLog | None) -> Iterator[ComponentHealth]:
    from tickerplant.app import health
    from tickerplant.app.component import FAILED, ComponentHealth, check
    from tickerplant.app.wiring.alert_rules import webhook_counts
    from tickerplant.app.wiring.database import database
    from tickerplant.app.wiring.store import jobs_status, left_out, positions, store_health

    try:
        with database(settings, make=False, patience_s=STORE_S) as dsn:
            store = check("store", lambda: store_health(dsn, event_log, STORE_S))
            yield from store
            if event_log is not None:
                yield from check("persistence", lambda: _persistence(event_log, lambda: positions(dsn, STORE_S)))
            if any(component.state == FAILED for component in store):
                return
            yield from check("jobs", lambda: health.job_health(jobs_status(dsn, STORE_S)))
            yield from check("webhooks", lambda: health.webhook_health(webhook_counts(dsn, STORE_S)))
            yield from check("left out of bars", lambda: health.left_out_health(left_out(dsn, STORE_S)))
    except TickerplantError as error:
        yield ComponentHealth("store", FAILED, str(error))
        if event_log is not None:
            yield from check("persistence", lambda: _persistence(event_log, dict))


def _persistence(event_log: EventLog, positions: Positions) -> Iterable[ComponentHealth]:
    from tickerplant.app import health

    return health.persistence_health(event_log, positions, time.time_ns() // 1_000)
