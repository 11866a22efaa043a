"""The AsyncAPI document of the log's topics, built from the code that encodes the records.

`python -m tools.asyncapi` writes `docs/asyncapi.yaml`. `tests/docs/test_asyncapi.py` compares the file with the code.
A payload schema describes a decoded record. `header` is the JSON in the Arrow schema's metadata. `rows` has one object
for each row of the batch.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import yaml

from tickerplant.core import records, schemas

PATH: Final = Path(__file__).parents[1] / "docs" / "asyncapi.yaml"

CHANNELS: Final = {
    "raw": (schemas.RAW, "Input of the plant. Feeds, the backfill, the API and users' commands append it."),
    "ohlcv": (schemas.OHLCV, "Bars, and the control records that downstream stages need."),
    "analytics": (schemas.ANALYTICS, "Indicator values, and the control records that show their progress."),
    "alerts": (schemas.ALERTS, "Fired alerts."),
    "status": (schemas.STATUS, "States of feeds, ends of intervals, and differences between sources."),
    "deadletter": (schemas.DEADLETTER, "Data that could not be decoded or applied."),
}
"""Address and description of each channel. State topics are not part of the interface."""

KINDS: Final = {
    schemas.RAW: records.RAW_KINDS,
    schemas.OHLCV: (records.Bars, records.Mark, records.End, records.Splits, records.Settings, records.AlertRule),
    schemas.ANALYTICS: (records.Values, records.Mark, records.End),
    schemas.ALERTS: (records.Alerts,),
    schemas.STATUS: (records.Over, records.FeedState, records.Differences),
    schemas.DEADLETTER: (records.Dead,),
}
"""Kinds of each topic, as the docstring of `tickerplant.core.records` lists them."""

COLUMN_NOTES: Final = {
    "again_at": "Time from which a new request may succeed; null for `answered`, or if no request can succeed.",
    "alert_id": "Identifier of the alert; the same in every log and every replay.",
    "cause": "Version of the raw record that caused this record; 0 on market.prices.raw.",
    "complete": "True if the feed covered the whole interval and every trade has a known size.",
    "emitted": "True if the symbol has a bar in the interval.",
    "exchange": "Exchange of the print; null if unknown. The column exists only if the feed has exchanges.",
    "feed": 'Name of the feed; "" if the record belongs to none.',
    "flags": "Bits: 1 no OHLC, 2 no volume, 4 cancel, 8 correction, 16 extended hours, 32 closing auction, "
    "64 size unknown.",
    "history": "True for a vendor's bar that is older than the retained sessions.",
    "published_at": "Time at which the writer created the raw record that caused the row.",
    "reason": "Cause of the row's last change. New reasons may be added.",
    "received_at": "Time at which the feed received the print.",
    "revision": "Count of changes after the bar closed.",
    "sent_at_us": "Time at which the writer created the raw record that caused this record, in microseconds since 1970 "
    "UTC.",
    "size": "Shares or units; 0 if unknown.",
    "state": "State of the bar.",
    "time": "Time of the print, start of the bar, or, for a daily bar, split or dividend, 00:00 UTC of its date.",
    "v": "Version of the header and the columns.",
    "version": "Log generation * 2^40 + offset of the raw record that caused the row. The greatest version wins.",
    "vwap": "Volume-weighted average price; null if there is no volume.",
}
"""Descriptions of columns and header fields, by name."""
DEAD_REASON: Final = "Reason for which the data could not be decoded or applied."
"""Description of the column `reason` of dead letters."""
_CONSTANTS: Final = re.compile(r"\s\(`[a-z.]*[A-Z_]+`[^)]*\)")
_ENUMS: Final = {
    "state": schemas.STATES,
    "verdict": (
        schemas.ANSWERED, schemas.NO_DATA, schemas.QUOTA, schemas.OUTAGE, schemas.NOT_OFFERED, schemas.DIFFERS,
    ),
}  # fmt: skip

INTRODUCTION: Final = """\
Topics of the event log on Kafka. docs/topics.md describes keys, partitions, offsets and compatibility.

Each message is one Arrow IPC stream with one record batch. The key `tickerplant` of the schema's metadata contains the
record's header as JSON. The payload schemas here describe a decoded message: `header`, and one object of `rows` for
each row of the batch. `x-arrow-type` is the Arrow type of a column.

