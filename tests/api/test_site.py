"""The checks of `Host` and `Origin`, on the middleware itself and on a running server."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.api.support import MemoryStore, serving
from tests.support.waiting import PATIENCE
from tickerplant.api.http.asgi import Message, Receive, Scope, Send
from tickerplant.api.http.site import HEADERS, CheckSite, own_hosts
from tickerplant.log.port import EventLog

LOCAL = ("192.168.7.7", 8000)


def status(
    host: str | None = "localhost:8000", origin: str | None = None, method: str = "GET", *, key: bool = False,
    kind: str = "http", more: list[tuple[bytes, bytes]] | None = None, **options: Any,
) -> int:  # fmt: skip
    """Return the status of a request: 200 if the middleware passes it on."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    headers += [] if origin is None else [(b"origin", origin.encode("latin-1"))]
    headers += more or []
    scope = {"type": kind, "method": method, "path": "/v1/alerts", "headers": headers, "server": LOCAL}
    hosts = None if key else own_hosts("0.0.0.0", ["Plant.lan", "2001:db8::7"])
    asyncio.run(CheckSite(app, hosts, ["https://charts.example"], **options)(scope, receive, send))
    if sent[0] == {"type": "websocket.close"}:  # before it is accepted: the server answers 403
        return 403
    found: int = sent[0]["status"]
    return found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200), ("LOCALHOST.:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("[0:0::1]", 200),
        ("plant.lan:8000", 200), ("[2001:db8:0::7]", 200), ("192.168.7.7:8000", 200), (None, 200),
        ("evil.example", 403), ("evil.example:8000", 403), ("localhost.evil.example", 403), ("127.0.0.2", 403),
        ("192.168.7.8", 403), ("0.0.0.0:8000", 403), ("", 403), ("localhost@evil.example", 403), ("127.1", 403),
        ("localhost:8000, evil.example", 403), ("lócalhost", 403), ("localhost:80:80", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_plant_without_a_key_answers_only_to_its_own_names(host: str | None, expected: int, kind: str) -> None:
    assert status(host, kind=kind) == expected
    assert status(host, kind=kind, key=True) == 200


def test_each_of_several_hosts_must_be_own() -> None:
    assert status(more=[(b"Host", b"evil.example")]) == 403


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("localhost:8000", None, 200), ("localhost:8000", "http://localhost:8000", 200),
        ("localhost:8000", "https://charts.example", 200), ("localhost:8000", "https://CHARTS.example:443", 200),
        ("plant.lan", "https://plant.lan", 200), ("plant.lan:443", "https://plant.lan", 200),
        ("localhost:8000", "http://localhost:9000", 403), ("localhost:8000", "http://localhost", 403),
        ("localhost:8000", "http://127.0.0.1:8000", 403), ("localhost:8000", "http://charts.example", 403),
        ("localhost:8000", "https://charts.example.evil.example", 403), ("localhost:8000", "null", 403),
        ("localhost:8000", "", 403), ("localhost:8000", "http://evil@localhost:8000", 403),
        ("localhost:8000", "file://localhost:8000", 403), (None, "http://localhost:8000", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", [False, True])
def test_a_page_of_another_origin_neither_writes_nor_opens_the_stream(
    host: str | None, origin: str | None, expected: int, key: bool
) -> None:
    assert [status(host, origin, method, key=key) for method in ("POST", "PATCH", "DELETE", "PUT")] == [expected] * 4
    assert status(host, origin, kind="websocket", key=key) == expected
    assert [status(host, origin, method, key=key) for method in ("GET", "HEAD", "OPTIONS")] == [200] * 3


def test_a_second_origin_must_be_allowed_too() -> None:
    foreign = [(b"origin", b"http://evil.example")]
    assert status(origin="http://localhost:8000", method="POST", more=foreign) == 403


def test_refusals_are_counted_by_header() -> None:
    seen: Counter[str] = Counter()
    for host, origin in (("evil.example", None), ("localhost", "http://evil.example"), ("localhost", None)):
        status(host, origin, "POST", refused=lambda header: seen.update([header]))
    assert seen == {"host": 1, "origin": 1}


def test_the_server_refuses_foreign_pages_and_confines_its_answers(log: EventLog, store: MemoryStore) -> None:
    with serving(log, store, hosts=["plant.lan"]) as (client, stream, api):
        for path in ("/health", "/metrics", "/v1/symbols", "/", "/docs", "/openapi.json", "/v1/stream"):
            refused = client.get(path, headers={"Host": "evil.example"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_host"), path
        foreign = {"Origin": "http://evil.example"}
        refused = client.post("/v1/alerts", json={}, headers=foreign)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin")
        for address, origin in (
            (stream, Origin("http://evil.example")),
            (stream.replace("127.0.0.1", "evil.example"), None),
        ):
            with (
                socket.create_connection(("127.0.0.1", api.bound_port)) as raw,
                pytest.raises(InvalidStatus) as caught,
            ):
                connect(address, sock=raw, origin=origin, open_timeout=PATIENCE.seconds(10))
            assert caught.value.response.status_code == 403
        with connect(
            stream, origin=Origin(str(client.base_url).rstrip("/")), open_timeout=PATIENCE.seconds(10)
        ) as stream_socket:
            assert '"welcome"' in str(stream_socket.recv(PATIENCE.seconds(10)))
        assert client.get("/v1/symbols", headers={"Host": "plant.lan"}).status_code == 200
        text = client.get("/metrics").text
        assert 'tickerplant_api_refused_pages_total{header="host"} 8.0' in text
        assert 'tickerplant_api_refused_pages_total{header="origin"} 2.0' in text
        for path in ("/", "/v1/symbols", "/v1/nothing", "/metrics", "/health"):
            _check_headers(client.get(path))
        _check_headers(refused)


def _check_headers(answer: httpx.Response) -> None:
    for name, value in HEADERS:
        assert answer.headers.get_list(name.decode()) == [value.decode()], (answer.url, name)
