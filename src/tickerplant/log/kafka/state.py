"""Kept state in a compacted topic: values cut into chunks, the manifest last.

A message's key is `m` and the name for a manifest, `c`, the index and the name for a chunk. A value of at most
`CHUNK_BYTES` stands in its manifest; of a longer one the manifest names the size, the number of chunks and the id that
each chunk begins with. All are written in one transaction, so a reader of committed messages sees all or none; chunks
of the next value have the same keys, so that compaction takes the old ones away, and what a shorter value leaves over
is deleted with tombstones. A value whose chunks do not all carry the manifest's id is not trusted: compaction has
passed the reader, who reads again.
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
from tickerplant.log.kafka.connection import Cluster
from tickerplant.log.port import Payload

CHUNK_BYTES: Final = 4 << 20
"""Well below the message limit, and large enough that a snapshot of 1 GB is 256 messages."""

_ID_BYTES: Final = 16
_POSITIONS_PER_CALL = 500


class Manifest(msgspec.Struct, array_like=True):
    """What stands under a name: the value itself, or where its chunks are."""

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


def messages(name: str, value: Payload | None, former_chunks: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the (key, value) messages that keep a value, in the order to write them; None forgets it."""
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
    for index in range(chunks, former_chunks):
        yield chunk_key(name, index), None
    yield manifest_key(name), None if manifest is None else msgspec.msgpack.encode(manifest)


class Partition:
    """What one partition of a state topic holds, as far as it was read: manifests, and where chunks stand.

    For several threads: one reads at a time, which may take seconds, and no writer ever waits for it to say that it has
    committed.
    """

    def __init__(self, cluster: Cluster, topic: str, partition: int) -> None:
        self._cluster, self._topic, self._partition = cluster, topic, partition
        self._position = 0
        self._written = 0  # the end of what this process has committed here: reading goes at least so far
        self._noting, self._reading = threading.Lock(), threading.Lock()
        self._manifests: dict[str, tuple[int, Manifest]] = {}
        self._chunks: dict[str, dict[int, tuple[int, bytes]]] = {}

    def chunk_count(self, name: str) -> int:
        """Return how many chunks the value that was read last under a name may have left, whole or not."""
        with self._reading:
            return max(self._chunks.get(name, {}), default=-1) + 1

    def names(self) -> list[str]:
        """Return the names that have a value, sorted."""
        with self._reading:
            self._read_on()
            return sorted(self._manifests)

    def note_written(self, end: int) -> None:
        """Remember how far this process has committed: it reads its own writes."""
        with self._noting:
            self._written = max(self._written, end)

    def get(self, name: str) -> bytes | None:
        """Return the newest committed value, or None. Raises LogError for one that stays incomplete."""
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
            self._position = 0  # compaction took what we knew; begin again
            self._manifests, self._chunks = {}, {}
        raise LogError(f"the value {name} in {self._topic}/{self._partition} lacks chunks")

    def _collect(self, name: str, end: int, manifest: Manifest) -> bytes | None:
        known = self._chunks.get(name, {})
        wanted = {chunk_key(name, index): index for index in range(manifest.chunks)}
        if any(known.get(index, (0, b""))[1] != manifest.id for index in wanted.values()):
            return None
        parts: list[bytes] = [b""] * manifest.chunks
        start = min(known[index][0] for index in wanted.values())
        for message in range_reader.messages(self._cluster, self._topic, self._partition, start, end):
            key, value = message.key(), message.value()
            if key is not None and key in wanted and value is not None and value[:_ID_BYTES] == manifest.id:
                parts[wanted[key]] = value[_ID_BYTES:]
        whole = b"".join(parts)
        return whole if len(whole) == manifest.size else None

    def _read_on(self) -> None:
        for message in range_reader.messages(
            self._cluster, self._topic, self._partition, self._position, None, at_least=self._written
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
