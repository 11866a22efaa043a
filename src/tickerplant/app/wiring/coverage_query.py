"""What `tickerplant coverage` looks at: the store's bars by the rules and the time of the log, if there is one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tickerplant.app.wiring import open_readonly, parts
from tickerplant.core.errors import LogUnavailable, NoPlant, UnknownTopic

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.core.coverage import Statuses
    from tickerplant.core.rules import Rules
    from tickerplant.core.sessions import Calendar
    from tickerplant.store.pool import Store


@dataclass(frozen=True, slots=True)
class Covered:
    """The stretch `[from_us, to_us)`, and of each symbol the status of its bars. `unknown`: never seen."""

    from_us: int
    to_us: int
    found: dict[str, Statuses]
    calendars: dict[str, Calendar]
    unknown: list[str]


def covered(
    settings: Settings, symbols: Sequence[str], interval: str, from_us: int | None, to_us: int | None
) -> Covered:
    """Look at these symbols, or at all; unless said at the last sessions, of daily bars at the last year.

    Raises NoPlant, StoreUnavailable, and BadInput for a stretch that is too long or that has not begun.
    """
    from tickerplant.core.coverage import default_range
    from tickerplant.core.errors import BadInput
    from tickerplant.core.sessions import Calendars

    rules, now_us = in_force(settings)

    async def read(store: Store) -> Covered:
        async with store.read() as reading:
            known = await reading.statuses.symbols()
            of = Calendars(rules)
            calendars = {symbol: of.of(symbol) for symbol in symbols or known}
            usual = [default_range(calendar, interval, to_us or now_us) for calendar in calendars.values()]
            begin = min((begin for begin, _ in usual), default=0) if from_us is None else from_us
            end = max((end for _, end in usual), default=0) if to_us is None else to_us
            if begin > end:
                raise BadInput("--from lies in the future; say --to for a stretch there")
            found = await reading.statuses.of(
                calendars, interval, begin, end, now_us, extended_hours=rules.extended_hours
            )
            return Covered(begin, end, found, calendars, [name for name in symbols if name not in known])

    with open_readonly.store_of(settings) as dsn:
        return parts.with_store(dsn, read)


def in_force(settings: Settings) -> tuple[Rules, int]:
    """Return the rules in force and the market's time; without a log that answers, the settings' and the machine's."""
    from tickerplant.api.log_state import market_now, rules_in_force

    rules = settings.rules.rules()
    with contextlib.suppress(NoPlant, LogUnavailable, UnknownTopic), open_readonly.log_of(settings) as log:
        return rules_in_force(log, rules), market_now(log)
    return rules, time.time_ns() // 1_000
