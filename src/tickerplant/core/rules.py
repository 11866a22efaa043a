"""Rules: all settings that change outputs, as they travel in `Settings` records (Law: settings are data).

A `Settings` record says the values that differ from the defaults here; it replaces all that was said before. Every
stateful service takes its rules from its input log alone, so that the same log gives the same bytes whatever the
environment of the reader. `app` compares the user's settings with the last record written and has a new one written
when they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tickerplant.core.errors import ConfigError
from tickerplant.core.times import SECOND_US

SEED_INDICATORS: Final = (
    "SMA(20)",
    "SMA(50)",
    "SMA(200)",
    "EMA(12)",
    "EMA(26)",
    "EMA(50)",
    "EMA(200)",
    "RSI(14)",
    "MACD(12,26,9)",
    "STOCH(14,3,3)",
    "BBANDS(20,2)",
    "ATR(14)",
    "STDDEV(20)",
)


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules in force. Patterns are shell patterns on the symbol (`BTC*`, `*/USD`); the first that fits counts."""

    allowed_lateness_us: int = msgspec.field(default=2 * SECOND_US, name="lateness_us")
    """How long after a feed's watermark has passed the end of a window it stays open for late ticks."""

    sources: tuple[str, ...] = ("*",)
    """Order of sources, best first, where several know a bar equally completely: entries of `core.sources`."""

    source_priority_wait_us: int = msgspec.field(default=3 * SECOND_US, name="source_wait_us")
    """How long, in log time, a bar waits for a live feed whose source stands before its own."""

    calendars: Mapping[str, str] = msgspec.field(
        default_factory=lambda: {"*/*": "24/7", "*USDT": "24/7", "*USDC": "24/7", "BTC*": "24/7", "*": "XNYS"}
    )
    """Pattern of symbols to calendar: a name of exchange_calendars (`XNYS`, `XLON`, `XHKG`) or `24/7`."""

    calendar_version: str = ""
    """The version of the calendars' data that the rules were written under."""

    extended_hours: bool = False
    """Whether daily bars take extended hours too."""

    revision_window_sessions: int = msgspec.field(default=1, name="memory_sessions")
    """For how many sessions finished bars are remembered, so that late ticks revise them."""

    activity_bars: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Pattern of symbols to intervals by activity (`100t`, `10000v`, `1000000d`); the first that fits counts."""

    indicators: Mapping[str, tuple[str, ...]] = msgspec.field(
        default_factory=lambda: {"5m": SEED_INDICATORS, "1d": SEED_INDICATORS}
    )
    """Indicators by bar interval, written as `NAME(parameter,…)`."""

    forming_indicators: tuple[str, ...] = ("SMA(20)", "RSI(14)", "BBANDS(20,2)")
    """Those of `indicators` that are also computed on the forming bar."""


DEFAULT_RULES: Final = Rules()


def rules_from(values: Mapping[str, Any]) -> Rules:
    """Return the rules that a `Settings` record's values describe. Raises ConfigError naming the value at fault."""
    try:
        return msgspec.convert(dict(values), Rules)
    except msgspec.ValidationError as error:
        raise ConfigError(f"rules cannot be read: {error}") from error


def values_of(rules: Rules) -> dict[str, Any]:
    """Return the values of a `Settings` record: those that differ from the defaults."""
    every = msgspec.to_builtins(rules)
    default = msgspec.to_builtins(DEFAULT_RULES)
    return {name: value for name, value in every.items() if value != default[name]}
