"""Alert rules on their way from users to the store and the log.

Effects of each change, in this order; each is safe to repeat:

1. The rule is kept in the store, as a revision that the log has not been told (one transaction, on the disk).
2. The log is told: one `AlertRule` into the symbol's partition of `market.prices.raw`; that a rule is gone, into every
   partition, so that it is gone wherever any revision of it has ever been told.
3. The revision is marked as told, and a removed rule is forgotten.

A kill between them leaves a revision that is not marked: whoever comes next, and the API every `LOOK_S`, tells the log
again, and who reads the log takes no revision twice. Steps 2 and 3 are one transaction of the store under a lock, so
that revisions reach the log in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from tickerplant.core import faults, records
from tickerplant.core.alerts import Rule
from tickerplant.core.errors import BadInput, Fenced, LogUnavailable, StoreError
from tickerplant.core.schemas import RAW
from tickerplant.core.symbols import partition_of
from tickerplant.log.port import EventLog
from tickerplant.store.pool import Store
from tickerplant.store.repositories.alerts import AlertRules, StoredRule, UnloggedRule
from tickerplant.store.session import Session

LOOK_S: Final = 30.0
AT_ONCE: Final = 500
MAX_URL_CHARS: Final = 2_000
SECRET_CHARS: Final = range(16, 257)
_WRITER: Final = "alerts"
_ATTEMPTS: Final = 4
_CHANGES: Final = ("symbol", "interval", "left", "operator", "right", "bars", "when", "once", "active")

log = structlog.get_logger(__name__)

Check = Callable[[Rule], Rule]


class NewRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A rule as a user gives it; see `core.alerts.Rule`."""

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
    """What is to be different; what is left out stays. `symbol` and `interval` can only be said as they are."""

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


