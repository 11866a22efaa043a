"""Compression of small records in the log file: they need less space, and readers get the bytes that were written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest

from tickerplant.core import records
from tickerplant.core.errors import LogError
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.embedded import EmbeddedLog, compression
from tickerplant.log.port import TopicPartition

TOPICS = [TopicSpec("raw", 10**15), TopicSpec("state", None)]
FORMAT_1_RECORDS = """
CREATE TABLE records_1 (
    id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    appended_at_us INTEGER NOT NULL, value BLOB NOT NULL);
INSERT INTO records_1 SELECT id, partition_id, "offset", appended_at_us, value FROM records;
DROP TABLE records;
ALTER TABLE records_1 RENAME TO records;
CREATE UNIQUE INDEX records_by_offset ON records (partition_id, "offset");
DROP TABLE dictionaries;
PRAGMA user_version = 1;
"""
"""SQL that converts a file without compressed records to format 1."""


def open_new(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(folder / "market.log")
    log.create_topics(TOPICS, 1)
    return log


def mark(number: int) -> bytes:
    return bytes(records.encode(records.Mark(sent_at_us=1_700_000_000_000_000 + number, feed="f", watermark_us=number)))


def symbols(number: int) -> bytes:
    names = pa.RecordBatch.from_arrays([pa.array([f"S{number}", "AAPL"])], schema=records.COLUMNS[records.Rebuild])
    return bytes(records.encode(records.Rebuild(sent_at_us=number, from_us=number, to_us=number + 1), names))


def append(log: EmbeddedLog, topic: str, values: list[bytes], *, name: str = "w") -> None:
    with log.writer(name) as writer, writer.transaction() as transaction:
        for value in values:
            transaction.append(topic, 0, value)


def append_with_state(log: EmbeddedLog, values: list[bytes]) -> None:
    with log.writer("w") as writer, writer.transaction() as transaction:
        for value in values:
            transaction.append("raw", 0, value)
        transaction.put_state("state", 0, "key", b"")


def read(log: EmbeddedLog, topic: str) -> list[bytes]:
    return [record.value for record in log.read_range(TopicPartition(topic, 0), 0, 10**9)]


def stored(folder: Path) -> list[tuple[int, int]]:
    """Return the dictionary and the stored size of each record."""
    with sqlite3.connect(folder / "market.log") as connection:
        return connection.execute(
            'SELECT dictionary, length(value) FROM records ORDER BY partition_id, "offset"'
        ).fetchall()


def test_small_records_need_less_than_a_fifth_of_their_bytes(tmp_path: Path) -> None:
    values = [mark(number) for number in range(1_000)]
    with open_new(tmp_path) as log:
        for value in values:
            append(log, "raw", [value])
        assert read(log, "raw") == values
    compressed = stored(tmp_path)[200:]
    assert all(number for number, _ in compressed)
    assert sum(size for _, size in compressed) < sum(map(len, values[200:])) / 5


def test_readers_and_other_processes_read_the_bytes_that_were_written(tmp_path: Path) -> None:
    values = [(mark if number % 3 else symbols)(number) for number in range(3_000)] + [
        b"",
        b"x",
        bytes(range(256)) * 50,
    ]
    with open_new(tmp_path) as log, EmbeddedLog(log.path) as other:
        with log.reader(["raw"]) as reader:
            for begin in range(0, len(values), 150):  # two logs write in turn, as two processes do
                append(other if begin % 300 else log, "raw", values[begin : begin + 150])
            got: list[bytes] = []
            while len(got) < len(values):
                polled = reader.poll(timeout_s=0)
                assert polled
                got += [record.value for record in polled]
        assert got == values == read(other, "raw")
    with EmbeddedLog(tmp_path / "market.log") as again:
        assert read(again, "raw") == values


def test_large_records_are_stored_as_they_are(tmp_path: Path) -> None:
    values = [bytes(compression.SMALL_BYTES + 1)] * 200
    with open_new(tmp_path) as log:
        append(log, "raw", values)
        assert read(log, "raw") == values
    assert set(stored(tmp_path)) == {(compression.PLAIN, compression.SMALL_BYTES + 1)}


def test_a_record_of_zeros_that_compresses_to_nothing_is_read_with_all_its_bytes(tmp_path: Path) -> None:
    values = [mark(number) for number in range(100)] + [bytes(compression.SMALL_BYTES)]
    with open_new(tmp_path) as log:
        append(log, "raw", values)
        assert read(log, "raw") == values


def test_new_kinds_of_records_get_a_new_dictionary(tmp_path: Path) -> None:
    values = [mark(number) for number in range(64)] + [symbols(number) for number in range(400)]
    with open_new(tmp_path) as log:
        append(log, "raw", values)
        assert read(log, "raw") == values
    numbers = {number for number, _ in stored(tmp_path)[300:]}
    assert len(numbers) == 1
    assert numbers != {stored(tmp_path)[65][0]}


def test_a_dictionary_of_an_aborted_transaction_is_not_used_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    values = [mark(number) for number in range(200)]
    with open_new(tmp_path) as log:
        with monkeypatch.context() as patched:
            patched.setattr("tickerplant.log.embedded.records.put_state", fail)
            with pytest.raises(LogError):
                append_with_state(log, values)  # fails after the records were compressed
        append(log, "raw", values)
        assert read(log, "raw") == values
    with EmbeddedLog(tmp_path / "market.log") as again:
        assert read(again, "raw") == values


def test_a_file_of_format_1_is_upgraded_with_its_records(tmp_path: Path) -> None:
    old, new = [mark(number) for number in range(50)], [mark(number) for number in range(50, 300)]
    with open_new(tmp_path) as log:
        append(log, "raw", old)
    with sqlite3.connect(tmp_path / "market.log") as connection:
        connection.executescript(FORMAT_1_RECORDS)
    connection.close()
    with EmbeddedLog(tmp_path / "market.log") as log:
        assert read(log, "raw") == old
        append(log, "raw", new)
        assert read(log, "raw") == old + new
    assert {number for number, _ in stored(tmp_path)[:50]} == {compression.PLAIN}


def test_a_damaged_compressed_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with open_new(tmp_path) as log:
        append(log, "raw", [mark(number) for number in range(200)])
    with sqlite3.connect(tmp_path / "market.log") as connection:
        connection.execute('UPDATE records SET value = zeroblob(20) WHERE "offset" = 150')
    connection.close()
    with EmbeddedLog(tmp_path / "market.log") as log, pytest.raises(LogError, match=r"market\.log"):
        read(log, "raw")
