"""Alerts where `app` touches them: rules as commands ask for them, what fired, and how webhooks do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tickerplant.app.wiring.parts import plain, with_store

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog
    from tickerplant.store import Store
    from tickerplant.store.repositories.alerts import StoredRule

T = TypeVar("T")


class Rules:
    """The alert rules of a store and its log, as commands ask for them: rows as users see them."""

    def __init__(self, store: Store, log: EventLog) -> None:
        from tickerplant.analytics.alerts.rule_operands import check_rule
        from tickerplant.api.alert_rules import AlertRuleManager

        async def opened() -> Store:
            return store

        self._manager = AlertRuleManager(log, opened, check_rule)

    async def add(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a new rule."""
        from tickerplant.api.alert_rules import NewRule

        return _shown(await self._manager.add(NewRule(**given)))

    async def all(self, symbol: str | None) -> list[dict[str, Any]]:
        """Return all rules, or a symbol's."""
        return [_shown(kept) for kept in await self._manager.all(symbol)]

    async def get(self, name: str) -> dict[str, Any] | None:
        """Return a rule, or None."""
        kept = await self._manager.get(name)
        return None if kept is None else _shown(kept)

    async def set_active(self, name: str, *, active: bool) -> dict[str, Any] | None:
        """Pause a rule, or let it begin anew; None if there is none."""
        kept = await self._manager.set_active(name, active=active)
        return None if kept is None else _shown(kept)

    async def remove(self, name: str) -> bool:
        """Take a rule away; False if there is none."""
        return await self._manager.remove(name)


def _shown(kept: StoredRule) -> dict[str, Any]:
    from tickerplant.api.alert_rules import rule_json

    return plain(rule_json(kept))


def with_rules(dsn: str, log: EventLog, work: Callable[[Rules], Awaitable[T]]) -> T:
    """Return what `work` does with the alert rules."""
    return with_store(dsn, lambda store: work(Rules(store, log)))


def firings(
    dsn: str, rule: str | None, symbol: str | None, from_us: int | None, to_us: int | None, limit: int
) -> list[dict[str, Any]]:
    """Return the newest alerts that fired in `[from_us, to_us)`, newest first."""
    from tickerplant.api.alert_rules import firing_json

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.read() as reading:
            rows = await reading.firings.read(rule, symbol, from_us, to_us, limit)
        return [plain(firing_json(row)) for row in rows]

    return with_store(dsn, read)


def webhooks(dsn: str, patience_s: float | None = None) -> dict[str, float]:
    """Return how many webhooks wait, for how long the oldest has, and how many were given up in a day."""

    async def read(store: Store) -> dict[str, float]:
        async with store.read() as reading:
            return await reading.outbox.counts()

    return with_store(dsn, read, patience_s)
