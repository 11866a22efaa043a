"""Pages of other origins in Debian's Chromium, against an API without a key. All addresses are on this machine."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.api.support import MINUTE, PARTITIONS, T0, MemoryStore, bar_batch, serving
from tests.e2e.test_dashboard import FLAGS
from tests.support.waiting import PATIENCE
from tickerplant.core import schemas
from tickerplant.log.embedded.log import EmbeddedLog

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REBOUND = "evil.test"
"""Name of a foreign page that DNS rebinding has moved to this machine."""

READ = """async (path) => {
    try {
        const answer = await fetch(path);
        return [answer.status, await answer.text()];
    } catch (error) {
        return [0, String(error)];
    }
}"""
WRITE = """async (path) => {
    try {
        const answer = await fetch(path, {
            method: "POST", mode: "no-cors", body: "{}", headers: { "Content-Type": "text/plain" },
        });
        return [answer.status, answer.type];
    } catch (error) {
        return [0, String(error)];
    }
}"""
LISTEN = """(address) => new Promise((resolve) => {
    const socket = new WebSocket(address);
    socket.onmessage = (event) => resolve(["message", event.data]);
    socket.onclose = (event) => resolve(["closed", event.code]);
})"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Serve an API with one symbol; yield its port."""
    with EmbeddedLog(tmp_path_factory.mktemp("log") / "log.sqlite") as log:
        log.create_topics(schemas.TOPICS, PARTITIONS)
        store = MemoryStore(log)
        bars = [{"time": T0 + number * MINUTE, "symbol": "AAPL"} for number in range(5)]
        store.tables["ohlcv"] = pa.Table.from_batches([bar_batch(bars)])
        with serving(log, store) as (_, _, api):
            yield api.bound_port


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve an empty page on another port of this machine; yield its address."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>foreign</title>")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "the tests need chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        flags = [
            *FLAGS,
            f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        ]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


def open_page(browser: Browser, address: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE.seconds(30) * 1_000)
    page.goto(address)
    return page


def test_a_page_of_another_origin_reads_and_writes_nothing(plant: int, foreign: str, browser: Browser) -> None:
    page = open_page(browser, foreign)
    base = f"127.0.0.1:{plant}"
    assert page.evaluate(LISTEN, f"ws://{base}/v1/stream") == ["closed", 1006]
    status, text = page.evaluate(READ, f"http://{base}/v1/symbols")
    assert (status, "AAPL" in text) == (0, False)  # no CORS: the browser hides the answer
    assert page.evaluate(WRITE, f"http://{base}/v1/alerts") == [0, "opaque"]


def test_a_rebound_page_reads_and_writes_nothing(plant: int, browser: Browser) -> None:
    page = open_page(browser, f"http://{REBOUND}:{plant}/")
    assert "does not answer to the host" in page.content()
    for path in ("/v1/symbols", "/v1/intraday/AAPL", "/health", "/metrics", "/openapi.json"):
        status, text = page.evaluate(READ, path)
        assert (status, "AAPL" in text, "foreign_host" in text) == (403, False, True), path
    assert page.evaluate(WRITE, "/v1/alerts")[0] == 403
    assert page.evaluate(LISTEN, f"ws://{REBOUND}:{plant}/v1/stream") == ["closed", 1006]


def test_the_plants_own_page_reads_the_stream_and_is_in_no_frame(plant: int, foreign: str, browser: Browser) -> None:
    page = open_page(browser, f"http://localhost:{plant}/v1/symbols")
    kind, text = page.evaluate(LISTEN, f"ws://localhost:{plant}/v1/stream")
    assert (kind, '"welcome"' in text) == ("message", True)
    assert page.evaluate(READ, "/v1/symbols")[0] == 200

    page = open_page(browser, foreign)
    page.evaluate(
        """(address) => new Promise((resolve) => {
            const frame = document.createElement("iframe");
            frame.onload = resolve;
            frame.src = address;
            document.body.append(frame);
        })""",
        f"http://127.0.0.1:{plant}/v1/symbols",
    )
    assert [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"]
