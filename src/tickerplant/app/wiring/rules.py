"""The rules of the settings, and the function that appends them to the log. Every service reads them from the log."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from tickerplant.app.wiring import open_readonly
from tickerplant.core.errors import LogUnavailable, NoPlant, UnknownTopic
from tickerplant.core.rules import DEFAULT_RULES, Rules, same_order, values_of
from tickerplant.core.schemas import SETTINGS_KEY, STATE_FEEDS

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog

logger = logging.getLogger(__name__)


def ensure_rules(log: EventLog, settings: Settings, *, only_first: bool = False, always_open: bool = False) -> None:
    """Append the rules if they differ from the rules in force; if `only_first`, append only to a log without rules.

    A log keeps the calendars with which its bars were built until the user sets other calendars. A log of an earlier
    version therefore keeps the defaults of that version. `always_open`: see `rules_of`.
    """
    from tickerplant.log.rules_in_force import rules_in_force
    from tickerplant.market_data.feed.commands import ensure_settings

    rules = rules_of(settings, always_open)
    if log.get_state(STATE_FEEDS, 0, SETTINGS_KEY) is not None:
        if only_first:
            return
        former = rules_in_force(log, rules).calendars
        if not always_open and not _sets_calendars(settings) and same_order(former, DEFAULT_RULES.calendars):
            rules = msgspec.structs.replace(rules, calendars=former)
            logger.info(
                "currency pairs of this log trade round the clock, as in the version that created it; set "
                "rules.calendars for the trading day of foreign exchange"
            )
    ensure_settings(log, values_of(rules))


def log_rules(settings: Settings) -> Rules:
    """Return the rules in force in the log; the rules of the settings if the log is missing or unavailable."""
    from tickerplant.log.rules_in_force import rules_in_force

    rules = settings.rules.rules()
    with contextlib.suppress(NoPlant, LogUnavailable, UnknownTopic), open_readonly.log_of(settings) as log:
        return rules_in_force(log, rules)
    return rules


def always_open(settings: Settings, made_up: bool) -> bool:
    """Return True if stocks trade round the clock: the sandbox simulates the prices (`made_up`), without sessions."""
    return made_up and settings.sandbox.sessions == "always"


def rules_of(settings: Settings, always_open: bool) -> Rules:
    """Return the rules of the settings.

    `always_open`: the sandbox's stocks trade round the clock, so that a demonstration works at any hour. If the user
    has set no calendars, the calendar of all symbols is then `24/7`.
    """
    rules = settings.rules.rules()
    if always_open and not _sets_calendars(settings):
        rules = msgspec.structs.replace(rules, calendars={"*": "24/7"})
    return rules


def _sets_calendars(settings: Settings) -> bool:
    """Return True if the user has set calendars."""
    return "calendars" in settings.rules.model_fields_set
