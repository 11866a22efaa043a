"""Alert rules: their fields, their validation, and the identity of the alerts that they fire (docs/alerts.md).

A rule compares a left operand with a right operand on the bars of one (symbol, interval). `id` identifies the rule.
Each change of a field, including a pause, increases `revision` and resets the rule's state. A change of only the
webhook's address or secret has neither effect. The store contains this address and this secret; the log does not.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tickerplant.core.errors import BadInput
from tickerplant.core.interval import parse
from tickerplant.core.shown import cut
from tickerplant.core.symbols import check_symbol

CROSSES_ABOVE, CROSSES_BELOW, GREATER, LESS = "crosses_above", "crosses_below", "greater", "less"
PERCENT_CHANGE: Final = "percent_change"
OPERATORS: Final = (CROSSES_ABOVE, CROSSES_BELOW, GREATER, LESS, PERCENT_CHANGE)
ON_BAR, ON_UPDATE = "bar", "update"
WHEN: Final = (ON_BAR, ON_UPDATE)
PRICES: Final = ("open", "high", "low", "close", "volume")
"""Columns of a bar that may be operands."""
MAX_BARS: Final = 500
"""Maximum window of a percent change, in bars. The ring of this window's values is stored with every 32nd retained bar.
Memory per symbol of `1m` bars, with a revision window of one session: the 1,440 minutes of a day and 32 replayed bars
have 1,472 // 32 + 2 = 48 rings, which are 500 · 8 B · 48 = 192 kB."""

RULE_ID: Final = "^[A-Za-z0-9_-]{1,64}$"
"""Pattern of the id of a rule, for Python and for the API description."""
_ID = re.compile(RULE_ID)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z")
_STORED: Final = ("1m", "5m", "1d")


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One alert rule. An operand is a number (right only), one of `PRICES`, or an indicator such as `RSI(14)`."""

    id: str
    revision: int = 1
    symbol: str
    interval: str
    left: str
    operator: str
    right: str
    bars: int = 1
    """Window of `percent_change`, in bars."""
    when: str = ON_BAR
    """`bar`: closed bars only; `update`: forming bars too."""
    once: bool = False
    """True if the rule fires once in total, False if it fires at every crossing."""
    active: bool = True

    def __str__(self) -> str:
        if self.operator == PERCENT_CHANGE:
            return f"{self.left} {PERCENT_CHANGE}({self.bars}) {self.right}"
        return f"{self.left} {self.operator} {self.right}"


def is_rule_id(text: str) -> bool:
    """Return True if the text may be the id of a rule: 1 to 64 ASCII letters, digits, - and _."""
    return _ID.fullmatch(text) is not None


def number_of(side: str) -> float | None:
    """Return the value of a numeric operand, or None for a price or an indicator."""
    return float(side) if _NUMBER.match(side) else None


def check(rule: Rule) -> Rule:
    """Return the rule in canonical form. Raises BadInput that describes the error.

    `analytics` checks the names and outputs of indicators.
    """
    if not is_rule_id(rule.id):
        raise BadInput(f"{rule.id[:80]!r} is not a rule id: use 1 to 64 letters, digits, - and _")
    interval = parse(rule.interval)
    if interval.name not in _STORED and not interval.is_activity:
        raise BadInput(
            f"no alerts on bars of {interval.name}; use {', '.join(_STORED)} or activity bars (100t, 10000v, 1000000d)"
        )
    for name, value, known in (("operator", rule.operator, OPERATORS), ("when", rule.when, WHEN)):
        if value not in known:
            raise BadInput(f"`{name}` is {cut(value)!r}; use one of {', '.join(known)}")
    left, right = _side(rule.left, "left"), _side(rule.right, "right")
    if number_of(left) is not None:
        raise BadInput(f"`left` is the number {left}; it must be a price or an indicator, such as close or RSI(14)")
    if left == right:
        raise BadInput(f"both operands are {left}; use two different operands")
    if rule.operator == PERCENT_CHANGE:
        if not number_of(right):
            raise BadInput(
                f"`right` of {PERCENT_CHANGE} is {right!r}; use a percentage other than 0: 5 for a rise, -5 for a fall"
            )
        if not 1 <= rule.bars <= MAX_BARS:
            raise BadInput(f"`bars` is {rule.bars}; it must be in 1..{MAX_BARS}")
    elif rule.bars != 1:
        raise BadInput(f"`bars` is the window of {PERCENT_CHANGE}; leave it out for {rule.operator}")
    return msgspec.structs.replace(
        rule, symbol=check_symbol(rule.symbol), interval=interval.name, left=left, right=right
    )


def _side(text: str, name: str) -> str:
    side = text.strip()
    if len(side) > 100 or not side:
        raise BadInput(
            f"`{name}` has {len(side)} characters; use a price, an indicator or a number, in 1 to 100 characters"
        )
    if side.lower() in PRICES:
        return side.lower()
    value = number_of(side)
    if value is not None:
        if abs(value) > 1e100:
            raise BadInput(f"`{name}` is {side}; a number must be within ±1e100")
        return f"{value:.17g}" if float(f"{value:g}") != value else f"{value:g}"
    return side


def alert_id(rule: str, revision: int, time_us: int, number: int) -> str:
    """Return the identity of the alert that a rule fires for the `number`-th crossing (from 0) of the bar at `time_us`.

    The identity does not depend on when or why the crossing was found. A replay of the crossing thus gives the same
    identity.
    """
    return f"{rule}.{revision}.{time_us}.{number}"
