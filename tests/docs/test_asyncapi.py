"""The AsyncAPI document is valid, equals the code, and describes the records of golden files and of an older plant.

`asyncapi-3.0.0.json.xz` is the JSON Schema of AsyncAPI 3.0.0 without `$id`, from `@asyncapi/specs` 6.11.1 (Apache-2.0).
"""

from __future__ import annotations

import datetime as dt
import json
import lzma
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pyarrow as pa
import pytest
import yaml
from tools import asyncapi

from tests.core.samples import GOLDEN
from tests.upgrade.fixture import unpack
from tickerplant.core import records, schemas
from tickerplant.log.embedded import EmbeddedLog

HERE = Path(__file__).parent
TOPICS_PAGE = HERE.parents[1] / "docs" / "topics.md"
TYPES = {
    pa.dictionary(pa.int32(), pa.utf8()): "dictionary<int32, string>",
    pa.dictionary(pa.int8(), pa.utf8()): "dictionary<int8, string>",
}
TAGS = {kind.__struct_config__.tag for kind in records.KINDS}


def fetch_nothing(uri: str) -> Any:
    raise AssertionError(f"the schema refers to {uri}")


@cache
def kept() -> dict[str, Any]:
    """Return the document in the repository."""
    document: dict[str, Any] = yaml.safe_load(asyncapi.PATH.read_text())
    return document


@cache
def rules() -> Any:
    """Return the validator of AsyncAPI 3.0.0."""
    schema = json.loads(lzma.decompress((HERE / "asyncapi-3.0.0.json.xz").read_bytes()))
    return jsonschema_rs.validator_for(schema, retriever=fetch_nothing)


@cache
def payloads(tag: str) -> Any:
    """Return the validator of a kind's decoded records."""
    payload = kept()["components"]["messages"][tag]["payload"]
    return jsonschema_rs.validator_for({**payload, "components": kept()["components"]}, retriever=fetch_nothing)


def decoded(data: Any) -> tuple[pa.Schema, dict[str, Any]]:
    """Return the Arrow schema and the decoded record, with PyArrow and JSON alone."""
    with pa.ipc.open_stream(data) as stream:
        schema = stream.schema
        rows = stream.read_next_batch().to_pylist()
    found: dict[str, Any] = {"header": json.loads(schema.metadata[b"tickerplant"])}
    if len(schema):
        found["rows"] = [{name: plain(value) for name, value in row.items()} for row in rows]
    return schema, found


def plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def check_record(data: Any) -> str:
    """Fail unless the document describes the record; return its kind."""
    schema, found = decoded(data)
    tag = found["header"]["kind"]
    payloads(tag).validate(found)
    described = kept()["components"]["messages"][tag]["payload"]["properties"].get("rows", {"items": {}})["items"]
    for field in schema:
        column = described["properties"].get(field.name) or described["additionalProperties"]
        assert column["x-arrow-type"] == TYPES.get(field.type, str(field.type)), field
        assert ("null" in column["type"]) == field.nullable, field
    assert set(found["header"]) <= set(kept()["components"]["schemas"][schema_name(tag)]["properties"])
    return str(tag)


def schema_name(tag: str) -> str:
    reference = kept()["components"]["messages"][tag]["payload"]["properties"]["header"]["$ref"]
    return str(reference).rpartition("/")[2]


def kinds_of(address: str) -> set[str]:
    """Return the kinds that the document lists for a topic."""
    (channel,) = (each for each in kept()["channels"].values() if each["address"] == address)
    return set(channel["messages"])


def test_the_document_is_valid_and_equals_the_code() -> None:
    rules().validate(kept())
    assert asyncapi.PATH.read_text() == asyncapi.text(), "run `python -m tools.asyncapi`"
    broken = {**kept(), "channels": {"raw": {"address": 7}}}
    assert not rules().is_valid(broken)


def test_a_new_column_changes_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {**records.COLUMNS, records.Alerts: schemas.ALERT.append(pa.field("added", pa.int64()))}
    monkeypatch.setattr(records, "COLUMNS", columns)
    rows = asyncapi.document()["components"]["messages"]["alerts"]["payload"]["properties"]["rows"]["items"]
    assert rows["properties"]["added"] == {"type": ["integer", "null"], "x-arrow-type": "int64"}
    assert asyncapi.text() != asyncapi.PATH.read_text()


def test_channels_are_the_topics_without_state_and_have_all_kinds() -> None:
    addresses = {channel["address"]: channel for channel in kept()["channels"].values()}
    assert set(addresses) == {spec.name for spec in schemas.TOPICS if not spec.keyed}
    assert set().union(*(channel["messages"] for channel in addresses.values())) == TAGS
    days = {
        topic: channel["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] / 86_400_000
        for topic, channel in addresses.items()
    }
    assert (days["market.prices.raw"], days["market.alerts"]) == (5, 30)


def test_columns_with_a_description_exist() -> None:
    fields = {field.name for columns in records.COLUMNS.values() for field in columns} | {"exchange"}
    assert set(asyncapi.COLUMN_NOTES) <= fields | {"v", "sent_at_us", "feed", "cause"}


def test_the_page_lists_the_kinds_of_each_topic() -> None:
    table = dict(re.findall(r"(?m)^\| `(market\.[a-z.]+)` \|.*\| ([^|]+) \|$", TOPICS_PAGE.read_text()))
    assert {topic: set(re.findall(r"`(\w+)`", kinds)) for topic, kinds in table.items()} == {
        channel["address"]: set(channel["messages"]) for channel in kept()["channels"].values()
    }


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.arrow")), ids=lambda path: path.name)
def test_the_document_describes_each_golden_file(path: Path) -> None:
    assert check_record(path.read_bytes()) == path.name.partition(".")[0]


def test_a_record_with_a_wrong_value_does_not_fit() -> None:
    _, record = decoded((GOLDEN / "bars.v1.arrow").read_bytes())
    assert payloads("bars").is_valid(record)
    for changed in (
        {**record, "rows": [{**record["rows"][0], "state": "open"}]},
        {**record, "rows": [{**record["rows"][0], "volume": None}]},
        {**record, "header": {**record["header"], "kind": "values"}},
        {"rows": record["rows"]},
    ):
        assert not payloads("bars").is_valid(changed)


def test_the_document_describes_all_records_of_an_older_plant(tmp_path: Path) -> None:
    unpack("embedded", tmp_path)
    log = EmbeddedLog(tmp_path / "market.log")
    found = {topic: {check_record(value) for value in values_of(log, topic)} for topic in logged_topics()}
    log.close()
    for topic, kinds in found.items():
        assert kinds <= kinds_of(topic), topic
    assert found["market.prices.ohlcv"] == {"bars", "mark", "end", "settings", "alert_rule", "split"}
    assert found["market.analytics"] == {"values", "mark", "end"}
    assert found["market.status"] == {"feed_state", "over"}


def logged_topics() -> list[str]:
    return [spec.name for spec in schemas.TOPICS if not spec.keyed]


def values_of(log: EmbeddedLog, topic: str) -> Iterator[Any]:
    bounds: Mapping[Any, tuple[int, int]] = log.offsets(topic)
    for source, (first, end) in bounds.items():
        for record in log.read_range(source, first, end):
            yield record.value
