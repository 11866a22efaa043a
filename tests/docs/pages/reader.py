"""A reader of one page, who executes its blocks in order: in one shell, one Python process, and further terminals.

The shell's variables and folder, and the names of Python, are kept from block to block. A block that keeps running has
its own terminal. `tickerplant up` and `make run` first stop the plant that the page has started before.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs.blocks import ROOT, Block, commands
from tests.docs.pages.shapes import differences, parse
from tests.docs.pages.stream import converse
from tests.support.waiting import PATIENCE, until

COMMAND_S = 300.0
"""Maximum seconds of one block on an idle machine."""
STARTS_PLANT = re.compile(r"(?m)^\s*(?:tickerplant up|make run)\b")
USES_DATA_FOLDER = re.compile(r"(?m)^\s*(?:\w+=\S+ )*(?:tickerplant up|tickerplant run|make run)\b")
"""Commands that fail while the shared plant runs, because they need its data folder for themselves."""
PARSE = """
import argparse, runpy, sys
sys.path.insert(0, sys.argv.pop(1))
name = sys.argv.pop(1)
parse = argparse.ArgumentParser.parse_args
def parse_only(self, *given):
    parse(self, *given)
    sys.exit()
argparse.ArgumentParser.parse_args = parse_only
runpy.run_module(f"benchmarks.{name}", run_name="__main__")
sys.exit("parses no arguments")
"""
"""Program that only parses the arguments of a benchmark."""
ENTRY_POINT = re.compile(r'\[project\.entry-points\."(?P<group>[\w.]+)"\]\s*\w+ = "(?P<target>[\w.:]+)"')


class Failed(AssertionError):
    """A block failed; the text contains its place and its output."""


class Terminal:
    """A block that runs beside the others."""

    def __init__(self, block: Block, command: list[str], env: Mapping[str, str], folder: Path) -> None:
        self.block = block
        self.output = folder / f".terminal-{block.line}"
        with open(self.output, "wb") as sink:
            self.process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Wait until the output contains `words`. Raises Failed if the block ends before."""
        until(lambda: words in self.text() or self.process.poll() is not None, f"{words!r} of {self.block.place}")
        if words not in self.text():
            raise Failed(f"{self.block.place}: ended with {self.process.poll()}, without {words!r}\n{self.text()}")

    def stop(self) -> None:
        """Interrupt the block as Ctrl-C does, and wait until it has ended. Raises Failed if it failed before."""
        if self.process.poll():
            raise Failed(f"{self.block.place}: ended with {self.process.returncode}\n{self.text()}")
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(PATIENCE.seconds(60))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise Failed(f"{self.block.place}: does not end after Ctrl-C\n{self.text()}") from None


