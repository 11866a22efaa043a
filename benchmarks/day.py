"""A trading day with faulty vendors at 60 times real time: check that all bars are stored and correct.

    python -m benchmarks.day [--hours 24] [--symbols 50] [--speed 60]

The sandbox simulates three vendors (Twelve Data with its stream, Alpha Vantage, Yahoo) with its own clock. The stream
disconnects every few minutes, and at times sends nothing. 429 errors occur, a daily quota is exhausted, and a vendor is
down for hours. Every stored minute bar is then compared with the sandbox's bar. Coverage must contain a reason for
each missing bar, and requests must stay within the quotas.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.support.day import Day, random_faults, run

from tickerplant.sandbox.model import symbol_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--start", default="2026-06-15T04:00:00+00:00", help="midnight in New York on a Monday")
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=25.0, help="trades per second over all symbols")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    day = Day(
        symbol_names(args.symbols), args.start, args.hours, args.speed, args.rate, args.seed,
        script=random_faults(args.hours, args.seed),
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = args.folder or Path(tempfile.mkdtemp(prefix="day-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the plant and the sandbox too
    began = time.monotonic()
    verdict = run(folder, day, port, report=lambda text: print(text, flush=True))
    print(f"{args.hours:g} h of {args.symbols} symbols in {time.monotonic() - began:.0f} s")
    print("\n".join(verdict.lines()))


if __name__ == "__main__":
    main()
