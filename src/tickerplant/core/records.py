"""The records of the log: a header of one kind, and a batch of columns.

| topic | writer | kinds |
|---|---|---|
| `market.prices.raw` | feeds, in every partition | `Start`, `Mark`, `Down`, `End` |
| | app and users' commands, in every partition | `Settings`, `Rebuild` |
| | feeds, in partitions with rows | `Ticks`, `VendorBars`, `Splits`, `Dividends`, `Answers` |
| | API and CLI | `AlertRule` in the symbol's partition; a removal in every partition |
| `market.prices.ohlcv` | aggregation | `Bars`; it forwards `Mark`, `End`, `Splits`, `Settings`, `AlertRule` in order |
| `market.analytics` | analytics | `Values`; it forwards `Mark` and `End`, which show its progress |
| `market.alerts` | analytics | `Alerts` |
| `market.status` | aggregation | `Over`, `FeedState`, `Differences` |
| `market.deadletter` | feeds and services | `Dead` |

Times in headers are int64 microseconds UTC. `sent_at_us` is the only clock of a reader: the reader's outputs have the
`sent_at_us` of the record that caused them. `cause` is the version (see `version`) of the raw record whose step
produced this record. `cause` is 0 on the raw topic, because the record's own offset identifies the record.

A record is stored as one Arrow IPC stream: the schema, dictionaries and one record batch. The metadata key
`tickerplant` of the schema contains the header as JSON, with its `kind` and `v`. Any Arrow reader can read the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.errors import UnreadableRecord

VERSION: Final = 1
"""Version of the headers and columns that this code writes. The code also reads all earlier versions."""

METADATA_KEY: Final = b"tickerplant"


FILE_FEED: Final = "file:"
"""Prefix of the names of file feeds. A user has just requested the data of such a feed, although it may be old."""
BACKFILL_FEED: Final = "backfill"
"""Name of the feed of the backfill."""


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Fields of every record's header. `v` is the `VERSION` of its writer."""

    v: int = VERSION
    sent_at_us: int
    feed: str = ""
    cause: int = 0


class Start(Header, frozen=True, kw_only=True, tag="start"):
    """The feed is up. Rows: all symbols that the feed is expected to send in this partition. They replace the rows
    of the feed's earlier `Start` records.

    `from_us`: time from which the feed is complete. `hole`: data between the feed's previous watermark and `from_us`
    may be missing. `live`: the feed counts as down if its records stop; a file is not live. `whole`: the first
    interval is complete although `from_us` is inside it (the default for files). `firm`: the first and the last
    interval are complete, even if other files continue them.
    """

    from_us: int
    hole: bool = False
    live: bool = False
    whole: bool = False
    firm: bool = False


class Ticks(Header, frozen=True, kw_only=True, tag="ticks"):
    """Rows: prints (`schemas.TICKS`, or `schemas.TICKS_OF_EXCHANGES` if they have exchanges).

    Later ticks with a time before `watermark_us` are late.
    """

    watermark_us: int


class VendorBars(Header, frozen=True, kw_only=True, tag="vendor_bars"):
    """Rows: closed bars (`schemas.VENDOR_BARS`), with the feed's watermark and the reason of the bars.

    `reason` is one word, which the published bars contain too: `vendor`, `backfill`, `official`, `file`.
    """

    watermark_us: int
    reason: str = "vendor"


class Mark(Header, frozen=True, kw_only=True, tag="mark"):
    """A watermark without data. Forming bars are published at marks."""

    watermark_us: int


class Down(Header, frozen=True, kw_only=True, tag="down"):
    """The feed has sent nothing since `since_us`, which may be before its watermark (a silent socket)."""

    since_us: int
    reason: str = ""


class End(Header, frozen=True, kw_only=True, tag="end"):
    """The feed has sent all its data: its open windows close.

    `whole`: the feed's last interval is complete (the default for files). `watermark_us`: time of a file's last row in
    any partition; None (null) if unknown.
    """

    whole: bool = False
    watermark_us: int | None = None


class Settings(Header, frozen=True, kw_only=True, tag="settings"):
    """The rules from this record on: names and values that differ from their defaults (docs/settings.md)."""

    values: Mapping[str, Any] = {}


