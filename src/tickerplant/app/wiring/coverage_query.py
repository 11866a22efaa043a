"""The query of `tickerplant coverage`: stored bars, with the log's rules and market time if a log exists."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tickerplant.app.wiring import open_readonly
from tickerplant.app.wiring.store import with_store
from tickerplant.core.errors import LogUnavailable, NoPlant, UnknownTopic

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.core.coverage import Statuses
    from tickerplant.core.rules import Rules
    from tickerplant.core.sessions import Calendar
    from tickerplant.store.pool import Store


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """The statuses of the bars in `[start_us, end_us)` by symbol. `unknown`: requested symbols without any data."""

    start_us: int
    end_us: int
    found: dict[str, Statuses]
    calendars: dict[str, Calendar]
    unknown: list[str]


def read_coverage(
    settings: Settings, symbols: Sequence[str], interval: str, start_us: int | None, end_us: int | None
) -> CoverageReport:
    """Return the coverage of these symbols, or of all symbols if `symbols` is [].

    The default range is five sessions, or a year for daily bars.

    Raises NoPlant, StoreUnavailable, and BadInput for a range that is too long or starts in the future.
    """
    from tickerplant.core.coverage import default_range
    from tickerplant.core.errors import BadInput
    from tickerplant.core.sessions import Calendars

    rules, now_us = rules_and_market_time(settings)

    async def read(store: Store) -> CoverageReport:
        async with store.read() as session:
            known = await session.statuses.symbols()
            all_calendars = Calendars(rules)
            calendars = {symbol: all_calendars.of(symbol) for symbol in symbols or known}
            usual = [default_range(calendar, interval, end_us or now_us) for calendar in calendars.values()]
            start = min((start for start, _ in usual), default=0) if start_us is None else start_us
            end = max((end for _, end in usual), default=0) if end_us is None else end_us
            if start > end:
                raise BadInput("--from is in the future; add --to to query a future range")
            found = await session.statuses.of(
                calendars, interval, start, end, now_us, extended_hours=rules.extended_hours
            )
            return CoverageReport(start, end, found, calendars, [name for name in symbols if name not in known])

    with open_readonly.store_of(settings) as dsn:
        return with_store(dsn, read)


def rules_and_market_time(settings: Settings) -> tuple[Rules, int]:
    """Return the rules in force and the market's time in µs.

    If there is no log, or if it is unavailable, they are the rules of the settings and the time of the machine.
    """
    from tickerplant.api.log_state import market_now
    from tickerplant.log.rules_in_force import rules_in_force

    rules = settings.rules.rules()
    with contextlib.suppress(NoPlant, LogUnavailable, UnknownTopic), open_readonly.log_of(settings) as log:
        return rules_in_force(log, rules), market_now(log)
    return rules, time.time_ns() // 1_000
