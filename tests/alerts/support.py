"""Helpers of the alert tests: append alerts, store and remove rules, receive webhooks, and run deliveries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncpg
import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from tests.support.waiting import PATIENCE
from tickerplant.alerts.service import AlertDelivery
from tickerplant.alerts.webhooks import WebhookOptions
from tickerplant.core import records, schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.symbols import partition_of
from tickerplant.log.port import EventLog
from tickerplant.store import Store
from tickerplant.store.repositories.alerts import AlertRules

T0 = 1_773_063_000_000_000  # 2026-03-09T13:30:00Z
PARTITIONS = 2


def fire(log: EventLog, rule: str, *times: int, symbol: str = "AAPL") -> list[str]:
    n, names = len(times), [f"{rule}.1.{at}.0" for at in times]

    def text(value: str, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * n).dictionary_encode().cast(kind)

    columns = [
        pa.array(names), pa.array([rule] * n), pa.array([1] * n, pa.int32()), timestamps(np.array(times)),
        text(symbol, schemas.TEXT), text("5m", schemas.SMALL_TEXT), pa.array(["RSI(14) crosses_above 70"] * n),
        pa.array([71.0] * n), pa.array([70.0] * n), text("final", schemas.SMALL_TEXT), pa.array([False] * n),
        pa.array([9] * n),
    ]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(columns, schema=schemas.ALERT)
    with log.writer("analytics") as writer, writer.transaction() as transaction:
        header = records.Alerts(sent_at_us=T0, cause=9)
        transaction.append(schemas.ALERTS, partition_of(symbol, PARTITIONS), records.encode(header, batch))
    return names


def query(dsn: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(run())


def failed(dsn: str) -> int:
    [(number,)] = query(dsn, "SELECT count(*) FROM alert_webhooks WHERE state = 'failed'")
    return int(number)


def add_rule(dsn: str, name: str, webhook: str, secret: str | None = None) -> str:
    """Store a rule with a webhook and return its id."""
    rule = Rule(id=name, symbol="AAPL", interval="5m", left="RSI(14)", operator="crosses_above", right="70")

    async def add() -> None:
        store = await Store.open(dsn, max_size=1)
        async with store.session() as session, session.transaction():
            await AlertRules(session).add(rule, webhook, secret)
        await store.close()

    asyncio.run(add())
    return name


def remove_rule(dsn: str, name: str) -> None:
    async def remove() -> None:
        store = await Store.open(dsn, max_size=1)
        async with store.session() as session, session.transaction():
            await AlertRules(session).remove(name)
        await store.close()

    asyncio.run(remove())


@contextmanager
def delivering(log: EventLog, dsn: str, options: WebhookOptions) -> Iterator[CollectorRegistry]:
    """Run a webhook delivery in a thread; yield the registry of its metrics."""
    registry = CollectorRegistry()
    loop = asyncio.new_event_loop()
    task = loop.create_task(AlertDelivery(log, dsn, options, registry=registry).run())
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield registry
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE.seconds(20))
        loop.close()
        assert not failed, failed


@contextmanager
def receiver(
    answer: Callable[[int], int], host: str = "127.0.0.1"
) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Run a server that answers the n-th POST (n from 1) with status `answer(n)`. Status 0 means no answer.

    Yield its URL and the list of (headers, body) that it received.
    """
    got: list[tuple[dict[str, str], bytes]] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            status = answer(len(got))
            if status:
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Set-Cookie", f"post={len(got)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                over.wait()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
