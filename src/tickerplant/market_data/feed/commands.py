"""Records of `market.prices.raw` that belong to no feed: settings, rebuilds, and users' corporate actions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from tickerplant.core import records
from tickerplant.core.adjustment import USER
from tickerplant.core.errors import Fenced, LogUnavailable
from tickerplant.core.rules import canonical
from tickerplant.core.schemas import DIVIDENDS, RAW, SETTINGS_KEY, SPLITS, STATE_FEEDS, SYMBOLS
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import datetime_of
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed.partitioner import SymbolPartitioner
from tickerplant.market_data.feed.writer import now_us

_WRITER: Final = "control"
_ATTEMPTS: Final = 5


def ensure_settings(log: EventLog, values: Mapping[str, Any], *, clock: Callable[[], int] = now_us) -> bool:
    """Append a `Settings` record to every partition, unless the last record contains the same values.

    Return True if the record was appended. `values`: the settings that differ from their defaults (`rules.values_of`).
    A different order of the patterns is a difference. Processes that start together fence each other. A fenced process
    tries again and usually finds the record. Raises Fenced or LogUnavailable after five attempts.
    """
    text = msgspec.json.encode(canonical(values))
    for attempt in range(1, _ATTEMPTS):
        try:
            return _ensure(log, values, text, clock)
        except (Fenced, LogUnavailable):
            time.sleep(random.uniform(0.1, 0.5) * attempt)  # random, to spread the retries
    return _ensure(log, values, text, clock)


def _ensure(log: EventLog, values: Mapping[str, Any], text: bytes, clock: Callable[[], int]) -> bool:
    with log.writer(_WRITER) as writer:
        if log.get_state(STATE_FEEDS, 0, SETTINGS_KEY) == text:
            return False
        data = records.encode(records.Settings(sent_at_us=clock(), values=dict(values)))
        with writer.transaction() as transaction:
            for partition in range(log.partitions(RAW)):
                transaction.append(RAW, partition, data)
            transaction.put_state(STATE_FEEDS, 0, SETTINGS_KEY, text)
    return True


def request_rebuild(
    log: EventLog, symbols: Sequence[str], start_us: int, end_us: int, *, clock: Callable[[], int] = now_us
) -> dict[int, int]:
    """Append a `Rebuild` of the symbols' bars in `[start_us, end_us)` to each partition; return {partition: offset}."""
    partitioner = SymbolPartitioner(log.partitions(RAW))
    partitioner.add(symbols)
    header = records.Rebuild(sent_at_us=clock(), from_us=start_us, to_us=end_us)
    with log.writer(_WRITER) as writer:
        with writer.transaction() as transaction:
            for partition in range(partitioner.partitions):
                rows = pa.RecordBatch.from_arrays([partitioner.symbols_in(partition, symbols)], schema=SYMBOLS)
                transaction.append(RAW, partition, records.encode(header, rows))
        return {source.partition: offset for source, offset in writer.committed().items() if source.topic == RAW}


def append_split(
    log: EventLog, symbol: str, session_us: int, numerator: float, denominator: float, *,
    clock: Callable[[], int] = now_us,
) -> dict[int, int]:  # fmt: skip
    """Append a split, `numerator` new shares for `denominator` old ones; return {partition: offset} of the record.

    `session_us`: 00:00 UTC of the first session at the new price. The last split that was entered for a session wins.
    """
    row = {"numerator": numerator, "denominator": denominator}
    return _append_action(log, records.Splits(sent_at_us=clock()), SPLITS, symbol, session_us, row)


def append_dividend(
    log: EventLog, symbol: str, ex_date_us: int, amount: float, currency: str | None = None, *,
    clock: Callable[[], int] = now_us,
) -> dict[int, int]:  # fmt: skip
    """Append a dividend per share with its ex-date (00:00 UTC); return {partition: offset} of the record."""
    row = {"amount": amount, "currency": currency}
    return _append_action(log, records.Dividends(sent_at_us=clock()), DIVIDENDS, symbol, ex_date_us, row)


def _append_action(
    log: EventLog, header: records.Header, schema: pa.Schema, symbol: str, time_us: int, row: Mapping[str, Any]
) -> dict[int, int]:
    full = {"time": datetime_of(time_us), "symbol": symbol, "source": USER, **row}
    columns = [pa.array([full[field.name]], field.type) for field in schema]
    data = records.encode(header, pa.RecordBatch.from_arrays(columns, schema=schema))
    partition = partition_of(symbol, log.partitions(RAW))
    with log.writer(_WRITER) as writer:
        with writer.transaction() as transaction:
            transaction.append(RAW, partition, data)
        return {source.partition: offset for source, offset in writer.committed().items() if source.topic == RAW}
