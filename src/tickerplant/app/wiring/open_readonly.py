"""How commands that only look open a plant: they make nothing where there is none, and wait briefly for an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tickerplant.app.runtime.database import database
from tickerplant.app.wiring import parts
from tickerplant.core.errors import LogUnavailable, NoPlant
from tickerplant.core.schemas import RAW

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog

PATIENCE_S: Final = 8.0
"""How long brokers are waited for before a command says that they do not answer."""


def has_plant(settings: Settings) -> bool:
    """Whether there is anything to look at: a log or a store that is in no folder, or one that is there."""
    store = not settings.embedded_store or parts.has_store(settings.data)
    return parts.has_log(settings) or store


def no_plant(settings: Settings) -> NoPlant:
    """Return the error that says so, and what to do."""
    return NoPlant(
        f"there is no plant in {settings.data}; name its folder with --data or TICKERPLANT_DATA, or make one there "
        "with `tickerplant up` or `tickerplant replay FILE`"
    )


@contextlib.contextmanager
def log_of(settings: Settings, *, patience_s: float | None = None) -> Iterator[EventLog]:
    """Open the log for the block and see that it answers. With `patience_s` nothing that is asked of it takes longer.

    Raises NoPlant, LogUnavailable, or UnknownTopic for brokers that have no plant.
    """
    if not parts.has_log(settings):
        raise no_plant(settings)
    with parts.event_log(settings, make_topics=False, patience_s=patience_s or PATIENCE_S) as event_log:
        _answer(settings, event_log, patience_s or PATIENCE_S)
        if patience_s is not None or settings.embedded_log:
            yield event_log
            return
    with parts.event_log(settings, make_topics=False) as event_log:  # now that it answers, as patient as services are
        yield event_log


def _answer(settings: Settings, event_log: EventLog, patience_s: float) -> None:
    try:
        event_log.partitions(RAW)
    except LogUnavailable as error:
        if settings.embedded_log:
            raise
        raise LogUnavailable(
            f"no broker at {settings.log} answers within {patience_s:g} s; start it, or correct --log or "
            f"TICKERPLANT_LOG ({error})"
        ) from error


@contextlib.contextmanager
def store_of(settings: Settings) -> Iterator[str]:
    """Give the address of the store for the block. Raises NoPlant, and StoreUnavailable where there is no store."""
    if not has_plant(settings):
        raise no_plant(settings)
    with database(settings, make=False) as dsn:
        yield dsn
