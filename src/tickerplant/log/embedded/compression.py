"""Compression of small records in the file, with zstd dictionaries that are built from earlier records.

A small record is mostly its Arrow schema, its header and its symbols, which earlier records of its topic contain too. A
dictionary of such records reduces 1 to 2 kB to about 100 bytes. Compression takes 4 µs a record, and decompression
takes 1 µs. Large records are not compressed.

The file contains all dictionaries that its records need. A record contains the number of its dictionary; 0 means that
the record is not compressed. A writer builds the first dictionary of a topic from `_FIRST` records. Later it builds new
dictionaries from newer records, at increasing intervals. It keeps a new dictionary that saves at least a fifth of the
bytes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from typing import Final

import zstandard

from tickerplant.log.port import Payload

PLAIN: Final = 0
"""Dictionary number of a record that is not compressed."""
SMALL_BYTES: Final = 16_384
"""Maximum bytes of a record that is compressed. The schema is a small part of larger records."""
TABLE: Final = """
CREATE TABLE dictionaries (id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, value BLOB NOT NULL);
"""

_DICTIONARY_BYTES: Final = 65_536
_SAMPLES: Final = 64
_LEVEL: Final = 1
_FIRST: Final = 64
"""Number of small records of a topic before its first dictionary."""
_FACTOR: Final = 4
"""Ratio of the record counts of a topic at two consecutive attempts to build a dictionary."""
_SAVING: Final = 0.8
"""Maximum ratio of the samples' size with a new dictionary to their current size. Above this ratio, the new dictionary
is dropped."""


class Dictionaries:
    """The dictionaries of one file by number, read when they are first used. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._found: dict[int, zstandard.ZstdCompressionDict] = {}

    def get(self, connection: sqlite3.Connection, number: int) -> zstandard.ZstdCompressionDict:
        """Return a dictionary. Raises sqlite3.DatabaseError if the file does not contain it."""
        found = self._found.get(number)
        if found is None:
            row = connection.execute("SELECT value FROM dictionaries WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise sqlite3.DatabaseError(f"dictionary {number} is missing")
            found = _dictionary(row[0])
            with self._guard:
                found = self._found.setdefault(number, found)
        return found


class Decoder:
    """Decompresses records. Belongs to one thread at a time."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._dictionaries = dictionaries
        self._decoders: dict[int, zstandard.ZstdDecompressor] = {}

    def decode(self, connection: sqlite3.Connection, number: int, value: bytes) -> bytes:
        """Return the record that was written. Raises sqlite3.DatabaseError if the stored bytes are damaged."""
        if number == PLAIN:
            return value
        decoder = self._decoders.get(number)
        if decoder is None:
            decoder = zstandard.ZstdDecompressor(dict_data=self._dictionaries.get(connection, number))
            self._decoders[number] = decoder
        try:
            return decoder.decompress(value, max_output_size=SMALL_BYTES)
        except zstandard.ZstdError as error:
            raise sqlite3.DatabaseError(f"a compressed record is damaged: {error}") from error


class _Topic:
    """The compressor of one topic, and the samples for its next dictionary."""

    def __init__(self) -> None:
        self.number = PLAIN
        self.compressor: zstandard.ZstdCompressor | None = None
        self.samples: deque[bytes] = deque(maxlen=_SAMPLES)
        self.count = 0
        self.learn_at = _FIRST

    def add(self, value: Payload) -> bool:
        """Count a record and keep it if it is a sample; return True if a dictionary is due."""
        self.count += 1
        # The samples cover all records since the last dictionary, not only the newest.
        if self.count % max(1, self.learn_at // (2 * _SAMPLES)) == 0:
            self.samples.append(bytes(value))
        return self.count >= self.learn_at


class Encoder:
    """Compresses small records. All calls need the writers' lock."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self._dictionaries = dictionaries
        self._topics: dict[int, _Topic] = {}

    def encode(self, connection: sqlite3.Connection, topic_id: int, value: Payload) -> tuple[int, Payload]:
        """Return the number of the dictionary (`PLAIN`: not compressed) and the bytes to store."""
        if len(value) > SMALL_BYTES:
            return PLAIN, value
        topic = self._topics.get(topic_id)
        if topic is None:
            topic = self._topics[topic_id] = _Topic()
            self._use_newest(connection, topic_id, topic)
        if topic.add(value):
            self._learn(connection, topic_id, topic)
        if topic.compressor is None:
            return PLAIN, value
        compressed = topic.compressor.compress(value)
        return (topic.number, compressed) if len(compressed) < len(value) else (PLAIN, value)

    def roll_back(self) -> None:
        """Drop all compressors: the transaction that may have stored one of their dictionaries was rolled back."""
        self._topics.clear()

    def _use_newest(self, connection: sqlite3.Connection, topic_id: int, topic: _Topic) -> None:
        """Use the newest dictionary of the topic, which another process may have stored."""
        row = connection.execute("SELECT max(id) FROM dictionaries WHERE topic_id = ?", (topic_id,)).fetchone()
        if row[0] is not None and row[0] != topic.number:
            topic.number = row[0]
            topic.compressor = _compressor(self._dictionaries.get(connection, row[0]))

    def _learn(self, connection: sqlite3.Connection, topic_id: int, topic: _Topic) -> None:
        """Build a dictionary from every second sample; use it if it shrinks the other samples to `_SAVING`."""
        topic.learn_at *= _FACTOR
        self._use_newest(connection, topic_id, topic)
        made, judged = list(topic.samples)[::2], list(topic.samples)[1::2]
        topic.samples.clear()
        data = b"".join(made)[-_DICTIONARY_BYTES:]
        compressor = _compressor(_dictionary(data))
        present = topic.compressor
        size = sum(len(value if present is None else present.compress(value)) for value in judged)
        if sum(len(compressor.compress(value)) for value in judged) <= _SAVING * size:
            cursor = connection.execute("INSERT INTO dictionaries (topic_id, value) VALUES (?, ?)", (topic_id, data))
            topic.number, topic.compressor = int(cursor.lastrowid or 0), compressor


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(dictionary: zstandard.ZstdCompressionDict) -> zstandard.ZstdCompressor:
    """Return a compressor whose tables of the dictionary are computed once, not for each record."""
    own = _dictionary(dictionary.as_bytes())  # the tables belong to one level of one compressor
    own.precompute_compress(level=_LEVEL)
    return zstandard.ZstdCompressor(level=_LEVEL, dict_data=own)
