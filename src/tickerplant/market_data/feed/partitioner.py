"""Splits a batch by partition, column by column. Pure.

A tick costs an index lookup and a take; a symbol costs time only when its dictionary is new. The dictionary of a
partition is the same object in successive records until a symbol is added. It contains all symbols of the partition in
the order in which they were added, and grows at its end only. A reader therefore maps the dictionary once, and
afterwards only compares it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.hashing import UInt64Array
from tickerplant.core.schemas import TEXT
from tickerplant.core.symbols import partition_of
from tickerplant.market_data.feed.cursor import hash_texts

Int32Array = npt.NDArray[np.int32]


class SymbolPartitioner:
    """Maps the symbols of a feed to partitions, and splits batches by partition."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._code: dict[str, int] = {}
        self._partition = np.empty(0, np.int32)
        self._local = np.empty(0, np.int32)
        self._hash = np.empty(0, np.uint64)
        self._names: list[list[str]] = [[] for _ in range(partitions)]
        self._dictionaries: list[pa.Array] = [pa.array([], pa.utf8()) for _ in range(partitions)]
        self._seen: pa.Array | None = None
        self._seen_codes = np.empty(0, np.int32)

    def add(self, symbols: Iterable[str]) -> None:
        """Append the new symbols, in this order; known symbols keep their codes."""
        new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self._code]
        if not new:
            return
        partitions, local = [], []
        for symbol in new:
            partition = partition_of(symbol, self.partitions)
            self._code[symbol] = len(self._code)
            partitions.append(partition)
            local.append(len(self._names[partition]))
            self._names[partition].append(symbol)
        self._partition = np.concatenate([self._partition, np.array(partitions, np.int32)])
        self._local = np.concatenate([self._local, np.array(local, np.int32)])
        self._hash = np.concatenate([self._hash, hash_texts(pa.array(new, pa.utf8()))])
        for partition in set(partitions):
            self._dictionaries[partition] = pa.array(self._names[partition], pa.utf8())

    def symbols_in(self, partition: int, symbols: Sequence[str]) -> pa.Array:
        """Return the symbols of the partition among `symbols`, as a column over the partition's dictionary."""
        codes = [self._code[s] for s in symbols if self._partition[self._code[s]] == partition]
        indices = pa.array(self._local[codes] if codes else np.empty(0, np.int32), pa.int32())
        return pa.DictionaryArray.from_arrays(indices, self._dictionaries[partition])

    def codes(self, column: pa.DictionaryArray) -> Int32Array:
        """Return the code of each row's symbol: int32[rows]. New symbols are added."""
        dictionary = column.dictionary
        if self._seen is None or not (dictionary is self._seen or dictionary.equals(self._seen)):
            names = dictionary.to_pylist()
            self.add(names)
            self._seen_codes = np.array([self._code[name] for name in names], np.int32)
            self._seen = dictionary
        indices: Int32Array = column.indices.to_numpy(zero_copy_only=False)
        return self._seen_codes[indices]

    def hashes(self, codes: Int32Array) -> UInt64Array:
        """Return a 64-bit hash of each row's symbol, the same in every process."""
        result: UInt64Array = self._hash[codes]
        return result

    def split(self, batch: pa.RecordBatch, codes: Int32Array) -> list[tuple[int, pa.RecordBatch]]:
        """Return a pair for each partition with rows: the partition, and its rows in their order."""
        where = batch.schema.get_field_index("symbol")
        if self.partitions == 1:
            found, bounds = [0], [0, len(codes)]
        else:
            partition = self._partition[codes].astype(np.uint8 if self.partitions <= 256 else np.uint16)
            order = np.argsort(partition, kind="stable")  # a radix sort on 8 and 16 bits
            counts = np.bincount(partition, minlength=self.partitions)
            bounds = [0, *np.cumsum(counts).tolist()]
            found = [p for p in range(self.partitions) if counts[p]]
            if len(found) > 1:
                batch = batch.take(pa.array(order))
                codes = codes[order]
        local = pa.array(self._local[codes], pa.int32())
        result = []
        for p in found:
            start, stop = bounds[p], bounds[p + 1]
            rows = batch.slice(start, stop - start)
            symbols = pa.DictionaryArray.from_arrays(local.slice(start, stop - start), self._dictionaries[p])
            columns = rows.columns
            columns[where] = symbols.cast(TEXT) if symbols.type != TEXT else symbols
            result.append((p, pa.RecordBatch.from_arrays(columns, schema=batch.schema)))
        return result
