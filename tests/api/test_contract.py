"""REST against its own OpenAPI document: generated requests of every route, valid and invalid, with all checks.

Further tests send extreme times and hostile texts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation

from tests.api.support import PARTITIONS, serving
from tests.api.test_alert_rules import RULE
from tests.store.rows import OPEN_US, bars
from tests.store.test_interval_status import write_bars
from tests.support.postgres import Postgres
from tests.support.properties import THOROUGH
from tests.support.waiting import until
from tickerplant.analytics.alerts.rule_operands import check_rule
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import schemas
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.store import Store


async def fill(dsn: str) -> None:
    store = await Store.open(dsn)
    await write_bars(store, bars(*({"minute": minute} for minute in range(30))))
    await store.close()


@pytest.fixture(scope="module")
def plant(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serve an API with every route, on a real database."""
    name = postgres.new("tables")
    asyncio.run(fill(postgres.dsn_of(name)))
    with EmbeddedLog(tmp_path_factory.mktemp("log") / "log.sqlite") as log:
        log.create_topics(schemas.TOPICS, PARTITIONS)
        reader = StoreReader(postgres.dsn_of(name), log.identity())
        options: dict[str, Any] = {"check_rule": check_rule, "indicators": OnDemand(DEFAULT_RULES)}
        with serving(log, reader, now_us=lambda: OPEN_US, **options) as (client, _, _):
            yield client
    postgres.drop(name)


OPERATIONS = [
    (method, path)
    for path, methods in {
        "/v1/historical/{symbol}": "get", "/v1/intraday/{symbol}": "get", "/v1/ticks/{symbol}": "get",
        "/v1/analytics/{symbol}": "get", "/v1/realtime/{symbol}": "get", "/v1/indicators": "get",
        "/v1/indicators/{name}": "get", "/v1/indicators/{name}/{symbol}": "get", "/v1/alerts": "get post",
        "/v1/alerts/firings": "get", "/v1/alerts/{id}": "get patch delete", "/v1/alerts/{id}/firings": "get",
        "/v1/coverage": "get", "/v1/coverage/{symbol}": "get", "/v1/symbols": "get", "/v1/status": "get",
        "/health": "get", "/metrics": "get", "/health/live": "get", "/health/ready": "get",
    }.items()
    for method in methods.split()
]  # fmt: skip


WITHOUT_INPUT = ("/v1/indicators", "/v1/status", "/health", "/health/live", "/health/ready", "/metrics")
"""Paths for which the document has no parameters, so that no invalid request can be generated."""

CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404"]}}}
"""Statuses of valid requests. A schema cannot state that `start` is before `end`, or that a zone or symbol exists."""


@pytest.fixture(scope="module")
def contract(plant: httpx.Client) -> Any:
    config = schemathesis.Config.from_dict(CONFIG)
    return schemathesis.openapi.from_url(f"{plant.base_url}/openapi.json", config=config)


def test_every_documented_operation_is_tried(contract: Any) -> None:
    found = [result.ok() for result in contract.get_all_operations()]
    assert sorted((each.method, each.path) for each in found) == sorted(OPERATIONS)


