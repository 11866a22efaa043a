"""REST and WebSocket answers on a folder of 28f7935 equal those of that version, except texts for people."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.upgrade.fixture import open_embedded
from tests.upgrade.make_answers import collect

HERE = Path(__file__).parent
NEVER_SENT = {"15m", "30m", "1h", "1w"}
WANTED: dict[str, Any] = json.loads(lzma.decompress((HERE / "answers.json.xz").read_bytes()))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[dict[str, Any]]:
    name = postgres.new()
    opened = open_embedded(tmp_path_factory.mktemp("answers") / "data", postgres.dsn_of(name))
    with opened.running("run", "api", rate=0) as url:
        yield json.loads(json.dumps(collect(url)))
    postgres.drop(name)


@pytest.mark.parametrize("route", WANTED["rest"])
def test_rest_answers_as_before(found: dict[str, Any], route: str) -> None:
    if route == "/metrics":
        assert not set(WANTED["rest"][route]) - set(found["rest"][route])
        return
    wanted, answer = WANTED["rest"][route], found["rest"][route]
    answer = answer | {"headers": {name: answer["headers"][name] for name in wanted["headers"]}}  # others are new
    if route == "/health":
        assert_health_as_before(answer, wanted)
        return
    answer, wanted = without_citations(answer), without_citations(wanted)
    if "interval=1w" in route:  # the last week stayed `forming`, because no more bars follow
        assert [bar["state"] for bar in wanted["body"]["bars"]][-1] == "forming"
        wanted["body"]["bars"][-1]["state"] = "final"
    if route == "/openapi.json":  # the document of that version describes /metrics as JSON
        del wanted["body"]["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
        assert contains(answer["body"], wanted["body"])
        del answer["body"], wanted["body"]
    assert answer == wanted


def contains(found: Any, wanted: Any) -> bool:
    """Return True if the document `found` contains all of `wanted`. Later versions only add fields."""
    if isinstance(wanted, dict):
        return all(name in found and contains(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)


def assert_health_as_before(answer: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that each part and each detail is as before. Later versions add parts and details."""
    body, before = json.loads(answer["body"]), json.loads(wanted["body"])
    assert {**answer, "body": body.keys()} == {**wanted, "body": before.keys()}
    assert body["status"] == before["status"]
    parts = {part["name"]: part for part in body["parts"]}
    for part in before["parts"]:
        present = parts[part["name"]]
        if isinstance(part["details"], dict):
            present = present | {"details": {name: present["details"][name] for name in part["details"]}}
        assert present == part


def without_citations(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without the citations of indicators, which are texts for people (`source` beside `dialects`)."""

    def cut(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "source": "…"} if {"source", "dialects"} <= value.keys() else value

    return {
        **answer,
        "body": json.loads(answer["body"], object_hook=cut) if "json" in answer["type"] else answer["body"],
    }


@pytest.mark.parametrize("part", WANTED["stream"])
def test_the_stream_sends_as_before(found: dict[str, Any], part: str) -> None:
    wanted = WANTED["stream"][part]
    if part == "welcome":  # that version named channels on which it never sent anything
        wanted = wanted | {"channels": [name for name in wanted["channels"] if name.split(".")[-1] not in NEVER_SENT]}
        assert {name: found["stream"][part][name] for name in wanted} == wanted  # later versions add fields
        return
    sent = found["stream"][part]
    if part == "fresh":  # that version did not know feeds whose state changed before the start of the API
        snapshot, former = next((new, old) for new, old in zip(sent, wanted, strict=True) if old["type"] == "snapshot")
        assert [event for event in snapshot["status"] if event in former["status"]] == former["status"]
        snapshot["status"] = former["status"]
    assert sent == wanted
