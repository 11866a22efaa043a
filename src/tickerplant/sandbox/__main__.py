"""The sandbox as a process of its own: `python -m tickerplant.sandbox --symbols 1000 --rate 10000`.

Prints its addresses and its clock as one line of JSON and runs until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from tickerplant.core.errors import BadInput
from tickerplant.core.quota import Quota
from tickerplant.sandbox.endpoint import clock_of
from tickerplant.sandbox.fault_script import VENDORS, read_lines
from tickerplant.sandbox.model import MarketSettings, symbol_names
from tickerplant.sandbox.quotas import FREE_PACE_S, FREE_PLANS
from tickerplant.sandbox.request_router import SandboxSettings
from tickerplant.sandbox.server import running


def main() -> None:
    """Parse the arguments, serve, wait for a signal."""
    args = _arguments()
    names = tuple(args.names.split(",")) if args.names else symbol_names(args.symbols)
    market = MarketSettings(names, args.rate, args.seed, args.sessions)
    try:
        quotas, pace_s = quotas_of(args.quota, free=args.free_plans)
        settings = SandboxSettings(
            market,
            args.stamp,
            args.credits,
            args.errors_200,
            clock=clock_of(args.start, args.speed),
            quotas=quotas,
            pace_s=pace_s,
            max_symbols=8 if args.free_plans else 0,
            script=read_lines(Path(args.script).read_text() if args.script else ""),
            chaos=args.chaos,
        )
    except (BadInput, ValueError, OSError) as error:
        sys.exit(f"the sandbox cannot start: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running(settings, args.host, args.port) as place:
        print(place.greeting(), flush=True)
        stop.wait()
    sys.exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tickerplant.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--symbols", type=int, default=12, help="how many symbols")
    parser.add_argument("--names", default="", help="the symbols themselves, AAPL,MSFT; instead of --symbols")
    parser.add_argument(
        "--rate", type=float, default=50.0, help="prints a second by its clock, all symbols, on average while open"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sessions", choices=["always", "us"], default="always")
    parser.add_argument("--start", default="", help="what the sandbox's clock says at first, 2026-03-09T13:00:00Z")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast as the machine's it runs")
    parser.add_argument("--credits", type=int, default=0, help="Twelve Data's credits a minute; 0: no limit")
    parser.add_argument("--quota", action="append", default=[], help="VENDOR=CREDITS/minute|hour|day[@ZONE]; repeat it")
    parser.add_argument("--free-plans", action="store_true", help="the quotas that vendors give for nothing")
    parser.add_argument("--errors-200", action="store_true", help="Twelve Data's errors come with HTTP 200")
    parser.add_argument("--stamp", action="store_true", help="add sent_ns to each message of the stream")
    parser.add_argument("--script", default="", help="a file of orders, one a line: SECONDS do=…&…")
    parser.add_argument("--chaos", type=int, default=None, metavar="SEED", help="troubles of every kind, by chance")
    return parser.parse_args()


def quotas_of(texts: list[str], *, free: bool) -> tuple[dict[str, tuple[Quota, ...]], dict[str, float]]:
    """Return quotas and paces by vendor; what is said of a vendor replaces its free plan. Raises ValueError."""
    found: dict[str, tuple[Quota, ...]] = {}
    for text in texts:
        vendor, _, quota = text.partition("=")
        if vendor not in VENDORS:
            raise ValueError(f"no vendor {vendor!r}; there are {', '.join(VENDORS)}")
        found[vendor] = (*found.get(vendor, ()), Quota.parse(quota))
    return ({**FREE_PLANS, **found}, dict(FREE_PACE_S)) if free else (found, {})


if __name__ == "__main__":
    main()
