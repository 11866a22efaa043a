"""Run commands in this process, through the command line's `main`. Separate processes would take ten times as long."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from tests.e2e.support import CommandResult
from tests.support.plant import Plant
from tickerplant.app.cli import main

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
ANY_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?")


def invoke(plant: Plant, *arguments: str | Path) -> CommandResult:
    """Run a command in this process to its end; return exit code, stdout and stderr."""
    plant.create_store(*map(str, arguments))
    root, saved = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    out, err = io.StringIO(), io.StringIO()
    argv = ["tickerplant", *map(str, arguments), "--data", str(plant.data)]
    try:
        with (
            redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", argv),
            mock.patch.dict(os.environ, plant.environment(), clear=True), pytest.raises(SystemExit) as end,
        ):  # fmt: skip
            main()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("tickerplant.log.kafka").setLevel(logging.NOTSET)
        structlog.configure(**saved)
    return CommandResult(int(end.value.code or 0), out.getvalue(), err.getvalue())


def objects(result: CommandResult) -> list[dict[str, Any]]:
    """Return the objects that a command printed with --json. Assert that times end with Z and stderr is empty."""
    assert result.err == ""
    for found in ANY_TIME.findall(result.out):
        assert TIME.fullmatch(found), found
    assert all(isinstance(row, dict) for row in result.lines)
    return result.lines


def assert_refused(result: CommandResult, code: int, *words: str) -> None:
    """Assert the exit code, an empty stdout, and one line on stderr that contains `words`."""
    assert (result.code, result.out) == (code, ""), result
    assert len(result.err.splitlines()) == 1, result.err
    assert all(word in result.err for word in words), result.err
