"""The dashboard in Debian's Chromium, with a plant that the command line starts."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from tests.support.plant import Plant, kill_tree
from tests.support.waiting import PATIENCE, Guard, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

KEY = "open sesame & more"
STATIC = Path(__file__).parents[2] / "src" / "tickerplant" / "api" / "static" / "index.html"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
START_MS = PATIENCE.seconds(60) * 1_000
expect.set_options(timeout=PATIENCE.seconds(5) * 1_000)


@dataclass
class Seen:
    """Errors of a page, and the URLs of its requests to other hosts."""

    errors: list[str] = field(default_factory=list)
    foreign_urls: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Plant]]:
    """Run a plant with an API key; yield its address and the plant."""
    assert STATIC.is_file(), "the dashboard is not built: make web"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("plant")
    plant = Plant(
        folder / "data",
        env={
            "TICKERPLANT_API__KEY": KEY,
            "TICKERPLANT_SANDBOX__RATE": "10",
            "TICKERPLANT_HISTORY": "1d:400,5m:5,1m:1",  # the default would fetch years of minutes during the test
        },
    )
    process = plant.start("up", "--port", str(port), output=folder / "output")
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or _healthy(base), "the plant to start", 120)
        assert process.poll() is None, (folder / "output").read_text()
        yield base, plant
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE.seconds(60)) == 0
    finally:
        kill_tree(process)
    log = (folder / "output").read_text()
    assert "Traceback" not in log, log
    for text in (f'"dashboard": "http://localhost:{port}/#apikey=KEY"', f'"data": "{plant.data}"', "Ctrl-C"):
        assert text in log
    assert KEY not in log


def _healthy(base: str) -> bool:
    try:
        return bool(httpx.get(f"{base}/health", timeout=PATIENCE.seconds(10)).json()["status"] == "ok")
    except httpx.HTTPError:
        return False


@pytest.fixture
def page(site: tuple[str, Plant]) -> Iterator[tuple[Page, Seen]]:
    """Open a browser; afterwards check that no error occurred and no request left this host."""
    chromium = shutil.which("chromium")
    assert chromium, "the tests need chromium: apt-get install chromium"
    seen = Seen()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE.seconds(30) * 1_000)
        page.on("console", lambda line: _note(line, seen))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: _note_foreign_url(request.url, site[0], seen))
        page.on("websocket", lambda socket: _note_foreign_url(socket.url, site[0], seen))
        yield page, seen
        browser.close()
    assert seen.errors == []
    assert seen.foreign_urls == []


def _note(line: ConsoleMessage, seen: Seen) -> None:
    if line.type in ("error", "warning"):
        seen.errors.append(f"{line.text} ({line.location['url']})")


def _note_foreign_url(url: str, base: str, seen: Seen) -> None:
    address = urlsplit(url)
    if address.scheme not in ("data", "blob") and address.netloc != urlsplit(base).netloc:
        seen.foreign_urls.append(url)


def stored(base: str, symbol: str, interval: str) -> list[object]:
    answer = httpx.get(
        f"{base}/v1/intraday/{symbol}", params={"interval": interval, "apikey": KEY}, timeout=PATIENCE.seconds(20)
    )
    return list(answer.json()["bars"]) if answer.status_code == 200 else []


def picture(page: Page, name: str) -> None:
    """Save a screenshot if a folder for screenshots is set."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_dashboard(page: Page, base: str, fragment: str = "#apikey=open%20sesame%20%26%20more") -> None:
    page.goto(f"{base}/{fragment}")
    expect(page.locator("#connection")).to_have_text("live", timeout=START_MS)


def wait_for_chart(page: Page, shown: str) -> None:
    """Wait until the chart shows bars of this symbol and interval."""
    expect(page.locator("#chart")).to_have_attribute("data-shown", shown, timeout=START_MS)
    expect(page.locator("#message")).to_have_text("", timeout=START_MS)
    page.wait_for_timeout(500)
    until(lambda: ink(page) > 50, "a drawn chart")


def ink(page: Page) -> int:
    """Return the number of colours in the chart's canvases. An empty chart has few."""
    return int(
        page.evaluate(
            """() => {
                const found = new Set();
                for (const canvas of document.querySelectorAll("#chart canvas")) {
                    const { width, height } = canvas;
                    if (!width || !height) continue;
                    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
                    copy.drawImage(canvas, 0, 0);
                    for (const pixel of new Uint32Array(copy.getImageData(0, 0, width, height).data.buffer)) {
                        found.add(pixel);
                    }
                }
                return found.size;
            }"""
        )
    )


