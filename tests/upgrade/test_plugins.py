"""Plug-in code of the pages of 28f7935 still works unchanged: imports, names, fields, arguments.

A path or a name that has changed after 28f7935 works for one version, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.waiting import PATIENCE, Guard

HERE = Path(__file__).parent
PLUGINS: dict[str, Any] = json.loads((HERE / "names.json").read_text())["plugins"]
WARNINGS = {
    "tickerplant.market_data.providers.port": {"tickerplant.market_data.vendors.port"},
    "tickerplant.market_data.clients.errors": {"tickerplant.market_data.vendors.errors"},
    "tickerplant.market_data.feed": {"dead_letters.DeadRow"},
    "tickerplant.analytics.indicator.declaration": {"RowIndex"},
    "tickerplant.core.times": {
        "micros_of",
        "datetime_of",
        "tickerplant.core.arrow_values.TIMESTAMP",
        "tickerplant.core.arrow_values.times_of",
        "tickerplant.core.arrow_values.timestamps",
    },
}
"""The new paths and names in the warnings of each module. Other modules emit no warning."""
NAMES = [(module, name) for module, names in PLUGINS.items() for name in names]


def imported(module: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_has_its_parameters_and_members(module: str, name: str) -> None:
    value, wanted = imported(module, name), PLUGINS[module][name]
    if "parameters" in wanted:
        _assert_accepts(value, wanted["parameters"])
    for member, parameters in wanted.get("members", {}).items():
        known = {field for kind in value.__mro__ for field in vars(kind).get("__annotations__", {})}
        assert hasattr(value, member) or member in known, member
        if parameters is not None:
            _assert_accepts(getattr(value, member), parameters)


def _assert_accepts(function: Callable[..., Any], wanted: list[str]) -> None:
    found = inspect.signature(function).parameters
    some = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in found.values())
    assert some or not set(wanted) - set(found), f"{function} accepts {list(found)}, not all of {wanted}"
    # A call of the old pages may pass arguments by position: the old parameters have their old order.
    positional = [name for name, one in found.items() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    kept = [name for name in positional if name in wanted]
    assert kept == [name for name in wanted if name in kept], f"{function} has the order {positional}, not {wanted}"


@pytest.mark.parametrize("module", PLUGINS)
def test_a_moved_path_warns_with_the_new_path(module: str) -> None:
    """Import in a separate process. Check that the import works and that the warnings contain the new paths."""
    code = f"import {module}\nfrom {module} import {', '.join(PLUGINS[module])}"
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line and "tickerplant" in line]
    assert all(" is now " in line for line in lines), lines
    assert {line.rpartition(" is now ")[2].partition(";")[0] for line in lines} == WARNINGS.get(module, set())


def page(name: str) -> list[str]:
    return (HERE / "pages" / f"{name}.txt").read_text().split("# ----\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_library_page_runs() -> None:
    import pyarrow as pa

    close = [44.0 + (number * 7 % 13) / 4 for number in range(40)]
    table = pa.table({"close": close, "high": [x + 1 for x in close], "low": [x - 1 for x in close]})
    names: dict[str, Any] = {"frame": table, "table": table}
    exec(compile(page("library")[0], "library", "exec"), names)
    made = names["compute"]([1.0, 2.0, 3.0, 4.0], "SMA(2)")
    assert np.array_equal(made["sma_2"], [np.nan, 1.5, 2.5, 3.5], equal_nan=True)
    columns = names["compute"](table, ["RSI(14)", "BBANDS(20, 2)"]).column_names
    assert {"rsi_14", "bbands_20_2_upper"} <= set(columns)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_indicator_page_runs_and_its_indicators_work() -> None:
    package = {**os.environ, "PYTHONPATH": ""}
    code = (
        "\n".join(["from __future__ import annotations", *page("indicators")])
        + """
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import register
register(ROCPEXAMPLE)
register(TRIXEXAMPLE)
print(compute([1.0, 2.0, 3.0], "ROCPEXAMPLE(2)")["rocpexample_2"].tolist())
print(len(compute([1.0 + i % 3 for i in range(99)], "TRIXEXAMPLE(5)")["trixexample_5"]))
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=package)
    assert done.stdout.split() == ["[nan,", "nan,", "2.0]", "99"], done.stderr


