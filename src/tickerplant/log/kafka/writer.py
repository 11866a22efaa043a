"""Writing to Kafka: one transactional producer for each name."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import Fenced, LogError, LogUnavailable, RecordTooLarge
from tickerplant.log.kafka import state
from tickerplant.log.kafka.connection import TRANSACTION_TIMEOUT_MS, checked, error_of, told, translate
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.port import MAX_RECORD_BYTES, Payload, Reader, TopicPartition

if TYPE_CHECKING:
    from tickerplant.log.kafka.log import KafkaLog

_log = structlog.get_logger(__name__)


class _Ended(LogError):
    """The producer has failed for good while its transaction was open; why is told when that is aborted."""


class KafkaTransaction:
    """An open transaction. What is appended goes to the broker at once, where nobody reads it before the commit."""

    def __init__(self, writer: KafkaWriter) -> None:
        self._writer = writer
        self.positions: list[tuple[KafkaReader, dict[TopicPartition, int]]] = []
        self.chunks: dict[tuple[TopicPartition, str], int] = {}
        self.last: dict[TopicPartition, int] = {}
        self.kept: dict[TopicPartition, int] = {}
        self.failed: KafkaError | None = None

    def append(self, topic: str, partition: int, value: Payload) -> None:
        """Append one record. Waits while the producer's queue is full, and raises LogUnavailable out of patience."""
        view = memoryview(value).cast("B")
        if len(view) > MAX_RECORD_BYTES:
            raise RecordTooLarge(f"a record of {len(view)} bytes; the log takes {MAX_RECORD_BYTES}")
        source = self._writer.check(topic, partition, keyed=False)
        self._writer.produce(topic, partition, None, bytes(view), self._delivered(source, self.last))

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Keep the newest value of a key, cut into chunks if it is long; None forgets it."""
        source = self._writer.check(topic, partition, keyed=True)
        former = self.chunks.get((source, key), self._writer.former_chunks(source, key))
        chunks = 0
        for message_key, part in state.messages(key, value, former):
            chunks += message_key[:1] == b"c"
            self._writer.produce(topic, partition, message_key, part, self._delivered(source, self.kept))
        self.chunks[source, key] = chunks

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Commit the reader's group to these positions."""
        if not isinstance(reader, KafkaReader) or reader.group is None:
            raise LogError("positions can be sent for a reader of this log with a group only")
        self.positions.append((reader, dict(positions)))

    def _delivered(
        self, source: TopicPartition, last: dict[TopicPartition, int]
    ) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failed = self.failed or error
            else:
                last[source] = max(last.get(source, -1), message.offset() or 0)

        return note


