"""Run the sandbox as a process: `python -m tickerplant.sandbox --symbols 1000 --rate 10000`.

Prints its addresses and clock as one line of JSON, and runs until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tickerplant.core.errors import BadInput
from tickerplant.core.quota import Quota
from tickerplant.sandbox.endpoint import make_clock
from tickerplant.sandbox.fault_script import VENDORS, parse_script
from tickerplant.sandbox.model import MarketSettings, symbol_names
from tickerplant.sandbox.quotas import FREE_PACE_S, FREE_PLANS
from tickerplant.sandbox.request_router import SandboxSettings
from tickerplant.sandbox.server import running


def main() -> None:
    """Parse the arguments and serve until a signal."""
    args = _arguments()
    names = tuple(args.names.split(",")) if args.names else symbol_names(args.symbols)
    market = MarketSettings(names, args.rate, args.seed, args.sessions)
    try:
        quotas, pace_s = parse_quotas(args.quota, free=args.free_plans)
        settings = SandboxSettings(
            market,
            args.stamp,
            args.credits,
            args.errors_200,
            clock=make_clock(args.start, args.speed),
            quotas=quotas,
            pace_s=pace_s,
            max_symbols=8 if args.free_plans else 0,
            fault_script=parse_script(Path(args.fault_script).read_text() if args.fault_script else ""),
            fault_seed=args.fault_seed,
        )
    except (BadInput, ValueError, OSError) as error:
        sys.exit(f"the sandbox cannot start: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running(settings, args.host, args.port) as endpoint:
        print(endpoint.greeting(), flush=True)
        stop.wait()
    sys.exit(0)


class _Renamed(argparse.Action):
    """An option under its old name: stores the value for the new name and warns."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        warnings.warn(f"{option_string} works for one more version only; use {new}", FutureWarning, stacklevel=2)
        setattr(namespace, self.dest, values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tickerplant.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 selects a free port")
    parser.add_argument("--symbols", type=int, default=12, help="number of symbols")
    parser.add_argument("--names", default="", help="symbols, such as AAPL,MSFT; replaces --symbols")
    parser.add_argument(
        "--rate", type=float, default=50.0, help="average trades per second over all symbols while markets are open"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the simulated market")
    parser.add_argument(
        "--sessions",
        choices=["always", "us"],
        default="always",
        help="always: all symbols trade round the clock; us: stocks trade in New York's regular sessions, and currency "
        "pairs close at weekends",
    )
    parser.add_argument("--start", default="", help="initial time of the sandbox's clock, such as 2026-03-09T13:00:00Z")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="speed of the sandbox's clock, as a multiple of real time"
    )
    parser.add_argument(
        "--credits", type=int, default=0, help="one more quota of Twelve Data, in credits per minute; 0 adds none"
    )
    parser.add_argument(
        "--quota", action="append", default=[], help="quota, as VENDOR=CREDITS/minute|hour|day[@ZONE]; repeatable"
    )
    parser.add_argument("--free-plans", action="store_true", help="apply the quotas of the vendors' free plans")
    parser.add_argument("--errors-200", action="store_true", help="Twelve Data's errors have HTTP status 200")
    parser.add_argument("--stamp", action="store_true", help="add sent_ns to each message of the stream")
    parser.add_argument("--fault-script", default="", help="file of faults, one per line: SECONDS do=...&...")
    parser.add_argument("--fault-seed", type=int, default=None, metavar="SEED", help="seed of random faults")
    parser.add_argument("--script", dest="fault_script", action=_Renamed, help=argparse.SUPPRESS)
    parser.add_argument("--chaos", dest="fault_seed", type=int, action=_Renamed, help=argparse.SUPPRESS)
    return parser.parse_args()


def parse_quotas(texts: list[str], *, free: bool) -> tuple[dict[str, tuple[Quota, ...]], dict[str, float]]:
    """Return the quotas, and the minimum seconds between two requests of a key, both by vendor.

    `texts`: the values of `--quota`. If `free` is set, a vendor without a text has the quotas of its free plan. Raises
    ValueError if a text is malformed or its vendor is unknown.
    """
    found: dict[str, tuple[Quota, ...]] = {}
    for text in texts:
        vendor, _, quota = text.partition("=")
        if vendor not in VENDORS:
            raise ValueError(f"no vendor {vendor!r}; use one of {', '.join(VENDORS)}")
        found[vendor] = (*found.get(vendor, ()), Quota.parse(quota))
    return ({**FREE_PLANS, **found}, dict(FREE_PACE_S)) if free else (found, {})


if __name__ == "__main__":
    main()
