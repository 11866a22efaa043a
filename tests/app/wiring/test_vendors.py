"""Vendors and quotas in the settings, the request scheduler, and the command `vendors`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.market_data.vendors.test_registry import install
from tests.support.waiting import PATIENCE

from tickerplant.app.config import describe
from tickerplant.app.config.settings import Settings, load
from tickerplant.app.wiring import vendors
from tickerplant.core import records, schemas
from tickerplant.core.clock import Clock
from tickerplant.core.errors import ConfigError, Fenced
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.vendors.port import BarsRequest, Quota
from tickerplant.market_data.vendors.scheduler import Choice, Purpose
from tickerplant.system_clock import SystemClock, starting_at


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("TICKERPLANT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TICKERPLANT_DATA", str(tmp_path / "data"))


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Install a package with a vendor of daily bars (50 credits per day), and return its folder."""
    folder = tmp_path / "packages"
    folder.mkdir()
    install(folder, "acme-tickerplant", {"acme": "acme_tickerplant:provider"})
    monkeypatch.syspath_prepend(folder)
    return folder


def settings_of(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(f"TICKERPLANT_VENDORS__{name}", value)
    return load().settings


# Selection of vendors -----


def test_without_keys_only_the_sandbox_is_used() -> None:
    settings = load().settings
    assert settings.wants_sandbox
    assert set(vendors.orders(settings).values()) == {()}
    assert set(vendors.orders(settings, sandbox=True).values()) == {("sandbox",)}


def test_vendors_with_keys_precede_yahoo(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, ALPHA_VANTAGE_KEY="k", KEYS__ACME="k")
    assert not settings.wants_sandbox
    order = vendors.orders(settings)
    assert order["daily"] == order["intraday"] == ("alphavantage", "acme", "yahoo")
    assert order["actions"] == ("yahoo", "acme", "alphavantage"), "vendors with cheaper action requests are first"
    assert order["stream"] == ("alphavantage", "acme")
    both = settings_of(monkeypatch, TWELVE_DATA_KEY="k", INTRADAY="yahoo, twelvedata", ACTIONS="none")
    order = vendors.orders(both)
    assert order["daily"] == ("twelvedata", "alphavantage", "acme", "yahoo")
    assert order["intraday"] == ("yahoo", "twelvedata")
    assert order["actions"] == ()


def test_yahoo_alone_is_used_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, DAILY="Yahoo")
    assert not settings.wants_sandbox
    assert vendors.orders(settings)["daily"] == ("yahoo",)
    assert vendors.orders(settings)["intraday"] == ()
    assert vendors.orders(settings, sandbox=True)["daily"] == ("yahoo",)
    assert vendors.orders(settings, sandbox=True)["intraday"] == ("sandbox",)
    assert settings_of(monkeypatch, DAILY="sandbox").wants_sandbox


def test_a_named_vendor_without_key_is_refused_with_the_missing_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, DAILY="alphavantage,yahoo")
    with pytest.raises(ConfigError, match=r"vendors\.daily contains alphavantage.*set vendors\.alpha_vantage_key"):
        vendors.orders(settings)


