"""Alerts for commands and health: rules, firings, and counts of webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tickerplant.app.wiring.rows import plain
from tickerplant.app.wiring.store import with_store

if TYPE_CHECKING:
    from tickerplant.app.config.groups import AlertSettings
    from tickerplant.log.port import EventLog
    from tickerplant.store import Store
    from tickerplant.store.repositories.alerts import StoredRule

T = TypeVar("T")


class AlertRules:
    """The alert rules of a store and its log, as rows for commands."""

    def __init__(self, store: Store, log: EventLog, settings: AlertSettings) -> None:
        from tickerplant.analytics.alerts.rule_operands import check_rule
        from tickerplant.api.alert_rules import AlertLimits, AlertRuleManager

        async def opened() -> Store:
            return store

        self._manager = AlertRuleManager(
            log, opened, check_rule, AlertLimits(settings.max_rules, settings.private_webhooks)
        )

    async def add(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Store a new rule and return its row."""
        from tickerplant.api.alert_rules import NewRule

        return _as_dict(await self._manager.add(NewRule(**given)))

    async def all(self, symbol: str | None) -> list[dict[str, Any]]:
        """Return the rows of the rules of `symbol`, or of all rules if `symbol` is None, oldest first."""
        return [_as_dict(rule) for rule in await self._manager.all(symbol)]

    async def get(self, name: str) -> dict[str, Any] | None:
        """Return the row of a rule, or None if the rule does not exist."""
        rule = await self._manager.get(name)
        return None if rule is None else _as_dict(rule)

    async def set_active(self, name: str, *, active: bool) -> dict[str, Any] | None:
        """Pause or restart a rule; return its row, or None if the rule does not exist."""
        rule = await self._manager.set_active(name, active=active)
        return None if rule is None else _as_dict(rule)

    async def remove(self, name: str) -> bool:
        """Remove a rule; return False if the rule does not exist."""
        return await self._manager.remove(name)


def _as_dict(rule: StoredRule) -> dict[str, Any]:
    from tickerplant.api.alert_rules import rule_json

    return plain(rule_json(rule))


def with_rules(dsn: str, log: EventLog, settings: AlertSettings, work: Callable[[AlertRules], Awaitable[T]]) -> T:
    """Return the result of `work` for the alert rules of the store and the log."""
    return with_store(dsn, lambda store: work(AlertRules(store, log, settings)))


@dataclass(frozen=True, slots=True)
class FiringSelection:
    """The newest `limit` firings in `[start_us, end_us)`. A filter or bound of None does not apply."""

    rule: str | None
    symbol: str | None
    start_us: int | None
    end_us: int | None
    limit: int


def read_firings(dsn: str, selection: FiringSelection) -> list[dict[str, Any]]:
    """Return the firings of the selection, newest first."""
    from tickerplant.api.alert_rules import firing_json

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.read() as session:
            rows = await session.firings.read(
                selection.rule, selection.symbol, selection.start_us, selection.end_us, selection.limit
            )
        return [plain(firing_json(row)) for row in rows]

    return with_store(dsn, read)


def webhook_counts(dsn: str, patience_s: float | None = None) -> dict[str, float]:
    """Return the counts of webhooks: `pending`, and `failed` (given up in the last day).

    `oldest_s` is the age of the oldest pending webhook in seconds.
    """

    async def read(store: Store) -> dict[str, float]:
        async with store.read() as session:
            return await session.outbox.counts()

    return with_store(dsn, read, patience_s)
