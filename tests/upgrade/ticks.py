"""Input files of the fixtures, generated from a seed. The bytes are the same on every machine."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

START = dt.datetime(2026, 3, 4, 15, 0, tzinfo=dt.UTC)
"""Time of the first tick, and start of the virtual clock of the plant that made the fixtures."""
SYMBOLS = ("FILEA", "FILEB", "FILEC", "FILED")
TICKS = 3_000
SECONDS = 1_200


def rows() -> list[tuple[str, str, str, str, str]]:
    """Return (time, symbol, price, size, trade_id) of each tick, in time order. Pairs of ticks have equal times."""
    drawn = random.Random(28_7935)
    prices = dict.fromkeys(SYMBOLS, 100.0)
    found = []
    for number in range(TICKS):
        symbol = SYMBOLS[int(drawn.random() * len(SYMBOLS))]
        prices[symbol] = round(prices[symbol] + (drawn.random() - 0.5) * 0.2, 2)
        at = START + dt.timedelta(milliseconds=number // 2 * 2 * SECONDS * 1000 // TICKS)
        size = 1 + int(drawn.random() * 300)
        time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found.append((time, symbol, f"{prices[symbol]:.2f}", str(size), f"t{number}"))
    return found


def write_ticks(path: Path) -> Path:
    """Write the ticks as CSV and return the path."""
    lines = ["time,symbol,price,size,trade_id", *(",".join(row) for row in rows())]
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path


def write_days(path: Path) -> Path:
    """Write 60 daily bars of one symbol as CSV and return the path."""
    drawn = random.Random(60)
    lines, price, day = ["date,open,high,low,close,volume"], 50.0, dt.date(2025, 12, 1)
    while len(lines) <= 60:
        if day.weekday() < 5 and day not in (
            dt.date(2025, 12, 25),
            dt.date(2026, 1, 1),
            dt.date(2026, 1, 19),
            dt.date(2026, 2, 16),
        ):
            close = round(price + (drawn.random() - 0.5) * 2, 2)
            high, low = max(price, close) + 0.5, min(price, close) - 0.5
            lines.append(f"{day},{price:.2f},{high:.2f},{low:.2f},{close:.2f},{1000 + int(drawn.random() * 1000)}")
            price = close
        day += dt.timedelta(days=1)
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return path