def test_quotas_are_read_from_one_line_or_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = settings_of(monkeypatch, QUOTAS="twelvedata=610/minute, acme=5/minute, acme=50/day@America/New_York, yahoo=")
    assert vendors.quotas(line) == {
        "sandbox": (), "twelvedata": (Quota(610, MINUTE_US),), "yahoo": (),
        "acme": (Quota(5, MINUTE_US), Quota(50, DAY_US, "America/New_York")),
    }  # fmt: skip
    monkeypatch.delenv("TICKERPLANT_VENDORS__QUOTAS")
    file = tmp_path / "my.toml"
    file.write_text('[vendors.quotas]\nacme = ["5/rolling-minute"]\nsandbox = "8/minute, 800/day"\n')
    table = vendors.quotas(load(config=file).settings)
    assert table["acme"] == (Quota(5, MINUTE_US, rolling=True),)
    assert table["sandbox"] == (Quota(8, MINUTE_US), Quota(800, DAY_US))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("QUOTAS", "acme=many", ["vendors.quotas", "'many'", "800/day"]),
        ("QUOTAS", "acme=5/day@Mars", ["vendors.quotas", "'Mars'", "time zone"]),
        ("GAP_FILL_RESERVE", "1.5", ["vendors.gap_fill_reserve", "less than or equal to 1"]),
        ("DAILY", "none,yahoo", ["vendors.daily", "'none' cannot be combined"]),
    ],
)
def test_mistakes_are_explained(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(monkeypatch, **{name: value})
    for word in words:
        assert word in str(refused.value)


def test_no_key_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(
        monkeypatch, ALPHA_VANTAGE_KEY="hush@1", KEYS__ACME="hush2", OPTIONS__ACME__API_SECRET="hush3",
        OPTIONS__ACME__PLAN="gold",
    )  # fmt: skip
    shown = {row.name: row.value for row in describe.rows(load())}
    assert shown["vendors.keys"] == {"acme": "********"}
    assert shown["vendors.options"] == {"acme": {"api_secret": "********", "plan": "gold"}}
    assert "hush" not in f"{shown}{settings!r}"


# The scheduler -----


async def request_bars(settings: Settings, clock: Clock | None = None) -> None:
    from tickerplant.app.wiring.log import open_log

    clock = clock or SystemClock()
    with open_log(settings) as log:
        async with vendors.open_scheduler(settings, log, clock=clock) as scheduler:
            now = clock.now_us()
            choice = scheduler.choose("1d", "AAPL", now - DAY_US, now, Purpose.HISTORY)
            assert isinstance(choice, Choice)
            assert choice.credits == 38  # of 50 credits, 12 are reserved for gaps
            assert choice.provider.key == "hush"  # type: ignore[attr-defined]
            await scheduler.bars(choice, BarsRequest(("AAPL",), "1d", now - DAY_US, now), Purpose.HISTORY)


def test_a_vendor_of_another_package_is_used_and_its_quota_outlives_the_process(
    monkeypatch: pytest.MonkeyPatch, acme: Path
) -> None:
    settings = settings_of(monkeypatch, KEYS__ACME="hush", DAILY="acme", INTRADAY="none", ACTIONS="none", STREAM="none")
    asyncio.run(request_bars(settings))
    (row,) = vendors.status(settings)
    assert (row.vendor, row.kinds, row.requests) == ("acme", {"daily": 1}, 1)
    assert (row.windows[0].used, row.windows[0].left, row.windows[0].history_left) == (1, 49, 37)


def test_quotas_use_the_clock_of_a_running_sandbox(monkeypatch: pytest.MonkeyPatch, acme: Path) -> None:
    from tickerplant.app.wiring.log import open_log

    monkeypatch.setenv("TICKERPLANT_SANDBOX__ENABLED", "true")
    settings = settings_of(monkeypatch, KEYS__ACME="hush", DAILY="acme", INTRADAY="none", ACTIONS="none", STREAM="none")
    clock = starting_at(1_773_063_000_000_000, 1)  # 2026-03-09T13:30Z
    asyncio.run(request_bars(settings, clock))
    (row,) = vendors.status(settings)
    assert row.windows[0].used == 0, "the log contains no feed with the sandbox's clock yet"
    mark = records.Mark(sent_at_us=clock.now_us(), feed="sandbox", watermark_us=clock.now_us())
    with open_log(settings) as log, log.writer("test") as writer, writer.transaction() as transaction:
        transaction.append(schemas.RAW, 0, records.encode(mark))
    (row,) = vendors.status(settings)
    assert row.windows[0].used == 1
    assert clock.origin_us < row.windows[0].resets_us <= mark.sent_at_us + DAY_US


def test_a_second_scheduler_on_one_log_fences_the_first(monkeypatch: pytest.MonkeyPatch, acme: Path) -> None:
    settings = settings_of(monkeypatch, KEYS__ACME="hush", DAILY="acme", INTRADAY="none", ACTIONS="none", STREAM="none")

    async def both() -> None:
        from tickerplant.app.wiring.log import open_log

        with open_log(settings) as log:
            async with vendors.open_scheduler(settings, log) as first, vendors.open_scheduler(settings, log):
                now = SystemClock().now_us()
                choice = first.choose("1d", "AAPL", now - DAY_US, now, Purpose.GAP_FILL)
                assert isinstance(choice, Choice)
                with pytest.raises(Fenced, match="Run one market_data"):
                    await first.bars(choice, BarsRequest(("AAPL",), "1d", now - DAY_US, now), Purpose.GAP_FILL)

    asyncio.run(both())


def test_the_sandbox_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, DAILY="sandbox")
    with pytest.raises(ConfigError, match="the vendor sandbox is not running"):
        vendors.providers(settings, ["sandbox"], SystemClock(), None)


# The command ---------------------------------------------------------------------------------------------------------


def tickerplant(acme: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tickerplant.app", *arguments], capture_output=True, text=True, check=False,
        timeout=PATIENCE.seconds(60),
        env={**os.environ, "PYTHONPATH": str(acme), "COLUMNS": "200"},
    )  # fmt: skip


def test_the_command_shows_the_state_of_vendors_with_and_without_a_plant(
    monkeypatch: pytest.MonkeyPatch, acme: Path, tmp_path: Path
) -> None:
    settings = settings_of(monkeypatch, KEYS__ACME="hush", DAILY="acme", INTRADAY="none", ACTIONS="none", STREAM="none")
    before = tickerplant(acme, "vendors")
    assert before.returncode == 0, before.stderr
    assert "no request yet" in before.stdout
    assert not (tmp_path / "data").exists()
    asyncio.run(request_bars(settings))
    after = tickerplant(acme, "vendors")
    line = next(line for line in after.stdout.splitlines() if line.startswith("acme"))
    assert line.split()[:7] == ["acme", "daily", "1", "50/day", "1", "49", "37"]
    assert line.split()[-1] == "ok"
    assert "not in use: alphavantage, ccxt, files, sandbox, twelvedata, yahoo" in after.stderr
    row = json.loads(tickerplant(acme, "vendors", "--json").stdout)
    assert (row["vendor"], row["breaker"], row["requests"]) == ("acme", "closed", 1)
    assert row["windows"][0]["left"] == 49
    assert "hush" not in after.stdout + after.stderr
