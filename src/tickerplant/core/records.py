"""The records of the log: a header that says what happened, and a batch of columns.

Feeds write `Start`, `Ticks`, `VendorBars`, `Mark`, `Down`, `End`, `Settings`, `Splits`, `Dividends`, `Answers` and
`Rebuild` into every partition of `market.prices.raw`, and whoever manages alerts `AlertRule` into the symbol's, and
into every one when a rule is removed. Aggregation writes `Bars` to `market.prices.ohlcv` and passes `Mark`, `End`,
`Splits`, `Settings` and `AlertRule` on in order; analytics writes `Values` to `market.analytics` and passes `Mark` and
`End` on, so that progress is visible at the end of the way, and `Alerts` to `market.alerts`.

Times in headers are int64 microseconds UTC. `sent_at_us` is the only clock that readers have: what a reader
publishes carries the `sent_at_us` of the record that caused it. `cause` is the version (see `version`) of the raw
record whose step made this one, and 0 on the raw topic itself, where a record's own offset says it.

On the wire a record is one Arrow IPC stream: schema (metadata key `tickerplant`: the header as JSON, with its `kind`
and `v`), dictionaries, one record batch. Any Arrow reader opens it.
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
"""The version of headers and columns that this code writes. It reads this and all before."""

METADATA_KEY: Final = b"tickerplant"


FILE_FEED: Final = "file:"
"""What the names of files' feeds begin with; whatever the time of what they bring, somebody has just asked for it."""


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What every record says of itself."""

    v: int = VERSION
    sent_at_us: int
    feed: str = ""
    cause: int = 0


class Start(Header, frozen=True, kw_only=True, tag="start"):
    """The feed is up (rows: the symbols it is expected to bring in this partition, all of them, old ones replaced).

    `from_us`: it brings everything from here on. `hole`: between its former watermark and `from_us` something may be
    missing. `live`: it must be heard of (marks) or is taken as down; a file need not. `whole`: its first interval
    counts as complete though `from_us` lies inside it (a file's does unless told otherwise).
    """

    from_us: int
    hole: bool = False
    live: bool = False
    whole: bool = False


class Ticks(Header, frozen=True, kw_only=True, tag="ticks"):
    """Rows: prints (`schemas.TICKS`). No tick before `watermark_us` will be sent in order any more."""

    watermark_us: int


class VendorBars(Header, frozen=True, kw_only=True, tag="vendor_bars"):
    """Rows: finished bars (`schemas.VENDOR_BARS`), with the feed's watermark and why they were fetched.

    `reason` is free text of one word for the published bars: `vendor`, `backfill`, `official`, `file`.
    """

    watermark_us: int
    reason: str = "vendor"


class Mark(Header, frozen=True, kw_only=True, tag="mark"):
    """A watermark alone; it lets forming bars be published."""

    watermark_us: int


class Down(Header, frozen=True, kw_only=True, tag="down"):
    """The feed brings nothing since `since_us`, which may lie before its watermark (a socket found mute)."""

    since_us: int
    reason: str = ""


class End(Header, frozen=True, kw_only=True, tag="end"):
    """The feed has brought all it had: everything it had open closes.

    `whole`: its last interval counts as complete (a file's does unless told otherwise).
    """

    whole: bool = False


class Settings(Header, frozen=True, kw_only=True, tag="settings"):
    """All that changes outputs, from this record on: names and values, only those that differ from the defaults."""

    values: Mapping[str, Any] = {}


class Splits(Header, frozen=True, kw_only=True, tag="split"):
    """Rows: splits (`schemas.SPLITS`)."""


class Dividends(Header, frozen=True, kw_only=True, tag="dividend"):
    """Rows: dividends (`schemas.DIVIDENDS`)."""


class Answers(Header, frozen=True, kw_only=True, tag="answers"):
    """Rows: what vendors said of the stretches that they were asked for (`schemas.ANSWERS`), behind the bars."""


class Rebuild(Header, frozen=True, kw_only=True, tag="rebuild"):
    """Run `[from_us, to_us)` of the symbols in the rows again from raw, under the settings of now."""

    from_us: int
    to_us: int


class AlertRule(Header, frozen=True, kw_only=True, tag="alert_rule"):
    """From here on this rule is in force in place of its former revisions; `removed`: there is none any more.

    One of a revision that is known already changes nothing. It stands in the symbol's partition; `removed` in all.
    """

    rule: Rule
    removed: bool = False


class Bars(Header, frozen=True, kw_only=True, tag="bars"):
    """Rows: published bars (`schemas.BARS`)."""


class Values(Header, frozen=True, kw_only=True, tag="values"):
    """Rows: indicator values (`schemas.ANALYTICS_KEY` and a float64 column for each output)."""


class Alerts(Header, frozen=True, kw_only=True, tag="alerts"):
    """Rows: alerts that fired (`schemas.ALERT`), in the order in which their rules crossed."""


class Over(Header, frozen=True, kw_only=True, tag="over"):
    """An interval is over for a feed and this partition; rows: expected symbols and which emitted (`COVERAGE`).

    `whole`: the feed was up for all of it, so that a symbol without a bar was not traded.
    """

    interval: str
    start_us: int
    expected: int
    emitted: int
    whole: bool = True


class FeedState(Header, frozen=True, kw_only=True, tag="feed_state"):
    """On `market.status`: the feed is `up`, `down` or `ended`; or its state stays and something was left out of bars.

    `late`: `count` ticks were older than memory; `unsupported`: `count` ticks or bars could not be used, and `reason`.
    """

    state: str
    since_us: int
    reason: str = ""
    count: int = 0


class Differences(Header, frozen=True, kw_only=True, tag="differences"):
    """On `market.status`: bars of one (symbol, interval, time) that two sources give otherwise (`DIFFERENCES`)."""


class Dead(Header, frozen=True, kw_only=True, tag="dead"):
    """Rows: what could not be read (`schemas.DEAD`)."""


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
"""The columns of each kind; those of `Values` are followed by one float64 column for each output."""

_AnyHeader: TypeAlias = (
    Start | Ticks | VendorBars | Mark | Down | End | Settings | Splits | Dividends | Answers
    | Rebuild | AlertRule | Bars | Values | Alerts | Over | FeedState | Differences | Dead
)  # fmt: skip
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Header] = msgspec.json.Decoder(_AnyHeader)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: what happened and its rows. Control records have a batch of no columns."""

    header: Header
    batch: pa.RecordBatch


_EMPTY = {
    kind: pa.RecordBatch.from_arrays([pa.array([], field.type) for field in columns], schema=columns)
    for kind, columns in COLUMNS.items()
}


def no_rows(kind: type[Header]) -> pa.RecordBatch:
    """Return the batch of a kind's columns without rows."""
    return _EMPTY[kind]


def encode(header: Header, batch: pa.RecordBatch | None = None) -> pa.Buffer:
    """Return the record's bytes as an Arrow buffer (it supports the buffer protocol; `len()` is its size).

    `batch` has the columns of its kind, in order and of these very types; None means no rows. Raises ValueError when
    the columns are not those of the kind.
    """
    kind = type(header)
    if batch is None:
        batch = _EMPTY[kind]
    expected = COLUMNS[kind]
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
    """Return the record in `data` (bytes, memoryview or Arrow buffer), whose memory its columns share.

    Raises UnreadableRecord, and nothing else, when it is none, is of a version newer than this code, or has other
    columns than its kind.
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
    except Exception as error:  # Arrow raises a dozen kinds of error for broken bytes; each means the same here
        raise UnreadableRecord(f"no Arrow IPC stream: {type(error).__name__}: {error}") from error
    try:
        _check(type(header), batch)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UnreadableRecord(f"broken columns: {error}") from error
    return Record(header, batch)


def _check(kind: type[Header], batch: pa.RecordBatch) -> None:
    """Raise unless the batch has the kind's columns, and they are sound to the last index and letter."""
    expected = COLUMNS[kind]
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
    """Return the header alone, without touching the columns. Raises UnreadableRecord as `decode` does."""
    try:
        with pa.ipc.open_stream(data) as stream:
            return _read_header(stream.schema)
    except UnreadableRecord:
        raise
    except Exception as error:
        raise UnreadableRecord(f"no Arrow IPC stream: {type(error).__name__}: {error}") from error