class Reader:
    """Executes the blocks of one page."""

    def __init__(self, folder: Path, env: Mapping[str, str], stop_plant: Callable[[], None]) -> None:
        """Create a reader who works in `folder`. `stop_plant` stops the plant that all pages share."""
        self.folder = self.start_folder = folder
        self.env = dict(env)
        self._stop_plant = stop_plant
        self._terminals: list[Terminal] = []
        self._python: Worker | None = None
        self._code: list[str] = []

    def close(self) -> None:
        """Stop everything that the page has started."""
        if self._python is not None:
            self._python.close()
        try:
            for terminal in reversed(self._terminals):
                terminal.stop()
        finally:
            for terminal in self._terminals:
                if terminal.process.poll() is None:
                    os.killpg(terminal.process.pid, signal.SIGKILL)

    def read(self, block: Block) -> None:
        """Execute a block. Raises Failed if it fails, or if its answers differ from those of the page."""
        if block.mark == "repeats until":
            self._repeat(block)
        elif block.language in ("sh", "bash", "python") and block.mark in ("runs until", "keeps running"):
            self._begin(block)
        elif block.mark == "dry run":
            self._parse_benchmarks(block)
        elif block.language in ("sh", "bash"):
            self._shell(block, block.text)
        elif block.language == "console":
            for command in commands(block.text):
                _compare(block, command.output, self._shell(block, command.text))
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "sql":
            file = self._write(block, ".sql")
            self._shell(block, f"tickerplant sql {'--owner' if block.value == 'owner' else ''} --csv < {file}")
        elif block.language == "toml":
            self._settings(block)
        elif block.language == "json" and block.text.startswith("→"):
            converse(block.place, block.text)

    def _begin(self, block: Block) -> None:
        if STARTS_PLANT.search(block.text):
            for terminal in [each for each in self._terminals if STARTS_PLANT.search(each.block.text)]:
                terminal.stop()
                self._terminals.remove(terminal)
        if USES_DATA_FOLDER.search(block.text):
            self._stop_plant()
        if block.language == "python":
            command = ["python", "-u", self._write(block, ".py")]
        else:
            exports = re.findall(r"(?m)^export .*\n", block.text)
            self._shell(block, "".join(exports))  # later blocks of the same terminal use them too
            command = ["bash", "-euo", "pipefail", "-c", block.text]
        terminal = Terminal(block, command, self.env, self.folder)
        self._terminals.append(terminal)
        terminal.wait_for(block.value)
        if block.mark == "runs until":
            terminal.stop()
            self._terminals.remove(terminal)

    def _parse_benchmarks(self, block: Block) -> None:
        """Check the arguments of each `make bench` with the benchmark's own parser, if it has one."""
        for given in re.findall(r"make bench ARGS='?([^'\n]*)", block.text):
            name, *arguments = given.replace("[", "").replace("]", "").split()
            file = ROOT / "benchmarks" / f"{name}.py"
            if file.exists() and "argparse" in file.read_text():
                self._shell(block, shlex.join(["python", "-c", PARSE, str(ROOT), name, *arguments]))

    def _write(self, block: Block, suffix: str) -> str:
        """Write the text of a block into a file, and return its path."""
        file = self.start_folder / f".block-{block.line}{suffix}"
        file.write_text(block.text)
        return str(file)

    def _repeat(self, block: Block) -> None:
        """Repeat a block until its output contains the text of its mark."""
        until(lambda: block.value in self._shell(block, block.text), f"{block.value!r} of {block.place}", every_s=1)

    def _shell(self, block: Block, text: str) -> str:
        """Run commands, keep the variables and the folder for later blocks, and return stdout."""
        with tempfile.TemporaryDirectory() as name:
            state = Path(name) / "state"
            script = f'{text}\n{{ env -0; printf "PWD=%s\\0" "$PWD"; }} > {shlex.quote(str(state))}\n'
            try:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script], env=self.env, cwd=self.folder,
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                    timeout=PATIENCE.seconds(COMMAND_S),
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Failed(f"{block.place}: does not end\n{text}\n{error.stdout}\n{error.stderr}") from None
            if done.returncode:
                raise Failed(f"{block.place}: exit code {done.returncode}\n{text}\n{done.stdout}\n{done.stderr}")
            if done.stdout.startswith('{"error"'):
                raise Failed(f"{block.place}: {text}\n{done.stdout}")
            left = dict(entry.split("=", 1) for entry in state.read_text().split("\0") if "=" in entry)
        self.env = {name: value for name, value in left.items() if name != "_"}
        self.folder = Path(left["PWD"])
        return done.stdout

    def _run_python(self, block: Block) -> None:
        if self._python is None:
            self._python = Worker(self.env, self.folder)
        self._code.append(block.text)
        error = self._python.run(block.text, self.env, block.place)
        if error:
            raise Failed(f"{block.place}: {error}")

    def _settings(self, block: Block) -> None:
        """Check that a block is a valid settings file, or that the plug-in of its entry point is found."""
        if point := ENTRY_POINT.search(block.text):
            self._plug_in(block, point["group"], point["target"])
        elif not block.text.lstrip().startswith("[project"):
            self._shell(block, f"tickerplant config --json --config {self._write(block, '.toml')}")

    def _plug_in(self, block: Block, group: str, target: str) -> None:
        """Install a package with an entry point. Its module contains the page's classes. Assert that they are found."""
        site, module = self.start_folder / ".site", target.partition(":")[0]
        info = site / "example-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nacme = {target}\n")
        file = site / f"{module.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        if file.parent != site:
            (file.parent / "__init__.py").touch()
        first = next(number for number, code in enumerate(self._code) if "\nclass " in code)
        file.write_text("\n".join(self._code[first:]))
        self.env["PYTHONPATH"] = str(site)
        if group.endswith("indicators"):
            for name in re.findall(r'(?m)^    NAME = "(\w+)"', file.read_text()):
                self._shell(block, f"tickerplant indicators {name}")
        elif "acme" not in self._shell(block, "TICKERPLANT_VENDORS__DAILY=acme tickerplant vendors --json"):
            raise Failed(f"{block.place}: the vendor is not found")


def _compare(block: Block, shown: str, real: str) -> None:
    """Compare the shown output of a command with the real one: the fields of JSON, the header of CSV."""
    if shown.startswith("{"):
        found = list(differences(parse(shown), json.loads(real)))
        if found:
            raise Failed(f"{block.place}: the answer differs from the page:\n" + "\n".join(found) + f"\n{real[:2000]}")
        return
    header, first = shown.partition("\n")[0], real.partition("\n")[0]
    if "," in header and " " not in header and header != first:
        raise Failed(f"{block.place}: the page shows {header}, the answer {first}")


class Worker:
    """A Python process that executes blocks in one namespace, in the reader's environment."""

    CODE = """
import contextlib, io, json, os, sys, traceback, linecache
names = {"__name__": "__main__"}
for line in sys.stdin:
    code, env, place = json.loads(line)
    os.environ.update(env)
    linecache.cache[place] = (len(code), None, code.splitlines(True), place)
    out, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, place, "exec"), names)
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=sys.__stdout__, flush=True)
"""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        python = shutil.which("python", path=env["PATH"]) or sys.executable
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            [python, "-u", "-c", self.CODE], env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True,
        )  # fmt: skip

    def run(self, code: str, env: Mapping[str, str], place: str) -> str:
        """Execute code; return the traceback of its error, or ""."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([code, dict(env), place]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return str(json.loads(answer))
        self._errors.seek(0)
        return f"Python ended: {self._errors.read()}"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
