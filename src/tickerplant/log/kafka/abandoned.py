"""Transactions that a dead member of a group has left open.

Readers stop at an open transaction, and its positions are not stable. The brokers check every 10 s for transactions
that exceed their timeout of 10 s, and abort them. The new owner of a partition therefore ends the transaction itself: a
new producer with the writer's name aborts it. The metadata of a group's positions contains the name of the writer that
committed them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Final

import structlog
from confluent_kafka import KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.log.kafka.connection import TRANSACTION_TIMEOUT_MS, checked, translate_errors
from tickerplant.log.kafka.context import LogContext
from tickerplant.log.port import TopicPartition

ABANDONED_S: Final = 1.0
"""Seconds after which an open transaction counts as abandoned. Its writer does not own the partitions any more."""
_PAUSE_S: Final = 0.1

_log = structlog.get_logger(__name__)


def abort_abandoned(
    context: LogContext, group: str, sources: Sequence[TopicPartition], outputs: Collection[str], own: str
) -> list[str]:
    """Abort the transactions that former owners of these inputs left open; return the names of their writers.

    Their outputs are in the same partitions of `outputs`. `own` is the caller's writer. Blocks for about `ABANDONED_S`
    if there is an open transaction. Raises LogUnavailable if the group's coordinator does not answer.
    """
    deadline_s = time.monotonic() + ABANDONED_S
    blocked = _open_partitions(context, group, sources, outputs)
    while blocked and time.monotonic() < deadline_s:
        time.sleep(_PAUSE_S)
        blocked &= _open_partitions(context, group, sources, outputs)
    if not blocked:
        return []
    names = sorted(_committers(context, group, [tp for tp in sources if tp.partition in blocked]) - {"", own})
    for name in names:
        _log.warning("a member died in a transaction; aborting the transaction", group=group, writer=name)
        _abort(context, name)
    return names


def _open_partitions(
    context: LogContext, group: str, sources: Sequence[TopicPartition], outputs: Collection[str]
) -> set[int]:
    """Return the numbers of partitions with an open transaction, in the group's positions or in the outputs."""
    mine = {tp.partition for tp in sources}
    parts = [KafkaPartition(context.named(tp.topic), tp.partition) for tp in sources]
    _committers(context, group, sources)  # if this succeeds, the coordinator is not the cause of a timeout below
    try:
        with context.consumers.acquire(context.named(group)) as stable:
            stable.committed(parts, timeout=ABANDONED_S)
    except KafkaException:  # a transaction with positions is open
        return mine
    found: set[int] = set()
    for topic in outputs:
        ends = context.offsets(topic, read_uncommitted=True)
        found |= {tp.partition for tp, (_, end) in context.offsets(topic).items() if end < ends[tp][1]}
    return found & mine


def _committers(context: LogContext, group: str, sources: Sequence[TopicPartition]) -> set[str]:
    """Return the names of the writers that committed the group's positions last; "" for a position without a name."""
    parts = [KafkaPartition(context.named(tp.topic), tp.partition) for tp in sources]
    reading = context.consumers.acquire(context.named(group), **{"isolation.level": "read_uncommitted"})
    with translate_errors(f"reading the positions of {group}"), reading as consumer:
        found = consumer.committed(parts, timeout=context.cluster.patience_s)
    return {part.metadata or "" for part in found}


def _abort(context: LogContext, name: str) -> None:
    """Start and drop a producer with a writer's name. The brokers abort the name's open transaction first."""
    settings = {"transactional.id": context.named(name), "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
    producer = checked(Producer, context.cluster.producer(**settings))
    with translate_errors(f"aborting the transaction of {name}"):
        producer.init_transactions(context.cluster.patience_s)
