"""All checks of `tickerplant doctor`, in the order of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from tickerplant.app.doctor import log, machine, store, vendors
from tickerplant.app.doctor.finding import FAIL, OK, Finding, without_secrets

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings


def examine(settings: Settings, *, ask_vendors: bool) -> Iterator[Finding]:
    """Yield the findings of every check. A check that raises is a failed finding. No text contains a secret."""
    yield from without_secrets(_all(settings, ask_vendors=ask_vendors), settings)


def _all(settings: Settings, *, ask_vendors: bool) -> Iterator[Finding]:
    from tickerplant.app.runtime.plant import folder_is_held

    held = folder_is_held(settings)
    newest_us: list[int] = []
    yield from machine.versions()
    yield Finding("plant", OK, f"a plant runs on {settings.data}" if held else f"no plant runs on {settings.data}")
    yield from _checked("port", lambda: machine.port(settings, running=held))
    yield from _checked("disk", lambda: machine.disk(settings))
    yield from _checked("open files", lambda: machine.open_files(settings))
    yield from _checked("log", lambda: log.log(settings, newest_us))
    # A sandbox with its own clock may be ahead of the machine's clock.
    own_clock = settings.wants_sandbox and (settings.sandbox.start or settings.sandbox.speed != 1)
    newest = None if own_clock else max(newest_us, default=None)
    yield from _checked("clock", lambda: machine.clock(newest))
    yield from _checked("store", lambda: store.store(settings))
    running = held or (not settings.embedded_log and ask_vendors and _has_members(settings))
    yield from _checked("vendors", lambda: vendors.vendors(settings, ask=ask_vendors, running=running))


def _has_members(settings: Settings) -> bool:
    """Return True if a service runs on a log of Kafka, or if the brokers do not answer."""
    from tickerplant.app.health import GROUPS
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.errors import TickerplantError

    try:
        with open_readonly.log_of(settings, patience_s=log.PATIENCE_S) as event_log:
            return any(event_log.members(group) for group in GROUPS)
    except TickerplantError:
        return True


def _checked(name: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from findings()
    except Exception as error:  # the other checks still run
        yield Finding(name, FAIL, f"cannot be checked: {type(error).__name__}: {error}")
