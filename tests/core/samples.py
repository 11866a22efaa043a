"""One record of each kind, as this version encodes it. `python -m tests.core.samples` writes missing golden files.

A golden file is never rewritten: a new version of a kind gets a new file, and old files must remain readable.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tickerplant.core import records, schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.arrow_values import timestamps


def no_rows(kind: type[records.Header]) -> pa.RecordBatch:
    """Return an empty batch with the columns of a kind."""
    columns = records.COLUMNS[kind]
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in columns], schema=columns)


GOLDEN = Path(__file__).parent / "golden"
OPEN_US = 1_340_285_400_000_000  # 2012-06-21T13:30:00Z
SENT_US = OPEN_US + 1_500


def text(values: list[str], kind: pa.DataType = schemas.TEXT) -> pa.Array:
    return pa.array(values).dictionary_encode().cast(kind)


def times(*offsets_us: int) -> pa.Array:
    return timestamps(np.array([OPEN_US + offset for offset in offsets_us], dtype=np.int64))


def _batch(schema: pa.Schema, *columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns), schema=schema)


def samples() -> dict[str, records.Record]:
    small = schemas.SMALL_TEXT
    two = text(["GOOG", "EUR/USD"])
    base = {"sent_at_us": SENT_US, "feed": "sandbox"}
    caused = {**base, "cause": (1 << 40) + 7}
    bars = _batch(
        schemas.BARS,
        times(0, 0),
        two,
        text(["1m", "5m"], small),
        pa.array([577.1, None]),
        pa.array([577.4, None]),
        pa.array([577.0, None]),
        pa.array([577.3, None]),
        pa.array([1200.0, 0.0]),
        pa.array([577.25, None]),
        pa.array([14, None], pa.int64()),
        text(["final", "withdrawn"], small),
        pa.array([True, False]),
        pa.array([False, False]),
        pa.array([0, 2], pa.int32()),
        pa.array([(1 << 40) + 7, (1 << 40) + 7]),
        text(["", "cancel"], small),
        text(["sandbox", "sandbox"]),
        times(1_500, 1_500),
    )
    values_schema = pa.schema(
        [*schemas.ANALYTICS_KEY, pa.field("rsi_14", pa.float64()), pa.field("sma_20", pa.float64())]
    )
    made: list[tuple[str, records.Header, pa.RecordBatch | None]] = [
        ("start", records.Start(**base, from_us=OPEN_US, hole=True, live=True), _batch(schemas.SYMBOLS, two)),
        (
            "ticks",
            records.Ticks(**base, watermark_us=OPEN_US + 250),
            _batch(
                schemas.TICKS,
                times(0, 250),
                two,
                pa.array([577.1, 1.25]),
                pa.array([100.0, 0.0]),
                text(["sandbox", "sandbox"]),
                pa.array(["a1", None]),
                pa.array([0, 17], pa.uint16()),
                times(1_000, 1_000),
            ),
        ),
        (
            "ticks.exchanges",
            records.Ticks(**base, watermark_us=OPEN_US + 250),
            _batch(
                schemas.TICKS_OF_EXCHANGES,
                times(0, 250),
                two,
                pa.array([577.1, 1.25]),
                pa.array([100.0, 0.0]),
                text(["sandbox", "sandbox"]),
                pa.array(["a1", None]),
                pa.array([0, 17], pa.uint16()),
                times(1_000, 1_000),
                pa.array(["Q", None]).dictionary_encode().cast(schemas.TEXT),
            ),
        ),
        (
            "vendor_bars",
            records.VendorBars(**base, watermark_us=OPEN_US, reason="backfill"),
            _batch(
                schemas.VENDOR_BARS,
                times(0, 60_000_000),
                two,
                text(["1m", "1m"], small),
                *(pa.array([price, price]) for price in (2.0, 4.0, 1.0, 3.0)),
                pa.array([10.0, 0.0]),
                pa.array([2.5, None]),
                pa.array([3, None], pa.int64()),
                text(["vendor", "vendor"]),
                pa.array([True, False]),
            ),
        ),
        ("mark", records.Mark(**base, watermark_us=OPEN_US), None),
        ("down", records.Down(**base, since_us=OPEN_US, reason="mute"), None),
        ("end", records.End(**base, whole=True), None),
        ("settings", records.Settings(**base, values={"lateness_us": 0}), None),
        (
            "split",
            records.Splits(**base),
            _batch(
                schemas.SPLITS,
                times(0, 0),
                two,
                pa.array([4.0, 1.0]),
                pa.array([1.0, 10.0]),
                text(["vendor", "vendor"]),
            ),
        ),
        (
            "dividend",
            records.Dividends(**base),
            _batch(
                schemas.DIVIDENDS,
                times(0, 0),
                two,
                pa.array([0.25, 0.5]),
                pa.array(["USD", None]).dictionary_encode(),
                text(["vendor", "vendor"]),
            ),
        ),
        (
            "answers",
            records.Answers(**base),
            _batch(
                schemas.ANSWERS,
                two,
                text(["1m", "1d"], small),
                times(0, 0),
                times(60_000_000, 86_400_000_000),
                text(["twelvedata", ""]),
                text(["answered", "quota"], small),
                pa.array([None, "25 requests per day"]),
                pa.array([None, OPEN_US + 3_600_000_000]).cast(schemas.TIMESTAMP),
            ),
        ),
        ("rebuild", records.Rebuild(**base, from_us=OPEN_US, to_us=OPEN_US + 60_000_000), _batch(schemas.SYMBOLS, two)),
        (
            "alert_rule",
            records.AlertRule(
                **base,
                rule=Rule(
                    id="r1",
                    revision=2,
                    symbol="GOOG",
                    interval="5m",
                    left="RSI(14)",
                    operator="percent_change",
                    right="-5",
                    bars=3,
                    when="update",
                    once=True,
                    active=False,
                ),
                removed=True,
            ),
            None,
        ),
        (
            "alerts",
            records.Alerts(**caused),
            _batch(
                schemas.ALERT,
                pa.array(["r1.2.1340285400000000.0", "r2.1.1340285400000000.1"]),
                pa.array(["r1", "r2"]),
                pa.array([2, 1], pa.int32()),
                times(0, 0),
                two,
                text(["1m", "5m"], small),
                pa.array(["RSI(14) crosses_above 70", "close less SMA(50)"]),
                pa.array([70.5, 1.25]),
                pa.array([70.0, 1.5]),
                text(["final", "forming"], small),
                pa.array([True, False]),
                pa.array([(1 << 40) + 7, (1 << 40) + 7]),
            ),
        ),
        ("bars", records.Bars(**caused), bars),
        (
            "values",
            records.Values(**caused),
            _batch(
                values_schema,
                times(0, 0),
                two,
                text(["1m", "5m"], small),
                text(["final", "forming"], small),
                pa.array([(1 << 40) + 7, (1 << 40) + 7]),
                pa.array([51.5, None]),
                pa.array([577.2, None]),
            ),
        ),
        (
            "over",
            records.Over(**caused, interval="1m", start_us=OPEN_US, expected=2, emitted=1),
            _batch(schemas.COVERAGE, two, pa.array([True, False])),
        ),
        ("feed_state", records.FeedState(**caused, state="late", since_us=OPEN_US, reason="too late", count=3), None),
        (
            "differences",
            records.Differences(**caused),
            _batch(
                schemas.DIFFERENCES,
                times(0, 0),
                two,
                text(["1m", "1m"], small),
                text(["vendor", "vendor"]),
                text(["ticks", "ticks"]),
                *(pa.array([price, None], pa.float64()) for price in (10.0, 12.0, 9.0, 11.0)),
                pa.array([100.0, 0.0]),
                *(pa.array([price, None], pa.float64()) for price in (10.0, 12.5, 9.0, 11.0)),
                pa.array([101.0, 0.0]),
            ),
        ),
        (
            "dead",
            records.Dead(**base),
            _batch(
                schemas.DEAD,
                pa.array(["market.prices.raw"]),
                pa.array([3], pa.int32()),
                pa.array([12], pa.int64()),
                pa.array(["no Arrow IPC stream"]),
                pa.array([b"\x00\x01"], pa.binary()),
            ),
        ),
    ]
    return {
        name: records.Record(header, batch if batch is not None else no_rows(type(header)))
        for name, header, batch in made
    }


def golden_path(name: str, version: int = records.VERSION) -> Path:
    return GOLDEN / f"{name}.v{version}.arrow"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for sample_name, sample in samples().items():
        if not golden_path(sample_name).exists():
            golden_path(sample_name).write_bytes(records.encode(sample.header, sample.batch))
