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

from tests.e2e.support import Answer
from tests.support.plant import Plant
from tickerplant.app.cli import main

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")
ANY_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?")


def say(plant: Plant, *arguments: str | Path) -> Answer:
    """Run a command to its end; return exit code, stdout and stderr."""
    root, said = logging.getLogger(), structlog.get_config()
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
        structlog.configure(**said)
    return Answer(int(end.value.code or 0), out.getvalue(), err.getvalue())


def objects(answer: Answer) -> list[dict[str, Any]]:
    """Return the objects that a command printed with --json. Assert that times end with Z and stderr is empty."""
    assert answer.err == ""
    for found in ANY_TIME.findall(answer.out):
        assert TIME.fullmatch(found), found
    assert all(isinstance(row, dict) for row in answer.lines)
    return answer.lines


def assert_refused(answer: Answer, code: int, *words: str) -> None:
    """Assert the exit code, an empty stdout, and one line on stderr that contains `words`."""
    assert (answer.code, answer.out) == (code, ""), answer
    assert len(answer.err.splitlines()) == 1, answer.err
    assert all(word in answer.err for word in words), answer.err
