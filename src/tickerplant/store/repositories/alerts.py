"""`alerts`, `alert_firings` and `alert_webhooks`: users' rules, fired alerts, and the outbox of webhooks.

The API and the command line write rules. Alert delivery writes the outbox. Persistence writes fired alerts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tickerplant.core.alerts import Rule
from tickerplant.core.times import datetime_of
from tickerplant.store.copy_protocol import plain, stage_rows
from tickerplant.store.session import LOCK, LOCK_ALERTS

if TYPE_CHECKING:
    from tickerplant.store.session import Session

_FIELDS: Final = ("revision", "symbol", "interval", "left", "operator", "right", "bars", "when", "once", "active")
_COLUMNS: Final = ", ".join(f'"{name}"' for name in _FIELDS)
_FIRING: Final = (
    "alert_id", "rule_id", "rule_revision", "symbol", "interval", "time", "rule", "left", "right", "state", "revised",
    "version",
)  # fmt: skip
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A stored rule.

    `signed` is true if the rule has a secret, which is never returned. `logged` is true if the log contains this
    revision.
    """

    rule: Rule
    webhook: str | None
    signed: bool
    created_at: dt.datetime
    changed_at: dt.datetime
    logged: bool


@dataclass(frozen=True, slots=True)
class UnloggedRule:
    """A revision of a rule that the log does not contain yet."""

    rule: Rule
    removed: bool


@dataclass(frozen=True, slots=True)
class PendingWebhook:
    """A webhook that is due. `url` is None if the rule was removed or its webhook was removed."""

    alert_id: str
    body: str
    attempts: int
    created_at: dt.datetime
    url: str | None
    secret: str | None


class AlertRules:
    """Alert rules, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def all(self, symbol: str | None = None) -> list[StoredRule]:
        """Return the rules of a symbol, or all rules if `symbol` is None, oldest first."""
        rows = await self._session.rows(
            f"{_SELECT} WHERE NOT removed AND ($1::text IS NULL OR symbol = $1) ORDER BY created_at, id", symbol
        )
        return [_stored_rule(row) for row in rows]

    async def get(self, name: str, *, lock: bool = False) -> StoredRule | None:
        """Return a rule; None if there is none. `lock` locks the rule until the open transaction ends."""
        more = " FOR UPDATE" if lock else ""
        rows = await self._session.rows(f"{_SELECT} WHERE NOT removed AND id = $1{more}", name)
        return _stored_rule(rows[0]) if rows else None

    async def count(self) -> int:
        """Return the number of rules. Locks out other sessions that add rules, until the open transaction ends."""
        await self._session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_ALERTS)
        rows = await self._session.rows("SELECT count(*) AS rules FROM alerts WHERE NOT removed")
        return int(rows[0]["rules"])

    async def add(self, rule: Rule, webhook: str | None, secret: str | None) -> bool:
        """Store a new rule; return False if its id exists."""
        placeholders = ", ".join(f"${number}" for number in range(4, 4 + len(_FIELDS)))
        added = await self._session.execute(
            f"INSERT INTO alerts (id, webhook, secret, {_COLUMNS}) VALUES ($1, $2, $3, {placeholders})"
            " ON CONFLICT (id) DO NOTHING",
            rule.id, webhook, secret, *(getattr(rule, name) for name in _FIELDS),
        )  # fmt: skip
        return bool(added)

    async def change(self, rule: Rule) -> None:
        """Store the next revision of a rule."""
        sets = ", ".join(f'"{name}" = ${number}' for number, name in enumerate(_FIELDS, 2))
        await self._session.execute(
            f"UPDATE alerts SET {sets}, changed_at = now() WHERE id = $1",
            rule.id,
            *(getattr(rule, name) for name in _FIELDS),
        )

    async def set_webhook(self, name: str, webhook: str | None) -> None:
        """Set the address of a rule's webhooks, also of pending webhooks; None removes the address."""
        await self._session.execute("UPDATE alerts SET webhook = $2, changed_at = now() WHERE id = $1", name, webhook)

    async def set_secret(self, name: str, secret: str | None) -> None:
        """Set the secret that signs a rule's webhooks; None removes the secret."""
        await self._session.execute("UPDATE alerts SET secret = $2, changed_at = now() WHERE id = $1", name, secret)

    async def remove(self, name: str) -> bool:
        """Remove a rule; return False if there is none. The removal must still be appended to the log (`unlogged`)."""
        return bool(
            await self._session.execute(
                "UPDATE alerts SET removed = true, revision = revision + 1, webhook = NULL, secret = NULL,"
                " changed_at = now() WHERE id = $1 AND NOT removed",
                name,
            )
        )

    async def unlogged(self, most: int) -> list[UnloggedRule]:
        """Return up to `most` revisions that are not in the log. Holds a lock until the open transaction ends."""
        await self._session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_ALERTS)
        rows = await self._session.rows(
            f"SELECT id, removed, {_COLUMNS} FROM alerts WHERE logged_revision < revision ORDER BY id LIMIT $1", most
        )
        return [UnloggedRule(_rule(row), row["removed"]) for row in rows]

    async def mark_logged(self, logged: Sequence[UnloggedRule]) -> None:
        """Mark revisions as logged, and delete the rules whose removal is logged."""
        names, revisions = [one.rule.id for one in logged], [one.rule.revision for one in logged]
        given = "(SELECT * FROM unnest($1::text[], $2::integer[])) AS s (id, revision)"
        await self._session.execute(
            f"UPDATE alerts AS t SET logged_revision = s.revision FROM {given} WHERE t.id = s.id", names, revisions
        )
        await self._session.execute(
            f"DELETE FROM alerts AS t USING {given} WHERE t.id = s.id AND t.revision = s.revision AND t.removed",
            names,
            revisions,
        )


