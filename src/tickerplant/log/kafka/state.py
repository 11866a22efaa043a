"""State values in a compacted topic: chunks, followed by a manifest.

A manifest's message key is `m` and the name; a chunk's message key is `c`, the index and the name. A manifest contains
a value of at most `CHUNK_BYTES` itself. The manifest of a longer value contains the size, the count of chunks, and the
id with which each chunk begins. All messages are written in one transaction, so a reader receives all or none.

The chunks of the next value have the same keys, so compaction removes the old chunks. Tombstones delete the chunks that
a shorter value no longer needs. If a chunk's id differs from the manifest's id, compaction has removed chunks of that
manifest. The reader then reads the partition again.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Final

import msgspec
from confluent_kafka import Message

from tickerplant.core.errors import LogError
from tickerplant.log.kafka import range_reader
from tickerplant.log.kafka.consumer_pool import ConsumerPool
from tickerplant.log.port import Payload

CHUNK_BYTES: Final = 4 << 20
"""Maximum bytes of a chunk, well below the message limit. A snapshot of 1 GB is 256 messages."""

_ID_BYTES: Final = 16


class Manifest(msgspec.Struct, array_like=True):
    """The newest message of a name: the value itself, or the count and id of its chunks."""

    id: bytes
    size: int
    chunks: int
    value: bytes = b""


def manifest_key(name: str) -> bytes:
    """Return the message key of a value's manifest."""
    return b"m" + name.encode()


def chunk_key(name: str, index: int) -> bytes:
    """Return the message key of a chunk."""
    return b"c%08d" % index + name.encode()


def messages(name: str, value: Payload | None, previous_chunks: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the (key, value) messages of a value, in the order to write them; None deletes the value."""
    chunks = 0
    manifest = None
    if value is not None:
        view = memoryview(value).cast("B")
        if len(view) <= CHUNK_BYTES:
            manifest = Manifest(b"", len(view), 0, bytes(view))
        else:
            chunks = -(-len(view) // CHUNK_BYTES)
            manifest = Manifest(uuid.uuid4().bytes, len(view), chunks)
            for index in range(chunks):
                part = view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
                yield chunk_key(name, index), b"".join((manifest.id, part))
    for index in range(chunks, previous_chunks):
        yield chunk_key(name, index), None
    yield manifest_key(name), None if manifest is None else msgspec.msgpack.encode(manifest)


class Partition:
    """The content of one partition of a state topic, as far as it was read: manifests, and offsets of chunks.

    Thread-safe. One thread reads at a time, which may take seconds. `note_written` never waits for a reading thread.
    """

    def __init__(self, consumers: ConsumerPool, topic: str, partition: int) -> None:
        self._consumers, self._topic, self._partition = consumers, topic, partition
        self._position = 0
        self._written = 0  # end offset of this process's commits here; reads wait until this offset
        self._noting, self._reading = threading.Lock(), threading.Lock()
        self._manifests: dict[str, tuple[int, Manifest]] = {}
        self._chunks: dict[str, dict[int, tuple[int, bytes]]] = {}

    def chunk_count(self, name: str) -> int:
        """Return the highest chunk index of earlier values of a name plus 1; 0 if there are no chunks."""
        with self._reading:
            return max(self._chunks.get(name, {}), default=-1) + 1

    def names(self) -> list[str]:
        """Return the names that have a value, sorted."""
        with self._reading:
            self._read_on()
            return sorted(self._manifests)

    def note_written(self, end: int) -> None:
        """Store the end offset of this process's commits, so that later reads include these commits."""
        with self._noting:
            self._written = max(self._written, end)

    def get(self, name: str) -> bytes | None:
        """Return the newest committed value, or None. Raises LogError if its chunks stay incomplete."""
        with self._reading:
            return self._get(name)

    def _get(self, name: str) -> bytes | None:
        for _ in range(3):
            self._read_on()
            found = self._manifests.get(name)
            if found is None:
                return None
            offset, manifest = found
            if not manifest.chunks:
                return manifest.value
            value = self._collect(name, offset, manifest)
            if value is not None:
                return value
            self._position = 0  # compaction removed chunks that were read before: read again
            self._manifests, self._chunks = {}, {}
        raise LogError(f"the value {name} in {self._topic}/{self._partition} has missing chunks")

    def _collect(self, name: str, end: int, manifest: Manifest) -> bytes | None:
        known = self._chunks.get(name, {})
        wanted = {chunk_key(name, index): index for index in range(manifest.chunks)}
        if any(known.get(index, (0, b""))[1] != manifest.id for index in wanted.values()):
            return None
        parts: list[bytes] = [b""] * manifest.chunks
        start = min(known[index][0] for index in wanted.values())
        for message in range_reader.messages(self._consumers, self._topic, self._partition, start, end):
            key, value = message.key(), message.value()
            if key is not None and key in wanted and value is not None and value[:_ID_BYTES] == manifest.id:
                parts[wanted[key]] = value[_ID_BYTES:]
        payload = b"".join(parts)
        return payload if len(payload) == manifest.size else None

    def _read_on(self) -> None:
        for message in range_reader.messages(
            self._consumers, self._topic, self._partition, self._position, None, at_least=self._written
        ):
            self._apply(message)

    def _apply(self, message: Message) -> None:
        key, value, offset = message.key() or b"", message.value(), message.offset() or 0
        self._position = offset + 1
        if key[:1] == b"m":
            name = key[1:].decode()
            if value is None:
                self._manifests.pop(name, None)
            else:
                self._manifests[name] = (offset, msgspec.msgpack.decode(value, type=Manifest))
        elif key[:1] == b"c":
            name, index = key[9:].decode(), int(key[1:9])
            if value is None:
                self._chunks.get(name, {}).pop(index, None)
            else:
                self._chunks.setdefault(name, {})[index] = (offset, value[:_ID_BYTES])
