"""Make the fixture of a release: a backup of a running plant, and the answers on it; see README.md.

python -m tests.upgrade.make_release tests/upgrade/releases    # writes the folder of the installed version
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.upgrade.fixture import open_release
from tests.upgrade.make import pack, running_plant
from tests.upgrade.make_answers import collect

LATE_TRADES = "1 do=late&share=0.2&by=100&seconds=1000"
"""A fault of the sandbox: a fifth of the trades arrives 100 s late, after the close of the minute."""


def make(folder: Path) -> None:
    """Write `backup.tar.xz`, `about.json` and `answers.json.xz` into the folder of a release."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        work = Path(name)
        work.chmod(0o755)
        with running_plant(work, TICKERPLANT_SANDBOX__FAULT_SCRIPT=LATE_TRADES) as plant:
            plant.run("backup", str(work / "backup"))
            about = {"version": version("tickerplant"), "clock_ns": plant.clock_ns()}
        pack(work / "backup", folder / "backup.tar.xz", lambda path: True)
        (folder / "about.json").write_text(json.dumps(about) + "\n")
        opened = open_release(folder, work / "restored")
        with opened.store(), opened.running("run", "api", rate=0) as url:
            answers = json.dumps(collect(url)).encode()
        (folder / "answers.json.xz").write_bytes(lzma.compress(answers, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    make(Path(sys.argv[1]) / version("tickerplant"))