def test_ten_live_symbols_have_prices_and_charts(site, page) -> None:
    (base, _), (page, _) = site, page
    open_dashboard(page, base)
    prices = page.locator("#symbols tr td:nth-child(2)").filter(has_text=re.compile(r"\d\.\d"))
    until(lambda: prices.count() >= 10, "ten prices")
    until(lambda: len(stored(base, "MSFT", "5m")) > 50, "the backfilled history", 120)
    assert "apikey" not in page.url
    expect(page.locator("#health")).to_have_text("health: ok", timeout=START_MS)

    page.locator("#symbols tr", has_text="MSFT").click()
    expect(page.locator("#title")).to_have_text("MSFT")
    expect(page.locator("#symbols tr[aria-selected=true] td").first).to_have_text("MSFT")
    wait_for_chart(page, "MSFT 1m")
    picture(page, "msft-1m")

    page.get_by_role("button", name="5m").click()
    expect(page.get_by_role("button", name="5m")).to_have_attribute("aria-pressed", "true")
    wait_for_chart(page, "MSFT 5m")
    picture(page, "msft-5m")
    page.get_by_role("button", name="1d").click()
    wait_for_chart(page, "MSFT 1d")
    picture(page, "msft-1d")

    last, texts, guard = page.locator("#last"), set(), Guard()
    while len(texts) < 3 and not guard.is_over():
        texts.add(last.inner_text())
        page.wait_for_timeout(100)
    assert len(texts) >= 3, f"the price did not change: {texts}"

    page.locator("#symbols tr", has_text="EUR/USD").click()
    page.get_by_role("button", name="1m").click()
    expect(page.locator("#title")).to_have_text("EUR/USD")
    wait_for_chart(page, "EUR/USD 1m")
    picture(page, "eurusd-1m")

    page.get_by_label("filter symbols").fill("btc")
    expect(page.locator("#symbols tr:visible")).to_have_count(1)


@pytest.mark.parametrize("fragment", ["#%", "#50%25%E0%A4", "#apikey=%"])
def test_an_address_that_is_not_percent_encoded_does_not_break_the_page(site, page, fragment: str) -> None:
    (base, _), (page, seen) = site, page
    open_dashboard(page, base)  # stores the key
    page.on("dialog", lambda dialog: dialog.accept(KEY))
    page.goto("about:blank")
    open_dashboard(page, base, fragment)
    until(lambda: page.locator("#symbols tr").count() >= 10, "symbols")
    page.locator("#symbols tr", has_text="MSFT").click()
    wait_for_chart(page, "MSFT 1m")
    # The browser logs an error for the unknown symbol (400 or 404) and for the wrong key (401).
    seen.errors[:] = [text for text in seen.errors if not re.search(r"status of 40[014]", text)]


def test_a_narrow_screen_has_the_list_and_the_chart(site, page) -> None:
    (base, _), (page, _) = site, page
    page.set_viewport_size({"width": 420, "height": 860})
    open_dashboard(page, base)
    until(lambda: ink(page) > 50, "a drawn chart")
    assert page.locator("#chart").bounding_box()["height"] > 200
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    picture(page, "narrow")


def test_the_page_asks_the_user_for_a_missing_key(site, page) -> None:
    (base, _), (page, seen) = site, page
    messages = []

    def answer(dialog) -> None:
        messages.append(dialog.message)
        dialog.accept(KEY if len(messages) == 2 else "a guess")

    page.on("dialog", answer)
    open_dashboard(page, base, "")
    until(lambda: page.locator("#symbols tr").count() >= 10, "symbols")
    until(lambda: ink(page) > 50, "a drawn chart")
    assert len(messages) == 2
    refused = [text for text in seen.errors if "401" in text]
    assert refused, "the browser logs an error for a refused request"
    seen.errors[:] = [text for text in seen.errors if text not in refused]


def test_the_documentation_works_offline_and_sends_the_key(site, page) -> None:
    (base, _), (page, _) = site, page
    page.goto(f"{base}/docs#apikey=open%20sesame%20%26%20more")
    operation = page.locator("#operations-plant-symbols_v1_symbols_get")
    operation.locator("button").first.click(timeout=START_MS)
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text(
        "200", timeout=START_MS
    )
    picture(page, "docs")
