"""`tickerplant init-db`, `migrate`, `create-topics` and `adopt`: setup and repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tickerplant.app.commands.common import emit, notify, table
from tickerplant.app.terminal.output import echo

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def init_db(
    loaded: Loaded,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Create plain PostgreSQL tables, even if the server has TimescaleDB."),
    ] = False,
    json: Json = False,
) -> None:
    """Create the database's tables and the read-only role, or apply the pending migrations. Starts no service."""
    _migrate(loaded, plain=plain, json=json, create_reader=True)


def migrate(
    loaded: Loaded,
    status: Annotated[
        bool, typer.Option("--status", help="Only list the migrations and whether each is applied.")
    ] = False,
    json: Json = False,
) -> None:
    """Apply the pending migrations to the database's tables."""
    from tickerplant.app.wiring import open_readonly, store

    if not status:
        _migrate(loaded, plain=False, json=json)
        return
    with open_readonly.store_of(loaded.settings) as dsn:
        found = store.migration_status(dsn)
    rows = [(name, True) for name in found.applied] + [(name, False) for name in found.pending]
    if json:
        for name, applied in rows:
            emit({"name": name, "applied": applied, "flavour": found.flavour})
    else:
        table(["migration", "applied"], ([name, "yes" if applied else "no"] for name, applied in rows))


def _migrate(loaded: Loaded, *, plain: bool, json: bool, create_reader: bool = False) -> None:
    from tickerplant.app.wiring import store
    from tickerplant.app.wiring.database import database

    with database(loaded.settings) as dsn:
        done = store.migrate(dsn, loaded.settings, plain=plain, create_reader=create_reader)
    reader, name = done.reader, loaded.settings.store_access.reader
    if json:
        emit({"applied": done.names, "reader": name if reader is not None and reader.exists else None})
    else:
        for migration in done.names:
            echo(f"applied {migration}")
        if not done.names:
            echo("all migrations are applied")
        if reader is not None and reader.created:
            echo(f"created the read-only role {name}")
    if reader is not None and reader.advice:
        notify(reader.advice)


def create_topics(
    loaded: Loaded,
    s_partitions: Annotated[
        int | None, typer.Option("--partitions", min=1, help="Number of partitions of each new topic.")
    ] = None,
    json: Json = False,
) -> None:
    """Create the missing topics of the log. The number of partitions of an existing topic cannot change."""
    from tickerplant.app.wiring.log import create_topics as create_missing
    from tickerplant.app.wiring.log import open_log
    from tickerplant.core.schemas import RAW, TOPICS

    settings = loaded.settings
    with open_log(settings, make_topics=False) as event_log:
        if settings.partitions is None:
            made = create_missing(event_log, settings.new_partitions)
        else:  # raises an error if existing topics have another number of partitions
            made = event_log.create_topics(TOPICS, settings.partitions)
        partitions, identity = event_log.partitions(RAW), event_log.identity()
    if json:
        emit({"made": made, "partitions": partitions, "log_id": identity.log_id, "generation": identity.generation})
    else:
        for name in made:
            echo(f"created {name}")
        echo(f"log {identity.log_id}, generation {identity.generation}: {partitions} partitions per topic")


def adopt(
    loaded: Loaded,
    yes: Annotated[
        bool, typer.Option("--yes", help="Adopt the log. Without this option, only print the consequences.")
    ] = False,
    json: Json = False,
) -> None:
    """Bind the existing store to a new generation of the log, after its log was lost or replaced."""
    from tickerplant.app.wiring import log_binding, open_readonly
    from tickerplant.app.wiring.log import has_log, open_log

    settings = loaded.settings
    with open_readonly.store_of(settings) as dsn:
        if not yes and not has_log(settings):
            _require_yes()
        with open_log(settings, make_topics=False) as event_log:
            result = log_binding.followed(dsn, event_log)
            changed = result is None
            if changed and not yes:
                _require_yes()
            if changed:
                result = log_binding.adopt(dsn, event_log, settings.new_partitions)
    if json:
        emit({"adopted": result, "changed": changed})
    elif changed:
        echo(f"the store now follows {result}")
    else:
        echo(f"the store already follows {result}; nothing changed")


def _require_yes() -> NoReturn:
    notify("adopt binds the store to a log that it has not followed from the start. Stored rows do not change.")
    notify("Records of the lost log that the store had not applied are lost. Ticks that are fed again are stored a")
    notify("second time. To adopt the log, run the command again with --yes.")
    raise typer.Exit(1)
