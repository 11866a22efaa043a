"""`tickerplant doctor`: each fault has a state and advice, and no secret is printed."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.app.test_disk import in_small_file_system
from tests.support.commands import invoke
from tests.support.plant import Plant

from tickerplant.app.config.groups import ApiSettings, VendorSettings
from tickerplant.app.config.settings import Settings
from tickerplant.app.doctor import machine, store, vendors
from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding, without_secrets
from tickerplant.app.wiring import vendors as wiring
from tickerplant.app.wiring.log import open_log
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running

HEALTHY: dict[str, Any] = {
    "version": "17.2", "major": 17, "connections": 100, "workers": 27, "parallel": 8, "timescale_workers": "16",
    "timescaledb": "2.17.2", "available": "2.17.2",
}  # fmt: skip


def states(findings: Any) -> dict[str, str]:
    return {one.name: one.state for one in findings}


@contextlib.contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield busy.getsockname()[1]


def test_a_machine_without_a_plant_is_checked_and_nothing_is_created(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data", {"TICKERPLANT_API__PORT": "0"})
    found = invoke(plant, "doctor", "--json")
    [answer] = found.lines
    by_name = {one["name"]: one for one in answer["checks"]}
    assert found.code == (1 if answer["status"] == FAIL else 0)
    assert {"versions", "plant", "port", "disk", "open files", "log", "clock", "store", "vendors"} <= set(by_name)
    assert {by_name[name]["state"] for name in ("versions", "plant", "port", "log", "store", "vendors")} == {OK}
    assert all(one["advice"] for one in by_name.values() if one["state"] != OK)
    assert not plant.data.exists()


def test_a_port_in_use_is_a_fault_unless_the_plant_itself_uses_it() -> None:
    with listening() as number:
        settings = Settings(api=ApiSettings(port=number))
        [found] = machine.port(settings, running=False)
        assert (found.state, "api.port" in found.advice) == (FAIL, True)
        [found] = machine.port(settings, running=True)
        assert found.state == OK
    [found] = machine.port(settings, running=False)
    assert found.state == OK
    [found] = machine.port(Settings(api=ApiSettings(host="192.0.2.1", port=number)), running=False)
    assert (found.state, "correct api.host" in found.advice) == (FAIL, True)


def test_a_disk_below_the_minimum_and_few_inodes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data=tmp_path / "new" / "data", min_free_mb=1_000_000)
    found = {one.name: one for one in machine.disk(settings)}
    if found["disk"].state == FAIL:  # every ordinary disk has less than a terabyte free
        assert "takes in no data" in found["disk"].sentence
    monkeypatch.setattr(machine, "LEAST_INODES", 1 << 62)
    assert states(machine.disk(settings)).get("disk inodes", WARN) == WARN
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    open_folder.chmod(0o755)
    assert states(machine.disk(Settings(data=open_folder)))["data folder"] == WARN


def test_a_small_disk_is_named_by_the_command(tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "tickerplant.app", "doctor", "--data", str(tmp_path / "data")]
    done = in_small_file_system(tmp_path, "16m", "env", "TICKERPLANT_API__PORT=0", *command)
    assert done.returncode == 1, done.stderr
    assert "the plant takes in no data: only 16 MiB are free" in done.stdout


def test_an_error_of_the_clock_is_found_if_it_is_measurable(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now_us = time.time_ns() // 1_000
    [found] = machine.clock(now_us + 3_600_000_000)
    assert (found.state, "3,600 s ahead" in found.sentence or "3,599 s ahead" in found.sentence) == (WARN, True)
    monkeypatch.setattr(machine, "clock_is_corrected", lambda: False)
    assert [one.state for one in machine.clock(None)] == [WARN]
    monkeypatch.setattr(machine, "clock_is_corrected", lambda: None)
    monkeypatch.setattr(machine, "DRIFT_S", 60.0)
    [found] = machine.clock(now_us)
    assert (found.state, "without a network" in found.sentence) == (OK, True)
    monkeypatch.setattr(machine, "DRIFT_S", -1.0)
    [found] = machine.clock(None)
    assert (found.state, "was moved by" in found.sentence) == (WARN, True)
    monkeypatch.setattr(machine, "OLDEST", machine.LATEST)
    assert [one.state for one in machine.clock(None)] == [FAIL]


@pytest.mark.parametrize(("hard", "state"), [(512, FAIL), (1_100, WARN), (4_096, OK), (1 << 20, OK), (-1, OK)])
def test_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch, hard: int, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    assert states(machine.open_files(Settings())) == {"open files": state}


@pytest.mark.parametrize(
    ("change", "embedded", "wanted"),
    [
        ({}, False, {"store": OK, "timescaledb": OK, "background workers": OK, "connections": OK}),
        ({"major": 14}, False, {"store": FAIL, "timescaledb": OK, "background workers": OK, "connections": OK}),
        ({"major": 19}, False, {"store": WARN, "timescaledb": OK, "background workers": OK, "connections": OK}),
        ({"workers": 8}, False, {"store": OK, "timescaledb": OK, "background workers": WARN, "connections": OK}),
        ({"timescale_workers": "0"}, False,
         {"store": OK, "timescaledb": OK, "background workers": FAIL, "connections": OK}),
        ({"connections": 20}, False, {"store": OK, "timescaledb": OK, "background workers": OK, "connections": WARN}),
        ({"timescaledb": None}, False, {"store": OK, "timescaledb": WARN, "connections": OK}),
        ({"timescaledb": None, "available": None}, True, {"store": OK, "timescaledb": OK}),
    ],
)  # fmt: skip
def test_a_database_server_is_checked_by_its_settings(
    change: dict[str, Any], embedded: bool, wanted: dict[str, str]
) -> None:
    found = list(store.judge(HEALTHY | change, embedded=embedded))
    assert states(found) == wanted
    assert all(one.advice for one in found if one.state != OK)


@pytest.mark.parametrize(
    ("workers", "words"), [("16", "this database does not use it"), (None, "the server does not load it")]
)
def test_an_unused_timescaledb_is_reported_with_its_cause(workers: str | None, words: str) -> None:
    facts = HEALTHY | {"timescaledb": None, "timescale_workers": workers}
    [found] = [one for one in store.judge(facts, embedded=False) if one.name == "timescaledb"]
    assert (found.state, words in found.sentence) == (WARN, True)
    assert ("shared_preload_libraries" in found.advice) == (workers is None)


def test_a_real_server_passes_the_checks(dsn: str, tmp_path: Path) -> None:
    found = {one.name: one for one in store.store(Settings(data=tmp_path, store=SecretStr(dsn)))}
    assert found["store"].state == OK, found
    assert "PostgreSQL 1" in found["store"].sentence
    assert found["migrations"].state in (OK, WARN)


def test_no_secret_is_printed_even_if_an_error_message_contains_it(tmp_path: Path) -> None:
    env = {
        "TICKERPLANT_API__PORT": "0", "TICKERPLANT_API__KEY": "api-secret-1",
        "TICKERPLANT_STORE": "postgresql://joe:hunter22@127.0.0.1:1/x",
        "TICKERPLANT_VENDORS__TWELVE_DATA_KEY": "vendor-secret-2",
    }  # fmt: skip
    plant = Plant(tmp_path / "data", env)
    for options in ((), ("--json",), ("--vendors",)):
        found = invoke(plant, "doctor", *options)
        assert found.code == 1, "the database does not answer"
        for secret in ("hunter22", "api-secret-1", "vendor-secret-2"):
            assert secret not in found.out + found.err
    settings = Settings(
        api=ApiSettings(key=SecretStr("api-secret-1")), store=SecretStr("postgresql://joe:hunter22@h/x"),
        vendors=VendorSettings(keys={"acme": SecretStr("vendor-secret-2")}), kafka={"sasl_password": "broker-3"},
    )  # fmt: skip
    text = "api-secret-1 postgresql://joe:hunter22@h/x vendor-secret-2 broker-3"
    [clean] = without_secrets([Finding("a", FAIL, text, text)], settings)
    assert clean.sentence == clean.advice == "******** postgresql://joe:********@h/x ******** ********"


@pytest.fixture
def endpoint() -> Iterator[SandboxEndpoint]:
    with running(SandboxSettings(MarketSettings(("AAPL",), 10.0))) as found:
        yield found


def test_a_key_is_checked_by_one_request_that_the_quota_account_contains(
    tmp_path: Path, endpoint: SandboxEndpoint
) -> None:
    options = {"twelvedata": {"url": endpoint.url, "stream_url": endpoint.stream_url}}
    settings = Settings(
        data=tmp_path, symbols=("AAPL",),
        vendors=VendorSettings(
            twelve_data_key=SecretStr("some-key"), options=options, intraday=("twelvedata",), daily=("twelvedata",),
            actions=("none",),
        ),
    )  # fmt: skip
    [found] = vendors.vendors(settings, ask=True, running=False)
    assert (found.state, "no log" in found.sentence) == (WARN, True)
    with open_log(settings):
        pass
    [found] = vendors.vendors(settings, ask=False, running=False)
    assert (found.state, "--vendors" in found.advice) == (OK, True)
    assert [row.requests for row in wiring.status(settings)] == [0]
    [found] = vendors.vendors(settings, ask=True, running=False)
    assert found.state == OK, found
    assert found.sentence.startswith("accepted the key: ")
    [row] = wiring.status(settings)
    assert (row.requests, sum(window.used for window in row.windows) > 0) == (1, True)
    [found] = vendors.vendors(settings, ask=True, running=True)
    assert (found.state, found.sentence) == (OK, "state stored by the running plant: ok")
    assert [row.requests for row in wiring.status(settings)] == [1], "a running plant is not disturbed"


def test_a_vendor_that_does_not_answer_is_a_fault(tmp_path: Path) -> None:
    options = {"twelvedata": {"url": "http://127.0.0.1:1", "stream_url": "ws://127.0.0.1:1"}}
    settings = Settings(
        data=tmp_path, symbols=("AAPL",),
        vendors=VendorSettings(
            twelve_data_key=SecretStr("some-key"), options=options, intraday=("twelvedata",), daily=("twelvedata",),
            actions=("none",),
        ),
    )  # fmt: skip
    with open_log(settings):
        pass
    [found] = vendors.vendors(settings, ask=True, running=False)
    assert (found.state, bool(found.advice)) == (FAIL, True)