class Splits(Header, frozen=True, kw_only=True, tag="split"):
    """Rows: splits (`schemas.SPLITS`)."""


class Dividends(Header, frozen=True, kw_only=True, tag="dividend"):
    """Rows: dividends (`schemas.DIVIDENDS`)."""


class Answers(Header, frozen=True, kw_only=True, tag="answers"):
    """Rows: vendors' answers about requested ranges (`schemas.ANSWERS`). The record follows the bars of the answers."""


class Rebuild(Header, frozen=True, kw_only=True, tag="rebuild"):
    """Recompute `[from_us, to_us)` of the symbols in the rows from raw records, with the current rules."""

    from_us: int
    to_us: int


class AlertRule(Header, frozen=True, kw_only=True, tag="alert_rule"):
    """This revision of the rule is in force from this record on. `removed`: the rule is removed.

    A revision that is already in force changes nothing. The record is in the symbol's partition; a removal is in every
    partition.
    """

    rule: Rule
    removed: bool = False


class Bars(Header, frozen=True, kw_only=True, tag="bars"):
    """Rows: published bars (`schemas.BARS`)."""


class Values(Header, frozen=True, kw_only=True, tag="values"):
    """Rows: indicator values (`schemas.ANALYTICS_KEY` and a float64 column for each output)."""


class Alerts(Header, frozen=True, kw_only=True, tag="alerts"):
    """Rows: fired alerts (`schemas.ALERT`), in the order in which they fired."""


class Over(Header, frozen=True, kw_only=True, tag="over"):
    """An interval has ended for a feed and this partition. Rows: expected symbols with or without a bar (`COVERAGE`).

    `whole`: the feed was up for the entire interval, so a symbol without a bar had no trades.
    """

    interval: str
    start_us: int
    expected: int
    emitted: int
    whole: bool = True


class FeedState(Header, frozen=True, kw_only=True, tag="feed_state"):
    """On `market.status`: the feed is `up`, `down` or `ended`. Two more states report data excluded from bars.

    `late`: `count` ticks were older than the revision window. `unsupported`: `count` ticks, bars or corrections could
    not be applied, or `count` symbols could not be rebuilt, for `reason`.
    """

    state: str
    since_us: int
    reason: str = ""
    count: int = 0


class Differences(Header, frozen=True, kw_only=True, tag="differences"):
    """On `market.status`, rows: bars with different values from two sources (`DIFFERENCES`)."""


class Dead(Header, frozen=True, kw_only=True, tag="dead"):
    """Rows: data that could not be decoded or applied (`schemas.DEAD`)."""


RAW_KINDS: Final = (Start, Ticks, VendorBars, Mark, Down, End, Settings, Splits, Dividends, Answers, Rebuild, AlertRule)
KINDS: Final = (*RAW_KINDS, Bars, Values, Alerts, Over, FeedState, Differences, Dead)

COLUMNS: Final[Mapping[type[Header], pa.Schema]] = {
    Start: schemas.SYMBOLS,
    Ticks: schemas.TICKS,
    VendorBars: schemas.VENDOR_BARS,
    Mark: schemas.NOTHING,
    Down: schemas.NOTHING,
    End: schemas.NOTHING,
    Settings: schemas.NOTHING,
    Splits: schemas.SPLITS,
    Dividends: schemas.DIVIDENDS,
    Answers: schemas.ANSWERS,
    Rebuild: schemas.SYMBOLS,
    AlertRule: schemas.NOTHING,
    Bars: schemas.BARS,
    Values: schemas.ANALYTICS_KEY,
    Alerts: schemas.ALERT,
    Over: schemas.COVERAGE,
    FeedState: schemas.NOTHING,
    Differences: schemas.DIFFERENCES,
    Dead: schemas.DEAD,
}
"""Columns of each kind. `Values` has one more float64 column for each output."""

EXTENDED_COLUMNS: Final[Mapping[type[Header], pa.Schema]] = {Ticks: schemas.TICKS_OF_EXCHANGES}
"""All columns of the kinds that may have more columns at the end."""

