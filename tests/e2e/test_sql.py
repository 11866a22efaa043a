"""SQL as an interface of a running plant: the examples of docs/sql.md run, and secrets appear nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import httpx
import pyarrow as pa
import pytest
from tools.kafka.broker import free_port

from tests.store.rows import arrived, bars, ticks
from tests.store.writes import write_bars
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until
from tickerplant.core import schemas
from tickerplant.store import Store
from tickerplant.store.repositories.prices import Prices

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
BLOCK = re.compile(
    r"(?P<mark><!-- not executed: (?P<reason>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL
)
READER_PASSWORD = "reader:p@ss/word#of?tests"
API_KEY = "api-key-of-the-tests"


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language that are executed."""
    found = [match for match in BLOCK.finditer(PAGE.read_text()) if match["language"] == language]
    return [match["text"] for match in found if match["mark"] is None]


class Running:
    """A running plant with the settings of the access, and rows of AAPL in its tables."""

    def __init__(self, folder: Path) -> None:
        self.port, self.api_port = free_port(), free_port()
        self.socket = folder / "socket"
        self.log = folder / "up.log"
        self.plant = Plant(
            folder / "data",
            {
                "TICKERPLANT_STORE__LISTEN": f"127.0.0.1:{self.port}",
                "TICKERPLANT_STORE__SOCKET": str(self.socket),
                "TICKERPLANT_STORE__READER_PASSWORD": READER_PASSWORD,
                "TICKERPLANT_API__KEY": API_KEY,
            },
        )

    @property
    def owner_password(self) -> str:
        return (self.plant.data / "postgres" / "password").read_text().strip()

    @property
    def dsn(self) -> str:
        return f"postgresql://tickerplant_reader:{quote(READER_PASSWORD, safe='')}@127.0.0.1:{self.port}/tickerplant"

    def answers(self) -> bool:
        try:
            return self.api("/v1/symbols").status_code == 200
        except httpx.HTTPError:
            return False

    def api(self, path: str) -> httpx.Response:
        headers = {"X-API-Key": API_KEY}
        return httpx.get(f"http://127.0.0.1:{self.api_port}{path}", headers=headers, timeout=PATIENCE.seconds(10))

    async def fill(self) -> None:
        names = pa.array(["AAPL"] * 9).dictionary_encode().cast(schemas.TEXT)
        prices = pa.array([100.0 + i for i in range(9)])
        table = ticks(9).set_column(1, schemas.TICKS.field(1), names).set_column(2, schemas.TICKS.field(2), prices)
        store = await Store.open(self.plant.run("dsn").strip(), max_size=1)
        try:
            await write_bars(store, bars(*({"symbol": "AAPL", "interval": name} for name in ("5m", "1d"))))
            async with store.session() as session:
                await Prices(session).prepare(table)
                async with session.transaction():
                    await Prices(session).append(arrived(table, 1), 0)
        finally:
            await store.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        found = Running(Path(name))
        process = found.plant.start("up", "--no-sandbox", "--port", str(found.api_port), output=found.log)
        try:
            until(lambda: found.answers() or process.poll() is not None, "the API")
            assert process.poll() is None, found.log.read_text()[-3000:]
            asyncio.run(found.fill())
            yield found
        finally:
            process.terminate()
            process.wait(PATIENCE.seconds(60))


def test_the_page_names_every_block_that_is_not_executed() -> None:
    unmarked = {match["language"] for match in BLOCK.finditer(PAGE.read_text()) if match["mark"] is None}
    marked = [match["reason"] for match in BLOCK.finditer(PAGE.read_text()) if match["mark"] is not None]
    assert unmarked == {"sh", "toml", "sql", "python"}
    assert marked == ["needs a download"]


def test_the_statements_of_the_page_run_as_the_reader(running: Running) -> None:
    async def run() -> list[int]:
        connection = await asyncpg.connect(running.dsn)
        try:
            return [len(await connection.fetch(text)) for text in blocks("sql")]
        finally:
            await connection.close()

    counts = asyncio.run(run())
    assert len(counts) >= 6
    assert counts[:2] == [1, 1]


def test_the_commands_of_the_page_run(running: Running, tmp_path: Path) -> None:
    environment = running.plant.environment(TICKERPLANT_DATA=str(running.plant.data))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for text in blocks("sh")[:1]:  # `make check-docs` runs the others, which need the default data folder
        done = subprocess.run(
            ["bash", "-euc", f"{text}\nprintf 'DSN=%s\\n' \"${{DSN-}}\""],
            env={**environment, "PATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "AAPL" in done.stdout
        assert f"DSN={running.dsn}" in done.stdout
    assert (tmp_path / "days.csv").read_text().splitlines()[1].startswith("AAPL,1d,")


def test_the_python_of_the_page_runs(running: Running, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks("python")))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        env={**os.environ, "DSN": running.dsn}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for words in ("time: timestamp[us, tz=UTC]", "price: double", "AAPL", "108.0"):
        assert words in done.stdout, done.stdout


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    for text in blocks("toml"):
        (tmp_path / "tickerplant.toml").write_text(text)
        lines = [json.loads(line) for line in Plant(tmp_path).run("config", "--json").splitlines()]
        shown = {line["name"]: line["value"] for line in lines}
        assert (shown["store.listen"], shown["store.socket"]) == ("127.0.0.1:5432", "/run/tickerplant")


def test_secrets_appear_in_no_log_answer_or_process_list(running: Running) -> None:
    secrets = {READER_PASSWORD, quote(READER_PASSWORD, safe=""), running.owner_password, API_KEY}
    shown = {
        "config": running.plant.run("config") + running.plant.run("config", "--json"),
        "health": running.api("/health").text + running.plant.run("health", "--json", check=False),
        "metrics": running.api("/metrics").text,
        "log": running.log.read_text(),
        "refused": running.plant.run("sql", "SELECT no", check=False),
    }
    for path in running.plant.data.rglob("*.log"):
        shown[str(path)] = path.read_text(errors="replace")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown[str(path)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
    assert any("postgres" in text for text in shown.values())
    for place, text in shown.items():
        for secret in secrets:
            assert secret not in text, place


def test_the_reader_is_refused_what_is_secret_over_tcp(running: Running) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(running.dsn)
        try:
            for table in ("alerts", "alert_webhooks", "alert_firings", "dead_letters"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch(f"SELECT * FROM {table}")
        finally:
            await connection.close()

    asyncio.run(run())
