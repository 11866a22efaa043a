"""Tables `positions` (the applied position of each log partition) and `plant` (the log that the store follows).

A position changes in the transaction that writes the rows. A store follows one log. Every statement that advances a
position contains the log, the expected old value and the new value. A writer that lost ownership therefore changes
nothing and gets an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tickerplant.core.errors import PositionConflict, StoreMismatch

if TYPE_CHECKING:
    from tickerplant.store.session import Session

Partition = tuple[str, int]
"""A topic and the number of its partition, such as the log's `TopicPartition`."""


_NEW_LOG = "create a new log (a new file, or another prefix) and start a new generation"


@dataclass(frozen=True, slots=True)
class Log:
    """Identity of a log: its id and generation."""

    log_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Applied position of one partition.

    `position`: the next offset. `resume`: the offset to resume reading from. `cause`: the version of the newest raw
    record whose outputs are all applied.
    """

    position: int
    resume: int
    cause: int


@dataclass(frozen=True, slots=True)
class Advance:
    """One step of a position. `resume` is the offset of the oldest record with pending forming rows; `new` if none."""

    topic: str
    partition: int
    expected: int
    new: int
    cause: int
    resume: int


async def all_positions(session: Session) -> dict[Partition, Applied]:
    """Return the applied positions by (topic, partition)."""
    rows = await session.rows("SELECT topic, partition, position, resume, cause FROM positions")
    return {(r["topic"], r["partition"]): Applied(r["position"], r["resume"], r["cause"]) for r in rows}


async def begin(session: Session, log: Log, partitions: Sequence[Partition]) -> None:
    """Insert position 0 for new partitions. Existing positions are unchanged."""
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

    Raises PositionConflict. Its `args[1]` is the frozenset of partitions whose position differs from `expected`,
    because another process has applied them. The caller must roll back and stop writing them.
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
    conflicting = {(s.topic, s.partition) for s in steps} - {(r["topic"], r["partition"]) for r in rows}
    if conflicting:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(conflicting))
        raise PositionConflict(
            f"another process applies {names} to this store. This process stops applying them; run one plant per store",
            frozenset(conflicting),
        )


async def advance(
    session: Session, tp: Partition, log_id: str, generation: int, expected: int | None, new: int, cause: int
) -> None:
    """Move one position; `expected` is None for a new position. Raises PositionConflict like `advance_all`."""
    if expected is None:
        inserted = await session.execute(
            """INSERT INTO positions (topic, partition, log_id, generation, position, resume, cause)
               VALUES ($1, $2, $3, $4, $5, $5, $6) ON CONFLICT DO NOTHING""",
            tp[0], tp[1], log_id, generation, new, cause,
        )  # fmt: skip
        if not inserted:
            raise PositionConflict(
                f"another process applies {tp[0]}/{tp[1]} to this store. This process stops applying it; run one plant "
                "per store",
                frozenset([tp]),
            )
        return
    await advance_all(session, Log(log_id, generation), [Advance(tp[0], tp[1], expected, new, cause, new)])


Ends = Callable[[], Awaitable[Mapping[Partition, int]]]
"""A function that returns the end offset of each partition of the log."""


async def check_log(session: Session, log: Log, ends: Ends) -> None:
    """Bind a new store to this log, or check that an existing store follows this log and is not ahead.

    `ends` is called after the store's positions are read, because both advance in a running plant. Raises
    StoreMismatch, with instructions, if a check fails.
    """
    await session.execute(
        "INSERT INTO plant (log_id, generation) VALUES ($1, $2) ON CONFLICT DO NOTHING", log.log_id, log.generation
    )
    [plant] = await session.rows("SELECT log_id, generation FROM plant")
    applied = await all_positions(session)
    if (plant["log_id"], plant["generation"]) != (log.log_id, log.generation):
        how = "rebind the store to this log" if log.generation > plant["generation"] else _NEW_LOG
        raise StoreMismatch(
            f"the store follows log {plant['log_id']} (generation {plant['generation']}), but this is log {log.log_id} "
            f"(generation {log.generation}). Use the store of this log. If the log of the store is lost, {how} "
            "with `tickerplant adopt --yes`"
        )
    there = await ends()
    ahead = [tp for tp, found in applied.items() if tp in there and found.position > there[tp]]
    if ahead:
        topic, partition = min(ahead)
        raise StoreMismatch(
            f"the store is ahead of its log: it has applied {topic}/{partition} up to "
            f"{applied[topic, partition].position}, and the log ends at {there[topic, partition]}. The log has lost "
            f"records (restored from a backup, or cut). Restore the log. If it is lost, {_NEW_LOG} "
            "with `tickerplant adopt --yes`"
        )


async def bound_to(session: Session) -> Log | None:
    """Return the log that the store follows, or None for a new store."""
    rows = await session.rows("SELECT log_id, generation FROM plant")
    return Log(rows[0]["log_id"], rows[0]["generation"]) if rows else None


async def adopt(session: Session, log: Log) -> str:
    """Rebind the store to the beginning of this log, and return a description of the log.

    Rows remain. Bars of the new log replace existing bars, because their versions are greater. The new log must
    therefore have a greater generation than the previous log. A store that already follows this log is unchanged. No
    service may use this store during the call: a writer of the previous log stops with PositionConflict. Raises
    StoreMismatch if the generation is not greater.
    """
    async with session.transaction():
        await session.script("SET LOCAL synchronous_commit = on")  # a user's decision must survive a crash
        rows = await session.rows("SELECT log_id, generation FROM plant FOR UPDATE")
        if rows and (rows[0]["log_id"], rows[0]["generation"]) == (log.log_id, log.generation):
            return f"log {log.log_id}, generation {log.generation}, as before"
        if rows and log.generation <= rows[0]["generation"]:
            raise StoreMismatch(
                f"the store has followed generation {rows[0]['generation']}, and this log is generation "
                f"{log.generation}. Its bars would count as older than the stored ones. Use a log that does not exist "
                "yet (a new file, or another prefix); `tickerplant adopt --yes` creates it with a greater generation"
            )
        await session.execute("DELETE FROM positions")
        await session.execute("DELETE FROM source_order")
        await session.execute("UPDATE alerts SET logged_revision = 0")  # the new log contains no rules
        await session.execute(
            """INSERT INTO plant (log_id, generation) VALUES ($1, $2)
               ON CONFLICT (one) DO UPDATE SET log_id = excluded.log_id, generation = excluded.generation, bound_at =
               now()""",
            log.log_id,
            log.generation,
        )
    return f"log {log.log_id}, generation {log.generation}"
