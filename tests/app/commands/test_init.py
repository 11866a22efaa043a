"""`tickerplant init` writes a settings file that changes nothing until a setting is uncommented."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import assert_refused, invoke
from tests.support.plant import Plant

from tickerplant.app.config import describe, template
from tickerplant.app.config.settings import Settings, load


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TICKERPLANT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def uncommented(text: str) -> str:
    return re.sub(r"^#(?! )", "", text, flags=re.M)


def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        is_group = isinstance(value, dict) and "." not in dotted and dotted != "kafka"
        found |= leaves(value, f"{dotted}.") if is_group else {dotted}
    return found


def test_the_file_loads_as_the_defaults_as_it_is_and_uncommented(tmp_path: Path) -> None:
    text = template.template()
    assert leaves(tomllib.loads(text)) == set(), "every setting is commented out"
    file = tmp_path / "my.toml"
    for content in (text, uncommented(text)):
        file.write_text(content)
        assert load(config=file).settings == Settings()


def test_the_file_has_every_documented_setting_with_its_description() -> None:
    text = template.template()
    prose = " ".join(line.removeprefix("# ") for line in text.splitlines())
    names = {row.name: row for row in describe.rows(load()) if not row.name.startswith(describe.UNDOCUMENTED)}
    unset = {name for name, row in names.items() if row.default is None}
    assert leaves(tomllib.loads(uncommented(text))) == (set(names) - unset - {"store"}) | {"store.url"}
    for row in names.values():
        assert row.description in prose, row.name
        assert f"Environment: {row.environment}" in prose, row.name
    assert text.count("Unset by default.") == len(unset)


def test_each_type_of_value_is_written_in_toml() -> None:
    value = {"a b": [1, 2.5, True, 'quote " and \\ and é'], "empty": {}}
    assert tomllib.loads(f"x = {template._toml(value)}") == {"x": value}


def test_an_existing_file_is_not_changed(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "plant")
    first = invoke(plant, "init")
    assert (first.code, first.err) == (0, "")
    file = tmp_path / "plant" / "tickerplant.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("partitions = 2\n")
    assert_refused(invoke(plant, "init"), 2, f"{file} exists; edit it, or name another file: tickerplant init FILE")
    assert file.read_text() == "partitions = 2\n"
    other = tmp_path / "other.toml"
    assert invoke(plant, "init", other).code == 0
    assert load(config=other).settings == Settings()
