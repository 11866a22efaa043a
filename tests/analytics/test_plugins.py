"""Indicators of other packages, found by entry points. The tests write the packages as an installer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INDICATOR = '''
from tickerplant.analytics.indicator.window import Windowed
from tickerplant.analytics.indicator.declaration import period


class {name}(Windowed):
    """Mean of the newest close and the close `period` bars earlier."""

    NAME = "{name}"
    PARAMETERS = (period(3, least=1),)
    SOURCE = "a test"

    def declare(self):
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at):
        return ((at(0, 0) + at(0, self.length - 1)) / 2,)
'''


def install(folder: Path, package: str, entries: dict[str, str], source: str) -> None:
    """Write the module and the metadata of an installed package."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[tickerplant.indicators]\n{lines}")


def run(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_package_adds_its_indicators(tmp_path: Path) -> None:
    install(tmp_path, "halves", {"all": "halves"}, INDICATOR.format(name="HALF") + INDICATOR.format(name="OTHER"))
    install(tmp_path, "single-one", {"one": "single_one:ONE"}, INDICATOR.format(name="ONE"))
    made = run(
        tmp_path,
        "from tickerplant.analytics import compute, plugins\n"
        "print([*compute([1., 2., 3., 4.], ['HALF(1)', 'OTHER', 'ONE(2)']).items()], plugins.load())",
    )
    assert "('half_1', array([nan, 1.5, 2.5, 3.5]))" in made
    assert "('other_3'" in made
    assert "('one_2', array([nan, nan,  2.,  3.]))" in made
    assert made.endswith("()\n")


def test_a_broken_plugin_is_reported_and_the_others_work(tmp_path: Path) -> None:
    install(tmp_path, "good", {"good": "good:GOOD"}, INDICATOR.format(name="GOOD"))
    install(tmp_path, "fails", {"fails": "fails"}, "1 / 0")
    install(tmp_path, "leaves", {"leaves": "leaves"}, "raise SystemExit(3)")
    install(tmp_path, "empty", {"empty": "empty"}, "from tickerplant.analytics.indicator.window import Windowed")
    install(tmp_path, "other", {"other": "other:x"}, "x = 3")
    install(tmp_path, "absent", {"absent": "nowhere"}, "")
    install(tmp_path, "taken", {"taken": "taken"}, INDICATOR.format(name="RSI"))
    lines = run(
        tmp_path,
        "from tickerplant.analytics import compute, plugins\n"
        "assert compute([1.] * 9, 'GOOD')['good_3'][-1] == 1 and len(compute([1.] * 9, 'RSI(3)')['rsi_3'])\n"
        "print(*plugins.load(), sep='\\n')",
    ).splitlines()
    assert len(lines) == 6
    begins = [
        ("absent", "ModuleNotFoundError: No module named 'nowhere'"),
        ("empty", "the module empty declares no indicator"),
        ("fails", "ZeroDivisionError: division by zero"),
        ("leaves", "SystemExit: 3"),
        ("other", "the entry is neither a subclass of Indicator nor a module with subclasses"),
        ("taken", "the indicator name RSI is already in use"),
    ]
    for line, (name, reason) in zip(lines, begins, strict=True):
        assert line.startswith(f"the plug-in {name} of the package {name} cannot be loaded: {reason}")


def test_the_error_for_an_unknown_indicator_names_broken_plugins(tmp_path: Path) -> None:
    install(tmp_path, "fails", {"fails": "fails"}, "1 / 0")
    output = run(
        tmp_path,
        "from tickerplant.analytics import compute\n"
        "try: compute([1.], 'MINE')\n"
        "except Exception as error: print(error)",
    )
    assert "the plug-in fails of the package fails cannot be loaded" in output


def test_service_and_settings_load_plugins(tmp_path: Path) -> None:
    install(tmp_path, "good", {"good": "good:GOOD"}, INDICATOR.format(name="GOOD"))
    install(tmp_path, "fails", {"fails": "fails"}, "1 / 0")
    output = run(
        tmp_path,
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "from tickerplant.analytics.service import Analytics\n"
        "from tickerplant.analytics.stage import AnalyticsStage\n"
        "from tickerplant.app.config.settings import load\n"
        "from tickerplant.core.errors import ConfigError\n"
        "rules = load({'rules': {'indicators': {'1d': ['GOOD(2)']}}}).settings.rules\n"
        "print(rules.indicators)\n"
        "try: load({'rules': {'indicators': {'1d': ['BAD(2)']}}})\n"
        "except ConfigError as error: print(error)\n"
        "class Log: pass\n"
        "try: Analytics(Log())\n"
        "except AttributeError: pass\n",
    )
    assert "{'1d': ('GOOD(2)',)}" in output
    assert "setting rules.indicators (flag): 1d: unknown indicator 'BAD'" in output
    assert output.count("the plug-in fails of the package fails cannot be loaded") == 2
