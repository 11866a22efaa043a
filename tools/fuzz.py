"""Fuzz the parsers of vendors' answers: `python tools/fuzz.py --runs 100000 [TARGET …]`, or `make fuzz`.

Atheris selects payloads by code coverage. The targets run one after the other, each in its own process. A payload that
breaks a parser ends the target and is stored in `.data/fuzz`; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

KEEP = Path(".data/fuzz")
LONGEST = 8_192  # bytes; seeds have about 2,000
HANG_S = 20


def main() -> int:
    """Run the targets, and print payloads and time of each; return 1 if a target failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        _fuzz(args.targets[0], args.runs, args.seed)
    sys.path.insert(0, os.getcwd())
    from tools.fuzz_targets import TARGETS

    unknown = set(args.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; use one of {', '.join(TARGETS)}")
    KEEP.mkdir(parents=True, exist_ok=True)
    return max([_outside(name, args.runs, args.seed) for name in args.targets or TARGETS])


def _outside(name: str, runs: int, seed: int) -> int:
    command = [sys.executable, __file__, name, "--runs", str(runs), "--seed", str(seed), "--inside"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    seconds = time.monotonic() - began
    counts = re.findall(r"Done (\d+) runs|^#(\d+)\s", done.stderr, re.MULTILINE)
    count = max((int(a or b) for a, b in counts), default=0)
    failed = done.returncode != 0
    print(f"{name:24} {count:>10,} payloads {seconds:8.1f} s {'FAILED' if failed else 'ok'}", flush=True)
    if failed:
        print(done.stdout[-4_000:], done.stderr[-4_000:], sep="\n", flush=True)
    return int(failed)


def _fuzz(name: str, runs: int, seed: int) -> None:
    """Fuzz one target. Atheris then ends the process."""
    sys.path.insert(0, os.getcwd())
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import atheris

    with atheris.instrument_imports(include=["tickerplant.market_data.clients"]):
        from tools.fuzz_targets import TARGETS, mutate

    target = TARGETS[name]

    def change(data: bytes, longest: int, number: int) -> bytes:
        return mutate(data, target.seeds, random.Random(number))[:longest]

    with tempfile.TemporaryDirectory() as folder:
        for number, payload in enumerate(target.seeds):
            Path(folder, str(number)).write_bytes(payload)
        options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST}", f"-timeout={HANG_S}"]
        options += [
            "-reduce_inputs=0",
            f"-artifact_prefix={KEEP}/{name}-",
            "-print_final_stats=1",
            "-rss_limit_mb=4096",
        ]
        atheris.Setup([sys.argv[0], *options, folder], target.run, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
