"""A forked process behaves like a new one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import forkserver
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until


def without_times(lines: bytes) -> bytes:
    """Return JSON log lines without their times."""
    return re.sub(rb'"timestamp": "[^"]*"', b"", lines)


@pytest.mark.parametrize(
    "arguments", [["config", "--json"], ["query", "X"], ["run", "nothing"], ["up", "--no-such-option"]], ids=" ".join
)
def test_a_forked_command_prints_and_returns_the_same_as_a_new_process(tmp_path: Path, arguments: list[str]) -> None:
    plant = Plant(tmp_path / "data", {"TICKERPLANT_SYMBOLS": "ABC,DEF"})
    env = plant.environment()
    new = subprocess.run(plant.command(*arguments), env=env, capture_output=True, check=False)
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        forked = forkserver.fork([*arguments, "--data", str(plant.data)], env, stdout=out, stderr=err)
    assert forked.wait(PATIENCE.seconds(60)) == new.returncode
    assert (tmp_path / "out").read_bytes() == new.stdout
    assert without_times((tmp_path / "err").read_bytes()) == without_times(new.stderr)


def test_a_forked_process_has_its_own_session_and_reports_the_signal_that_killed_it(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "data", {"TICKERPLANT_LOG_LEVEL": "info"})
    process = plant.start("sandbox", output=tmp_path / "output")
    until(lambda: "is up" in (tmp_path / "output").read_text(), "the sandbox")
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid
    process.kill()
    assert process.wait(PATIENCE.seconds(30)) == -signal.SIGKILL
    assert process.poll() == -signal.SIGKILL


def test_a_process_with_other_variables_of_the_interpreter_is_not_forked() -> None:
    assert not forkserver.can_fork({**os.environ, "PYTHONPATH": "tests/support/clock"})
