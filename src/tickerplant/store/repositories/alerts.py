"""`alerts`, `alert_firings` and `alert_webhooks`: the rules that users keep, what they fired, and what is to be posted.

Rules and the outbox are written by whoever talks to users; firings by whoever applies the log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from tickerplant.core.alerts import Rule
from tickerplant.core.times import datetime_of
from tickerplant.store.copy_protocol import plain, source_of
from tickerplant.store.migrations import LOCK, LOCK_ALERTS

if TYPE_CHECKING:
    from tickerplant.store.pool import Session

_FIELDS: Final = ("revision", "symbol", "interval", "left", "operator", "right", "bars", "when", "once", "active")
_COLUMNS: Final = ", ".join(f'"{name}"' for name in _FIELDS)
_FIRING: Final = (
    "alert_id", "rule_id", "rule_revision", "symbol", "interval", "time", "rule", "left", "right", "state", "revised",
    "version",
)  # fmt: skip
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule as it is kept. `signed`: there is a secret, which nobody is told. `logged`: the log has this revision."""

    rule: Rule
    webhook: str | None
    signed: bool
    created_at: dt.datetime
    changed_at: dt.datetime
    logged: bool


@dataclass(frozen=True, slots=True)
class Unsent:
    """What the log has to be told of a rule."""

    rule: Rule
    removed: bool


@dataclass(frozen=True, slots=True)
class Post:
    """A webhook that is due. `url` is None where the rule is gone or has none any more."""

    alert_id: str
    body: str
    attempts: int
    created_at: dt.datetime
    url: str | None
    secret: str | None


