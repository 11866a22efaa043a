"""The rules of the settings, and the function that appends them to the log. Every service reads them from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tickerplant.core.rules import DEFAULT_RULES, Rules, values_of
from tickerplant.core.schemas import SETTINGS_KEY, STATE_FEEDS

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog


def ensure_rules(log: EventLog, settings: Settings, *, only_first: bool = False, always_open: bool = False) -> None:
    """Append the rules if they differ from those in force; with `only_first`, only to a log that has none.

    `always_open`: see `rules_of`.
    """
    from tickerplant.market_data.feed.commands import ensure_settings

    if only_first and log.get_state(STATE_FEEDS, 0, SETTINGS_KEY) is not None:
        return
    ensure_settings(log, values_of(rules_of(settings, always_open)))


def always_open(settings: Settings, made_up: bool) -> bool:
    """Return True if stocks trade round the clock: the sandbox makes the prices (`made_up`), without sessions."""
    return made_up and settings.sandbox.sessions == "always"


def rules_of(settings: Settings, always_open: bool) -> Rules:
    """Return the rules of the settings.

    `always_open`: the sandbox's stocks trade round the clock, so that a demonstration works at any hour. If the user
    has set no calendars, the calendar of all symbols is then `24/7`.
    """
    rules = settings.rules.rules()
    if always_open and rules.calendars == DEFAULT_RULES.calendars:
        rules = msgspec.structs.replace(rules, calendars={"*": "24/7"})
    return rules