CASES = [
    (*operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation[1] not in WITHOUT_INPUT
]


@pytest.mark.parametrize(("method", "path", "mode"), CASES, ids=str)
def test_answers_are_as_documented(contract: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation: APIOperation = contract[path][method]

    thorough = settings.get_current_profile_name() == THOROUGH

    @settings(max_examples=200 if thorough else 4, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate()

    check()


TIMES = (
    "0001-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31", "9999-12-31T23:59:59.999999", "9999-12-31T23:59:59-14:00",
    "10000-01-01", "-1", "99999999999999999999999999", "1e400", "nan", "\0", "2026-03-09\0", "٢٠٢٦-03-09", "\ud800",
    "9" * 5_000, "2026-02-30", "2026-03-09T25:00", "",
)  # fmt: skip
TEXTS = (
    "\0", "A\0B", "\ud800", "\udfff", "A" * 5_000, "\u202e", "\x1b[2J", "%", "..", "a/../b", "' OR 1=1", "٣",
    "\U0010ffff",
)  # fmt: skip
RANGES = [
    ("/v1/historical/GOOG", "start", "end"), ("/v1/historical/GOOG?interval=1w", "start", "end"),
    ("/v1/intraday/GOOG", "start", "end"), ("/v1/intraday/GOOG?interval=1h", "start", "end"),
    ("/v1/ticks/GOOG", "start", "end"), ("/v1/analytics/GOOG", "start", "end"), ("/v1/realtime/GOOG", "start", "end"),
    ("/v1/indicators/SMA/GOOG", "start", "end"), ("/v1/indicators/SMA/GOOG?interval=1w", "start", "end"),
    ("/v1/alerts/firings", "start", "end"), ("/v1/alerts/x/firings", "start", "end"),
    ("/v1/coverage", "from", "to"), ("/v1/coverage/GOOG", "from", "to"),
    ("/v1/coverage/GOOG?interval=1d", "from", "to"),
]  # fmt: skip


def _encoded(text: str) -> str:
    """Return a percent-encoded text. A lone surrogate, which is not valid UTF-8, is encoded too."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _check(answer: httpx.Response, what: str) -> None:
    assert answer.status_code in (200, 400, 404, 405), (what, answer.status_code, answer.text[:300])
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert 0 < len(error["message"]) < 2_000, what


@pytest.mark.parametrize(("path", "first", "last"), RANGES)
def test_a_time_that_cannot_be_computed_with_is_no_failure(
    plant: httpx.Client, path: str, first: str, last: str
) -> None:
    join = "&" if "?" in path else "?"
    for text, name in itertools.product(TIMES, (first, last)):
        for zone in ("", "&tz=Pacific/Kiritimati") if text in TIMES[:5] and "alerts" not in path else ("",):
            url = f"{path}{join}{name}={_encoded(text)}{zone}"
            _check(plant.get(url), url)


def test_a_range_beyond_all_times_has_the_same_rows(plant: httpx.Client) -> None:
    path = "/v1/intraday/GOOG"
    rows = plant.get(path).json()["bars"]
    assert len(rows) == 30
    for query in ("start=0001-01-01", "end=9999-12-31", "start=0001-01-01&end=9999-12-31T23:59:59.999999"):
        assert plant.get(f"{path}?{query}").json()["bars"] == rows, query
    for query in ("start=9998-01-01&end=9999-01-01", "end=0001-01-02", "start=0001-01-01&end=0001-01-02"):
        assert plant.get(f"{path}?{query}").json()["bars"] == [], query
        assert plant.get(f"/v1/historical/GOOG?{query}").status_code == 200, query
    for query in ("start=9999-01-01&end=9998-01-01", "start=9999-01-01&end=9999-01-01"):
        assert plant.get(f"{path}?{query}").status_code == 400, query


PARAMETERS = ("symbol", "interval", "tz", "format", "times", "limit", "skip", "adjust", "indicators", "prefix")
LISTS = ("intraday/GOOG", "analytics/GOOG", "alerts")
PATHS = (
    "historical", "intraday", "ticks", "analytics", "realtime", "coverage", "indicators", "indicators/SMA", "alerts",
)  # fmt: skip
FIELDS = ("symbol", "interval", "left", "operator", "right", "when", "webhook", "secret", "bars")


@pytest.mark.parametrize("path", LISTS)
def test_a_parameter_of_any_characters_is_no_failure(plant: httpx.Client, path: str) -> None:
    for text, name in itertools.product(TEXTS, PARAMETERS):
        url = f"/v1/{path}?{name}={_encoded(text)}"
        _check(plant.get(url), url)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_any_characters_is_no_failure(plant: httpx.Client, path: str) -> None:
    for text in TEXTS:
        url = f"/v1/{path}/{_encoded(text)}"
        _check(plant.get(url), url)
        if path == "alerts":
            _check(plant.get(f"{url}/firings"), url)
            _check(plant.delete(url), url)
            _check(plant.patch(url, json={}), url)


@pytest.mark.parametrize("field", FIELDS)
def test_a_body_of_any_characters_is_no_failure(plant: httpx.Client, field: str) -> None:
    rule = RULE | {"webhook": "https://example.com/"}
    bodies = [rule | {field: text} for text in TEXTS]
    bodies += [rule | {"bars": number, "operator": "percent_change"} for number in (10**30, -1, 1e300, 0.5)]
    for body in bodies:
        answer = plant.post("/v1/alerts", content=json.dumps(body), headers={"Content-Type": "application/json"})
        if answer.status_code != 201:
            _check(answer, repr(body))


def test_a_client_that_leaves_is_no_failure(plant: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    port = plant.base_url.port
    head = "POST /v1/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    name = 'tickerplant_api_requests_total{path="/v1/alerts",status="499"}'
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(head.encode() + b'{"sym')
    until(lambda: name in plant.get("/metrics").text, "the request to end")
    assert "Traceback" not in caplog.text
    assert 'status="500"' not in plant.get("/metrics").text
