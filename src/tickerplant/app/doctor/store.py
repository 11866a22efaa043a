"""Checks of the database: version, TimescaleDB, background workers, connections and migrations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding
from tickerplant.core.errors import TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.store import Store

PATIENCE_S: Final = 8.0
OLDEST_VERSION, NEWEST_VERSION = 15, 18
NEEDED_CONNECTIONS: Final = 30
"""Connections of one process with all services: pools of the API, persistence, analytics and the backfill."""
OTHER_WORKERS: Final = 3
"""Number of worker processes of the server besides the workers of TimescaleDB and of parallel queries."""

_FACTS: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
    current_setting('max_connections')::integer AS connections,
    current_setting('max_worker_processes')::integer AS workers,
    current_setting('max_parallel_workers')::integer AS parallel,
    (SELECT setting FROM pg_settings WHERE name = 'timescaledb.max_background_workers') AS timescale_workers,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb') AS available
"""


def store(settings: Settings) -> Iterator[Finding]:
    """Yield the state of the database. Starts the embedded server for the checks if no process runs it."""
    from tickerplant.app.wiring.database import database
    from tickerplant.app.wiring.store import has_store, migration_status, with_store

    if settings.embedded_store and not has_store(settings.data):
        yield Finding("store", OK, "there is no database yet; the first `tickerplant up` creates it")
        return
    try:
        with database(settings, make=False, patience_s=PATIENCE_S) as dsn:
            facts = with_store(dsn, _facts, PATIENCE_S)
            yield from judge(facts, embedded=settings.embedded_store)
            pending = migration_status(dsn, PATIENCE_S).pending
            advice = "run tickerplant migrate, or start the plant" if pending else ""
            sentence = f"{len(pending)} migrations are not applied" if pending else "all migrations are applied"
            yield Finding("migrations", WARN if pending else OK, sentence, advice)
    except TickerplantError as error:
        yield Finding("store", FAIL, str(error), "check the setting store (--store), the server and its log")


async def _facts(store: Store) -> dict[str, Any]:
    async with store.session() as session:
        [row] = await session.rows(_FACTS)
    return dict(row)


def judge(facts: dict[str, Any], *, embedded: bool) -> Iterator[Finding]:
    """Yield the findings about a server from the values of `_FACTS`. Pure."""
    version, major, timescaledb = facts["version"], facts["major"], facts["timescaledb"]
    if major < OLDEST_VERSION:
        yield Finding("store", FAIL, f"PostgreSQL {version} is too old", f"upgrade it to {OLDEST_VERSION} or newer")
    elif major > NEWEST_VERSION:
        advice = f"use a version from {OLDEST_VERSION} to {NEWEST_VERSION}"
        yield Finding("store", WARN, f"PostgreSQL {version} has not been tested with this version", advice)
    else:
        yield Finding("store", OK, f"PostgreSQL {version} answers")
    if timescaledb:
        yield Finding("timescaledb", OK, f"TimescaleDB {timescaledb} is installed and loaded")
        yield from _workers(facts)
    elif facts["available"] and facts["timescale_workers"] is None:  # only the loaded library has this setting
        sentence = f"TimescaleDB {facts['available']} is on the server, and the server does not load it"
        advice = "add timescaledb to shared_preload_libraries and restart the server, if you want it (docs/store.md)"
        yield Finding("timescaledb", WARN, sentence, advice)
    elif facts["available"]:
        sentence = f"TimescaleDB {facts['available']} is on the server, but this database does not use it"
        yield Finding("timescaledb", WARN, sentence, "if that is not intended, see docs/store.md")
    else:
        where = "the embedded server has no TimescaleDB" if embedded else "the server has no TimescaleDB"
        yield Finding("timescaledb", OK, f"{where}; tables are not compressed")
    if not embedded:
        few = facts["connections"] < NEEDED_CONNECTIONS
        advice = f"set max_connections to {NEEDED_CONNECTIONS} or more for one plant" if few else ""
        yield Finding("connections", WARN if few else OK, f"max_connections is {facts['connections']}", advice)


def _workers(facts: dict[str, Any]) -> Iterator[Finding]:
    background = int(facts["timescale_workers"] or 0)
    needed = background + facts["parallel"] + OTHER_WORKERS
    sentence = (
        f"timescaledb.max_background_workers is {background}, max_parallel_workers {facts['parallel']}, "
        f"max_worker_processes {facts['workers']}"
    )
    if background == 0:
        advice = "set timescaledb.max_background_workers to 8 or more; otherwise no policy runs"
        yield Finding("background workers", FAIL, sentence, advice)
    elif facts["workers"] < needed:
        advice = f"set max_worker_processes to {needed} or more; otherwise jobs may find no worker"
        yield Finding("background workers", WARN, sentence, advice)
    else:
        yield Finding("background workers", OK, sentence)
