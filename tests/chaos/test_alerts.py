"""kill -9 while rules cross: a receiver that deduplicates alerts by id gets each exactly once, and none is missed.

The expected alerts are computed at the end from neighbouring bars in the tables.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np
import pytest

from tests.chaos.test_kills import Parts, explained, pace
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, Guard, until
from tickerplant.analytics import compute
from tickerplant.app.config.settings import load
from tickerplant.core import records, schemas
from tickerplant.log.open import open_log

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

REPLAY_S = 60.0
"""Seconds of an undisturbed replay. The replay is paced until after the kills, and then continues unpaced."""
SECRET = "a secret of the receiver"
RULES = {
    "crosses_above": ("close", "crosses_above", "SMA(3)"),
    "crosses_below": ("close", "crosses_below", "SMA(3)"),
    "greater": ("RSI(5)", "greater", "70"),
    "less": ("RSI(5)", "less", "30"),
}
FAULTS = {
    "analytics": ["analytics.append.after:3", "analytics.snapshot.after:1", "analytics.commit.after:3"],
    "api": ["alerts.intake.put.before:1", "alerts.intake.commit.before:2", "alerts.webhooks.mark.before:3"],
    "persistence": ["persistence.commit.within:3"],
}


class Receiver:
    """Receiver of webhooks that deduplicates by id, checks signatures, and refuses some first attempts."""

    def __init__(self) -> None:
        self.alerts: dict[str, dict[str, Any]] = {}
        self.attempts: Counter[str] = Counter()
        self.wrong: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                name = self.headers["X-Tickerplant-Alert-Id"]
                status = receiver.answer(name, self.headers["X-Tickerplant-Signature"] or "", body)
                with suppress(OSError):  # the client was killed
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        self.lock = threading.Lock()

    def answer(self, name: str, signature: str, body: bytes) -> int:
        fields = dict(part.split("=", 1) for part in signature.split(",") if "=" in part)
        right = hmac.new(SECRET.encode(), fields.get("t", "").encode() + b"." + body, hashlib.sha256).hexdigest()
        with self.lock:
            self.attempts[name] += 1
            if not hmac.compare_digest(fields.get("v1", ""), right) or abs(time.time() - int(fields["t"])) > 60:
                self.wrong.append(name)
                return 403
            if self.attempts[name] == 1 and len(self.attempts) % 5 == 0:
                return 503
            alert = json.loads(body)
            if self.alerts.setdefault(name, alert) != alert or alert["alert_id"] != name:
                self.wrong.append(name)
            return 200

    @contextmanager
    def running(self) -> Iterator[Receiver]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def api_url(parts: Parts) -> str | None:
    """Return the address of the newest API process, or None until its log contains the address."""
    found = re.findall(r"the API listens on (http://[0-9.:]+)", parts.output("api").read_text())
    return found[-1] if found else None


def begin(parts: Parts, name: str, fault: str | None = None) -> None:
    if name == "api" and parts.output("api").exists():
        parts.output("api").rename(parts.folder / f"api-{time.monotonic_ns()}.log")
    parts.begin(name, speed=pace(REPLAY_S), fault=fault)


def wait_for_api(parts: Parts) -> str:
    until(lambda: parts.dead() or api_url(parts), "the API")
    url = api_url(parts)
    assert url is not None, parts.dead()
    return url


def wait_for_services(parts: Parts, *names: str) -> None:
    outputs = [parts.output(name) for name in names]
    until(lambda: parts.dead() or all("is up" in path.read_text() for path in outputs), "services")
    assert not parts.dead()


def add_rules(url: str, receiver: Receiver) -> dict[str, str]:
    """Add all rules, and return the name of each rule by its id."""
    names = {}
    for name, (left, operator, right) in RULES.items():
        rule = {"symbol": "GOOG", "left": left, "operator": operator, "right": right}
        answer = httpx.post(
            f"{url}/v1/alerts", json=rule | {"webhook": receiver.url, "secret": SECRET}, timeout=PATIENCE.seconds(30)
        )
        assert answer.status_code == 201, answer.text
        names[answer.json()["id"]] = name
    return names


async def bars_and_firings(dsn: str) -> tuple[list[tuple[int, float]], list[tuple[str, int]]]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        bars = await connection.fetch(
            """SELECT extract(epoch FROM time)::bigint, close FROM intraday_ohlcv
               WHERE interval = '1m' AND close IS NOT NULL ORDER BY time"""
        )
        rows = await connection.fetch("SELECT rule_id, extract(epoch FROM time)::bigint FROM alert_firings")
        return [tuple(row) for row in bars], [tuple(row) for row in rows]
    finally:
        await connection.close()


async def count_pending_webhooks(dsn: str) -> int:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM alert_webhooks WHERE state = 'pending'"))
    finally:
        await connection.close()


def crossings(bars: list[tuple[int, float]]) -> set[tuple[str, int]]:
    """Return (rule, start of the bar in s since 1970) of all expected alerts: the condition becomes true.

    A crossing rule also needs a previous bar whose condition is known to be false.
    """
    close = np.array([price for _, price in bars])
    values = {"close": close, "SMA(3)": compute(close, "SMA(3)")["sma_3"], "RSI(5)": compute(close, "RSI(5)")["rsi_5"]}
    found = set()
    for name, (left, operator, right) in RULES.items():
        a, b = values[left], values.get(right, np.full(len(close), float(right) if right.isdecimal() else np.nan))
        true = a > b if operator in ("crosses_above", "greater") else a < b
        known = ~np.isnan(a) & ~np.isnan(b)
        crosses = operator.startswith("crosses")
        for i, (before, now) in enumerate(itertools.pairwise(range(-1, len(bars))), start=0):
            was = before >= 0 and bool(known[before] and true[before])
            first = before < 0 or not known[before]
            if known[now] and true[now] and not was and not (crosses and first):
                found.add((name, bars[i][0]))
    return found


def logged_ids(plant: Plant) -> list[str]:
    settings = load({"data": plant.data, "log": plant.env.get("TICKERPLANT_LOG", "embedded:")}).settings
    log = open_log(settings.log, data=settings.data)
    try:
        with log.reader([schemas.ALERTS]) as reader:
            batches = iter(lambda: reader.poll(timeout_s=0.5), [])
            found = [records.decode(delivery.value).batch for batch in batches for delivery in batch]
    finally:
        log.close()
    return [name for batch in found for name in batch.column("alert_id").to_pylist()]


def test_each_alert_arrives_once_while_processes_are_killed(tmp_path: Path) -> None:
    env = {
        "TICKERPLANT_SNAPSHOT_INTERVAL_RECORDS": "20",
        "TICKERPLANT_PARTITIONS": "2",
        "TICKERPLANT_ALERTS__WEBHOOK_TIMEOUT_S": "1",
    }
    parts = Parts(Plant(tmp_path / "data", env), tmp_path, on_kafka=False)
    todo = {name: list(points) for name, points in FAULTS.items()}
    killed: list[str] = []
    receiver = Receiver()
    with explained(parts), receiver.running():
        begin(parts, "api")
        names = add_rules(wait_for_api(parts), receiver)
        parts.kill("api")
        del parts.running["api"]
        armed: dict[str, str | None] = {}

        def next_of(name: str) -> None:
            armed[name] = todo[name].pop(0) if todo[name] else None
            begin(parts, name, armed[name])

        # A replay without services starts its own plant, so aggregation runs here; it is not killed yet.
        begin(parts, "aggregation")
        wait_for_services(parts, "aggregation")
        for name in todo:
            next_of(name)
        begin(parts, "replay")
        guard = Guard(180)
        while any(armed.values()):
            for name in parts.dead():
                if name == "replay":
                    del parts.running["replay"]
                    continue
                assert armed.get(name), f"{name} ended before it reached {armed}"
                assert parts.running[name].returncode == -9
                killed.append(f"{armed[name]}")
                next_of(name)
            guard.check(f"the kills at {armed}, then {todo}")
            time.sleep(0.02)
        parts.kill_all()  # the whole plant, the database included
        for path in tmp_path.glob("*.log"):
            path.rename(path.with_name(f"killed-{path.name}"))
        for name in ("api", "aggregation", "analytics", "persistence"):
            begin(parts, name)
        wait_for_services(parts, "api", "aggregation", "analytics", "persistence")
        parts.begin("replay")
        assert parts.running["replay"].wait(PATIENCE.seconds(60)) == 0
        del parts.running["replay"]
        with parts.plant.store() as dsn:
            bars, _ = asyncio.run(bars_and_firings(dsn))
        wanted = crossings(bars)
        until(lambda: parts.dead() or len(receiver.alerts) >= len(wanted), "the last webhooks", 30)
        with parts.plant.store() as dsn:
            until(
                lambda: asyncio.run(count_pending_webhooks(dsn)) == 0,
                "an empty outbox, which would contain surplus alerts",
            )
            _, firings = asyncio.run(bars_and_firings(dsn))
        parts.stop()
        assert sorted(killed) == sorted(point for points in FAULTS.values() for point in points)

    def named(rule: str, seconds: int) -> tuple[str, int]:
        return names[rule], seconds

    assert len(wanted) > 100
    arrived = [named(name.split(".")[0], int(name.split(".")[2]) // 1_000_000) for name in receiver.alerts]
    assert not receiver.wrong
    assert sorted(arrived) == sorted(wanted), "the receiver has one alert per crossing"
    assert sorted(named(rule, seconds) for rule, seconds in firings) == sorted(wanted), (
        "the table has one alert per crossing"
    )
    ids = logged_ids(parts.plant)
    assert sorted(ids) == sorted(receiver.alerts), "the log, which is not deduplicated, has each alert once"
    assert max(receiver.attempts.values()) > 1, "no alert was posted twice, so the kills and refusals had no effect"


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_rule_stored_when_the_api_died_reaches_the_log_once(tmp_path: Path, point: str) -> None:
    parts = Parts(Plant(tmp_path / "data", {"TICKERPLANT_PARTITIONS": "2"}), tmp_path, on_kafka=False)
    with explained(parts):
        begin(parts, "api", f"api.rules.publish.{point}:1")
        url = wait_for_api(parts)
        rule = {"symbol": "GOOG", "left": "close", "operator": "greater", "right": 1}
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{url}/v1/alerts", json=rule, timeout=PATIENCE.seconds(30))
        assert parts.wait_for_a_death(PATIENCE.seconds(30)) == {"api": -9}
        begin(parts, "api")
        url = wait_for_api(parts)

        def rules() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = httpx.get(f"{url}/v1/alerts", timeout=PATIENCE.seconds(30)).json()["alerts"]
            return found

        until(lambda: [one["in_log"] for one in rules()] == [True], "the rule in the log", 20)
        parts.stop()
    assert os.path.exists(parts.plant.data)
