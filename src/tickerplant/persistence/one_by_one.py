"""Finds the record that the database refuses. Applies the records of one partition, each in its own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

from tickerplant.core.errors import MigrationError, PositionConflict, StoreError, StoreMismatch, StoreUnavailable
from tickerplant.log.port import ConsumedRecord
from tickerplant.persistence.batching import PartitionBuffer, WriteBatch
from tickerplant.persistence.write_batch import apply
from tickerplant.store.repositories.positions import Log
from tickerplant.store.session import Session

REFUSALS: Final = (StoreError, pa.ArrowException, ValueError)
"""Errors of `apply` that the rows themselves may cause; `is_refusal` decides. The driver raises ValueErrors too."""
CONFIRM_AFTER_S: Final = (0.2, 1.0)
"""Seconds before each new attempt to apply a refused record. A dropped chunk or table partition can cause one false
refusal."""


def is_refusal(error: BaseException) -> bool:
    """Return True if the error means that the database refuses the rows, and would refuse them again."""
    other = (StoreUnavailable, PositionConflict, StoreMismatch, MigrationError)
    return isinstance(error, REFUSALS) and not isinstance(error, other)


async def apply_one_by_one(
    session: Session,
    log: Log,
    buffer: PartitionBuffer,
    consumed: Iterable[ConsumedRecord],
    sources: Mapping[int, Sequence[str]],
    applied: Callable[[WriteBatch], Awaitable[None]],
) -> tuple[int, str] | None:
    """Apply records in order; return (offset, error) of the first refused record, or None if no record is refused.

    `buffer` is new and starts at the store's position. `applied` is called after each transaction. Raises the errors of
    `apply` that are not refusals.
    """
    for record in consumed:
        buffer.add(record)
        batch = buffer.flush(0, last=True)
        if batch is None:
            continue
        error = await _refusal_of(session, log, batch, sources)
        if error is not None:
            return record.offset, error
        await applied(batch)
    return None


async def _refusal_of(
    session: Session, log: Log, batch: WriteBatch, sources: Mapping[int, Sequence[str]]
) -> str | None:
    """Apply a batch; return the error's text if the database refuses it at every attempt; otherwise None."""
    for pause_s in (*CONFIRM_AFTER_S, None):
        try:
            await apply(session, log, [batch], sources)
        except REFUSALS as error:
            if not is_refusal(error):
                raise
            session.known.clear()
            if pause_s is None:
                return str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {str(error)[:1000]}"
            await asyncio.sleep(pause_s)
        else:
            return None
    return None