_AnyHeader: TypeAlias = (
    Start | Ticks | VendorBars | Mark | Down | End | Settings | Splits | Dividends | Answers
    | Rebuild | AlertRule | Bars | Values | Alerts | Over | FeedState | Differences | Dead
)  # fmt: skip
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Header] = msgspec.json.Decoder(_AnyHeader)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: header and rows. The batch of a control record has no columns."""

    header: Header
    batch: pa.RecordBatch


_EMPTY = {
    kind: pa.RecordBatch.from_arrays([pa.array([], field.type) for field in columns], schema=columns)
    for kind, columns in COLUMNS.items()
}


def encode(header: Header, batch: pa.RecordBatch | None = None) -> pa.Buffer:
    """Return the record's bytes as an Arrow buffer (it supports the buffer protocol; `len()` is its size).

    `batch` has the columns of the header's kind, in order and with the same types. None means no rows.
    Raises ValueError for other columns.
    """
    kind = type(header)
    if batch is None:
        batch = _EMPTY[kind]
    expected = _columns(kind, batch)
    fits = batch.schema.equals(expected)
    if not fits and kind is Values:
        extra = list(batch.schema)[len(expected) :]
        key = pa.schema(list(batch.schema)[: len(expected)])
        fits = key.equals(expected) and all(field.type == pa.float64() for field in extra)
    if not fits:
        raise ValueError(f"columns of a {kind.__name__} record must be\n{expected}\nnot\n{batch.schema}")
    batch = batch.replace_schema_metadata({METADATA_KEY: _encoder.encode(header)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


def decode(data: Any) -> Record:
    """Return the record in `data` (bytes, memoryview or Arrow buffer). Its columns share the memory of `data`.

    Raises only UnreadableRecord: `data` is not a record, is of a newer version, or has columns of another kind.
    """
    try:
        with pa.ipc.open_stream(data) as stream:
            schema = stream.schema
            header = _read_header(schema)
            batch = stream.read_next_batch()
    except UnreadableRecord:
        raise
    except StopIteration:
        raise UnreadableRecord("the Arrow stream has no record batch") from None
    except Exception as error:  # Arrow raises a dozen kinds of errors for broken bytes
        raise UnreadableRecord(f"no Arrow IPC stream: {type(error).__name__}: {error}") from error
    try:
        _check(type(header), batch)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UnreadableRecord(f"broken columns: {error}") from error
    return Record(header, batch)


def _columns(kind: type[Header], batch: pa.RecordBatch) -> pa.Schema:
    """Return the columns that a batch of this kind must have."""
    extended = EXTENDED_COLUMNS.get(kind)
    return extended if extended is not None and batch.num_columns == len(extended) else COLUMNS[kind]


def _check(kind: type[Header], batch: pa.RecordBatch) -> None:
    """Raise UnreadableRecord for wrong columns, and an Arrow error for invalid indices or strings in them."""
    expected = _columns(kind, batch)
    if batch.num_columns < len(expected) or (batch.num_columns > len(expected) and kind is not Values):
        raise UnreadableRecord(f"{kind.__name__} has {batch.num_columns} columns, not {len(expected)}")
    for want, have in zip(expected, batch.schema, strict=False):
        if want.name != have.name or want.type != have.type:
            raise UnreadableRecord(f"column {have.name}: {have.type} where {want.name}: {want.type} should be")
    batch.validate(full=True)


def _read_header(schema: pa.Schema) -> Header:
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise UnreadableRecord("an Arrow stream, but without a tickerplant header")
    try:
        version = msgspec.json.decode(text, type=_VersionOnly).v
        if version > VERSION:
            raise UnreadableRecord(f"record version {version} is newer than this code, which reads up to {VERSION}")
        return _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise UnreadableRecord(f"header cannot be read: {error}") from error


class _VersionOnly(msgspec.Struct):
    v: int = VERSION


def header_of(data: Any) -> Header:
    """Return the header without reading the columns. Raises UnreadableRecord if `data` contains no readable header."""
    try:
        with pa.ipc.open_stream(data) as stream:
            return _read_header(stream.schema)
    except UnreadableRecord:
        raise
    except Exception as error:
        raise UnreadableRecord(f"no Arrow IPC stream: {type(error).__name__}: {error}") from error
