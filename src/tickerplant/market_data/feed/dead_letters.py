"""Unusable rows as batches of the dead-letter topic. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import pyarrow as pa

from tickerplant.core.arrow_values import values_of
from tickerplant.core.schemas import DEAD
from tickerplant.core.streams import MAX_DEAD_PAYLOAD_BYTES, cut_to_fit
from tickerplant.market_data.feed.validation import Reasons

_MAX_ROWS: Final = 1_000
"""Maximum number of rows in one dead-letter record. A record of rows with a few hundred bytes each has less than one
megabyte. A record also ends before its payloads and reasons exceed `MAX_DEAD_PAYLOAD_BYTES`."""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """An unusable row: the reason, and the bytes of the row or of its readable part."""

    reason: str
    payload: bytes


def dead_rows(batch: pa.RecordBatch, reasons: Reasons) -> list[DeadRow]:
    """Return the rows of the batch that have a reason, each as a JSON object of its columns."""
    numbers = sorted(reasons)
    columns = [values_of(column) for column in batch.take(pa.array(numbers)).columns]
    encoder = msgspec.json.Encoder(enc_hook=str)
    return [
        DeadRow(reasons[number], encoder.encode(dict(zip(batch.schema.names, row, strict=True))))
        for number, row in zip(numbers, zip(*columns, strict=True), strict=True)
    ]


def dead_batches(feed: str, rows: Sequence[DeadRow]) -> Iterator[pa.RecordBatch]:
    """Yield the rows as batches (`schemas.DEAD`), each small enough for one record of the log.

    A payload that is too large is cut; its reason then contains both lengths.
    """
    pending: list[tuple[bytes, str]] = []
    size = 0
    for row in rows:
        payload, reason = cut_to_fit(row.payload, row.reason)
        bytes_ = len(payload) + len(reason.encode())
        if pending and (len(pending) == _MAX_ROWS or size + bytes_ > MAX_DEAD_PAYLOAD_BYTES):
            yield _batch(feed, pending)
            pending, size = [], 0
        pending.append((payload, reason))
        size += bytes_
    if pending:
        yield _batch(feed, pending)


def _batch(feed: str, rows: Sequence[tuple[bytes, str]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([feed] * len(rows), pa.utf8()),
            pa.array([0] * len(rows), pa.int32()),
            pa.array([-1] * len(rows), pa.int64()),
            pa.array([reason for _, reason in rows], pa.utf8()),
            pa.array([payload for payload, _ in rows], pa.binary()),
        ],
        schema=DEAD,
    )
