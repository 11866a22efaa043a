"""The example for nginx with a real nginx, two API processes, and a stream client whose API process is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.docs.blocks import ROOT, Block
from tests.docs.pages.conftest import Machine
from tests.docs.pages.reader import Terminal
from tests.support.clusters import copy_cluster
from tests.support.waiting import PATIENCE, until
from tickerplant.core.times import SECOND_US

NAME = "market.example.com"
KEY = "key-of-the-proxy-test"
APIS = (8001, 8002)
SYMBOL = "BTC/USD"
MAIN = """
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log access.log;
    {temporary}
    include tickerplant.conf;
}}
"""
TEMPORARY = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
Row = tuple[Any, ...]


class Site:
    """nginx in front of two API processes of one plant."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.folder = folder
        self.machine = machine
        self.certificate = folder / "tickerplant.crt"
        self.running: dict[str, Terminal] = {}

    def begin(self, name: str, *command: str, **env: str) -> None:
        block = Block(name, len(self.running), "sh", "")
        own = {
            **self.machine.environment(self.folder / "home"), "TICKERPLANT_DATA": str(self.folder / "data"),
            "TICKERPLANT_SANDBOX__URL": "http://localhost:9001", "TICKERPLANT_SYMBOLS": f"{SYMBOL},AAPL",
            "TICKERPLANT_HISTORY": "none", "TICKERPLANT_API__KEY": KEY, "TICKERPLANT_API__PROXIES": "127.0.0.1", **env,
        }  # fmt: skip
        self.running[name] = Terminal(block, list(command), own, self.folder)

    def start(self) -> None:
        copy_cluster(self.folder / "data" / "postgres")
        self.begin("sandbox", "tickerplant", "sandbox", "--port", "9001", "--rate", "20")
        for service in ("market_data", "aggregation", "persistence"):
            self.begin(service, "tickerplant", "run", service)
        for port in APIS:
            self.start_api(port)
        subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        files = ["-keyout", str(self.folder / "tickerplant.key"), "-out", str(self.certificate)]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
            check=True, capture_output=True,
        )  # fmt: skip
        example = (ROOT / "deploy" / "nginx" / "tickerplant.conf").read_text()
        (self.folder / "tickerplant.conf").write_text(example)
        (self.folder / "nginx.conf").write_text(MAIN.format(temporary=TEMPORARY))
        nginx = ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        subprocess.run([*nginx, "-t"], check=True, capture_output=True)
        self.begin("nginx", *nginx)
        until(lambda: self.answers("/v1/status"), "an answer through nginx")

    def start_api(self, port: int) -> None:
        self.begin(f"api {port}", "tickerplant", "run", "api", "--instance", str(port), "--port", str(port))
        self.running[f"api {port}"].wait_for("is up")

    def kill_api(self, port: int) -> None:
        terminal = self.running.pop(f"api {port}")
        os.killpg(terminal.process.pid, signal.SIGKILL)
        terminal.process.wait()

    def stop(self) -> None:
        for name in ("nginx", *[name for name in reversed(self.running) if name != "nginx"]):
            if name in self.running:
                self.running[name].stop()

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def get(self, path: str) -> httpx.Response:
        headers = {"X-API-Key": KEY, "Host": NAME}
        with httpx.Client(verify=self.context(), timeout=PATIENCE.seconds(20), trust_env=False) as client:
            url = f"https://127.0.0.1{path}"
            return client.get(url, headers=headers, extensions={"sni_hostname": NAME})

    def answers(self, path: str) -> bool:
        try:
            return self.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def connect(self) -> connect:
        return connect(
            f"wss://{NAME}/v1/stream", host="127.0.0.1", ssl=self.context(), proxy=None, max_size=None,
            additional_headers={"X-API-Key": KEY}, origin=f"https://{NAME}",
        )  # fmt: skip

    def clients(self, port: int) -> int:
        """Return the number of stream clients of an API process."""
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"X-API-Key": KEY}, trust_env=False).text
        (line,) = (line for line in text.splitlines() if line.startswith("tickerplant_api_stream_clients "))
        return int(float(line.split()[1]))


@pytest.fixture
def site(machine: Machine, tmp_path: Path) -> Iterator[Site]:
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)  # the user of the embedded database must enter it
    machine.stop_plant()
    made = Site(machine, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Follower:
    """A client of the stream that keeps its position and all ticks of the symbol."""

    def __init__(self) -> None:
        self.position: dict[str, Any] | None = None
        self.rows: list[Row] = []

    async def subscribe(self, socket: ClientConnection) -> None:
        since = {} if self.position is None else {"since": self.position}
        await socket.send(json.dumps({"action": "subscribe", "symbols": [SYMBOL], "channels": ["ticks"], **since}))

    async def follow(self, socket: ClientConnection, seconds: int) -> None:
        """Receive until the times of further ticks span `seconds`. All ticks of a second have the same time."""
        wanted_us = None
        while wanted_us is None or self.rows[-1][0] < wanted_us:
            message = json.loads(await socket.recv())
            assert message["type"] not in ("resync", "error", "conflated"), message
            if message["type"] in ("snapshot", "position", "live") or (message["type"] == "welcome" and not self.rows):
                self.position = message["position"]
            if message["type"] == "ticks":
                assert self.position is not None
                columns = [message["columns"].index(name) for name in ("time_us", "price", "size")]
                self.rows += [tuple(row[column] for column in columns) for row in message["rows"]]
                self.position["offsets"].setdefault(message["topic"], {}).update(message["offsets"])
            if wanted_us is None and self.rows:
                wanted_us = self.rows[-1][0] + seconds * SECOND_US


@pytest.mark.timeout(1200)
async def test_a_client_of_nginx_resumes_at_the_other_api_without_a_gap_or_a_repeat(site: Site) -> None:
    follower = Follower()
    async with asyncio.timeout(PATIENCE.seconds(300)):
        async with site.connect() as socket:
            await follower.subscribe(socket)
            await follower.follow(socket, 2)
            (serving,) = (port for port in APIS if site.clients(port) == 1)
            (other,) = set(APIS) - {serving}
            await asyncio.to_thread(site.kill_api, serving)
            answers = [await asyncio.to_thread(site.get, "/v1/symbols") for _ in range(6)]
            assert [answer.status_code for answer in answers] == [200] * 6, "nginx asks the other API at once"
            with pytest.raises(ConnectionClosed):
                await follower.follow(socket, 10_000)
        async with site.connect() as socket:
            assert site.clients(other) == 1
            await follower.subscribe(socket)
            await follower.follow(socket, 3)

        first, last = follower.rows[0][0], follower.rows[-1][0]

        def stored() -> list[Row] | None:
            path = f"/v1/ticks/{SYMBOL}?start={first}&end={last}&times=us&limit=50000"
            answer = site.get(path).json()
            rows = [(row["time"], row["price"], row["size"]) for row in answer["ticks"]]
            rows = [row for row in rows if first < row[0]]  # several ticks have one time
            return rows if len(rows) >= len(before) else None

        before = sorted(row for row in follower.rows if first < row[0] < last)
        assert before, "the client has ticks between its first and its last second"
        rows = await asyncio.to_thread(until, stored, "the ticks in the table")
        assert Counter(rows) == Counter(before)

    assert site.get("/").text.lstrip().lower().startswith("<!doctype html")
    assert site.get("/metrics").status_code == 404
    site.start_api(serving)
    until(lambda: site.clients(serving) == 0, "the restarted API")