class Firings:
    """Fired alerts, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, rows: pa.Table, fired_us: int) -> None:
        """Store the alerts (`schemas.ALERT`) of one record; an existing alert is unchanged."""
        names = ", ".join(f'"{name}"' for name in rows.schema.names)
        source, arguments = await stage_rows(self._session, "alert_firings", plain(rows))
        await self._session.execute(
            f"INSERT INTO alert_firings ({names}, fired_at)"
            f" SELECT {names}, to_timestamp({fired_us:d} / 1000000.0) FROM {source} ON CONFLICT (alert_id) DO NOTHING",
            *arguments,
        )

    async def read(
        self, rule: str | None, symbol: str | None, start_us: int | None, end_us: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the last `limit` alerts fired in `[start_us, end_us)`, newest first, with their webhooks' states.

        None as `rule`, `symbol` or a bound does not restrict the alerts.
        """
        columns = ", ".join(f'f."{name}"' for name in _FIRING)
        rows = await self._session.rows(
            f"""SELECT {columns}, f.fired_at, w.state AS webhook, w.attempts AS webhook_attempts,
                    w.error AS webhook_error, w.finished_at AS webhook_finished_at
                FROM alert_firings AS f LEFT JOIN alert_webhooks AS w USING (alert_id)
                WHERE ($1::text IS NULL OR f.rule_id = $1) AND ($2::text IS NULL OR f.symbol = $2)
                    AND ($3::timestamptz IS NULL OR f.fired_at >= $3) AND ($4::timestamptz IS NULL OR f.fired_at < $4)
                ORDER BY f.fired_at DESC, f."time" DESC, f.alert_id DESC LIMIT $5""",
            rule,
            symbol,
            None if start_us is None else datetime_of(start_us),
            None if end_us is None else datetime_of(end_us),
            limit,
        )
        return [dict(row) for row in rows]


