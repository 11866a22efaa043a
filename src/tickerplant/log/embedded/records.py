"""The SQL on records and state: append, read a range, find a time, drop old records."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tickerplant.log.embedded.compression import Decoder
from tickerplant.log.port import Payload

_DROP_BYTES, _DROP_RECORDS = 8 << 20, 1024
"""Maximum bytes and records of one `drop` transaction: about 500 pages, which block a writer for a few ms."""


class Bounds(NamedTuple):
    """The first retained offset, and the next offset to assign."""

    first: int
    next: int


def bounds(connection: sqlite3.Connection, partition_ids: Sequence[int]) -> dict[int, Bounds]:
    """Return the bounds of each partition."""
    marks = ",".join("?" * len(partition_ids))
    rows = connection.execute(
        f"SELECT id, first_offset, next_offset FROM partitions WHERE id IN ({marks})",  # noqa: S608
        tuple(partition_ids),
    )
    return {row[0]: Bounds(row[1], row[2]) for row in rows}


def append(
    connection: sqlite3.Connection, partition_id: int, values: Iterable[tuple[int, Payload]], now_us: int
) -> int:
    """Append (dictionary number, stored value) pairs, in order; return the last offset.

    Append times never decrease, even if the clock does.
    """
    next_offset, last_us = connection.execute(
        "SELECT next_offset, last_us FROM partitions WHERE id = ?", (partition_id,)
    ).fetchone()
    at_us = max(now_us, last_us)
    for dictionary, value in values:
        connection.execute(
            'INSERT INTO records (partition_id, "offset", appended_at_us, value, dictionary) VALUES (?, ?, ?, ?, ?)',
            (partition_id, next_offset, at_us, value, dictionary),
        )
        next_offset += 1
    connection.execute(
        "UPDATE partitions SET next_offset = ?, last_us = ? WHERE id = ?", (next_offset, at_us, partition_id)
    )
    return int(next_offset) - 1


class Limits(NamedTuple):
    """Maximum records and stored bytes of one read. The first `at_least` records may exceed the bytes."""

    records: int
    stored_bytes: int
    at_least: int


def read(
    connection: sqlite3.Connection, decoder: Decoder, partition_id: int, position: int, limits: Limits
) -> list[tuple[int, int, bytes]]:
    """Return (offset, append time, value) of the records from a position on, within the limits.

    The sizes, which are on one or two pages, are read before the values.
    """
    count, room = 0, limits.stored_bytes
    for (size,) in connection.execute(
        'SELECT length(value) FROM records WHERE partition_id = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?',
        (partition_id, position, limits.records),
    ):
        room -= size
        if room < 0 and count >= limits.at_least:
            break
        count += 1
    rows = connection.execute(
        'SELECT "offset", appended_at_us, value, dictionary FROM records WHERE partition_id = ? AND "offset" >= ? '
        'ORDER BY "offset" LIMIT ?',
        (partition_id, position, count),
    ).fetchall()
    return [(offset, at_us, decoder.decode(connection, number, value)) for offset, at_us, value, number in rows]


def offset_at(connection: sqlite3.Connection, partition_id: int, time_us: int, within: Bounds) -> int:
    """Return the offset of the first record appended at or after a time; the next offset to assign if there is none."""
    low, high = within
    while low < high:
        middle = (low + high) // 2
        (at_us,) = connection.execute(
            'SELECT appended_at_us FROM records WHERE partition_id = ? AND "offset" = ?', (partition_id, middle)
        ).fetchone()
        low, high = (low, middle) if at_us >= time_us else (middle + 1, high)
    return low


def droppable(connection: sqlite3.Connection, partition_id: int, before_us: int) -> Bounds:
    """Return the range of offsets that retention may drop: older than `before_us`, below all positions and holds."""
    within = bounds(connection, [partition_id])[partition_id]
    (held,) = connection.execute(
        "SELECT min(position) FROM (SELECT position FROM positions WHERE partition_id = ?1 "
        "UNION ALL SELECT position FROM floors WHERE partition_id = ?1)",
        (partition_id,),
    ).fetchone()
    end = within.next if held is None else min(held, within.next)
    if end <= within.first:
        return Bounds(within.first, within.first)
    return Bounds(within.first, min(end, offset_at(connection, partition_id, before_us, within)))


def drop(connection: sqlite3.Connection, partition_id: int, range_: Bounds) -> int:
    """Drop the first records of a range; return their count. SQLite reuses their pages.

    One call drops at most `_DROP_RECORDS` records and about `_DROP_BYTES` bytes.
    """
    sizes = connection.execute(
        'SELECT length(value) FROM records WHERE partition_id = ? AND "offset" >= ? AND "offset" < ? '
        'ORDER BY "offset" LIMIT ?',
        (partition_id, range_.first, range_.next, _DROP_RECORDS),
    ).fetchall()
    count, room = 0, _DROP_BYTES
    while count < len(sizes) and (room > 0 or not count):
        room -= sizes[count][0]
        count += 1
    end = range_.first + count
    connection.execute(
        'DELETE FROM records WHERE partition_id = ? AND "offset" >= ? AND "offset" < ?',
        (partition_id, range_.first, end),
    )
    connection.execute("UPDATE partitions SET first_offset = ? WHERE id = ?", (end, partition_id))
    return count


STATE_PART_BYTES = 256 << 20
"""Maximum bytes of one row of a state value; longer values are split. SQLite limits a row to 10^9 bytes."""


def put_state(connection: sqlite3.Connection, partition_id: int, key: str, value: Payload | None) -> None:
    """Replace the value of a key; None removes it."""
    connection.execute("DELETE FROM state WHERE partition_id = ? AND key = ?", (partition_id, key))
    if value is None:
        return
    view = memoryview(value).cast("B")
    for part, start in enumerate(range(0, max(1, len(view)), STATE_PART_BYTES)):
        connection.execute(
            "INSERT INTO state (partition_id, key, part, value) VALUES (?, ?, ?, ?)",
            (partition_id, key, part, view[start : start + STATE_PART_BYTES]),
        )


def get_state(connection: sqlite3.Connection, partition_id: int, key: str) -> bytes | None:
    """Return the value of a key; None if the key has no value."""
    parts = connection.execute(
        "SELECT value FROM state WHERE partition_id = ? AND key = ? ORDER BY part", (partition_id, key)
    ).fetchall()
    if len(parts) == 1:
        only: bytes = parts[0][0]
        return only
    return b"".join(part for (part,) in parts) if parts else None
