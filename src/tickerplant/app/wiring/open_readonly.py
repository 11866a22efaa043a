"""Opening a plant for commands that only read: they create nothing, and wait only briefly for an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tickerplant.app.wiring.database import database
from tickerplant.app.wiring.locks import require_restored
from tickerplant.app.wiring.log import has_log, open_log
from tickerplant.app.wiring.store import has_store
from tickerplant.core.errors import LogUnavailable, NoPlant
from tickerplant.core.schemas import RAW

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog

PATIENCE_S: Final = 8.0
"""Maximum seconds to wait for brokers before a command reports that they do not answer."""


def has_plant(settings: Settings) -> bool:
    """Return True if the data folder has a log or a store, or if the settings name another log or store.

    Sends no request. Raises ConfigError for a data folder that `tickerplant restore` has not completed.
    """
    require_restored(settings.data)
    return has_log(settings) or not settings.embedded_store or has_store(settings.data)


def no_plant(settings: Settings) -> NoPlant:
    """Return the error for a data folder without a plant; its message names the remedy."""
    return NoPlant(
        f"there is no plant in {settings.data}; name its folder with --data or TICKERPLANT_DATA, or create one there "
        f"with `{settings.command('up')}` or `{settings.command('replay FILE')}`"
    )


@contextlib.contextmanager
def log_of(settings: Settings, *, patience_s: float | None = None) -> Iterator[EventLog]:
    """Open the log for the block after checking that it answers. `patience_s` limits later calls too.

    Raises NoPlant, LogUnavailable, or UnknownTopic for brokers without the plant's topics.
    """
    require_restored(settings.data)
    if not has_log(settings):
        raise no_plant(settings)
    with open_log(settings, make_topics=False, patience_s=patience_s or PATIENCE_S) as event_log:
        _check_answer(settings, event_log, patience_s or PATIENCE_S)
        if patience_s is not None or settings.embedded_log:
            yield event_log
            return
    with open_log(settings, make_topics=False) as event_log:  # the log has answered, so the services' time limits apply
        yield event_log


def _check_answer(settings: Settings, event_log: EventLog, patience_s: float) -> None:
    try:
        event_log.partitions(RAW)
    except LogUnavailable as error:
        if settings.embedded_log:
            raise
        raise LogUnavailable(
            f"no broker at {settings.log} answered within {patience_s:g} s; start a broker, or correct --log or "
            f"TICKERPLANT_LOG ({error})"
        ) from error


@contextlib.contextmanager
def store_of(settings: Settings) -> Iterator[str]:
    """Yield the address of the store for the block. Raises NoPlant, and StoreUnavailable if there is no store."""
    if not has_plant(settings):
        raise no_plant(settings)
    with database(settings, make=False) as dsn:
        yield dsn
