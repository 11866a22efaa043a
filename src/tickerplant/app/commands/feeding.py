"""What commands share that write into raw and wait for what comes of it: `replay`, `rebuild` and `action`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from tickerplant.app.commands.common import say
from tickerplant.core.errors import LogError, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.runtime.plant import Plant

LOOK_S: Final = 0.05
HINT_S: Final = 15.0
GIVE_UP_S: Final = 60.0
"""How long nothing may come into the tables while no service is there to bring it."""
COMPUTED_S: Final = 120.0
"""How long is waited for indicators to be computed again; a backfill that has not ended can hold them for longer."""

LOCAL: Final = ("aggregation", "analytics", "persistence")
"""The services that turn raw records into tables."""


@contextlib.contextmanager
def plant_to_feed(loaded: Loaded, *, made_up: bool = False) -> Iterator[tuple[Plant, bool]]:
    """Give the plant that runs on the log of the settings, or one of our own for the block; and whether it is ours.

    `made_up`: it is fed by the sandbox, the stocks of which may trade round the clock. On Kafka the services `LOCAL`
    run elsewhere, or are about to: nobody brings a second set of them there.
    """
    from tickerplant.app.runtime import plant as plants
    from tickerplant.app.wiring import parts

    settings = loaded.settings
    if not settings.embedded_log or plants.folder_is_held(settings):
        with plants.opened(settings) as plant:
            parts.ensure_settings(plant.event_log, settings, only_first=True)
            yield plant, False
        return
    with plants.folder_alone(settings), plants.opened(settings) as plant:
        parts.ensure_settings(plant.event_log, settings, always_open=parts.always_open(settings, made_up))
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
    brought: bool,
    arrived: Callable[[int, int], None] = lambda total, rest: None,
) -> None:
    """Return when all that came of the raw records up to the offsets `last`, by partition, is in the tables.

    `brought`: the services are ours; where they are not, a person is told what is waited for when that takes long.
    `arrived` is told (partitions of topics, those still missing). Raises TickerplantError when stopped, when a service
    of ours gave up, or when nothing comes and none of the services runs.
    """
    from tickerplant.app.ingest_progress import STAGES, Chase
    from tickerplant.app.wiring import parts

    chase = Chase(last, plant.event_log.identity().generation)
    hint_s: float | None = time.monotonic() + HINT_S
    give_up_s = time.monotonic() + GIVE_UP_S
    before: list[tuple[str, int]] = []
    with parts.StorePositions(plant.dsn) as positions:
        while rest := chase.missing(parts.progress(plant.event_log, positions)):
            arrived(3 * len(last), len(rest))
            if stop.wait(LOOK_S):
                raise TickerplantError("stopped before all was in the tables; nothing is lost, the log has it")
            check_services(plant)
            if rest != before:
                before, hint_s = rest, time.monotonic() + HINT_S
                give_up_s = time.monotonic() + GIVE_UP_S
            elif not brought and hint_s is not None and time.monotonic() > hint_s:
                hint_s = None
                say(f"waiting for: {STAGES[rest[0][0]]}. Are aggregation, analytics and persistence running?")
            elif not brought and time.monotonic() > give_up_s:
                if not _anybody(plant):
                    raise TickerplantError(
                        "none of aggregation, analytics and persistence runs on this log, so nothing comes into the "
                        "tables: start them (`tickerplant up`, or `tickerplant run NAME`); all is in the log, and they "
                        "go on from there"
                    )
                give_up_s = time.monotonic() + GIVE_UP_S
        arrived(3 * len(last), 0)


def _anybody(plant: Plant) -> bool:
    """Say whether a service lives, or cannot be asked about."""
    try:
        return any(plant.event_log.members(name) for name in LOCAL)
    except LogError:
        return True


def check_services(plant: Plant) -> None:
    """Raise what a service of ours gave up for."""
    failure = plant.supervisor.failure()
    if failure is not None:
        raise failure if isinstance(failure, TickerplantError) else LogError(f"a service gave up: {failure}")


def wait_until_computed(plant: Plant, partition: int, stop: threading.Event) -> bool:
    """Wait until analytics, of a plant that is ours, has nothing to compute again, and the tables have its values.

    To be called after `wait_until_stored` of something that analytics takes. Returns False where something is held for
    longer than `COMPUTED_S`: the next plant that runs on the log goes on with it. Raises as that does.
    """
    from tickerplant.app.wiring import parts
    from tickerplant.core.schemas import ANALYTICS

    deadline = time.monotonic() + COMPUTED_S
    place = (ANALYTICS, partition)
    with parts.StorePositions(plant.dsn) as positions:
        while True:
            counts = plant.counts.of("analytics")
            if counts is not None and not counts.pending:
                now = parts.progress(plant.event_log, positions)
                end, applied = now.ends.get(place, 0), now.applied.get(place)
                if not end or (applied is not None and applied.position >= end):
                    return True
            check_services(plant)
            if time.monotonic() > deadline:
                return False
            if stop.wait(LOOK_S):
                raise TickerplantError("stopped before all was in the tables; nothing is lost, the log has it")
