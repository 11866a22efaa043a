"""Rules: all settings that change outputs, as `Settings` records contain them.

A `Settings` record contains the values that differ from the defaults here, and replaces all earlier records. Every
stateful service reads its rules from its input log only. The same log therefore gives the same bytes in any
environment. `app` compares the user's settings with the newest record and appends a new record if they differ.
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


FX_CALENDARS: Final[Mapping[str, str]] = {
    "{currency}/{currency}": "FX", "*/*": "24/7", "*USDT": "24/7", "*USDC": "24/7", "BTC*": "24/7", "*": "XNYS",
}  # fmt: skip
"""Default calendars of a new log. The defaults of `Rules` never change: an existing log may rely on them."""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules in force. Patterns are shell patterns on the symbol (`BTC*`, `*/USD`); the first match applies."""

    allowed_lateness_us: int = msgspec.field(default=2 * SECOND_US, name="lateness_us")
    """Time for which a window accepts late ticks after the feed's watermark has passed the window's end."""

    sources: tuple[str, ...] = ("*",)
    """Order of the sources of equally complete bars, best first: entries of `core.sources`."""

    source_priority_wait_us: int = msgspec.field(default=3 * SECOND_US, name="source_wait_us")
    """Log time for which a bar waits for a live feed with a better rank than its own source."""

    calendars: Mapping[str, str] = msgspec.field(
        default_factory=lambda: {"*/*": "24/7", "*USDT": "24/7", "*USDC": "24/7", "BTC*": "24/7", "*": "XNYS"}
    )
    """Calendar by pattern of symbols: a name of exchange_calendars (`XNYS`, `XLON`, `XHKG`), `24/7`, or `FX`.

    `{currency}` in these patterns matches a code of ISO 4217.
    """

    calendar_version: str = ""
    """Version of the calendar data with which the rules were written."""

    extended_hours: bool = False
    """True if daily bars include extended hours."""

    revision_window_sessions: int = msgspec.field(default=1, name="memory_sessions")
    """Sessions whose closed bars stay in memory, so that late ticks revise them."""

    activity_bars: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Activity intervals (`100t`, `10000v`, `1000000d`) by pattern of symbols. The first match applies."""

    indicators: Mapping[str, tuple[str, ...]] = msgspec.field(
        default_factory=lambda: {"5m": SEED_INDICATORS, "1d": SEED_INDICATORS}
    )
    """Indicators by bar interval, written as `NAME(parameter,…)`."""

    forming_indicators: tuple[str, ...] = ("SMA(20)", "RSI(14)", "BBANDS(20,2)")
    """Indicators of `indicators` that are also computed on the forming bar."""


DEFAULT_RULES: Final = Rules()

_PATTERN_TABLES: Final = frozenset({"calendars", "activity_bars"})
"""Names of the tables whose order matters: their first matching pattern applies."""


def rules_from(values: Mapping[str, Any]) -> Rules:
    """Return the rules of a `Settings` record's values. Raises ConfigError that names the invalid value."""
    try:
        return msgspec.convert(dict(values), Rules)
    except msgspec.ValidationError as error:
        raise ConfigError(f"rules cannot be read: {error}") from error


def values_of(rules: Rules) -> dict[str, Any]:
    """Return the values that differ from the defaults, for a `Settings` record. The order of patterns counts."""
    every, default = msgspec.to_builtins(rules), msgspec.to_builtins(DEFAULT_RULES)
    return {name: value for name, value in every.items() if _text({name: value}) != _text({name: default[name]})}


def same_order(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether two tables of patterns are equal, with their patterns in the same order."""
    return [*one.items()] == [*other.items()]


def _text(values: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(canonical(values))


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a `Settings` record in canonical order, so that equal rules have equal bytes.

    Names are sorted, and so are tables, except for tables of patterns. An encoder must not sort these: sorted patterns
    may select another calendar.
    """
    return {
        name: dict(sorted(value.items())) if isinstance(value, Mapping) and name not in _PATTERN_TABLES else value
        for name, value in sorted(values.items())
    }
