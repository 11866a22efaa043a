"""Every public name of 28f7935 still works: settings, commands, options, metrics.

A former name works for one version. It has the same effect, and a warning contains the new name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from click import Command

from tickerplant.alerts.metrics import CATALOGUE as ALERT_METRICS
from tickerplant.api.metrics import CATALOGUE as API_METRICS
from tickerplant.app.cli import app
from tickerplant.app.config.describe import rows
from tickerplant.app.config.settings import load
from tickerplant.app.metrics import CATALOGUE as PLANT_METRICS

NAMES: dict[str, Any] = json.loads((Path(__file__).parent / "names.json").read_text())
SETTINGS: list[dict[str, Any]] = NAMES["settings"]


def assert_only_setting(setting: dict[str, Any], flags: dict[str, Any], ignored: str = "data") -> None:
    """Load the settings; check that only `setting` has a given value, and that the value is the expected one."""
    loaded = load(flags)
    given = [
        row for row in rows(loaded) if row.origin != "default" and (row.name != ignored or setting["name"] == "data")
    ]
    (row,) = given
    assert row.value == setting["shown"]
    if row.name != setting["name"]:
        # `commands.common` logs a warning for each former name.
        assert [(one.former, one.present) for one in loaded.former_names] == [(setting["name"], row.name)]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["name"])
def test_a_setting_is_read_from_the_environment(
    setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {} if setting["name"] == "data" else {"data": tmp_path}
    monkeypatch.setenv(setting["environment"], setting["sample"])
    assert_only_setting(setting, flags)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["name"])
def test_a_setting_is_read_from_the_file(setting: dict[str, Any], tmp_path: Path) -> None:
    if setting["name"] == "data":
        return  # this setting is the path of the file
    *tables, name = setting["name"].split(".")
    sample = setting["sample"]
    text = f"[{'.'.join(tables)}]\n" if tables else ""
    if sample.startswith("{"):
        text = f"[{setting['name']}]\n" + "".join(_toml(key, value) for key, value in json.loads(sample).items())
    else:
        text += f"{name} = {sample if isinstance(setting['shown'], bool | int | float) else json.dumps(sample)}\n"
    (tmp_path / "tickerplant.toml").write_text(text)
    assert_only_setting(setting, {"data": tmp_path})


def _toml(key: str, value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(name)} = {json.dumps(one)}" for name, one in value.items())
        return f"{json.dumps(key)} = {{ {inner} }}\n"
    return f"{json.dumps(key)} = {json.dumps(value)}\n"


def _commands(command: Command, path: str = "") -> Iterator[tuple[str, Command]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{path} {name}".strip())


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", NAMES["commands"], ids=lambda path: path or "tickerplant")
def test_a_command_accepts_its_options_and_arguments(path: str) -> None:
    params = COMMANDS[path].params
    options = {o for p in params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)}
    assert not set(NAMES["commands"][path]["options"]) - options
    arguments = [p for p in params if p.param_type_name == "argument"]
    assert len(arguments) == len(NAMES["commands"][path]["arguments"])


def test_every_metric_exists_with_its_labels() -> None:
    found = {metric.name: list(metric.labels) for metric in (*API_METRICS, *ALERT_METRICS, *PLANT_METRICS)}
    assert {name: found.get(name) for name in NAMES["metrics"]} == NAMES["metrics"]
