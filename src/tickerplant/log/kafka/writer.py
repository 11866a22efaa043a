"""Writing: one transactional producer for each writer's name."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import Fenced, LogError, LogUnavailable, RecordTooLarge
from tickerplant.log.kafka import state
from tickerplant.log.kafka.connection import TRANSACTION_TIMEOUT_MS, checked, error_of, translate, translate_errors
from tickerplant.log.kafka.context import LogContext
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.port import MAX_RECORD_BYTES, Payload, Reader, TopicPartition

_log = structlog.get_logger(__name__)

SUSPECT_S: Final = 5.0
"""Duration of a commit in seconds above which its request may have been sent twice."""


class _ProducerFailed(LogError):
    """The producer failed permanently inside a transaction. Aborting the transaction returns the cause."""


class KafkaTransaction:
    """An open transaction. Appended records are sent at once; readers see them only after the commit."""

    def __init__(self, writer: KafkaWriter) -> None:
        self._writer = writer
        self.positions: list[tuple[KafkaReader, dict[TopicPartition, int]]] = []
        self.chunks: dict[tuple[TopicPartition, str], int] = {}
        self.last: dict[TopicPartition, int] = {}
        self.last_states: dict[TopicPartition, int] = {}
        self.failed: KafkaError | None = None

    def append(self, topic: str, partition: int, value: Payload) -> None:
        """Append one record. Blocks while the producer's queue is full; raises LogUnavailable after `patience_s`."""
        view = memoryview(value).cast("B")
        if len(view) > MAX_RECORD_BYTES:
            raise RecordTooLarge(
                f"a record of {len(view)} bytes exceeds the log's maximum of {MAX_RECORD_BYTES}; split it"
            )
        source = self._writer.check(topic, partition, keyed=False)
        self._writer.produce(topic, partition, None, bytes(view), self._delivered(source, self.last))

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Set the value of a key, in chunks if it is long; None deletes the key."""
        source = self._writer.check(topic, partition, keyed=True)
        previous = self.chunks.get((source, key), self._writer.previous_chunks(source, key))
        chunks = 0
        for message_key, part in state.messages(key, value, previous):
            chunks += message_key[:1] == b"c"
            self._writer.produce(topic, partition, message_key, part, self._delivered(source, self.last_states))
        self.chunks[source, key] = chunks

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Add these positions of the reader's group to the commit."""
        if not isinstance(reader, KafkaReader) or reader.group is None:
            raise LogError("send_positions needs a reader of this log that has a group")
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
    """A named writer. A newer writer with the same name fences it. Use it from one thread at a time.

    The broker fences a producer in two cases: a newer producer has its name, or its transaction timed out. The error is
    the same in both cases. Each writer therefore claims its name, with a record in the log's own topic, before its
    producer starts. If a fenced writer's claim is still the newest, its transaction only timed out, and it may start
    again.

    A request to end a transaction may reach a frozen broker late, in the next transaction of the same producer epoch.
    It then ends that transaction (KIP-890). The library librdkafka cannot prevent this. A writer therefore replaces its
    producer after a transaction whose requests may have been lost or sent twice. A new producer increments the epoch.
    """

    def __init__(self, context: LogContext, name: str) -> None:
        self._context, self._name = context, name
        self._claim = context.claim(name)
        self._producer: Any = None
        self._open = False
        self._closed = False
        self._is_fenced = False
        self._is_undecided = False
        self._is_troubled = False
        self._last: Mapping[TopicPartition, int] = {}
        self._start_producer()

    def _start_producer(self) -> None:
        """Start a producer. The brokers complete or abort the name's previous transaction before this call returns."""
        cluster = self._context.cluster
        producer = checked(
            Producer,
            cluster.producer(
                **{
                    "transactional.id": self._context.named(self._name),
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "error_cb": self._on_error,
                }
            ),
        )
        with translate_errors(f"starting the writer {self._name}"):
            producer.init_transactions(cluster.patience_s)
        self._producer = producer

    def _on_error(self, error: KafkaError) -> None:
        self._is_troubled = True
        self._context.cluster.errors.note(error)

    def _replace_producer(self) -> None:
        """Start a new producer in place of a dropped producer. Raises Fenced if a newer writer has the name."""
        self._is_fenced = not self._context.is_claimed_by(self._name, self._claim)
        if self._is_fenced:
            raise self._fenced_error()
        self._start_producer()

    def check(self, topic: str, partition: int, *, keyed: bool) -> TopicPartition:
        """Return the topic partition. Raises UnknownTopic, or LogError if `keyed` does not fit the topic."""
        self._context.check(topic, partition, keyed=keyed)
        return TopicPartition(topic, partition)

    def previous_chunks(self, source: TopicPartition, key: str) -> int:
        """Return the count of chunks that earlier values of a key left."""
        return self._context.chunk_count(source, key)

    def produce(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        delivered: Callable[[KafkaError | None, Message], None],
    ) -> None:
        """Pass one message to the producer. Blocks while its queue is full, at most `patience_s`."""
        deadline = time.monotonic() + self._context.cluster.patience_s
        with translate_errors(f"appending to {topic}/{partition}"):
            while True:
                try:
                    self._producer.produce(
                        self._context.named(topic), value, key, partition=partition, on_delivery=delivered
                    )
                    return
                except KafkaException as exception:
                    if error_of(exception).code() == KafkaError._FATAL:
                        raise _ProducerFailed(
                            f"appending to {topic}/{partition}: {error_of(exception).str()}"
                        ) from exception
                    raise
                except BufferError:
                    if time.monotonic() > deadline:
                        raise LogUnavailable(f"appending to {topic}: the brokers are too slow; try again") from None
                    self._producer.poll(0.05)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[KafkaTransaction]:
        """Begin a transaction. Leaving the block commits it; an exception in the block aborts it."""
        if self._closed:
            raise LogError(f"the writer {self._name} is closed")
        if self._open:
            raise LogError(f"the writer {self._name} already has an open transaction")
        if self._is_fenced:
            raise self._fenced_error()
        if self._producer is None:
            self._replace_producer()
        if self._is_undecided:
            self._is_undecided = False
            raise LogUnavailable(
                f"the outcome of the previous transaction of {self._name} was unknown and is decided now: "
                "resume from the last commit"
            )
        self._producer.poll(0)
        self._is_troubled = False
        with translate_errors("beginning a transaction"):
            self._producer.begin_transaction()
        self._open = True
        transaction = KafkaTransaction(self)
        try:
            try:
                yield transaction
            except _ProducerFailed as failure:
                self._abort()
                raise self._cause_of(failure) from failure
            except BaseException:
                self._abort()
                self._drop_troubled_producer()
                raise
            self._commit(transaction)
        finally:
            self._open = False

    def _commit(self, transaction: KafkaTransaction) -> None:
        """Commit everything. After an exception other than Fenced, the outcome may be unknown.

        1. Wait until the brokers have all records, 2. send positions, if their readers still own the partitions,
        3. commit at the broker.
        """
        patience_s = self._context.cluster.patience_s
        began = time.monotonic()
        try:
            self._flush(transaction)  # Step 1
            if transaction.failed is not None:
                raise KafkaException(transaction.failed)
            for reader, positions in transaction.positions:  # Step 2
                reader.check_owned(positions)
                self._send_positions(
                    [
                        KafkaPartition(self._context.named(p.topic), p.partition, at, self._name)  # see `abandoned`
                        for p, at in positions.items()
                    ],
                    reader.group_metadata(),
                )
            self._is_undecided = True
            self._producer.commit_transaction(patience_s)  # Step 3
            self._is_undecided = False
        except Fenced:
            self._abort()
            self._drop_troubled_producer()
            raise
        except KafkaException as exception:
            raise self._failed(transaction, error_of(exception)) from exception
        except BaseException:  # the producer's transaction is still open, or its outcome is unknown
            if self._is_undecided:
                self._context.forget_chunks(transaction.chunks)
            self._drop_producer()
            raise
        self._drop_troubled_producer(time.monotonic() - began)
        self._last = transaction.last
        self._context.note_chunks(transaction.chunks)
        self._context.note_written({source: last + 1 for source, last in transaction.last_states.items()})

    def _flush(self, transaction: KafkaTransaction) -> None:
        """Wait until the brokers have accepted or rejected all records.

        When a producer fails, librdkafka calls several callbacks at once. An exception in one of them, such as a
        logger's, hides the brokers' error. The delivery reports contain that error too.
        """
        try:
            self._producer.flush(self._context.cluster.patience_s)
        except KafkaException:
            raise
        except Exception as error:
            if transaction.failed is None:
                raise LogUnavailable(f"writing as {self._name}: {type(error).__name__}: {error}") from error
            _log.warning(
                "a callback of the Kafka client failed; the transaction fails with the error of the brokers",
                writer=self._name, error=str(error),
            )  # fmt: skip

    def _send_positions(self, positions: list[KafkaPartition], metadata: Any) -> None:
        """Send a group's positions, with a reliable timeout.

        In librdkafka 2.16 this call never returns, despite its timeout, if the group's coordinator restarts during the
        call. A thread therefore makes the call. After a timeout the thread and its producer are abandoned. The next
        transaction starts with a new producer, which ends the old transaction. Raises LogUnavailable after a timeout or
        an error of a callback, and KafkaException for an error of the brokers.
        """
        producer, failed = self._producer, list[BaseException]()

        def send() -> None:
            try:
                producer.send_offsets_to_transaction(positions, metadata, TRANSACTION_TIMEOUT_MS / 1000)
            except BaseException as error:  # a lost error would commit the outputs without their positions
                failed.append(error)

        thread = threading.Thread(target=send, name="kafka-positions", daemon=True)
        thread.start()
        thread.join(TRANSACTION_TIMEOUT_MS / 1000 + 2.0)
        if thread.is_alive():
            self._producer = None
            raise LogUnavailable(
                "the brokers did not accept the group's positions in time; the transaction has timed out"
            )
        if failed and not isinstance(failed[0], KafkaException):  # the error of a callback: see `_flush`
            error = failed[0]
            raise LogUnavailable(f"sending positions as {self._name}: {type(error).__name__}: {error}") from error
        if failed:
            raise failed[0]

    def _failed(self, transaction: KafkaTransaction, error: KafkaError) -> LogError:
        """Drop the producer of a failed transaction; return the error to raise.

        If the brokers may have committed the transaction, the next call of `transaction` decides the outcome. That call
        raises LogUnavailable even if it succeeds, because the caller must then read the last commit.
        """
        translated = translate(error, f"committing as the writer {self._name}")
        if self._is_undecided and error.txn_requires_abort():
            self._is_undecided = False
        if self._is_undecided:
            self._context.forget_chunks(transaction.chunks)
        if error.fatal():
            self._drop_producer()
            if isinstance(translated, Fenced):
                return self._fenced_or_timed_out(translated)
            return LogUnavailable(f"{translated}; the next transaction uses a new producer")
        if not self._is_undecided:
            self._abort()
        self._drop_producer()
        if self._is_fenced:  # the delivery report may contain only the purge; the abort returned the cause
            return self._fenced_error()
        return translated

    def _cause_of(self, failure: _ProducerFailed) -> LogError:
        """Return the error for a failed producer: Fenced if a newer writer has the name, else LogUnavailable."""
        self._drop_producer()
        if self._is_fenced:
            return self._fenced_error()
        return LogUnavailable(f"{failure}; the next transaction uses a new producer")

    def _fenced_or_timed_out(self, error: Fenced) -> LogError:
        try:
            if self._context.is_claimed_by(self._name, self._claim):
                return LogUnavailable(f"the transaction timed out at the broker: {error}")
        except LogUnavailable as unavailable:
            return unavailable
        self._is_fenced = True
        return self._fenced_error()

    def _fenced_error(self) -> Fenced:
        return Fenced(f"a newer writer has the name {self._name}; stop this writer")

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(self._context.cluster.patience_s)
            self._producer.poll(0)
        except KafkaException as exception:
            error = error_of(exception)
            _log.warning("abort failed; the broker will abort the transaction", writer=self._name, error=error.str())
            self._drop_producer()
            if error.fatal() and isinstance(translate(error, "aborting"), Fenced):
                with contextlib.suppress(LogUnavailable):
                    self._is_fenced = not self._context.is_claimed_by(self._name, self._claim)

    def _drop_troubled_producer(self, took_s: float = 0.0) -> None:
        """Drop the producer if one of the transaction's requests may have been sent twice: see `KafkaWriter`."""
        if self._producer is not None:
            self._producer.poll(0)  # calls `_on_error`
            if self._is_troubled or took_s > SUSPECT_S:
                self._drop_producer()

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()
                producer.poll(0)

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return the last offset of each partition to which the last committed transaction appended."""
        return self._last

    def close(self) -> None:
        """Close the writer. An open transaction is aborted."""
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
        """Close the writer."""
        self.close()