class KafkaWriter:
    """The writer of a name.

    The broker fences a producer both when a newer one takes its name and when its transaction has timed out (while a
    broker was away, say), and does not say which. So a name is claimed, with a record in the log's own topic, before
    its producer begins: a fenced writer whose claim still stands has only timed out, and may begin again.
    """

    def __init__(self, log: KafkaLog, name: str) -> None:
        self._log, self._name = log, name
        self._claim = log.claim(name)
        self._producer: Any = None
        self._open = False
        self._closed = False
        self._fenced = False
        self._undecided = False
        self._last: Mapping[TopicPartition, int] = {}
        self._begin_producer()

    def _begin_producer(self) -> None:
        cluster = self._log.cluster
        producer = checked(
            Producer,
            cluster.producer(
                **{
                    "transactional.id": self._log.named(self._name),
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
                }
            ),
        )
        with told(f"beginning as the writer {self._name}"):
            producer.init_transactions(cluster.patience_s)
        self._producer = producer

    def check(self, topic: str, partition: int, *, keyed: bool) -> TopicPartition:
        """Return the partition. Raises UnknownTopic, or LogError when the topic is of the other kind."""
        self._log.check(topic, partition, keyed=keyed)
        return TopicPartition(topic, partition)

    def former_chunks(self, source: TopicPartition, key: str) -> int:
        """Return how many chunks the former value of a key has left."""
        return self._log.chunk_count(source, key)

    def produce(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        delivered: Callable[[KafkaError | None, Message], None],
    ) -> None:
        """Hand one message to the producer, waiting while its queue is full."""
        deadline = time.monotonic() + self._log.cluster.patience_s
        with told(f"appending to {topic}/{partition}"):
            while True:
                try:
                    self._producer.produce(
                        self._log.named(topic), value, key, partition=partition, on_delivery=delivered
                    )
                    return
                except KafkaException as exception:
                    if error_of(exception).code() == KafkaError._FATAL:
                        raise _Ended(f"appending to {topic}/{partition}: {error_of(exception).str()}") from exception
                    raise
                except BufferError:
                    if time.monotonic() > deadline:
                        raise LogUnavailable(f"appending to {topic}: the brokers do not keep up") from None
                    self._producer.poll(0.05)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[KafkaTransaction]:
        """Begin; leaving the block commits, an exception in it aborts."""
        if self._closed:
            raise LogError(f"the writer {self._name} is closed")
        if self._open:
            raise LogError(f"the writer {self._name} has a transaction open already")
        if self._fenced:
            raise self._is_fenced()
        if self._producer is None:
            self._begin_producer()
        if self._undecided:
            self._decide()
        with told("beginning a transaction"):
            self._producer.begin_transaction()
        self._open = True
        transaction = KafkaTransaction(self)
        try:
            try:
                yield transaction
            except _Ended as ended:
                self._abort()
                raise self._why(ended) from ended
            except BaseException:
                self._abort()
                raise
            self._commit(transaction)
        finally:
            self._open = False

    def _commit(self, transaction: KafkaTransaction) -> None:
        """Commit everything, or raise with nothing known to be written.

        1. what was appended has arrived; 2. positions, each partition still its reader's; 3. the broker's commit.
        """
        patience_s = self._log.cluster.patience_s
        try:
            self._flush(transaction)  # Step 1
            if transaction.failed is not None:
                raise KafkaException(transaction.failed)
            for reader, positions in transaction.positions:  # Step 2
                reader.check_owned(positions)
                self._send_positions(
                    [KafkaPartition(self._log.named(p.topic), p.partition, at) for p, at in positions.items()],
                    reader.group_metadata(),
                )
            self._undecided = True
            self._producer.commit_transaction(patience_s)  # Step 3
            self._undecided = False
        except Fenced:
            self._abort()
            raise
        except KafkaException as exception:
            raise self._failed(error_of(exception)) from exception
        self._last = transaction.last
        self._log.note_chunks(transaction.chunks)
        self._log.note_written({source: last + 1 for source, last in transaction.kept.items()})

    def _flush(self, transaction: KafkaTransaction) -> None:
        """Wait until what was appended has arrived or failed.

        librdkafka tells a producer's end through several callbacks at once; one that goes wrong then (it has been seen
        with a logger) hides what the brokers said, which the delivery reports know too.
        """
        try:
            self._producer.flush(self._log.cluster.patience_s)
        except KafkaException:
            raise
        except Exception as error:
            if transaction.failed is None:
                raise LogUnavailable(f"writing as {self._name}: {type(error).__name__}: {error}") from error
            _log.warning("a callback failed", writer=self._name, error=str(error))

    def _send_positions(self, positions: list[KafkaPartition], metadata: Any) -> None:
        """Send a group's positions, and do not wait for ever.

        librdkafka 2.16 does not come back from this call, whatever its timeout, when the group's coordinator restarts
        in the middle of it. So it is made in a thread that is left behind then, with its producer, and the next
        transaction begins with a new one, which ends the old one's transaction. Raises LogUnavailable, KafkaException.
        """
        producer, failed = self._producer, []

        def send() -> None:
            try:
                producer.send_offsets_to_transaction(positions, metadata, TRANSACTION_TIMEOUT_MS / 1000)
            except KafkaException as exception:
                failed.append(exception)

        thread = threading.Thread(target=send, name="kafka-positions", daemon=True)
        thread.start()
        thread.join(TRANSACTION_TIMEOUT_MS / 1000 + 2.0)
        if thread.is_alive():
            self._producer = None
            raise LogUnavailable("the brokers do not take the group's positions; the transaction has timed out")
        if failed:
            raise failed[0]

    def _failed(self, error: KafkaError) -> LogError:
        """Bring the producer to where a new transaction can begin, as far as that goes; return what to raise."""
        told_error = translate(error, f"committing as the writer {self._name}")
        if error.fatal():
            self._undecided = False
            self._drop_producer()
            if isinstance(told_error, Fenced):
                return self._fenced_or_late(told_error)
            return LogUnavailable(f"{told_error}; the next transaction begins with a new producer")
        if error.txn_requires_abort() or not self._undecided:
            self._undecided = False
            self._abort()
            if self._fenced:  # a delivery report may say no more than that the queue was emptied; aborting says why
                return self._is_fenced()
        return told_error

    def _why(self, ended: _Ended) -> LogError:
        """Return what it means that the producer has ended: somebody has the name, or the transaction took too long."""
        self._drop_producer()
        if self._fenced:
            return self._is_fenced()
        return LogUnavailable(f"{ended}; the next transaction begins with a new producer")

    def _fenced_or_late(self, error: Fenced) -> LogError:
        try:
            if self._log.claim_stands(self._name, self._claim):
                return LogUnavailable(f"the transaction timed out at the broker: {error}")
        except LogUnavailable as unavailable:
            return unavailable
        self._fenced = True
        return self._is_fenced()

    def _is_fenced(self) -> Fenced:
        return Fenced(f"a newer writer has the name {self._name}; this one must stop")

    def _decide(self) -> None:
        """Finish the commit whose outcome was unknown; if it went through, say so before anything is written twice."""
        try:
            self._producer.commit_transaction(self._log.cluster.patience_s)
        except KafkaException as exception:
            raise self._failed(error_of(exception)) from exception
        self._undecided = False
        raise LogUnavailable("the former transaction was committed after all: begin again from the last commit")

    def _abort(self) -> None:
        try:
            self._producer.purge(in_queue=True, in_flight=False)
            self._producer.abort_transaction(self._log.cluster.patience_s)
            self._producer.poll(0)
        except KafkaException as exception:
            error = error_of(exception)
            _log.warning("abort failed; the broker will abort by itself", writer=self._name, error=error.str())
            self._drop_producer()
            if error.fatal() and isinstance(translate(error, "aborting"), Fenced):
                with contextlib.suppress(LogUnavailable):
                    self._fenced = not self._log.claim_stands(self._name, self._claim)

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()
                producer.poll(0)

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return the last committed transaction's last offsets."""
        return self._last

    def close(self) -> None:
        """Abort what is open."""
        if self._closed:
            return
        self._closed = True
        if self._open and self._producer is not None:
            self._abort()
        self._drop_producer()

    def __enter__(self) -> KafkaWriter:
        """Return the writer."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()
