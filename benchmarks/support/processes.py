"""The processes of a plant for benchmarks: several services or members, on one log and one data folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVICES = ("market_data", "aggregation", "analytics", "persistence", "api")
STOP_S = 30.0
"""Maximum seconds that a clean stop of a process takes."""


def environment(log: str, **settings: str) -> dict[str, str]:
    """Return the environment of this process, with `settings` (names in lower case) as the only settings of a plant."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
    return kept | {f"TICKERPLANT_{name.upper()}": value for name, value in {"log": log, **settings}.items()}


@dataclass
class Processes:
    """Running commands by name. The output of each is appended to `NAME.txt` in the data folder."""

    env: Mapping[str, str]
    data: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a command on this plant."""
        return [sys.executable, "-m", "tickerplant.app", *arguments, "--data", str(self.data)]

    def output(self, name: str) -> Path:
        """Return the file of a process's output."""
        return self.data / f"{name}.txt"

    def begin(self, name: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a command as the process `name`, with these settings besides the plant's."""
        env = {**self.env, **{f"TICKERPLANT_{key.upper()}": value for key, value in settings.items()}}
        with self.output(name).open("ab") as output:
            process = self.running[name] = subprocess.Popen(
                self.command(*arguments), env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(self.command(*arguments), env=self.env, capture_output=True, text=True, check=False)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to a process, wait for its end and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(how)
        return process.wait(STOP_S)

    def ended(self) -> list[str]:
        """Return the processes that have ended by themselves, with their exit codes."""
        return [f"{name} ({code})" for name, one in self.running.items() if (code := one.poll()) is not None]

    def stop(self) -> None:
        """Stop all processes cleanly; kill those that do not end within `STOP_S`."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()


def get_json(url: str, key: str = "") -> dict[str, Any] | None:
    """Return the JSON object of an answer, of any status; None without an answer. `key`: the API key."""
    request = urllib.request.Request(url, headers={"X-API-Key": key} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            return dict(json.load(error))
    except OSError:
        pass
    return None
