"""Run benchmarks on two commits in turn, and print the ratio of each figure with its range.

    make bench ARGS='compare REF [BENCH ...] [--rounds 3] [--own] [--json] [-- ARG ...]'
    make bench ARGS='compare main~5 plant -- --log embedded --only throughput'

REF is checked out into a temporary worktree, which is removed at the end. `here` is this tree with its uncommitted
changes. Both commits run the benchmarks of this tree, so that both are measured alike. With `--own`, each commit runs
its own. Arguments after `--` belong to the benchmarks. The runs alternate: REF, here, REF, here.

If both commits have equal requirements and entry points, both use this environment. Otherwise REF gets its own
environment, which takes a minute. A ratio is `here` divided by REF of the same round. A figure is `better` or `worse`
if the ratios of all rounds, at least three, agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.support.children import run_to_end
from benchmarks.support.figures import FILE, Better, Figure, read

DEFAULT: Final = ("plant",)
REQUIREMENTS: Final = ("requirements.txt", "requirements-dev.txt", "requirements-bench.txt")
INSTALLED: Final = ("dependencies", "optional-dependencies", "scripts", "entry-points", "requires-python")
"""Keys of `[project]` in `pyproject.toml` that change an environment."""
OVERLAY: Final = ("benchmarks", "tools/questdb")
"""Folders of this tree that replace those of REF, unless each commit runs its own benchmarks."""
HINT: Final = "If REF lacks what the benchmark of this tree uses, --own runs the benchmark of each commit."
TAIL_LINES: Final = 15
VERDICT_ROUNDS: Final = 3
"""Minimum rounds of a verdict. With noise alone, three rounds agree in a quarter of all cases, and five rounds
in a sixteenth."""


class CompareError(Exception):
    """The comparison is impossible; the text contains the reason and what to do."""


@dataclass(frozen=True)
class Tree:
    """A checked-out commit: its title in messages, its folder, and the interpreter that runs its benchmarks."""

    title: str
    folder: Path
    python: str
    shares_environment: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment of a benchmark. A shared environment finds the package of this tree first."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", FILE)}
        return kept | ({"PYTHONPATH": str(self.folder / "src")} if self.shares_environment else {})


@dataclass
class Ratios:
    """Values of one figure by round: `base` on REF, `here` on this tree."""

    unit: str
    better: Better
    base: list[float] = field(default_factory=list)
    here: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Return `here / base` of each round with a base other than 0."""
        return [here / base for base, here in zip(self.base, self.here, strict=False) if base]

    def verdict(self) -> str:
        """Return `better` or `worse` if `VERDICT_ROUNDS` or more agree without exception, otherwise an empty text."""
        found = self.ratios()
        if len(found) < VERDICT_ROUNDS or min(found) <= 1 <= max(found):
            return ""
        return "better" if (min(found) > 1) == (self.better == "more") else "worse"


Results = dict[str, Ratios]


def collect(results: Results, side: str, figures: Sequence[Figure]) -> None:
    """Append the figures of one run to the side `base` or `here`."""
    for figure in figures:
        ratios = results.setdefault(figure.name, Ratios(figure.unit, figure.better))
        getattr(ratios, side).append(figure.value)


