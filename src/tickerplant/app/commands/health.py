"""`tickerplant health`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tickerplant.app.commands.common import emit, table
from tickerplant.core.errors import TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded, Settings
    from tickerplant.app.health import Part
    from tickerplant.log.port import EventLog

LOG_S: Final = 4.0
STORE_S: Final = 4.0
"""How long log and store are waited for; what does not answer is asked nothing more, so about 10 s are the most."""


def health(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how each part of the plant does, whether it runs or not.

    Exit code 0 if a plant runs and all is well, else 1. Waits about 10 s at most for what does not answer.
    """
    from tickerplant.app import health as doctor
    from tickerplant.app.wiring import open_readonly

    settings = loaded.settings
    if open_readonly.has_plant(settings):
        found = [*_of_log(settings)]
    else:
        found = [doctor.Part("plant", doctor.FAILED, str(open_readonly.no_plant(settings)), {"running": False})]
    result = doctor.Health(found)
    if json:
        emit(result.as_dict())
    else:
        table(["part", "state", "how"], ([part.name, part.state, part.sentence] for part in result.parts))
        print(f"\n{result.state}")
    raise typer.Exit(0 if result.state == doctor.OK else 1)


def _of_log(settings: Settings) -> Iterator[Part]:
    """Ask the log, then the store, which is asked less where the log does not answer."""
    from tickerplant.app import health as doctor
    from tickerplant.app.runtime import plant
    from tickerplant.app.wiring import open_readonly

    held = plant.folder_is_held(settings)
    try:
        with open_readonly.log_of(settings, patience_s=LOG_S) as event_log:
            yield from doctor.ask("plant", lambda: doctor.plant_parts(event_log, held=held))
            yield from doctor.ask("log", lambda: doctor.log_parts(event_log))
            yield from doctor.ask("feeds", lambda: doctor.feed_parts(event_log, time.time_ns() // 1_000))
            yield from _of_store(settings, event_log)
    except TickerplantError as error:
        unknown = f"not running; {doctor.START}" if settings.embedded_log else "cannot be told without the log"
        said = "running, and its log does not answer" if held else unknown
        yield doctor.Part("plant", doctor.FAILED, said, {"running": held})
        yield doctor.Part("log", doctor.FAILED, str(error))
        yield from _of_store(settings, None)


def _of_store(settings: Settings, event_log: EventLog | None) -> Iterator[Part]:
    from tickerplant.app import health as doctor
    from tickerplant.app.runtime.database import database
    from tickerplant.app.wiring import alert_rules, parts

    try:
        with database(settings, make=False, patience_s=STORE_S) as dsn:
            store = doctor.ask("store", lambda: parts.store_parts(dsn, event_log, STORE_S))
            yield from store
            if any(part.state == doctor.FAILED for part in store):
                return
            yield from doctor.ask("jobs", lambda: doctor.job_parts(parts.jobs_status(dsn, STORE_S)))
            yield from doctor.ask("webhooks", lambda: doctor.webhook_parts(alert_rules.webhooks(dsn, STORE_S)))
            yield from doctor.ask("left out of bars", lambda: doctor.left_out_parts(parts.left_out(dsn, STORE_S)))
    except TickerplantError as error:
        yield doctor.Part("store", doctor.FAILED, str(error))