def installed(folder: Path) -> None:
    """Install a package with the vendor and the indicators of the pages, as pip does."""
    (folder / "acme_tickerplant.py").write_text("\n".join([*page("vendors"), *page("acme")]))
    (folder / "my_package").mkdir()
    indicators = "\n".join(["from __future__ import annotations", *page("indicators")[1:]])
    (folder / "my_package" / "indicators.py").write_text(indicators)
    (folder / "my_package" / "__init__.py").write_text("")
    about = folder / "acme_tickerplant-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tickerplant\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[tickerplant.providers]\nacme = acme_tickerplant:provider\n\n"
        "[tickerplant.indicators]\nmine = my_package.indicators\n"
    )


@pytest.mark.timescale
def test_a_plant_runs_on_an_old_vendor_and_an_old_indicator(tmp_path: Path, dsn: str) -> None:
    packages, data = tmp_path / "packages", tmp_path / "data"
    packages.mkdir()
    data.mkdir()
    installed(packages)
    port = _free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")},
        "PYTHONPATH": str(packages),
        "TICKERPLANT_DATA": str(data),
        "TICKERPLANT_STORE": dsn,
        "TICKERPLANT_SYMBOLS": "ACME,OTHER",
        "TICKERPLANT_HISTORY": "1d:60",
        "TICKERPLANT_VENDORS__KEYS": '{"acme": "k"}',
        "TICKERPLANT_VENDORS__OPTIONS": '{"acme": {"plan": "gold"}}',
        "TICKERPLANT_VENDORS__STREAM": "acme",
        "TICKERPLANT_VENDORS__DAILY": "acme",
        "TICKERPLANT_VENDORS__INTRADAY": "none",
        "TICKERPLANT_VENDORS__ACTIONS": "none",
        "TICKERPLANT_SANDBOX__ENABLED": "false",
        "TICKERPLANT_RULES__INDICATORS": '{"1d": ["ROCPEXAMPLE(5)"]}',
        "TICKERPLANT_API__PORT": str(port),
    }
    output = tmp_path / "up.log"
    with output.open("wb") as sink:
        plant = subprocess.Popen([sys.executable, "-m", "tickerplant.app", "up"], env=env, stdout=sink, stderr=sink)
    try:
        ticks = _until(f"http://127.0.0.1:{port}/v1/ticks/ACME?limit=1000", lambda body: len(body["ticks"]) >= 12)
        days = _until(f"http://127.0.0.1:{port}/v1/historical/ACME?limit=100", lambda body: len(body["bars"]) >= 30)
        values = _until(
            f"http://127.0.0.1:{port}/v1/analytics/ACME?interval=1d&limit=5",
            lambda body: body["values"] and body["values"][-1].get("rocpexample_5") is not None,
        )
    except AssertionError as error:
        raise AssertionError(output.read_text()[-5000:]) from error
    finally:
        plant.send_signal(signal.SIGTERM)
        plant.wait(PATIENCE.seconds(60))
    prices = [tick["price"] for tick in ticks["ticks"]]
    assert prices == [100.0 + number for number in range(len(prices))], "each tick is stored once, in order"
    assert {(bar["close"], bar["source"]) for bar in days["bars"]} == {(10.0, "acme")}
    assert values["values"][-1]["rocpexample_5"] == 0.0


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _until(url: str, good: Callable[[Any], Any]) -> Any:
    guard = Guard(120)
    last: Any = None
    while not guard.is_over():
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE.seconds(10)) as answer:
                last = json.load(answer)
            if good(last):
                return last
        except OSError as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"{url}: {last}")
