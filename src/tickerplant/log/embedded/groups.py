"""Consumer groups: members, owners of partitions, and committed positions.

A member is alive while it holds its `liveness.LivenessLock`. A member that joins, leaves or finds a dead member
rebalances the group in one transaction. Partition i of a topic is assigned to member i % n of the n members that read
the topic, sorted by name. If all members read the same topics, one partition number of all these topics thus has one
owner.

`owners` stores the owner of each partition and the group generation of the assignment. A commit succeeds only if both
equal the values of the member's last `poll`. A member that lost a partition therefore cannot commit for the partition,
even if the member owns the partition again. A member that retained the partition can commit for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

from tickerplant.core.errors import Fenced


def join(connection: sqlite3.Connection, group: str, member: str, incarnation: str, topic_ids: Iterable[int]) -> None:
    """Make this incarnation the member of that name, replacing any earlier incarnation, and rebalance."""
    connection.execute("INSERT INTO groups_ VALUES (?, 0) ON CONFLICT DO NOTHING", (group,))
    connection.execute(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)",
        (group, member, incarnation, " ".join(map(str, sorted(topic_ids)))),
    )
    rebalance(connection, group)


def leave(connection: sqlite3.Connection, group: str, incarnation: str) -> None:
    """Remove the incarnation from the group and rebalance. Does nothing if it is not a member."""
    gone = connection.execute(
        "DELETE FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    ).rowcount
    if gone:
        rebalance(connection, group)


def evict_dead_members(connection: sqlite3.Connection, group: str, is_alive: Callable[[str], bool]) -> list[str]:
    """Remove dead members, rebalance if there were any, and return their incarnations."""
    dead = [incarnation for incarnation in incarnations(connection, group) if not is_alive(incarnation)]
    for incarnation in dead:
        connection.execute("DELETE FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation))
    if dead:
        rebalance(connection, group)
    return dead


def incarnations(connection: sqlite3.Connection, group: str) -> list[str]:
    """Return the incarnations of all members, including dead members."""
    rows = connection.execute("SELECT incarnation FROM members WHERE group_name = ?", (group,))
    return [incarnation for (incarnation,) in rows]


def rebalance(connection: sqlite3.Connection, group: str) -> None:
    """Begin a group generation: assign each partition to its member.

    A partition that keeps its owner also keeps the generation stored in `owners`.
    """
    connection.execute("UPDATE groups_ SET generation = generation + 1 WHERE name = ?", (group,))
    generation = generation_of(connection, group)
    target = _target_assignment(connection, group)
    owned = dict(connection.execute("SELECT partition_id, incarnation FROM owners WHERE group_name = ?", (group,)))
    connection.executemany(
        "DELETE FROM owners WHERE group_name = ? AND partition_id = ?",
        [(group, partition_id) for partition_id in owned.keys() - target.keys()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)",
        [
            (group, partition_id, incarnation, generation)
            for partition_id, incarnation in target.items()
            if owned.get(partition_id) != incarnation
        ],
    )


def _target_assignment(connection: sqlite3.Connection, group: str) -> dict[int, str]:
    members = connection.execute(
        "SELECT incarnation, topic_ids FROM members WHERE group_name = ? ORDER BY member", (group,)
    )
    readers: dict[int, list[str]] = {}
    for incarnation, topic_ids in members:
        for topic_id in topic_ids.split():
            readers.setdefault(int(topic_id), []).append(incarnation)
    target: dict[int, str] = {}
    for topic_id, of_topic in readers.items():
        for partition_id, partition in connection.execute(
            "SELECT id, partition FROM partitions WHERE topic_id = ?", (topic_id,)
        ):
            target[partition_id] = of_topic[partition % len(of_topic)]
    return target


def generation_of(connection: sqlite3.Connection, group: str) -> int:
    """Return the group's generation; 0 before the first member joins."""
    row = connection.execute("SELECT generation FROM groups_ WHERE name = ?", (group,)).fetchone()
    return int(row[0]) if row else 0


def owned_by(connection: sqlite3.Connection, group: str, incarnation: str) -> dict[int, int] | None:
    """Return the partitions of an incarnation, and the generation of each assignment; None if it is not a member."""
    member = connection.execute(
        "SELECT 1 FROM members WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    ).fetchone()
    if member is None:
        return None
    rows = connection.execute(
        "SELECT partition_id, since FROM owners WHERE group_name = ? AND incarnation = ?", (group, incarnation)
    )
    return {int(partition_id): int(since) for partition_id, since in rows}


def commit_positions(
    connection: sqlite3.Connection, group: str, incarnation: str, owned: Mapping[int, int], positions: Mapping[int, int]
) -> None:
    """Commit positions by partition id. Raises Fenced unless owner and generation of each partition match `owned`."""
    for partition_id in positions:
        row = connection.execute(
            "SELECT incarnation, since FROM owners WHERE group_name = ? AND partition_id = ?", (group, partition_id)
        ).fetchone()
        if row is None or row != (incarnation, owned.get(partition_id)):
            raise Fenced(
                f"a partition of this commit is not assigned to this member of group {group}, or was reassigned since "
                "the last poll; restart the member, which resumes from its last commit"
            )
    connection.executemany(
        "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
        [(group, partition_id, position) for partition_id, position in positions.items()],
    )
