"""`tickerplant health`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, table

if TYPE_CHECKING:
    from tickerplant.app.settings import Loaded


def health(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how each part of the plant does, whether it runs or not. Exit code 1 unless all is well."""
    from tickerplant.app import health as doctor
    from tickerplant.app import parts, plant
    from tickerplant.app.database import database
    from tickerplant.core.errors import TickerplantError

    settings = loaded.settings
    found: list[doctor.Part] = []
    if settings.embedded_log:
        held = plant.folder_is_held(settings)
        found.append(doctor.Part("plant", doctor.OK, "running" if held else "stopped", {"running": held}))
    try:
        with parts.event_log(settings, make_topics=False) as event_log:
            found += doctor.ask("log", lambda: doctor.log_parts(event_log))
            found += doctor.ask("feeds", lambda: doctor.feed_parts(event_log))
            try:
                with database(settings, make=False) as dsn:
                    found += doctor.ask("store", lambda: parts.store_parts(dsn, event_log))
                    found += doctor.ask("jobs", lambda: doctor.job_parts(parts.jobs_status(dsn)))
                    found += doctor.ask("left out of bars", lambda: doctor.left_out_parts(parts.left_out(dsn)))
            except TickerplantError as error:
                found.append(doctor.Part("store", doctor.FAILED, str(error)))
    except TickerplantError as error:
        found.append(doctor.Part("log", doctor.FAILED, str(error)))
    result = doctor.Health(found)
    if json:
        emit(result.as_dict())
    else:
        table(["part", "state", "how"], ([part.name, part.state, part.sentence] for part in result.parts))
        print(f"\n{result.state}")
    raise typer.Exit(0 if result.state == doctor.OK else 1)
