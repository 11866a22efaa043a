"""Builders of DBN files that use the encoder of Databento."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import databento_dbn as dbn
import pyarrow as pa

DAY_NS = 86_400 * 10**9
OPEN_NS = 1_704_207_000 * 10**9
"""Time of the first record in ns since 1970: 2024-01-02T14:50:00Z."""
Names = Mapping[str, Sequence[tuple[str, str, int | str]]]
"""Mappings (first date, end date, instrument id or symbol) by name. The end date is exclusive."""

AAPL: Names = {"AAPL": [("2024-01-02", "2024-02-01", 38)]}


def metadata(
    schema: dbn.Schema | None,
    names: Names = AAPL,
    *,
    version: int = 3,
    stype_in: dbn.SType | None = dbn.SType.RAW_SYMBOL,
    stype_out: dbn.SType = dbn.SType.INSTRUMENT_ID,
    ts_out: bool = False,
) -> bytes:
    mappings = [
        SimpleNamespace(
            raw_symbol=name,
            intervals=[
                SimpleNamespace(
                    start_date=dt.date.fromisoformat(first), end_date=dt.date.fromisoformat(end), symbol=str(target)
                )
                for first, end, target in ranges
            ],
        )
        for name, ranges in names.items()
    ]
    return dbn.Metadata(
        "XNAS.ITCH", OPEN_NS, stype_in, stype_out, schema, list(names), ["HALF"], ["NONE"], mappings,
        end=OPEN_NS + DAY_NS, ts_out=ts_out, version=version,
    ).encode()  # fmt: skip


def trade(
    at: int = 0, price: float = 187.15, size: int = 100, instrument: int = 38, *, ns: int = OPEN_NS, recv: int = 0,
    fixed: int | None = None, publisher: int = 2,
) -> dbn.TradeMsg:  # fmt: skip
    """Return a trade `at` milliseconds after `ns`. `fixed`: the price in units of 1e-9 in place of `price`."""
    event = ns + at * 1_000_000
    return dbn.TradeMsg(
        publisher, instrument, event, round(price * 1e9) if fixed is None else fixed, size, dbn.Action.TRADE,
        dbn.Side.BID, 0, recv or event + 999, sequence=at,
    )  # fmt: skip


def bar(
    at: int = 0, open_: float = 1.1, instrument: int = 38, *, rtype: dbn.RType = dbn.RType.OHLCV_1M, step_s: int = 60,
    volume: int = 1_000, publisher: int = 2, ns: int = OPEN_NS,
) -> dbn.OHLCVMsg:  # fmt: skip
    """Return the bar with index `at` of a series that starts at `ns`."""
    low, open_px, close, high = (round((open_ + more) * 1e9) for more in (-0.1, 0, 0.05, 0.2))
    return dbn.OHLCVMsg(
        rtype, publisher, instrument, ns + at * step_s * 10**9, open_px, high, low, close, volume
    )  # fmt: skip


def encoded(head: bytes, records: Sequence[object]) -> bytes:
    return head + b"".join(bytes(record) for record in records)  # type: ignore[call-overload]


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


def write(folder: Path, data: bytes, name: str = "f.dbn") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def as_csv(data: bytes) -> list[dict[str, str]]:
    """Return the rows of a file as decoded by Databento's library, with symbols from the metadata."""
    out = io.BytesIO()
    coder = dbn.Transcoder(out, dbn.Encoding.CSV, dbn.Compression.NONE, map_symbols=True)
    coder.write(data)
    coder.flush()
    header, *rows = out.getvalue().decode().splitlines()
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
