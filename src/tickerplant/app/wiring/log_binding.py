"""The binding of a store to its log: checking it, and adopting another log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.app.wiring.log import create_topics, is_created
from tickerplant.app.wiring.store import check_log, with_store
from tickerplant.core.errors import MigrationError, StoreMismatch, StoreUnavailable
from tickerplant.core.schemas import TOPICS

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog

PATIENCE_S: Final = 5.0
"""Maximum seconds that a service waits for a store that it does not need."""

_log = structlog.get_logger(__name__)


def create_first_topics(dsn: str, log: EventLog, partitions: int) -> None:
    """Create the missing topics. Raises StoreMismatch for a new log if the store follows another.

    A new log would have the first generation, so its records would count as older than the store's rows.
    """
    former = with_store(dsn, lambda store: store.bound_to())
    if former is not None and not is_created(log):
        raise StoreMismatch(
            f"the store follows log {former.log_id} (generation {former.generation}), and this log is new: restore "
            "the earlier log or, if it is lost, start a new generation with `tickerplant adopt --yes`"
        )
    create_topics(log, partitions)


def create_followed_topics(dsn: str, log: EventLog, partitions: int) -> None:
    """Create the missing topics, for a service that can work without the store. `dsn` is "" without a store.

    Raises StoreMismatch if the store answers and follows another log. Logs a warning if it does not answer.
    """
    if dsn:
        try:
            former = with_store(dsn, lambda store: store.bound_to(), PATIENCE_S)
            if former is not None:
                create_first_topics(dsn, log, partitions)
                check_log(dsn, log)
                return
        except StoreUnavailable as error:
            _log.warning(
                "the store does not answer, so this start does not check whether it follows this log", error=str(error)
            )
        except MigrationError:
            _log.debug("the database has no tables of the plant, so it follows no log")
    create_topics(log, partitions)


def followed(dsn: str, log: EventLog) -> str | None:
    """Return the name of this log; None if the store does not follow it. Raises StoreMismatch if the store is ahead."""
    if not is_created(log):
        return None
    identity, former = log.identity(), with_store(dsn, lambda store: store.bound_to())
    if former is None or (former.log_id, former.generation) != (identity.log_id, identity.generation):
        return None
    check_log(dsn, log)
    return f"log {identity.log_id}, generation {identity.generation}"


def adopt(dsn: str, log: EventLog, partitions: int) -> str:
    """Bind the store to this log and return the log's name. A new log gets the generation after the store's.

    Raises StoreMismatch for a log that exists and whose generation is not greater than the store's.
    """
    former = with_store(dsn, lambda store: store.bound_to())
    if not is_created(log):
        log.create_topics(TOPICS, partitions, generation=former.generation + 1 if former else 1)
    identity = log.identity()
    with_store(dsn, lambda store: store.adopt(identity.log_id, identity.generation))
    return f"log {identity.log_id}, generation {identity.generation}"