class Rulebook:
    """The rules of a plant: kept in `store`, told to `log`. `check` raises BadInput for a rule that nobody can read."""

    def __init__(self, log: EventLog, store: Callable[[], Any], check: Check) -> None:
        self._log = log
        self._store = store
        self._check = check

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        store: Store = await self._store()
        async with store.session() as session, session.transaction():
            await session.script("SET LOCAL synchronous_commit = on")  # what a person has said is not forgotten
            yield session

    async def all(self, symbol: str | None = None) -> list[StoredRule]:
        """Return all rules, or those of a symbol, oldest first."""
        async with self._session() as session:
            return await AlertRules(session).all(symbol)

    async def get(self, name: str) -> StoredRule | None:
        """Return a rule, or None."""
        async with self._session() as session:
            return await AlertRules(session).get(name)

    async def add(self, given: NewRule) -> StoredRule:
        """Keep a new rule under an id of its own and tell the log. Raises BadInput, StoreError."""
        check_webhook(given.webhook, given.secret)
        said = {name: getattr(given, name) for name in _CHANGES} | {"right": _text(given.right)}
        rule = self._check(Rule(id=secrets.token_hex(6), **said))
        async with self._session() as session:
            await AlertRules(session).add(rule, given.webhook, given.secret)  # Step 1
        return await self._told(rule.id)

    async def change(self, name: str, change: RuleChange) -> StoredRule | None:
        """Change a rule and tell the log, unless only its webhook changes; None if there is none. Raises BadInput."""
        said = msgspec.to_builtins(change)
        if "right" in said:
            said["right"] = _text(said["right"])
        async with self._session() as session:
            rules = AlertRules(session)
            kept = await rules.get(name, lock=True)
            if kept is None:
                return None
            webhook = said.get("webhook", kept.webhook)
            check_webhook(webhook, said.get("secret") if "secret" in said or not kept.signed else None)
            others = {field: said[field] for field in _CHANGES if field in said}
            rule = self._check(msgspec.structs.replace(kept.rule, **others))
            if (rule.symbol, rule.interval) != (kept.rule.symbol, kept.rule.interval):
                raise BadInput(
                    f"the rule {name} is of {kept.rule.symbol} on bars of {kept.rule.interval}, and stays so: "
                    "make another rule, and remove this one"
                )
            if rule != kept.rule or said.get("active"):  # `active` said again lets it begin anew: `once` is armed
                await rules.change(msgspec.structs.replace(rule, revision=kept.rule.revision + 1))  # Step 1
            if "webhook" in said:
                await rules.set_webhook(name, webhook)
            if "secret" in said or webhook is None:
                await rules.set_secret(name, said.get("secret"))
        return await self._told(name)

    async def set_active(self, name: str, *, active: bool) -> StoredRule | None:
        """Pause a rule, or let it begin anew, even if it is active: so one that has fired its once is armed again."""
        async with self._session() as session:
            rules = AlertRules(session)
            kept = await rules.get(name, lock=True)
            if kept is None:
                return None
            if active or kept.rule.active:
                revision = kept.rule.revision + 1
                await rules.change(msgspec.structs.replace(kept.rule, active=active, revision=revision))  # Step 1
        return await self._told(name)

    async def remove(self, name: str) -> bool:
        """Take a rule away and tell the log; False if there is none. Its webhooks still to be posted are given up."""
        async with self._session() as session:
            removed = await AlertRules(session).remove(name)  # Step 1
        if removed:
            await self._try_to_tell()
        return removed

    async def _told(self, name: str) -> StoredRule:
        await self._try_to_tell()
        kept = await self.get(name)
        if kept is None:
            raise BadInput(f"the rule {name} has just been removed")
        return kept

    async def _try_to_tell(self) -> None:
        try:
            await self.tell()
        except (Fenced, LogUnavailable, StoreError) as error:
            log.warning("the log has not been told of a change of alert rules yet", error=str(error))

    async def tell(self) -> int:
        """Tell the log all that it has not been told, and return how much.

        Raises Fenced, LogUnavailable or StoreError.
        """
        told = 0
        while True:
            async with self._session() as session:
                rules = AlertRules(session)
                unsent = await rules.unlogged(AT_ONCE)
                if not unsent:
                    return told
                faults.reach("api.rules.tell.before")
                await asyncio.to_thread(self._append, unsent)  # Step 2
                faults.reach("api.rules.tell.after")
                await rules.mark_logged(unsent)  # Step 3
            told += len(unsent)

    def _append(self, unsent: Sequence[UnloggedRule]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._log.writer(_WRITER) as writer, writer.transaction() as transaction:
                    partitions = self._log.partitions(RAW)
                    for one in unsent:
                        header = records.AlertRule(sent_at_us=_now_us(), rule=one.rule, removed=one.removed)
                        own = partition_of(one.rule.symbol, partitions)
                        for partition in range(partitions) if one.removed else (own,):
                            transaction.append(RAW, partition, records.encode(header))
                return
            except Fenced:  # another process of ours, that had the lock before and was slow: it has stopped now
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.1 * attempt)

    async def watch(self) -> None:
        """Tell the log what others have left, now and every `LOOK_S`, until cancelled."""
        while True:
            with contextlib.suppress(StoreError, Fenced, LogUnavailable):
                told = await self.tell()
                if told:
                    log.info("told the log of alert rules", rules=told)
            await asyncio.sleep(LOOK_S)


def check_webhook(url: str | None, secret: str | None) -> None:
    """Raise BadInput unless these can be a webhook's address and secret."""
    if url is None:
        if secret is not None:
            raise BadInput("`secret` signs webhooks; give `webhook`, where they go, too")
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL_CHARS
    if parts.scheme not in ("http", "https") or not host or port == 0 or not plain:
        raise BadInput("`webhook` is an address that begins with http:// or https://, and names a host")
    if parts.username is not None or parts.password is not None:
        raise BadInput("`webhook` may not hold a user or a password; `secret` signs what is posted")
    if secret is not None and (len(secret) not in SECRET_CHARS or not secret.isascii() or not secret.isprintable()):
        raise BadInput("`secret` is 16 to 256 printable ASCII characters")


def shown(kept: StoredRule) -> dict[str, Any]:
    """Return a rule as users see it: all but the secret."""
    rule = kept.rule
    return {
        "id": rule.id,
        "revision": rule.revision,
        **{name: getattr(rule, name) for name in _CHANGES},
        "rule": str(rule),
        "webhook": kept.webhook,
        "signed": kept.signed,
        "in_log": kept.logged,
        "created_at": kept.created_at,
        "changed_at": kept.changed_at,
    }


def shown_firing(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a firing as users see it; `webhook` is null where none was to be posted."""
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
