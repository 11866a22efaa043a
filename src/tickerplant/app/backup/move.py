"""Move a stopped embedded plant to Kafka and to another database, with all history.

The settings name the new log and the new database. Order of steps:

1. Lock the data folder of the embedded plant.
2. Create the topics and the tables.
3. Bind the new database to the former log. No service starts on it from here on.
4. Copy the records, each with its offset, and the values of the state topics.
5. Copy retention holds and the positions of all groups.
6. Copy the rows, and bind the new database to the new log, in one transaction.

A killed command is repeated, and continues. The embedded plant does not change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from tickerplant.core import faults
from tickerplant.core.errors import BadInput, ConfigError, LogError, MigrationError, UnknownTopic
from tickerplant.core.schemas import RAW, TOPIC, TOPICS

if TYPE_CHECKING:
    from tickerplant.app.backup.manifest import Progress
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.embedded.log import EmbeddedLog
    from tickerplant.log.kafka.log import KafkaLog
    from tickerplant.log.port import ConsumedRecord, Identity, TopicPartition

LABELS: Final = ("event log", "database")


@dataclass
class Moved:
    """Result of a move: the id of the new log, and counts of what was copied."""

    log_id: str = ""
    records: int = 0
    states: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    """Tables of the embedded database that are not the plant's. They are not copied."""


def move(settings: Settings, folder: Path, progress: Progress) -> Moved:
    """Copy the embedded plant in `folder` to the log and the database of the settings.

    Raises ConfigError for settings of an embedded log or database, BadInput for a folder without an embedded plant, and
    FolderHeld while the plant runs. Raises StoreMismatch or LogError for a database or topics with other contents, and
    MigrationError or LogError for a folder of an older version.
    """
    from tickerplant.app.config.store_access import StoreAccessSettings
    from tickerplant.app.runtime.plant import folder_alone
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.log import open_log
    from tickerplant.app.wiring.store import check_log, migrate
    from tickerplant.log.embedded.log import EmbeddedLog
    from tickerplant.log.kafka.log import KafkaLog

    if settings.embedded_log or settings.embedded_store:
        which = "log" if settings.embedded_log else "store"
        raise ConfigError(f"`move` needs the new log and the new database in the settings log and store; set {which}")
    source = settings.model_copy(
        update={
            "data": folder.expanduser().absolute(), "log": "embedded:", "store": SecretStr("embedded:"),
            "store_access": StoreAccessSettings(),
        }
    )  # fmt: skip
    if not (source.data / "market.log").exists() or not (source.data / "postgres").exists():
        raise BadInput(
            f"{source.data} is not the data folder of an embedded plant; name one with market.log and postgres"
        )
    dsn = settings.store.get_secret_value()
    with (
        folder_alone(source),
        open_readonly.store_of(source) as source_dsn,
        open_readonly.log_of(source) as former,
        open_log(settings, make_topics=False) as new,
    ):
        assert isinstance(former, EmbeddedLog)
        assert isinstance(new, KafkaLog)
        _require_this_version(source_dsn, former)
        check_log(source_dsn, former)
        migrate(dsn, settings)
        moved = Moved()
        identity = _prepare(dsn, former, new)
        _copy_log(former, new, moved, progress)
        faults.reach("move.store.before")
        asyncio.run(_copy_store(source_dsn, dsn, identity, moved, progress))
        check_log(dsn, new)
    return moved


def _prepare(dsn: str, former: EmbeddedLog, new: KafkaLog) -> Identity:
    """Create the topics, bind the database to the former log, and return the identity of the new log.

    Raises StoreMismatch for a database with contents, before it creates topics. Raises LogError for topics with
    records, unless an interrupted move has bound the database.
    """
    from tickerplant.app.wiring.store import with_store
    from tickerplant.store.repositories.positions import Log
    from tickerplant.store.transfer import claim

    identity = former.identity()
    log = Log(identity.log_id, identity.generation)
    is_claimed = with_store(dsn, lambda store: claim(store, log, check_only=True))
    new.create_topics(TOPICS, former.partitions(RAW), generation=identity.generation)
    if not is_claimed:
        used = [spec.name for spec in TOPICS if any(end for _, end in new.offsets(spec.name).values())]
        if used:
            raise LogError(
                f"the topic {used[0]} has records already; use other topics with kafka://…?prefix=NAME, or delete the "
                "plant's topics"
            )
    made = new.identity()
    if made.generation != identity.generation:
        raise LogError(
            f"the topics exist with generation {made.generation}, and the embedded log has {identity.generation}; use "
            "other topics with kafka://…?prefix=NAME"
        )
    with_store(dsn, lambda store: claim(store, log))
    faults.reach("move.claim.after")
    return made


def _require_this_version(source_dsn: str, former: EmbeddedLog) -> None:
    """Raise MigrationError or LogError if the embedded database or log lacks tables or topics of this version."""
    from tickerplant.app.wiring.store import migration_status

    advice = "start and stop the plant once with this version"
    pending = migration_status(source_dsn).pending
    if pending:
        raise MigrationError(f"the embedded database lacks migration {pending[0]}; {advice}")
    for spec in TOPICS:
        try:
            former.partitions(spec.name)
        except UnknownTopic:
            raise LogError(f"the embedded log lacks the topic {spec.name}; {advice}") from None


def _copy_log(former: EmbeddedLog, new: KafkaLog, moved: Moved, progress: Progress) -> None:
    from tickerplant.log.kafka.transfer import RecordCopier, commit_positions

    bounds = {source: found for spec in TOPICS if not spec.keyed for source, found in former.offsets(spec.name).items()}
    total, done = sum(end - first for first, end in bounds.values()), 0
    copier = RecordCopier(new)
    for source, (first, end) in bounds.items():

        def read(offset: int, source: TopicPartition = source, end: int = end) -> Iterator[ConsumedRecord]:
            return former.read_range(source, offset, end)

        def report(offset: int, first: int = first, before: int = done) -> None:
            faults.reach("move.log.step")
            progress("event log", before + offset - first, total)

        copier.copy(source, (first, end), read, report)
        done += end - first
        report(end)
    moved.records = done
    faults.reach("move.records.after")
    with new.writer("move") as writer:
        for spec in TOPICS:
            for partition in range(former.partitions(spec.name)) if spec.keyed else ():
                for key in former.state_keys(spec.name, partition):
                    with writer.transaction() as transaction:
                        transaction.put_state(spec.name, partition, key, former.get_state(spec.name, partition, key))
                    moved.states += 1
    with former.snapshot() as snapshot:
        for holder, positions in snapshot.holds().items():
            new.hold_retention(holder, positions)
    for group in former.groups():
        held = {source: at for source, at in former.committed(group).items() if source.topic in TOPIC}
        commit_positions(new, group, held)
    moved.log_id = new.identity().log_id


async def _copy_store(source_dsn: str, dsn: str, identity: Identity, moved: Moved, progress: Progress) -> None:
    from tickerplant.store import Store
    from tickerplant.store.repositories.positions import Log
    from tickerplant.store.transfer import transfer

    def report(_table: str, count: int) -> None:
        faults.reach("move.store.step")
        progress("database", count, None)

    store = await Store.open(dsn, min_size=1, max_size=1)
    try:
        done = await transfer(source_dsn, store, Log(identity.log_id, identity.generation), report)
    finally:
        await store.close()
    moved.rows, moved.skipped = done.rows, done.skipped
