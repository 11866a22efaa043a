"""The rules in force: the rules of the newest `Settings` record, as the log's state contains them."""

from __future__ import annotations

from typing import Any

import msgspec

from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.schemas import SETTINGS_KEY, STATE_FEEDS
from tickerplant.log.port import EventLog


def rules_in_force(log: EventLog, default: Rules) -> Rules:
    """Return the newest rules in the log, or `default` if the log contains no readable rules. Blocks."""
    text = log.get_state(STATE_FEEDS, 0, SETTINGS_KEY)
    try:
        return default if text is None else rules_from(msgspec.json.decode(text, type=dict[str, Any]))
    except (ConfigError, msgspec.MsgspecError):
        return default
