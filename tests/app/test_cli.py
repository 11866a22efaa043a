"""The command line: help, mistakes and output, in real processes."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.commands import assert_refused, invoke
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE

from tickerplant.app.wiring.locks import FolderLock

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def tickerplant(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
    return subprocess.run(
        [sys.executable, "-m", "tickerplant.app", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE.seconds(120),
        env={**bare, "COLUMNS": "200", **environment},
        check=False,
    )


def commands() -> list[str]:
    from tickerplant.app.cli import app

    return [info.name for info in app.registered_commands if info.name]


def test_help_and_the_cli_page_name_every_command() -> None:
    shown, page = tickerplant("--help").stdout, DOCS.read_text()
    assert len(commands()) >= 14
    for name in commands():
        assert re.search(rf"│ {name} ", shown), name
        assert f"`tickerplant {name}" in page, name


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name: str) -> None:
    from typer.testing import CliRunner

    from tickerplant.app.cli import app

    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_a_mistake_is_reported_in_one_sentence_without_a_traceback(tmp_path: Path) -> None:
    for arguments, words in (
        (["replay", tmp_path / "none.csv"], "there is no file"),
        (["run", "nonsense"], "is not a service"),
        (["query", "A B"], "is not a symbol"),
        (["query", "AAPL", "-i", "7m"], "unknown interval"),
        (["query", "AAPL", "--start", "noon"], "--start 'noon' is not a time"),
        (["up", "--log", "redis://x"], "setting log (flag)"),
    ):
        assert_refused(invoke(Plant(tmp_path), *arguments), 2, words)


def test_a_folder_in_use_is_reported_before_a_port_in_use(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "plant.lock").acquire_or_raise() as lock, socket.create_server(("127.0.0.1", 0)) as taken:
        lock.write_holder()
        for command in (["up"], ["run", "api"]):
            result = tickerplant(*command, "--data", tmp_path, "--port", str(taken.getsockname()[1]))
            assert result.returncode == 1, result.stderr
            assert "is in use by process" in result.stderr
            assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_config_prints_objects_for_programs() -> None:
    result = tickerplant("config", "--json", TICKERPLANT_API__PORT="9")
    rows = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows["api.port"]["value"] == 9
    assert rows["api.port"]["origin"] == "environment"
    assert all(row["description"] for row in rows.values())


def test_the_version_is_that_of_the_package() -> None:
    from importlib import metadata

    assert tickerplant("--version").stdout == f"tickerplant {metadata.version('tickerplant')}\n"
    assert json.loads(tickerplant("version", "--json").stdout)["tickerplant"] == metadata.version("tickerplant")
    shown = tickerplant("version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"tickerplant {metadata.version('tickerplant')} (Python ")


def test_help_imports_no_heavy_package() -> None:
    heavy = "{'pyarrow', 'numpy', 'asyncpg', 'fastapi', 'pydantic'}"
    code = f"import sys, tickerplant.app.cli; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_sandbox_needs_no_arrow() -> None:
    modules = "tickerplant.app.runtime.signals, tickerplant.app.service_manager, tickerplant.sandbox.fault_script"
    code = f"import sys, {modules}; from tickerplant.sandbox import running; print('pyarrow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_folder_without_a_plant_is_reported(tmp_path: Path) -> None:
    result = tickerplant("query", "AAPL", "--data", tmp_path / "none")
    assert result.returncode == 1
    assert "there is no plant in" in result.stderr
    assert "Traceback" not in result.stderr
