"""This version opens the backup of each release: its answers equal those of the release, and the plant goes on.

Each backup contains revised and forming bars, alert rules and firings, a live feed, a killed replay, and records that
the database had not applied.
"""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.waiting import PATIENCE, until
from tests.upgrade import ticks
from tests.upgrade.fixture import RELEASES, Opened, open_release
from tests.upgrade.make_answers import collect
from tests.upgrade.test_answers import contains

MEASURED = {"api", "disk"}
"""Parts of `/health` with details that depend on the machine."""


@pytest.fixture(params=sorted(one.name for one in RELEASES.iterdir()), scope="module")
def release(request: pytest.FixtureRequest) -> Path:
    return RELEASES / str(request.param)


@pytest.fixture(scope="module")
def opened(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_release(release, tmp_path_factory.mktemp("release") / "data")


def answers_of(release: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lzma.decompress((release / "answers.json.xz").read_bytes()))
    return found


def test_a_release_is_complete(release: Path) -> None:
    answers = answers_of(release)["rest"]
    assert json.loads((release / "about.json").read_text())["version"] == release.name
    bars = [
        bar
        for route, answer in answers.items()
        if route.startswith("/v1/intraday/") and answer["status"] == 200 and "json" in answer["type"]
        for bar in json.loads(answer["body"])["bars"]
    ]
    assert {bar["state"] for bar in bars} == {"final", "forming"}
    assert any(bar["revision"] and bar["reason"] == "late" for bar in bars)
    assert json.loads(answers["/v1/alerts/firings"]["body"])["firings"]


def test_the_answers_equal_those_of_the_release(release: Path, opened: Opened) -> None:
    wanted = answers_of(release)
    with opened.store(), opened.running("run", "api", rate=0) as url:
        found = json.loads(json.dumps(collect(url)))
    assert found["stream"] == wanted["stream"]
    assert found["rest"].keys() == wanted["rest"].keys()
    for route, before in wanted["rest"].items():
        answer = found["rest"][route]
        if route == "/metrics":
            assert not set(before) - set(answer)
        elif route == "/openapi.json":
            assert contains(json.loads(answer["body"]), json.loads(before["body"]))
        elif route == "/health":
            assert parts(answer) | parts(before) == parts(answer)
        else:
            assert answer == before, route


def parts(answer: dict[str, Any]) -> dict[str, Any]:
    return {part["name"]: part for part in json.loads(answer["body"])["parts"] if part["name"] not in MEASURED}


def minutes_of_file(symbol: str) -> list[tuple[str, float, float, float, float, float]]:
    """Return (time, open, high, low, close, volume) of each minute of a symbol in the file of ticks."""
    found: dict[str, list[tuple[float, float]]] = {}
    for time, name, price, size, _ in ticks.rows():
        if name == symbol:
            found.setdefault(f"{time[:16]}:00+00:00", []).append((float(price), float(size)))
    return [
        (time, prints[0][0], max(p for p, _ in prints), min(p for p, _ in prints), prints[-1][0],
         math.fsum(size for _, size in prints))
        for time, prints in found.items()
    ]  # fmt: skip


def stored_minutes(client: httpx.Client, symbol: str) -> list[dict[str, Any]]:
    span = {"start": "2026-03-04T15:00:00Z", "end": "2026-03-04T15:30:00Z"}
    answer = client.get(f"/v1/intraday/{symbol}", params={"interval": "1m", **span})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["bars"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_plant_goes_on(opened: Opened, tmp_path: Path) -> None:
    file = ticks.write_ticks(tmp_path / "ticks.csv")
    with opened.running("up", rate=10) as url, httpx.Client(base_url=url, timeout=PATIENCE.seconds(60)) as client:
        before = stored_minutes(client, "AAPL")
        resumed = json.loads(opened.run("replay", str(file), "--json", rate=10).splitlines()[-1])
        assert (resumed["ticks"], resumed["repeats"], resumed["dead_lettered"]) == (ticks.TICKS, 0, 0)
        for symbol in ticks.SYMBOLS:
            until(lambda one=symbol: all(bar["state"] == "final" for bar in stored_minutes(client, one)), "closed bars")  # type: ignore[misc]
            found = [
                tuple(bar[name] for name in ("time", "open", "high", "low", "close", "volume"))
                for bar in stored_minutes(client, symbol)
            ]
            assert found == minutes_of_file(symbol)
        until(lambda: len(stored_minutes(client, "AAPL")) > len(before), "bars of live ticks")
        until(lambda: client.get("/health").json()["status"] == "ok", "a healthy plant")
    verified = [json.loads(line) for line in opened.run("verify", "--json", rate=0).splitlines()]
    assert len(verified) == 3
    assert all(one["equal"] and one["records"] > 0 for one in verified), verified
