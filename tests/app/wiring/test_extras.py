"""Extras that are not installed: a vendor is skipped and named, and every other use fails with one line."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tickerplant.app.config.settings import Settings, load
from tickerplant.app.wiring import extras, vendors
from tickerplant.app.wiring.log import open_log
from tickerplant.core.errors import EXTRAS, ConfigError, MissingExtra
from tickerplant.core.times import DAY_US
from tickerplant.log.open import open_log as open_by_address
from tickerplant.market_data.vendors.scheduler import Choice, Purpose


@pytest.fixture(autouse=True)
def settings_of_a_new_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("TICKERPLANT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TICKERPLANT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TICKERPLANT_VENDORS__TWELVE_DATA_KEY", "a-key")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an installation without extras."""
    for module in EXTRAS.values():
        for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith("tickerplant.log.kafka")]:
        monkeypatch.delitem(sys.modules, name)


def with_vendors(monkeypatch: pytest.MonkeyPatch, **names: str) -> Settings:
    for kind, value in names.items():
        monkeypatch.setenv(f"TICKERPLANT_VENDORS__{kind}", value)
    return load().settings


def test_every_extra_is_installed_in_the_developers_environment() -> None:
    assert all(extras.is_installed(extra) for extra in EXTRAS)


@pytest.mark.usefixtures("bare")
def test_the_fallback_without_its_extra_is_skipped_and_healthy() -> None:
    (part,) = vendors.skipped_health(load().settings)
    assert (part.name, part.state) == ("vendor yahoo", "ok")
    assert part.sentence == (
        "skipped: the vendor yahoo needs yfinance, which is not installed: pip install 'tickerplant[yahoo]'"
    )


@pytest.mark.usefixtures("bare")
def test_a_vendor_that_a_setting_names_is_degraded_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_vendors(monkeypatch, STREAM="ccxt,twelvedata", DAILY="twelvedata")
    found = {part.name: part for part in vendors.skipped_health(settings)}
    assert {name: part.state for name, part in found.items()} == {"vendor ccxt": "degraded", "vendor yahoo": "ok"}
    assert found["vendor ccxt"].details == {"extra": "ccxt"}
    assert "tickerplant[ccxt]" in found["vendor ccxt"].sentence


@pytest.mark.usefixtures("bare")
def test_health_needs_no_key_of_a_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKERPLANT_VENDORS__TWELVE_DATA_KEY")
    settings = with_vendors(monkeypatch, DAILY="twelvedata,yahoo")
    assert [part.name for part in vendors.skipped_health(settings)] == ["vendor yahoo"]


def test_no_vendor_is_skipped_if_all_extras_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*vendors.skipped_health(with_vendors(monkeypatch, STREAM="ccxt,twelvedata"))] == []


@pytest.mark.usefixtures("bare")
def test_requests_go_to_the_vendors_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_vendors(monkeypatch, DAILY="yahoo,twelvedata", STREAM="ccxt,twelvedata")

    async def chosen() -> tuple[str, list[str]]:
        with open_log(settings) as log:
            async with vendors.open_scheduler(settings, log) as scheduler:
                now_us = vendors.clock_of(None).now_us()
                found = scheduler.choose("1d", "AAPL", now_us - 30 * DAY_US, now_us - 5 * DAY_US, Purpose.HISTORY)
                assert isinstance(found, Choice)
                return found.name, [provider.name for provider, _ in vendors.streams(scheduler, ["AAPL"])]

    assert asyncio.run(chosen()) == ("twelvedata", ["twelvedata"])


@pytest.mark.usefixtures("bare")
def test_a_log_on_kafka_names_its_extra() -> None:
    with pytest.raises(MissingExtra, match=r"^an event log on Kafka needs .*pip install 'tickerplant\[kafka\]'$"):
        open_by_address("kafka://127.0.0.1:1")


@pytest.mark.usefixtures("bare")
def test_a_wrong_address_of_a_broker_is_reported_first() -> None:
    with pytest.raises(ConfigError, match="not host:port"):
        open_by_address("kafka://broker")


def test_a_broken_package_is_not_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tickerplant.log.kafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka.admin", None)
    with pytest.raises(ModuleNotFoundError, match=r"confluent_kafka\.admin"):
        open_by_address("kafka://127.0.0.1:1")
