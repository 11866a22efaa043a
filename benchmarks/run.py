"""Run the benchmarks one after the other and print a table: `make bench ARGS='...'`.

    python benchmarks/run.py                        # the whole plant on both logs, then each package alone
    python benchmarks/run.py plant --log embedded   # one benchmark with its own arguments
    python benchmarks/run.py --list

Results of a busy machine mean little, so the load before each benchmark is printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def parts() -> dict[str, str]:
    """Return the name and the first docstring line of each benchmark, the plant first."""
    names = sorted((path.stem for path in FOLDER.glob("*.py") if path.stem != "run"), key=lambda n: (n != "plant", n))
    return {name: (FOLDER / f"{name}.py").read_text().split('"""')[1].splitlines()[0] for name in names}


def run(name: str, arguments: list[str]) -> tuple[int, float]:
    """Run one benchmark; return its exit code and duration."""
    load = os.getloadavg()[0]
    print(f"== {name}: {parts()[name]}\n   load before: {load:.1f}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=FOLDER.parent, check=False)
    return code.returncode, time.monotonic() - began


# Default arguments of benchmarks that need some.
ARGUMENTS = {"feed": ["stream"]}


def main() -> None:
    """Run the requested benchmarks."""
    known, arguments = parts(), sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
    elif arguments[:1] == ["--list"]:
        print("\n".join(f"{name:<14}{text}" for name, text in known.items()))
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
    main()