A header omits each field whose value is the default.

If the plant's log address contains `?prefix=NAME`, each topic's name starts with NAME.
"""


def document() -> dict[str, Any]:
    """Return the AsyncAPI document as JSON values."""
    _, components = msgspec.json.schema_components(records.KINDS, ref_template="#/components/schemas/{name}")
    about = {name: _tidy(each) for name, each in components.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tickerplant topics",
            "version": f"{records.VERSION}.0.0",
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/vnd.apache.arrow.stream",
        "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "One of the brokers."}},
        "channels": {name: _channel(*about) for name, about in CHANNELS.items()},
        "operations": {
            f"send_{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}} for name in CHANNELS
        },
        "components": {
            "messages": {_tag(kind): _message(kind, about[kind.__name__]) for kind in records.KINDS},
            "schemas": components,
        },
    }


def _tag(kind: type[records.Header]) -> str:
    return str(kind.__struct_config__.tag)


def _channel(topic: str, description: str) -> dict[str, Any]:
    retention_us = schemas.TOPIC[topic].retention_us
    assert retention_us is not None, f"{topic} is a state topic"
    return {
        "address": topic,
        "description": description,
        "messages": {_tag(kind): {"$ref": f"#/components/messages/{_tag(kind)}"} for kind in KINDS[topic]},
        "bindings": {
            "kafka": {
                "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": retention_us // 1000},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _message(kind: type[records.Header], description: str) -> dict[str, Any]:
    columns = records.EXTENDED_COLUMNS.get(kind, records.COLUMNS[kind])
    rows: dict[str, Any] = {
        "type": "object",
        "required": [field.name for field in records.COLUMNS[kind]],
        "properties": {field.name: _column(field) for field in columns},
    }
    if kind is records.Dead:
        rows["properties"]["reason"]["description"] = DEAD_REASON
    if kind is records.Values:
        rows["additionalProperties"] = {
            "type": ["number", "null"],
            "description": "Values of one indicator output, such as rsi_14.",
            "x-arrow-type": str(pa.float64()),
        }
    properties: dict[str, Any] = {"header": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    if len(columns):
        properties["rows"] = {"type": "array", "items": rows}
    return {
        "name": _tag(kind),
        "title": kind.__name__,
        "description": description,
        "payload": {"type": "object", "required": list(properties), "properties": properties},
    }


def _column(field: pa.Field) -> dict[str, Any]:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_timestamp(kind):
        found: dict[str, Any] = {"type": "string", "format": "date-time"}
    elif pa.types.is_binary(kind):
        found = {"type": "string", "contentEncoding": "base64"}
    elif pa.types.is_string(kind):
        found = {"type": "string"}
    elif pa.types.is_boolean(kind):
        found = {"type": "boolean"}
    elif pa.types.is_integer(kind):
        found = {"type": "integer"}
    else:
        assert pa.types.is_floating(kind), kind
        found = {"type": "number"}
    if field.nullable:
        found["type"] = [found["type"], "null"]
    if field.name in _ENUMS:
        found["enum"] = list(_ENUMS[field.name])
    if field.name in COLUMN_NOTES:
        found["description"] = COLUMN_NOTES[field.name]
    return found | {"x-arrow-type": _arrow_type(field.type)}


def _arrow_type(kind: pa.DataType) -> str:
    return f"dictionary<{kind.index_type}, {kind.value_type}>" if pa.types.is_dictionary(kind) else str(kind)


def _tidy(schema: dict[str, Any]) -> str:
    """Describe the common header fields; remove and return the description, without the names of Python constants.

    Each line of the description has at most 100 characters.
    """
    for name, each in schema.get("properties", {}).items():
        if name in ("v", "sent_at_us", "feed", "cause"):
            each["description"] = COLUMN_NOTES[name]
    text = inspect.cleandoc(_CONSTANTS.sub("", schema.pop("description")))
    return "\n\n".join(textwrap.fill(paragraph, 100) for paragraph in text.strip().split("\n\n"))


class _Dumper(yaml.SafeDumper):
    """Write texts of several lines as blocks, and repeat equal values instead of aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: the document has no aliases."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def text() -> str:
    """Return the document as YAML."""
    dumped: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Made by `python -m tools.asyncapi`. Do not edit.\n{dumped}"


if __name__ == "__main__":
    PATH.write_text(text())
