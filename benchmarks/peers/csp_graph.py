"""The graph of `bars.csp`, in a separate module: csp parses a node's source, which must not have string annotations."""

import datetime as dt

import csp
import numpy as np
from benchmarks.peers.bars import MINUTE_US, Prints
from csp import ts

MINUTE = dt.timedelta(microseconds=MINUTE_US)


class Bar(csp.Struct):
    """One closed bar."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    pv: float
    trades: int


@csp.node
def ohlcv(price: ts[float], size: ts[float], closing: ts[bool]) -> ts[Bar]:
    with csp.state():
        s_open = 0.0
        s_high = 0.0
        s_low = 0.0
        s_close = 0.0
        s_volume = 0.0
        s_pv = 0.0
        s_trades = 0
    if csp.ticked(closing) and s_trades:
        bar = Bar(open=s_open, high=s_high, low=s_low, close=s_close, volume=s_volume, pv=s_pv, trades=s_trades)
        s_volume = 0.0
        s_pv = 0.0
        s_trades = 0
        csp.output(bar)
    if csp.ticked(price):
        if not s_trades:
            s_open = price
            s_high = price
            s_low = price
        elif price > s_high:
            s_high = price
        elif price < s_low:
            s_low = price
        s_close = price
        s_volume += size
        s_pv += price * size
        s_trades += 1


@csp.node
def total(bars: [ts[Bar]]) -> ts[object]:
    with csp.state():
        s_bars = 0
        s_volume = 0.0
    for bar in bars.tickedvalues():
        s_bars += 1
        s_volume += bar.volume
    return (s_bars, s_volume)


@csp.graph(memoize=False)
def _bars(time: object, symbol: object, price: object, size: object, symbols: int):
    # The stream starts on a full minute, so the timer's first tick is the end of the first minute.
    closing = csp.timer(MINUTE, True)
    keys = list(range(symbols))
    which = csp.curve(int, (time, symbol))
    prices = csp.demultiplex(csp.curve(float, (time, price)), which, keys)
    sizes = csp.demultiplex(csp.curve(float, (time, size)), which, keys)
    csp.add_graph_output("done", total([ohlcv(prices[key], sizes[key], closing) for key in keys]))


def build(prints: Prints) -> object:
    """Return the graph with loaded prints."""
    times = prints.time.astype("datetime64[us]")
    return csp.build_graph(_bars, times, prints.symbol.astype(np.int64), prints.price, prints.size, prints.symbols)
