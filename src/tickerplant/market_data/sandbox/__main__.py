"""The sandbox as a process of its own: `python -m tickerplant.market_data.sandbox --symbols 1000 --rate 10000`.

Prints its address as one line of JSON and runs until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

import msgspec

from tickerplant.market_data.sandbox.model import MarketSettings, symbol_names
from tickerplant.market_data.sandbox.server import SandboxSettings, running


def main() -> None:
    """Parse the arguments, serve, wait for a signal."""
    parser = argparse.ArgumentParser(prog="python -m tickerplant.market_data.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--symbols", type=int, default=12, help="how many symbols")
    parser.add_argument(
        "--rate", type=float, default=50.0, help="prints a second of all symbols, on the average while open"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sessions", choices=["always", "us"], default="always")
    parser.add_argument("--credits", type=int, default=0, help="API credits a minute; 0: no limit")
    parser.add_argument("--errors-200", action="store_true", help="REST errors come with HTTP 200")
    parser.add_argument("--stamp", action="store_true", help="add sent_ns to each message of the stream")
    args = parser.parse_args()
    market = MarketSettings(symbol_names(args.symbols), args.rate, args.seed, args.sessions)
    settings = SandboxSettings(market, args.stamp, args.credits, args.errors_200)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running(settings, args.host, args.port) as place:
        print(msgspec.json.encode({"url": place.url, "stream_url": place.stream_url}).decode(), flush=True)
        stop.wait()
    sys.exit(0)


if __name__ == "__main__":
    main()
