"""`positions` and `plant`: how far the store has applied which log. Changed in the transaction of the rows.

A store follows one log. Every change of a position says from where to where and under which log, so a writer that is no
longer the owner changes nothing and learns it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tickerplant.core.errors import PositionConflict, StoreMismatch

if TYPE_CHECKING:
    from tickerplant.store.pool import Session

Partition = tuple[str, int]
"""(topic, partition number); the log's `TopicPartition` is one."""


_NEW_LOG = "take a new one (a new file, or another prefix) and begin a new generation"


@dataclass(frozen=True, slots=True)
class Log:
    """Which log: its id and generation."""

    log_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Applied:
    """How far one partition is applied: the next offset, where to read again from, the newest cause."""

    position: int
    resume: int
    cause: int


@dataclass(frozen=True, slots=True)
class Advance:
    """One step of a position. `resume` is the oldest record whose forming rows wait still (else: `new`)."""

    topic: str
    partition: int
    expected: int
    new: int
    cause: int
    resume: int


async def all_positions(session: Session) -> dict[Partition, Applied]:
    """Return what has been applied, by (topic, partition)."""
    rows = await session.rows("SELECT topic, partition, position, resume, cause FROM positions")
    return {(r["topic"], r["partition"]): Applied(r["position"], r["resume"], r["cause"]) for r in rows}


async def begin(session: Session, log: Log, partitions: Sequence[Partition]) -> None:
    """Give partitions that the store has not seen the position 0. Harmless for others."""
    await session.execute(
        """INSERT INTO positions (topic, partition, log_id, generation, position, resume, cause)
           SELECT s.topic, s.partition, $3, $4, 0, 0, 0 FROM unnest($1::text[], $2::integer[]) AS s (topic, partition)
           ON CONFLICT (topic, partition) DO NOTHING""",
        [topic for topic, _ in partitions],
        [partition for _, partition in partitions],
        log.log_id,
        log.generation,
    )


async def advance_all(session: Session, log: Log, steps: Sequence[Advance]) -> None:
    """Move positions, as the first statement of the transaction that writes the rows.

    Raises PositionConflict, whose `args[1]` is the frozenset of partitions that are not where `expected` says: somebody
    else has applied them. Roll back and stop these.
    """
    rows = await session.rows(
        """UPDATE positions AS p SET position = s.new, resume = s.resume, cause = greatest(p.cause, s.cause),
               updated_at = now()
           FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
               AS s (topic, partition, expected, new, cause, resume)
           WHERE p.topic = s.topic AND p.partition = s.partition AND p.log_id = $7 AND p.generation = $8
               AND p.position = s.expected
           RETURNING p.topic, p.partition""",
        [s.topic for s in steps], [s.partition for s in steps], [s.expected for s in steps], [s.new for s in steps],
        [s.cause for s in steps], [s.resume for s in steps], log.log_id, log.generation,
    )  # fmt: skip
    lost = {(s.topic, s.partition) for s in steps} - {(r["topic"], r["partition"]) for r in rows}
    if lost:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(lost))
        raise PositionConflict(f"somebody else applies {names} to this store; this writer stops there", frozenset(lost))


async def advance(
    session: Session, tp: Partition, log_id: str, generation: int, expected: int | None, new: int, cause: int
) -> None:
    """Move one position; `expected` None: it has none yet. Raises PositionConflict as `advance_all` does."""
    if expected is None:
        inserted = await session.execute(
            """INSERT INTO positions (topic, partition, log_id, generation, position, resume, cause)
               VALUES ($1, $2, $3, $4, $5, $5, $6) ON CONFLICT DO NOTHING""",
            tp[0], tp[1], log_id, generation, new, cause,
        )  # fmt: skip
        if not inserted:
            raise PositionConflict(f"somebody else applies {tp[0]}/{tp[1]} to this store", frozenset([tp]))
        return
    await advance_all(session, Log(log_id, generation), [Advance(tp[0], tp[1], expected, new, cause, new)])


Ends = Callable[[], Awaitable[Mapping[Partition, int]]]
"""Asks the log for the first offset of each partition that is not committed yet."""


async def check_log(session: Session, log: Log, ends: Ends) -> None:
    """Bind a new store to this log, or see that an old one follows it and is not ahead of it.

    `ends` is asked after the store's positions, for both move on in a plant that runs. Raises StoreMismatch that says
    what to do.
    """
    await session.execute(
        "INSERT INTO plant (log_id, generation) VALUES ($1, $2) ON CONFLICT DO NOTHING", log.log_id, log.generation
    )
    [plant] = await session.rows("SELECT log_id, generation FROM plant")
    applied = await all_positions(session)
    if (plant["log_id"], plant["generation"]) != (log.log_id, log.generation):
        how = "let the store follow this one" if log.generation > plant["generation"] else _NEW_LOG
        raise StoreMismatch(
            f"the store follows log {plant['log_id']} (generation {plant['generation']}), and this is log {log.log_id} "
            f"(generation {log.generation}): use the store of this log or, if the former log is gone for good, {how} "
            "with `tickerplant adopt --yes`"
        )
    there = await ends()
    ahead = [tp for tp, found in applied.items() if tp in there and found.position > there[tp]]
    if ahead:
        topic, partition = min(ahead)
        raise StoreMismatch(
            f"the store is ahead of its log: it has applied {topic}/{partition} up to "
            f"{applied[topic, partition].position}, and the log ends at {there[topic, partition]}; the log has lost "
            f"records (restored from a backup, or cut). Bring the log back or, if it is gone for good, {_NEW_LOG} "
            "with `tickerplant adopt --yes`"
        )


async def bound_to(session: Session) -> Log | None:
    """Return the log that the store follows, or None for a new store."""
    rows = await session.rows("SELECT log_id, generation FROM plant")
    return Log(rows[0]["log_id"], rows[0]["generation"]) if rows else None


async def adopt(session: Session, log: Log) -> str:
    """Let the store follow this log from its beginning, and return a sentence that says so.

    Rows stay. What the new log says of a bar that is there replaces it, because its versions are greater: so its
    generation must be greater than the former one's; a store that follows this very log is left as it is. Nothing of
    this store must run meanwhile: a writer of the former log stops with PositionConflict. Raises StoreMismatch when the
    generation is not greater.
    """
    async with session.transaction():
        await session.script("SET LOCAL synchronous_commit = on")  # what a person has decided is not forgotten
        rows = await session.rows("SELECT log_id, generation FROM plant FOR UPDATE")
        if rows and (rows[0]["log_id"], rows[0]["generation"]) == (log.log_id, log.generation):
            return f"log {log.log_id}, generation {log.generation}, as before"
        if rows and log.generation <= rows[0]["generation"]:
            raise StoreMismatch(
                f"the store has followed generation {rows[0]['generation']}, and this log is generation "
                f"{log.generation}: its bars would count as older than those that are there. Take a log that nobody "
                "has made yet (a new file, or another prefix), and `tickerplant adopt --yes` makes it of a greater one"
            )
        await session.execute("DELETE FROM positions")
        await session.execute("DELETE FROM source_order")
        await session.execute("UPDATE alerts SET logged_revision = 0")  # the new log knows no rules
        await session.execute(
            """INSERT INTO plant (log_id, generation) VALUES ($1, $2)
               ON CONFLICT (one) DO UPDATE SET log_id = excluded.log_id, generation = excluded.generation, bound_at =
               now()""",
            log.log_id,
            log.generation,
        )
    return f"log {log.log_id}, generation {log.generation}"
