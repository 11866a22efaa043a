"""Former names of settings work with a warning, from every source. Two values for one setting are an error."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tickerplant.app.config.renamed import RENAMED, FormerName, variable
from tickerplant.app.config.settings import Settings, child_environment, load
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules, rules_from, values_of

VALUES: dict[str, tuple[str, Any]] = {
    "snapshot_records": ("77", 77),
    "alerts.webhook_hours": ("3.5", 3.5),
    "vendors.reserve": ("0.5", 0.5),
    "sandbox.script": ('["60 do=mute&seconds=30"]', ("60 do=mute&seconds=30",)),
    "sandbox.chaos": ("9", 9),
    "rules.lateness_ms": ("123", 123),
    "rules.source_wait_ms": ("456", 456),
    "rules.memory_sessions": ("3", 3),
    "fault": ('"a.b:1"', "a.b:1"),
}
"""Test values by former name: the value as TOML text, and the parsed value of the setting."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("TICKERPLANT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def value_of(settings: Settings, dotted: str) -> Any:
    found: Any = settings
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


def as_variable(toml: str) -> str:
    return ",".join(value) if isinstance(value := tomllib.loads(f"v = {toml}")["v"], list) else str(value)


def test_each_former_name_is_tested() -> None:
    assert set(VALUES) == set(RENAMED)


@pytest.mark.parametrize("former", RENAMED)
def test_a_former_environment_variable_sets_the_renamed_setting(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toml, value = VALUES[former]
    monkeypatch.setenv(variable(former), as_variable(toml))
    loaded = load()
    assert value_of(loaded.settings, RENAMED[former]) == value
    assert loaded.origins[RENAMED[former]] == "environment"
    assert loaded.former_names == (FormerName("environment", former, RENAMED[former]),)


@pytest.mark.parametrize("former", RENAMED)
def test_a_former_name_in_a_file_sets_the_renamed_setting(former: str, tmp_path: Path) -> None:
    toml, value = VALUES[former]
    file = tmp_path / "my.toml"
    file.write_text(f"{former} = {toml}\n")
    loaded = load(config=file)
    assert value_of(loaded.settings, RENAMED[former]) == value
    assert loaded.former_names == (FormerName(str(file), former, RENAMED[former]),)


@pytest.mark.parametrize("former", RENAMED)
def test_a_former_name_as_a_flag_sets_the_renamed_setting(former: str) -> None:
    _, value = VALUES[former]
    *groups, last = former.split(".")
    flags = {groups[0]: {last: value}} if groups else {last: value}
    loaded = load(flags)
    assert value_of(loaded.settings, RENAMED[former]) == value
    assert [name.origin for name in loaded.former_names] == ["flag"]


def test_a_group_as_json_in_the_environment_may_use_former_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERPLANT_RULES", '{"lateness_ms": 5}')
    loaded = load()
    assert loaded.settings.rules.allowed_lateness_ms == 5
    assert [name.former for name in loaded.former_names] == ["rules.lateness_ms"]


@pytest.mark.parametrize("former", RENAMED)
def test_two_values_for_one_setting_are_an_error_that_names_both(
    former: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.toml"
    toml, _ = VALUES[former]
    other = {"fault": '"a.b:2"', "sandbox.script": "[]"}.get(former, "1")
    file.write_text(f"{former} = {toml}\n{RENAMED[former]} = {other}\n")
    with pytest.raises(ConfigError) as caught:
        load(config=file)
    for word in (former, RENAMED[former], str(file), "remove"):
        assert word in str(caught.value)
    monkeypatch.setenv(variable(former), as_variable(toml))
    monkeypatch.setenv(variable(RENAMED[former]), as_variable(other) or "0 do=nothing")
    with pytest.raises(ConfigError, match="environment") as caught:
        load()
    assert variable(former) in str(caught.value)


def test_both_names_with_one_value_are_no_conflict(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("snapshot_records = 5\nsnapshot_interval_records = 5\n")
    assert load(config=file).settings.snapshot_interval_records == 5


def test_precedence_of_sources_holds_across_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text("snapshot_interval_records = 5\n[rules]\nlateness_ms = 6\n")
    monkeypatch.setenv("TICKERPLANT_SNAPSHOT_RECORDS", "7")
    monkeypatch.setenv("TICKERPLANT_RULES__ALLOWED_LATENESS_MS", "8")
    settings = load(config=file).settings
    assert (settings.snapshot_interval_records, settings.rules.allowed_lateness_ms) == (7, 8)


def test_a_command_warns_of_former_names_and_shows_the_new_ones(tmp_path: Path) -> None:
    env = {**os.environ, "TICKERPLANT_RULES__LATENESS_MS": "250", "TICKERPLANT_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-m", "tickerplant.app", "config", "--json", "--data", str(tmp_path)],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    warning = json.loads(done.stderr)
    assert warning["level"] == "warning"
    assert "TICKERPLANT_RULES__LATENESS_MS is now TICKERPLANT_RULES__ALLOWED_LATENESS_MS" in warning["event"]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["value"] for row in rows if row["name"] == "rules.allowed_lateness_ms"] == [250]


def test_the_sandbox_accepts_the_former_option(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tickerplant.app", "sandbox", "--chaos", "3", "--while-used", "--data", str(tmp_path)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "url" in json.loads(done.stdout)
    refused = subprocess.run(
        [sys.executable, "-m", "tickerplant.app", "sandbox", "--chaos", "3", "--fault-seed", "4", "--data",
         str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "--chaos and --fault-seed" in refused.stderr


def test_a_child_process_gets_current_names_and_no_crash_point(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FAULT", "a:1"), ("TESTING__CRASH_AT", "a:1"), ("SANDBOX__CHAOS", "4")):
        monkeypatch.setenv(f"TICKERPLANT_{name}", value)
    child = {name: value for name, value in child_environment().items() if name.startswith("TICKERPLANT_")}
    assert child == {"TICKERPLANT_SANDBOX__FAULT_SEED": "4"}


def test_a_child_process_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "API__KEY", "VENDORS__TWELVE_DATA_KEY", "VENDORS__KEYS__ACME", "KAFKA", "LOG", "STORE", "ALERTS__WEBHOOK_HOURS",
        "VENDORS", "KAFKA__SASL_PASSWORD", "VENDORS__RESERVE",
    )  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(f"TICKERPLANT_{name}", "postgresql://u:hush-hush@127.0.0.1/x")
    monkeypatch.setenv("TICKERPLANT_LOG_LEVEL", "debug")
    monkeypatch.setenv("TICKERPLANT_SYMBOLS", "AAPL")
    child = {name: value for name, value in child_environment().items() if name.startswith("TICKERPLANT_")}
    assert child == {"TICKERPLANT_LOG_LEVEL": "debug", "TICKERPLANT_SYMBOLS": "AAPL"}
    monkeypatch.setenv("TICKERPLANT_STORE", "embedded:")
    assert child_environment()["TICKERPLANT_STORE"] == "embedded:"


def test_records_keep_the_stored_names_of_rules() -> None:
    rules = Rules(allowed_lateness_us=1, source_priority_wait_us=2, revision_window_sessions=3)
    stored = {"lateness_us": 1, "source_wait_us": 2, "memory_sessions": 3}
    assert values_of(rules) == stored
    assert rules_from(stored) == rules