class Outbox:
    """The outbox (pending webhooks and the outcome of finished webhooks), through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, alerts: Sequence[tuple[str, str, str]]) -> int:
        """Queue (alert_id, rule_id, body) for rules with a webhook; a queued alert is unchanged.

        Returns the count of new webhooks.
        """
        ids, rules, bodies = zip(*alerts, strict=True)
        return await self._session.execute(
            """INSERT INTO alert_webhooks (alert_id, rule_id, body)
               SELECT s.alert_id, s.rule_id, s.body
               FROM unnest($1::text[], $2::text[], $3::text[]) AS s (alert_id, rule_id, body)
               JOIN alerts AS a ON a.id = s.rule_id WHERE a.webhook IS NOT NULL ON CONFLICT (alert_id) DO NOTHING""",
            [*ids], [*rules], [*bodies],
        )  # fmt: skip

    async def claim(self, most: int, each: int, busy: Sequence[str], lease_s: float) -> list[PendingWebhook]:
        """Claim up to `most` due webhooks, at most `each` per receiver, none for the receivers `busy`.

        A claim ends after `lease_s` seconds, so that another call can claim the webhook if the owner dies. Concurrent
        calls claim different webhooks.
        """
        rows = await self._session.rows(
            """WITH due AS (
                   SELECT w.alert_id, w.next_at, a.webhook, row_number() OVER (
                       PARTITION BY a.webhook ORDER BY w.next_at, w.alert_id) AS number
                   FROM alert_webhooks AS w LEFT JOIN alerts AS a ON a.id = w.rule_id
                   WHERE w.state = 'pending' AND w.next_at <= now()
                       AND (a.webhook IS NULL OR a.webhook <> ALL ($3::text[])))
               UPDATE alert_webhooks AS t SET next_at = now() + make_interval(secs => $4), attempts = t.attempts + 1
               FROM (SELECT * FROM due WHERE number <= $2 ORDER BY next_at LIMIT $1) AS d
               LEFT JOIN LATERAL (SELECT x.webhook, x.secret FROM alerts AS x JOIN alert_webhooks AS o
                   ON o.rule_id = x.id WHERE o.alert_id = d.alert_id) AS a ON true
               WHERE t.alert_id = d.alert_id AND t.state = 'pending' AND t.next_at <= now()
               RETURNING t.alert_id, t.body, t.attempts, t.created_at, a.webhook AS url, a.secret""",
            most, each, [*busy], lease_s,
        )  # fmt: skip
        return [
            PendingWebhook(row["alert_id"], row["body"], row["attempts"], row["created_at"], row["url"], row["secret"])
            for row in rows
        ]

    async def finish(self, alert_id: str, state: str, error: str) -> None:
        """Record that a webhook was delivered or has failed permanently."""
        await self._session.execute(
            "UPDATE alert_webhooks SET state = $2, error = $3, finished_at = now() WHERE alert_id = $1",
            alert_id, state, error,
        )  # fmt: skip

    async def retry(self, alert_id: str, after_s: float, error: str) -> None:
        """Schedule another attempt after `after_s` seconds."""
        await self._session.execute(
            """UPDATE alert_webhooks SET next_at = now() + make_interval(secs => $2), error = $3
               WHERE alert_id = $1 AND state = 'pending'""",
            alert_id, after_s, error,
        )  # fmt: skip

    async def next_s(self) -> float | None:
        """Return the seconds until the next webhook is due, 0 or less if one is due; None if none is pending."""
        found = await self._session.value(
            "SELECT extract(epoch FROM min(next_at) - now())::float8 FROM alert_webhooks WHERE state = 'pending'"
        )
        return None if found is None else float(found)

    async def counts(self) -> dict[str, float]:
        """Return the count of `pending` webhooks and the seconds since the oldest was queued (`oldest_s`, 0 if none).

        `failed` is the count of webhooks that failed permanently in the last 24 hours.
        """
        [row] = await self._session.rows(
            """SELECT (SELECT count(*) FROM alert_webhooks WHERE state = 'pending') AS pending,
                   (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM alert_webhooks
                    WHERE state = 'pending') AS oldest_s,
                   (SELECT count(*) FROM alert_webhooks
                    WHERE state = 'failed' AND finished_at > now() - interval '1 day') AS failed"""
        )
        return {name: float(row[name]) for name in ("pending", "oldest_s", "failed")}


_SELECT: Final = f"""SELECT id, webhook, secret IS NOT NULL AS signed, created_at, changed_at,
    logged_revision = revision AS logged, {_COLUMNS} FROM alerts"""


def _rule(row: Any) -> Rule:
    return Rule(id=row["id"], **{name: row[name] for name in _FIELDS})


def _stored_rule(row: Any) -> StoredRule:
    return StoredRule(_rule(row), row["webhook"], row["signed"], row["created_at"], row["changed_at"], row["logged"])
