"""Groups: who is a member, who owns which partition, and what has been committed.

A member lives as long as it holds its sign of life (`locks.LifeSign`). Whoever joins, leaves or finds a dead member
distributes the partitions anew, in one transaction: partition i of a topic goes to the member i % n of those who read
the topic, sorted by name, so that a partition number of several topics stays together. `owners` keeps who owns a
partition and since which generation of the group; a commit is good only if both are still what the member was told in
its `poll`. So a member that has lost a partition, even if it has it back by now, cannot commit for it, and one that has
kept it can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from tickerplant.core.errors import Fenced


def join(connection: sqlite3.Connection, group: str, member: str, incarnation: str, topic_ids: Iterable[int]) -> None:
    """Make this incarnation the member of that name, in place of any former one, and distribute anew."""
    connection.execute("INSERT INTO groups_ VALUES (?, 0) ON CONFLICT DO NOTHING", (group,))
    connection.execute(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)",
        (group, member, incarnation, " ".join(map(str, sorted(topic_ids)))),
    )
    distribute(connection, group)


def leave(connection: sqlite3.Connection, group: str, incarnation: str) -> None:
    """Take the incarnation out of the group and distribute anew; harmless when it is not in."""
    gone = connection.execute(
        "DELETE FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    ).rowcount
    if gone:
        distribute(connection, group)


def reap(connection: sqlite3.Connection, group: str, lives: Callable[[str], bool]) -> list[str]:
    """Take dead members out, distribute anew if there were any, and return their incarnations."""
    dead = [incarnation for incarnation in incarnations(connection, group) if not lives(incarnation)]
    for incarnation in dead:
        connection.execute("DELETE FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation))
    if dead:
        distribute(connection, group)
    return dead


def incarnations(connection: sqlite3.Connection, group: str) -> list[str]:
    """Return the incarnations of all members, dead ones too."""
    rows = connection.execute("SELECT incarnation FROM members WHERE group_name = ?", (group,))
    return [incarnation for (incarnation,) in rows]


def distribute(connection: sqlite3.Connection, group: str) -> None:
    """Begin a generation: give every partition to its member, and leave those who keep theirs undisturbed."""
    connection.execute("UPDATE groups_ SET generation = generation + 1 WHERE name = ?", (group,))
    generation = generation_of(connection, group)
    wanted = _wanted(connection, group)
    owned = dict(connection.execute("SELECT partition_id, incarnation FROM owners WHERE group_name = ?", (group,)))
    connection.executemany(
        "DELETE FROM owners WHERE group_name = ? AND partition_id = ?",
        [(group, partition_id) for partition_id in owned.keys() - wanted.keys()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)",
        [
            (group, partition_id, incarnation, generation)
            for partition_id, incarnation in wanted.items()
            if owned.get(partition_id) != incarnation
        ],
    )


def _wanted(connection: sqlite3.Connection, group: str) -> dict[int, str]:
    members = connection.execute(
        "SELECT incarnation, topic_ids FROM members WHERE group_name = ? ORDER BY member", (group,)
    )
    readers: dict[int, list[str]] = {}
    for incarnation, topic_ids in members:
        for topic_id in topic_ids.split():
            readers.setdefault(int(topic_id), []).append(incarnation)
    wanted: dict[int, str] = {}
    for topic_id, of_topic in readers.items():
        for partition_id, partition in connection.execute(
            "SELECT id, partition FROM partitions WHERE topic_id = ?", (topic_id,)
        ):
            wanted[partition_id] = of_topic[partition % len(of_topic)]
    return wanted


def generation_of(connection: sqlite3.Connection, group: str) -> int:
    """Return the group's generation; 0 before anybody joined."""
    row = connection.execute("SELECT generation FROM groups_ WHERE name = ?", (group,)).fetchone()
    return int(row[0]) if row else 0


def owned_by(connection: sqlite3.Connection, group: str, incarnation: str) -> dict[int, int] | None:
    """Return, by partition id, since which generation it is this incarnation's; None if that is no member."""
    member = connection.execute(
        "SELECT 1 FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    ).fetchone()
    if member is None:
        return None
    rows = connection.execute(
        "SELECT partition_id, since FROM owners WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    )
    return {int(partition_id): int(since) for partition_id, since in rows}


def keep_positions(
    connection: sqlite3.Connection, group: str, incarnation: str, owned: Mapping[int, int], positions: Mapping[int, int]
) -> None:
    """Commit positions by partition id. Raises Fenced unless each partition is still owned as in `owned`."""
    for partition_id in positions:
        row = connection.execute(
            "SELECT incarnation, since FROM owners WHERE group_name = ? AND partition_id = ?", (group, partition_id)
        ).fetchone()
        if row is None or row != (incarnation, owned.get(partition_id)):
            raise Fenced(f"another member of the group {group} owns a partition that positions were to be kept for")
    connection.executemany(
        "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
        [(group, partition_id, position) for partition_id, position in positions.items()],
    )