def number(value: float) -> str:
    """Return a value with three significant digits, or as an integer with separators from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def table(results: Results, base: str) -> Iterator[str]:
    """Yield the lines of the table, and a line for each figure that only one side has."""
    width = max([6, *(len(name) for name, found in results.items() if found.base and found.here)])
    yield f"{'figure':{width}}  {'unit':12}{base[:12]:>12}{'here':>12}{'here/REF':>10}   range"
    for name, found in results.items():
        if not (found.base and found.here):
            continue
        ratios = found.ratios()
        medians = f"{number(statistics.median(found.base)):>12}{number(statistics.median(found.here)):>12}"
        line = f"{name:{width}}  {found.unit:12}{medians}"
        if ratios:
            line += f"{statistics.median(ratios):10.3f}   {min(ratios):.3f} to {max(ratios):.3f}  {found.verdict()}"
        yield line.rstrip()
    for name, found in results.items():
        if not (found.base and found.here):
            yield f"only {'here' if found.here else base}: {name}"


def document(results: Results, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results as an object for JSON."""
    figures = []
    for name, found in results.items():
        ratios = found.ratios()
        entry = {"name": name, "unit": found.unit, "better": found.better, "base": found.base, "here": found.here}
        if ratios:
            entry |= {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        figures.append(entry | {"verdict": found.verdict()})
    return {**about, "figures": figures}


# Trees ---------------------------------------------------------------------------------------------------------------


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command. Raises CompareError if it fails."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompareError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def commit_of(root: Path, ref: str) -> str:
    """Return the commit of a reference. Raises CompareError if it is unknown."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except CompareError:
        raise CompareError(
            f"{ref!r} is no commit, branch or tag of {root}; `git fetch` gets new ones, `git log --oneline` lists them"
        ) from None


def changes_of(root: Path) -> str:
    """Return a sentence about the uncommitted changes of a tree; an empty text if there are none."""
    changed = git(root, "status", "--porcelain").splitlines()
    if not changed:
        return ""
    first = ", ".join(line[2:].strip() for line in changed[:3]) + (", …" if len(changed) > 3 else "")
    return f"{len(changed)} uncommitted changes are measured as part of `here`: {first}"


def needs(folder: Path) -> dict[str, Any]:
    """Return the contents of an environment of a tree: the locked requirements and the installed metadata."""
    files = {name: (folder / name).read_bytes() if (folder / name).exists() else b"" for name in REQUIREMENTS}
    path = folder / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}) if path.exists() else {}
    return {**files, **{key: project.get(key) for key in INSTALLED}}


@contextmanager
def checked_out(root: Path, commit: str, *, own: bool, notify: Callable[[str], None]) -> Iterator[Tree]:
    """Check a commit out into a temporary worktree with its environment; remove the worktree at the end."""
    git(root, "worktree", "prune")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "tree"
        git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
        try:
            shares = needs(folder) == needs(root)
            if not shares:
                notify("REF has different requirements; it gets its own environment")
                made = subprocess.run(["make", "-C", str(folder), ".venv/.bench"], stdout=sys.stderr, check=False)
                if made.returncode:
                    raise CompareError(f"the environment of {commit[:9]} could not be created")
            for part in () if own else OVERLAY:
                if (root / part).exists():
                    shutil.rmtree(folder / part, ignore_errors=True)
                    shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            python = sys.executable if shares else str(folder / ".venv/bin/python")
            yield Tree(commit[:9], folder, python, shares)
        finally:
            git(root, "worktree", "remove", "--force", str(folder))


def caches(root: Path, folder: Path) -> dict[str, str]:
    """Return the settings that let a worktree use the downloaded jars of this tree, if both name the same jars."""
    found = {}
    for name in ("kafka", "questdb"):
        ours, theirs = (tree / "tools" / name / "pom.xml" for tree in (root, folder))
        variable = f"TICKERPLANT_{name.upper()}_CACHE"
        if ours.exists() and theirs.exists() and ours.read_bytes() == theirs.read_bytes():
            found[variable] = os.environ.get(variable) or str(root / ".cache" / name)
    return found


# Runs ----------------------------------------------------------------------------------------------------------------


def run(tree: Tree, name: str, arguments: Sequence[str], extra: Mapping[str, str]) -> list[Figure]:
    """Run one benchmark; return its figures, and the CPU time of the run with all child processes.

    Raises CompareError if it fails or has no figures.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path, output = Path(folder) / "figures.jsonl", Path(folder) / "output.txt"
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with output.open("wb") as file:
            env = {**tree.environment(), **extra, FILE: str(path)}
            command = [tree.python, "-m", f"benchmarks.{name}", *arguments]
            code = run_to_end(command, tree.folder, env, file)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            raise CompareError(f"the benchmark {name} failed on {tree.title} with {code}:\n{tail}")
        found = [Figure(f"{name}: {figure.name}", *figure[1:]) for figure in read(path)]
    if not found:
        raise CompareError(f"the benchmark {name} of {tree.title} records no figures, so it cannot be compared")
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return [*found, Figure(f"{name}: whole run", seconds, "CPU s", "less")]


def check_names(names: Sequence[str], known: Collection[str], tree: Tree, *, own: bool) -> None:
    """Raise CompareError for a benchmark that does not exist here, or with `own` in REF."""
    for name in names:
        if name not in known:
            raise CompareError(f"there is no benchmark {name!r}; there are {', '.join(known)}")
        if own and not (tree.folder / "benchmarks" / f"{name}.py").exists():
            raise CompareError(
                f"{tree.title} has no benchmark {name!r}; without --own, it runs the benchmark of this tree"
            )


def compare(
    root: Path, asked: argparse.Namespace, known: Mapping[str, Sequence[str]], arguments: Sequence[str]
) -> dict[str, Any]:
    """Run the benchmarks in turn and return the results, with the lines of the table in `table`.

    `known` contains the default arguments of each benchmark.
    """

    def notify(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    commit, head = commit_of(root, asked.ref), commit_of(root, "HEAD")
    changes = changes_of(root)
    notify(f"REF is {commit[:9]}, here is {head[:9]}. {changes or 'The tree has no uncommitted changes.'}")
    if commit == head and not changes:
        notify("Both are the same commit: the range of the ratios is the noise of the machine.")
    results: Results = {}
    with checked_out(root, commit, own=asked.own, notify=notify) as base:
        names = asked.benchmarks or DEFAULT
        check_names(names, known, base, own=asked.own)
        sides = {"base": base, "here": Tree("here", root, sys.executable, base.shares_environment)}
        extra = caches(root, base.folder)
        for turn in range(asked.rounds):
            for name in names:
                for side, tree in sides.items():
                    began = time.monotonic()
                    try:
                        figures = run(tree, name, arguments or known[name], extra)
                    except CompareError as error:
                        raise CompareError(f"{error}\n{HINT}" if tree is base and not asked.own else error) from None
                    collect(results, side, figures)
                    seconds = time.monotonic() - began
                    notify(f"round {turn + 1} of {asked.rounds}: {name} on {tree.title}, {seconds:.0f} s")
    return document(results, {"base": commit, "head": head, "changes": changes, "load": os.getloadavg()[0]}) | {
        "table": list(table(results, commit[:9]))
    }


def main(root: Path, words: Sequence[str], known: Mapping[str, Sequence[str]]) -> None:
    """Run the command `compare`."""
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ref", metavar="REF", help="a commit, branch or tag")
    parser.add_argument("benchmarks", metavar="BENCH", nargs="*", help=f"benchmarks; default: {' '.join(DEFAULT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own", action="store_true", help="each commit runs its own benchmarks")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_intermixed_args(list(words[:at]))
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        found = compare(root, asked, known, words[at + 1 :])
    except CompareError as error:
        sys.exit(f"compare: {error}")
    lines = found.pop("table")
    print(json.dumps(found) if asked.json else "\n".join(lines))
