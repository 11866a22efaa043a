"""A child process that never outlives this one: a benchmark must be able to stop the plant that it started."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

STOP_S: Final = 90.0
"""Maximum seconds in which a benchmark stops its plant. The benchmark is killed afterwards."""


def run_to_end(
    command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, output: IO[Any] | int | None = None
) -> int:
    """Run a command and return its exit code. Standard output and error of the command go to `output`, if it is given.

    If an exception ends the wait, the child gets SIGTERM and time to stop what it started. An interrupt from the
    terminal has already reached the child, so the child gets no SIGTERM.
    """
    errors = None if output is None else subprocess.STDOUT
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=errors)
    try:
        return process.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
