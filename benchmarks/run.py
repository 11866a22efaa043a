"""Run the benchmarks one after the other and print a table: `make bench ARGS='...'`.

    python benchmarks/run.py                        # the whole plant on both logs, then each package alone
    python benchmarks/run.py plant --log embedded   # one benchmark with its own arguments
    python benchmarks/run.py --json plant ...       # the same; figures as one JSON object, other text on standard error
    python benchmarks/run.py compare REF [BENCH ...]  # benchmarks on two commits in turn, with ratios
    python benchmarks/run.py table [ROW ...]        # the rows of the table in docs/benchmarks.md
    python benchmarks/run.py --list

Results of a busy machine are unreliable, so the load before each benchmark is printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from benchmarks.support import compare, table  # noqa: E402
from benchmarks.support.children import run_to_end  # noqa: E402
from benchmarks.support.figures import FILE, read  # noqa: E402


def parts() -> dict[str, str]:
    """Return the name and the first docstring line of each benchmark, the plant first."""
    names = sorted((path.stem for path in FOLDER.glob("*.py") if path.stem != "run"), key=lambda n: (n != "plant", n))
    return {name: (FOLDER / f"{name}.py").read_text().split('"""')[1].splitlines()[0] for name in names}


def run(name: str, arguments: list[str]) -> tuple[int, float]:
    """Run one benchmark; return its exit code and duration."""
    load = os.getloadavg()[0]
    print(f"== {name}: {parts()[name]}\n   load before: {load:.1f}", flush=True)
    began = time.monotonic()
    code = run_to_end([sys.executable, "-m", f"benchmarks.{name}", *arguments], FOLDER.parent)
    return code, time.monotonic() - began


def run_for_program(name: str, arguments: list[str]) -> int:
    """Run one benchmark with its text on standard error, print its figures as one JSON object, return its exit code."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path, load = Path(folder) / "figures.jsonl", os.getloadavg()[0]
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
        env = {**os.environ, FILE: str(path)}
        code = run_to_end(command, FOLDER.parent, env, sys.stderr)
        figures = [figure._asdict() for figure in read(path)]
    print(json.dumps({"benchmark": name, "arguments": arguments, "load": load, "figures": figures}))
    return code


# Default arguments of benchmarks that need some.
ARGUMENTS = {"feed": ["stream"]}


def main() -> None:
    """Run the requested benchmarks."""
    known, arguments = parts(), sys.argv[1:]
    as_json = arguments[:1] == ["--json"]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
    elif arguments[:1] == ["--list"]:
        print("\n".join(f"{name:<14}{text}" for name, text in known.items()))
    elif arguments[:1] == ["compare"]:
        compare.main(FOLDER.parent, arguments[1:], {name: ARGUMENTS.get(name, []) for name in known})
    elif arguments[:1] == ["table"]:
        table.main(FOLDER.parent, arguments[1:])
    elif as_json:
        name = arguments[1] if len(arguments) > 1 else ""
        if name not in known:
            sys.exit(f"--json needs a benchmark, not {name!r}; there are {', '.join(known)}")
        sys.exit(run_for_program(name, arguments[2:]))
    elif arguments and arguments[0] in known:
        sys.exit(run(arguments[0], arguments[1:])[0])
    elif arguments:
        sys.exit(run("plant", arguments)[0])
    else:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        done = {name: run(name, ARGUMENTS.get(name, [])) for name in known}
        print("\npart          seconds")
        for name, (code, seconds) in done.items():
            print(f"{name:<14}{seconds:7.0f}{'' if code == 0 else f'  failed with {code}'}")
        sys.exit(any(code for code, _ in done.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the benchmark
    main()
