"""Programs for tests to kill: `python -m tests.conformance.child ROLE URL ...`."""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path

from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import LogUnavailable
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.kafka import writer as kafka_writer
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.kafka.writer import KafkaWriter
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog


def emit(text: str) -> None:
    print(text, flush=True)


def member(log: EventLog, group: str) -> None:
    """Run a member that polls but never commits; print its partitions after each change."""
    with log.reader([RAW], group=group) as reader:
        last: frozenset[object] = frozenset()
        while True:
            reader.poll(timeout_s=0.2)
            if reader.assignment() != last:
                last = reader.assignment()
                emit("owns " + " ".join(str(source.partition) for source in sorted(reader.assignment())))


def stuck(log: EventLog, name: str) -> None:
    """Open a transaction, append a record, put a state value, and wait for a kill."""
    kafka_writer.TRANSACTION_TIMEOUT_MS = 600_000  # the broker keeps an open transaction for this time
    with log.writer(name) as writer, writer.transaction() as transaction:
        transaction.append(RAW, 0, b"never committed")
        transaction.put_state(STATE_AGGREGATION, 0, "key", b"never committed")
        if isinstance(writer, KafkaWriter):
            writer._producer.flush()  # the brokers have the records
        emit("open")
        time.sleep(600)


def copier(log: EventLog, name: str) -> None:
    """Copy raw to ohlcv exactly once, and store the last value as state; print a line after each commit."""
    with log.reader([RAW], group="copier", member=name) as reader, log.writer(name) as writer:
        while True:
            found = reader.poll(timeout_s=0.2, max_records=7)
            if not found:
                continue
            with writer.transaction() as transaction:
                for record in found:
                    transaction.append(OHLCV, record.partition, record.value)
                    last = {record.source: record.offset + 1}
                    transaction.put_state(STATE_AGGREGATION, record.partition, "last", record.value)
                    transaction.send_positions(reader, last)
            emit(f"copied {len(found)}")
            time.sleep(0.01)  # so that a kill can occur between two commits


def maker(log: EventLog) -> None:
    """Create the topics and print the identity of the log."""
    log.create_topics([TopicSpec(RAW, DAY_US), TopicSpec(STATE_AGGREGATION, None)], 3)
    identity = log.identity()
    emit(f"{identity.log_id} {identity.generation}")


def poller(log: EventLog, group: str) -> None:
    """Request a group's positions and members repeatedly with a short timeout, as `health` does.

    Print each changed answer, or `unavailable` without the log.
    """
    assert isinstance(log, KafkaLog)
    impatient = KafkaLog(log.cluster.bootstrap, topic_prefix=log.prefix, patience_s=1.0)
    last = ""
    while True:
        try:
            impatient.members(group)
            answer = " ".join(f"{tp.partition}:{position}" for tp, position in impatient.committed(group).items())
        except LogUnavailable:
            answer = "unavailable"
        if answer != last:
            last = answer
            emit(answer)


def abandoner(log: EventLog, group: str, name: str) -> None:
    """Copy a record, then send records and positions in a transaction that stays open until the process is killed."""
    kafka_writer.TRANSACTION_TIMEOUT_MS = 600_000  # the broker keeps an open transaction for this time
    with log.reader([RAW], group=group, member=name) as reader, log.writer(name) as writer:
        assert isinstance(reader, KafkaReader)
        assert isinstance(writer, KafkaWriter)
        while not (found := reader.poll(timeout_s=0.2, max_records=1)):
            pass
        with writer.transaction() as transaction:
            transaction.append(OHLCV, 0, found[0].value)
            transaction.send_positions(reader, {found[0].source: found[0].offset + 1})
        with writer.transaction() as transaction:
            transaction.append(OHLCV, 0, b"never committed")
            writer._producer.flush()
            source = KafkaPartition(f"{log.prefix}{RAW}", 0, found[0].offset + 2)  # type: ignore[attr-defined]
            writer._send_positions([source], reader.group_metadata())
            emit("open")
            time.sleep(600)


def leader(log: EventLog, name: str) -> None:
    """Wait for the leadership, print a line, and hold it until the process is killed."""
    with log.lead(name, "child") as leadership:
        while not leadership.poll(timeout_s=0.1):
            pass
        emit("leads")
        while leadership.poll(timeout_s=0.1):
            pass


def holder(path: str, for_s: str) -> None:
    """Hold the lock of the embedded log's writers for `for_s` seconds."""
    with Path(path).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        emit("held")
        time.sleep(float(for_s))


def main() -> None:
    role, url, *arguments = sys.argv[1:]
    if role == "holder":
        holder(*arguments)  # type: ignore[call-arg]
    else:
        log = open_log(url, config={"session.timeout.ms": "3000"} if url.startswith("kafka") else None)
        roles = {
            "member": member, "stuck": stuck, "copier": copier, "maker": maker, "poller": poller, "leader": leader,
            "abandoner": abandoner,
        }  # fmt: skip
        roles[role](log, *arguments)


if __name__ == "__main__":
    main()
