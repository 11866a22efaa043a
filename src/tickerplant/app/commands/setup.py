"""`init-db`, `migrate`, `create-topics` and `adopt`: what is done once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tickerplant.app.commands.common import emit, say, table

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def init_db(loaded: Loaded, json: Json = False) -> None:
    """Make the database's tables, and start nothing. Harmless when they are there."""
    migrate(loaded, status=False, json=json)


def migrate(
    loaded: Loaded,
    status: Annotated[bool, typer.Option("--status", help="Only list the migrations and which are applied.")] = False,
    json: Json = False,
) -> None:
    """Bring the database's tables to this version's."""
    from tickerplant.app.runtime.database import database
    from tickerplant.app.wiring import open_readonly, parts

    with open_readonly.store_of(loaded.settings) if status else database(loaded.settings) as dsn:
        if status:
            found = parts.migration_status(dsn)
            rows = [(name, True) for name in found.applied] + [(name, False) for name in found.pending]
            if json:
                for name, applied in rows:
                    emit({"name": name, "applied": applied, "flavour": found.flavour})
            else:
                table(["migration", "applied"], ([name, "yes" if applied else "no"] for name, applied in rows))
            return
        done = parts.migrate(dsn)
    if json:
        emit({"applied": done})
    elif done:
        for name in done:
            print(f"applied {name}")
    else:
        print("the tables are those of this version already")


def create_topics(
    loaded: Loaded,
    s_partitions: Annotated[int | None, typer.Option("--partitions", min=1, help="Partitions of each topic.")] = None,
    json: Json = False,
) -> None:
    """Make the log's topics. Harmless when they are there; their number of partitions is fixed when they are made."""
    from tickerplant.app.wiring import parts
    from tickerplant.core.schemas import RAW, TOPICS

    settings = loaded.settings
    with parts.event_log(settings, make_topics=False) as event_log:
        made = event_log.create_topics(TOPICS, settings.partitions)
        partitions, identity = event_log.partitions(RAW), event_log.identity()
    if json:
        emit({"made": made, "partitions": partitions, "log_id": identity.log_id, "generation": identity.generation})
    else:
        for name in made:
            print(f"made {name}")
        print(f"log {identity.log_id}, generation {identity.generation}: {partitions} partitions a topic")


def adopt(
    loaded: Loaded,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this only say what would happen.")] = False,
    json: Json = False,
) -> None:
    """Begin a new log generation on the store as it is: for a store whose log was lost or replaced."""
    from tickerplant.app.wiring import open_readonly, parts

    settings = loaded.settings
    with open_readonly.store_of(settings) as dsn:
        if not yes and not parts.has_log(settings):
            _ask_for_yes()
        with parts.event_log(settings, make_topics=False) as event_log:
            result = parts.followed(dsn, event_log)
            changed = result is None
            if changed and not yes:
                _ask_for_yes()
            if changed:
                result = parts.adopt(dsn, event_log, settings.partitions)
    if json:
        emit({"adopted": result, "changed": changed})
    elif changed:
        print(f"the store now follows {result}")
    else:
        print(f"the store follows {result}, already: there is nothing to do")


def _ask_for_yes() -> NoReturn:
    say("adopt lets the store take a log that it has not followed from its beginning: rows stay as they are,")
    say("what the lost log held and the store had not applied is lost, and ticks that are fed again are stored")
    say("again. Run it with --yes.")
    raise typer.Exit(1)