class AlertRules:
    """The rules of one session or look."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def all(self, symbol: str | None = None) -> list[Kept]:
        """Return all rules, or those of a symbol, oldest first."""
        rows = await self._session.rows(
            f"{_SELECT} WHERE NOT removed AND ($1::text IS NULL OR symbol = $1) ORDER BY created_at, id", symbol
        )
        return [_kept(row) for row in rows]

    async def get(self, name: str, *, lock: bool = False) -> Kept | None:
        """Return a rule, or None. `lock`: for a change in the open transaction."""
        more = " FOR UPDATE" if lock else ""
        rows = await self._session.rows(f"{_SELECT} WHERE NOT removed AND id = $1{more}", name)
        return _kept(rows[0]) if rows else None

    async def add(self, rule: Rule, webhook: str | None, secret: str | None) -> bool:
        """Keep a new rule; False if there is one of that id."""
        places = ", ".join(f"${number}" for number in range(4, 4 + len(_FIELDS)))
        added = await self._session.execute(
            f"INSERT INTO alerts (id, webhook, secret, {_COLUMNS}) VALUES ($1, $2, $3, {places})"
            " ON CONFLICT (id) DO NOTHING",
            rule.id, webhook, secret, *(getattr(rule, name) for name in _FIELDS),
        )  # fmt: skip
        return bool(added)

    async def change(self, rule: Rule) -> None:
        """Keep another revision of a rule."""
        sets = ", ".join(f'"{name}" = ${number}' for number, name in enumerate(_FIELDS, 2))
        await self._session.execute(
            f"UPDATE alerts SET {sets}, changed_at = now() WHERE id = $1",
            rule.id,
            *(getattr(rule, name) for name in _FIELDS),
        )

    async def set_webhook(self, name: str, webhook: str | None) -> None:
        """Post a rule's alerts there from now on, or nowhere; those still to be posted too."""
        await self._session.execute("UPDATE alerts SET webhook = $2, changed_at = now() WHERE id = $1", name, webhook)

    async def set_secret(self, name: str, secret: str | None) -> None:
        """Sign a rule's webhooks with another secret, or not at all."""
        await self._session.execute("UPDATE alerts SET secret = $2, changed_at = now() WHERE id = $1", name, secret)

    async def remove(self, name: str) -> bool:
        """Take a rule away; False if there is none. The log is still to be told (`unsent`)."""
        return bool(
            await self._session.execute(
                "UPDATE alerts SET removed = true, revision = revision + 1, webhook = NULL, secret = NULL,"
                " changed_at = now() WHERE id = $1 AND NOT removed",
                name,
            )
        )

    async def unsent(self, most: int) -> list[Unsent]:
        """Return what the log has not been told, in the open transaction, in which nobody else can ask."""
        await self._session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_ALERTS)
        rows = await self._session.rows(
            f"SELECT id, removed, {_COLUMNS} FROM alerts WHERE logged_revision < revision ORDER BY id LIMIT $1", most
        )
        return [Unsent(_rule(row), row["removed"]) for row in rows]

    async def sent(self, told: Sequence[Unsent]) -> None:
        """The log has been told: mark the revisions, and forget the rules that were removed."""
        names, revisions = [one.rule.id for one in told], [one.rule.revision for one in told]
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
    """The alerts that fired, of one session or look."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, rows: pa.Table, fired_us: int) -> None:
        """Keep alerts (`schemas.ALERT`) of one record; one that is there already stays as it is."""
        names = ", ".join(f'"{name}"' for name in rows.schema.names)
        source, arguments = await source_of(self._session, "alert_firings", plain(rows))
        await self._session.execute(
            f"INSERT INTO alert_firings ({names}, fired_at)"
            f" SELECT {names}, to_timestamp({fired_us:d} / 1000000.0) FROM {source} ON CONFLICT (alert_id) DO NOTHING",
            *arguments,
        )

    async def read(
        self, rule: str | None, symbol: str | None, start_us: int | None, end_us: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the newest `limit` alerts that fired in `[start, end)`, newest first, with their webhook's state."""
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
    """The webhooks that are to be posted."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, alerts: Sequence[tuple[str, str, str]]) -> int:
        """Queue (alert_id, rule_id, body) of those whose rule has a webhook; one that was queued before stays as it is.

        Returns how many are new.
        """
        ids, rules, bodies = zip(*alerts, strict=True)
        return await self._session.execute(
            """INSERT INTO alert_webhooks (alert_id, rule_id, body)
               SELECT s.alert_id, s.rule_id, s.body
               FROM unnest($1::text[], $2::text[], $3::text[]) AS s (alert_id, rule_id, body)
               JOIN alerts AS a ON a.id = s.rule_id WHERE a.webhook IS NOT NULL ON CONFLICT (alert_id) DO NOTHING""",
            [*ids], [*rules], [*bodies],
        )  # fmt: skip

    async def claim(self, most: int, each: int, busy: Sequence[str], lease_s: float) -> list[Post]:
        """Take up to `most` that are due, `each` of a receiver, none of the receivers `busy`.

        They are due again after `lease_s`, should whoever took them die. Two who ask at once get different ones.
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
            Post(row["alert_id"], row["body"], row["attempts"], row["created_at"], row["url"], row["secret"])
            for row in rows
        ]

    async def finish(self, alert_id: str, state: str, error: str) -> None:
        """It was delivered, or is given up."""
        await self._session.execute(
            "UPDATE alert_webhooks SET state = $2, error = $3, finished_at = now() WHERE alert_id = $1",
            alert_id, state, error,
        )  # fmt: skip

    async def retry(self, alert_id: str, after_s: float, error: str) -> None:
        """It is to be tried again after so long."""
        await self._session.execute(
            """UPDATE alert_webhooks SET next_at = now() + make_interval(secs => $2), error = $3
               WHERE alert_id = $1 AND state = 'pending'""",
            alert_id, after_s, error,
        )  # fmt: skip

    async def next_s(self) -> float | None:
        """Return in how many seconds the next one is due, or None if there is none."""
        found = await self._session.value(
            "SELECT extract(epoch FROM min(next_at) - now())::float8 FROM alert_webhooks WHERE state = 'pending'"
        )
        return None if found is None else float(found)

    async def counts(self) -> dict[str, float]:
        """Return how many wait (`pending`), for how long the oldest has (`oldest_s`), and how many were given up in a
        day (`failed`).
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


def _kept(row: Any) -> Kept:
    return Kept(_rule(row), row["webhook"], row["signed"], row["created_at"], row["changed_at"], row["logged"])
