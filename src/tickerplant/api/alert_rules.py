"""Changes of alert rules: stored in the database, then published to the event log.

Effects of each change, in this order; each is safe to repeat:

1. Store the new revision of the rule as unpublished (one transaction, flushed to disk).
2. Append one `AlertRule` record to the symbol's partition of `market.prices.raw`. A removal is appended to every
   partition, so that each partition with a revision of the rule receives it.
3. Mark the revision as published, or delete the removed rule.

A kill between two steps leaves an unpublished revision. The next change, or `run` every `REPUBLISH_S` seconds,
publishes that revision. Readers of the log ignore a revision that they have already read. Steps 2 and 3 run inside one
transaction of the store under a lock, so revisions are appended in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from tickerplant.core import faults, records
from tickerplant.core.alerts import Rule
from tickerplant.core.errors import BadInput, Fenced, LogUnavailable, StoreError
from tickerplant.core.schemas import RAW
from tickerplant.core.symbols import partition_of
from tickerplant.core.web_address import is_address, is_public, parse_address
from tickerplant.log.port import EventLog
from tickerplant.store.pool import Store
from tickerplant.store.repositories.alerts import AlertRules, StoredRule, UnloggedRule
from tickerplant.store.session import Session

REPUBLISH_S: Final = 30.0
"""Seconds between two searches for unpublished revisions."""
MAX_REVISIONS: Final = 500
"""Maximum revisions that one transaction publishes."""
MAX_URL_CHARS: Final = 2_000
SECRET_CHARS: Final = range(16, 257)
_WRITER: Final = "alerts"
_ATTEMPTS: Final = 4
_RULE_FIELDS: Final = ("symbol", "interval", "left", "operator", "right", "bars", "when", "once", "active")

log = structlog.get_logger(__name__)

CheckRule: TypeAlias = Callable[[Rule], Rule]
"""Function that returns a rule in canonical form. Raises BadInput for a rule that cannot be evaluated."""


@dataclass(frozen=True, slots=True)
class AlertLimits:
    """Limits of alert rules. `private_webhooks` allows webhooks to addresses that are not public."""

    max_rules: int = 1_000
    private_webhooks: bool = True


class NewRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of a request that creates a rule. `core.alerts.Rule` describes the fields."""

    symbol: str
    interval: str = "1m"
    left: str
    operator: str
    right: str | float
    bars: int = 1
    when: str = "bar"
    once: bool = False
    active: bool = True
    webhook: str | None = None
    secret: str | None = None


class RuleChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Fields to change. Omitted fields keep their values.

    `symbol` and `interval` are accepted only with their current values.
    """

    symbol: str | msgspec.UnsetType = msgspec.UNSET
    interval: str | msgspec.UnsetType = msgspec.UNSET
    left: str | msgspec.UnsetType = msgspec.UNSET
    operator: str | msgspec.UnsetType = msgspec.UNSET
    right: str | float | msgspec.UnsetType = msgspec.UNSET
    bars: int | msgspec.UnsetType = msgspec.UNSET
    when: str | msgspec.UnsetType = msgspec.UNSET
    once: bool | msgspec.UnsetType = msgspec.UNSET
    active: bool | msgspec.UnsetType = msgspec.UNSET
    webhook: str | msgspec.UnsetType | None = msgspec.UNSET
    secret: str | msgspec.UnsetType | None = msgspec.UNSET


class AlertRuleManager:
    """Creates, changes and removes alert rules. `store` returns the open store."""

    def __init__(
        self, log: EventLog, store: Callable[[], Awaitable[Store]], check: CheckRule, limits: AlertLimits | None = None
    ) -> None:
        self._log = log
        self._store = store
        self._check = check
        self._limits = limits or AlertLimits()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        store = await self._store()
        async with store.session() as session, session.transaction():
            await session.script("SET LOCAL synchronous_commit = on")  # a user's change must survive a power cut
            yield session

    async def all(self, symbol: str | None = None) -> list[StoredRule]:
        """Return the stored rules of `symbol`, or of all symbols if `symbol` is None, oldest first."""
        async with self._session() as session:
            return await AlertRules(session).all(symbol)

    async def get(self, name: str) -> StoredRule | None:
        """Return the stored rule with this id, or None if there is none."""
        async with self._session() as session:
            return await AlertRules(session).get(name)

    async def add(self, given: NewRule) -> StoredRule:
        """Store a new rule under a new id, publish it and return the stored rule. Raises BadInput, StoreError."""
        webhook = check_webhook(given.webhook, given.secret, private=self._limits.private_webhooks)
        fields = {name: getattr(given, name) for name in _RULE_FIELDS} | {"right": _text(given.right)}
        rule = self._check(Rule(id=secrets.token_hex(6), **fields))
        async with self._session() as session:
            rules = AlertRules(session)
            if await rules.count() >= self._limits.max_rules:
                raise BadInput(
                    f"the maximum of {self._limits.max_rules:,} alert rules is stored; remove a rule, or raise "
                    "alerts.max_rules"
                )
            await rules.add(rule, webhook, given.secret)  # Step 1
        return await self._publish_and_get(rule.id)

    async def change(self, name: str, change: RuleChange) -> StoredRule | None:
        """Change a rule, publish it and return the stored rule; None if the rule does not exist.

        Raises BadInput and StoreError. A change of only the webhook's address or secret creates no new revision.
        """
        given = msgspec.to_builtins(change)
        if "right" in given:
            given["right"] = _text(given["right"])
        async with self._session() as session:
            rules = AlertRules(session)
            stored = await rules.get(name, lock=True)
            if stored is None:
                return None
            webhook = given.get("webhook", stored.webhook)
            secret = given.get("secret") if "secret" in given or not stored.signed else None
            if "webhook" in given or secret is not None:
                webhook = check_webhook(webhook, secret, private=self._limits.private_webhooks)
            fields = {field: given[field] for field in _RULE_FIELDS if field in given}
            rule = self._check(msgspec.structs.replace(stored.rule, **fields))
            if (rule.symbol, rule.interval) != (stored.rule.symbol, stored.rule.interval):
                raise BadInput(
                    f"the rule {name} is for {stored.rule.symbol} on bars of {stored.rule.interval}, which cannot "
                    "change; create another rule, and remove this one"
                )
            if rule != stored.rule or given.get("active"):  # an explicit `active` arms a `once` rule again
                await rules.change(msgspec.structs.replace(rule, revision=stored.rule.revision + 1))  # Step 1
            if "webhook" in given:
                await rules.set_webhook(name, webhook)
            if "secret" in given or webhook is None:
                await rules.set_secret(name, given.get("secret"))
        return await self._publish_and_get(name)

    async def set_active(self, name: str, *, active: bool) -> StoredRule | None:
        """Pause or resume a rule and return it; None if the rule does not exist.

        Resuming an active `once` rule arms it again.
        """
        async with self._session() as session:
            rules = AlertRules(session)
            stored = await rules.get(name, lock=True)
            if stored is None:
                return None
            if active or stored.rule.active:
                revision = stored.rule.revision + 1
                await rules.change(msgspec.structs.replace(stored.rule, active=active, revision=revision))  # Step 1
        return await self._publish_and_get(name)

    async def remove(self, name: str) -> bool:
        """Remove a rule and publish the removal; return False if the rule does not exist.

        Pending webhooks of the rule are given up.
        """
        async with self._session() as session:
            removed = await AlertRules(session).remove(name)  # Step 1
        if removed:
            await self._try_to_publish()
        return removed

    async def _publish_and_get(self, name: str) -> StoredRule:
        await self._try_to_publish()
        stored = await self.get(name)
        if stored is None:
            raise BadInput(f"the rule {name} was removed by another request at the same time; create it again")
        return stored

    async def _try_to_publish(self) -> None:
        try:
            await self.publish()
        except (Fenced, LogUnavailable, StoreError) as error:
            log.warning("alert rules are not published to the log yet; the API tries again", error=str(error))

    async def publish(self) -> int:
        """Append all unpublished revisions to the log and return their count.

        Raises Fenced, LogUnavailable or StoreError.
        """
        published = 0
        while True:
            async with self._session() as session:
                rules = AlertRules(session)
                revisions = await rules.unlogged(MAX_REVISIONS)
                if not revisions:
                    return published
                faults.reach("api.rules.publish.before")
                await asyncio.to_thread(self._append, revisions)  # Step 2
                faults.reach("api.rules.publish.after")
                await rules.mark_logged(revisions)  # Step 3
            published += len(revisions)

    def _append(self, revisions: Sequence[UnloggedRule]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._log.writer(_WRITER) as writer, writer.transaction() as transaction:
                    partitions = self._log.partitions(RAW)
                    for revision in revisions:
                        header = records.AlertRule(sent_at_us=_now_us(), rule=revision.rule, removed=revision.removed)
                        own = partition_of(revision.rule.symbol, partitions)
                        for partition in range(partitions) if revision.removed else (own,):
                            transaction.append(RAW, partition, records.encode(header))
                return
            except Fenced:  # an API process that lost the store's lock is still appending; retry
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.1 * attempt)

    async def run(self) -> None:
        """Publish unpublished revisions at once, and then every `REPUBLISH_S` seconds until cancelled."""
        while True:
            with contextlib.suppress(StoreError, Fenced, LogUnavailable):
                published = await self.publish()
                if published:
                    log.info("alert rules published to the log", rules=published)
            await asyncio.sleep(REPUBLISH_S)


def check_webhook(url: str | None, secret: str | None, *, private: bool = True) -> str | None:
    """Return the address of a webhook in canonical form. Raises BadInput for an invalid address or secret.

    Both may be None; a secret needs an address. `private` allows an IP address that is not public. A host
    name is resolved and checked when the webhook is sent.
    """
    if url is None:
        if secret is not None:
            raise BadInput("`secret` signs webhooks; also send `webhook`, the address of the receiver")
        return None
    address = parse_address(url) if len(url) <= MAX_URL_CHARS else None
    if address is None:
        if "@" in re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]:
            raise BadInput("`webhook` must not contain a user or a password; `secret` signs the requests")
        raise BadInput(
            "`webhook` must start with http:// or https://, have a host name or an IP address in its usual form, and "
            f"consist of at most {MAX_URL_CHARS:,} printable ASCII characters without spaces"
        )
    if not private and is_address(address.host) and not is_public(address.host):
        raise BadInput(
            f"`webhook` has the address {address.host}, which is not public; use a public address, or set "
            "alerts.private_webhooks to true"
        )
    if secret is not None and (len(secret) not in SECRET_CHARS or not secret.isascii() or not secret.isprintable()):
        raise BadInput("`secret` must be 16 to 256 printable ASCII characters")
    return str(address)


def rule_json(stored: StoredRule) -> dict[str, Any]:
    """Return the fields of a rule in a REST answer, without the secret."""
    rule = stored.rule
    return {
        "id": rule.id,
        "revision": rule.revision,
        **{name: getattr(rule, name) for name in _RULE_FIELDS},
        "rule": str(rule),
        "webhook": stored.webhook,
        "signed": stored.signed,
        "in_log": stored.logged,
        "created_at": stored.created_at,
        "changed_at": stored.changed_at,
    }


def firing_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a fired alert in a REST answer; `webhook` is None if the rule had no webhook."""
    state = row["webhook"]
    webhook = None
    if state is not None:
        webhook = {
            "state": state,
            "attempts": row["webhook_attempts"],
            "error": row["webhook_error"] or None,
            "finished_at": row["webhook_finished_at"],
        }
    return {name: value for name, value in row.items() if not name.startswith("webhook")} | {"webhook": webhook}


def _text(right: str | float) -> str:
    return right if isinstance(right, str) else repr(right)


def _now_us() -> int:
    return time.time_ns() // 1000
