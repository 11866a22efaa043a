"""Each symbol's properties: base price, price increment, volatility, spread, trade sizes and share of all trades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tickerplant.core.hashing import mix
from tickerplant.core.times import Float64Array, Int64Array
from tickerplant.sandbox.noise import UInt32Array, hash32, hashed, unit

KNOWN: Final = {
    "AAPL": 230.0, "MSFT": 420.0, "GOOG": 175.0, "AMZN": 190.0, "NVDA": 125.0, "TSLA": 250.0, "META": 560.0,
    "JPM": 215.0, "SPY": 570.0, "QQQ": 485.0, "EUR/USD": 1.09, "BTC/USD": 64_000.0,
}  # fmt: skip
"""Approximate price of each of the first symbols, in dollars. SYM0001, SYM0002 and so on follow them."""

SIZES: Final = 1 << 16
"""Number of entries in each table of sizes. A symbol's trades of a day use consecutive entries."""
_G = np.uint64(0x9E3779B97F4A7C15)
_SALT_LEVEL, _SALT_SIGMA, _SALT_ACTIVE, _SALT_SPREAD, _SALT_ODD, _SALT_LOTS, _SALT_SMALL = range(1, 8)


class SymbolProfiles:
    """Arrays of one element per symbol. `share` depends on all symbols; other arrays depend on `seed` and name only."""

    def __init__(self, symbols: Sequence[str], seed: int) -> None:
        names = np.array([_name_hash(symbol) for symbol in symbols], np.uint64)
        with np.errstate(over="ignore"):
            self.key: UInt32Array = (mix(names + np.uint64(seed % (1 << 63)) * _G) >> np.uint64(32)).astype(np.uint32)
        base = np.array([KNOWN.get(symbol, 0.0) for symbol in symbols])
        known = base > 0
        self.base: Float64Array = np.where(known, base, np.exp(np.log(8) + self._unit(_SALT_LEVEL) * np.log(60)))
        self.stock = np.array(["/" not in symbol for symbol in symbols])
        self.forex = np.array(["/" in symbol and not symbol.startswith("BTC") for symbol in symbols])
        self.tick: Float64Array = np.where(self.forex, 1e-5, 1e-2)
        self.per_unit: Float64Array = np.where(self.forex, 1e5, 1e2)
        """Increments per unit of price (1 / tick), an integer. A price is its increments / `per_unit`."""
        self.sigma: Float64Array = np.where(self.forex, 0.08, 0.2 + 0.3 * self._unit(_SALT_SIGMA))
        """Annual volatility."""
        spread = np.where(known, 0.4, 2.0 + 6.0 * self._unit(_SALT_SPREAD)) + 0.4 * self._unit(_SALT_SPREAD)
        self.spread: Float64Array = spread * 1e-4
        """Ask minus bid as a fraction of the price, before it is raised to at least one price increment."""
        # Pareto tail with exponent 1.1: the 500 most active of 5,000 symbols have about 60 % of the trades.
        active = self._unit(_SALT_ACTIVE)
        weight = np.where(known, 25 + 35 * active, np.minimum(active**-0.9, 300.0))
        self.share: Float64Array = weight / weight.sum()
        """Fraction of all trades."""
        is_small = ~self.stock
        self.sizes: Int64Array = is_small.astype(np.int64)
        """Row of the symbol's table in `size_sums`: 0 for shares, 1 for units."""
        multiple = np.where(self.forex, 1_000, np.where(is_small, 1, np.clip(np.rint(60 / self.base), 1, 8)))
        self.multiple: Int64Array = multiple.astype(np.int64)
        """Multiplier of the table's sizes: 8 (cheap) to 1 for stocks, 1,000 for currencies, 1 for coins."""

    def _unit(self, salt: int) -> Float64Array:
        return unit(hashed(self.key, salt))


def size_sums() -> Int64Array:
    """Return the running sums of two tables of sizes, one per row, from 0: int64[2, SIZES + 1].

    The sizes of row 0 are shares, and 35 % of them are odd lots. The other sizes are round lots of 100 with a Pareto
    tail (exponent 1.5) up to 50,000. The sizes of row 1 are units (coins, lots of a currency) with the same tail up to
    200.
    """
    numbers = np.arange(SIZES, dtype=np.uint32)
    keys = hash32(numbers)
    tail = unit(hashed(keys, _SALT_LOTS)) ** (-1 / 1.5)
    odd = unit(hashed(keys, _SALT_ODD))
    shares = np.where(odd < 0.35, 1 + np.floor(99 * (odd / 0.35) ** 2), 100 * np.minimum(np.floor(tail), 500))
    units = np.minimum(np.floor(tail), 200)
    sums = np.zeros((2, SIZES + 1), np.int64)
    np.cumsum(np.stack([shares, units]).astype(np.int64), axis=1, out=sums[:, 1:])
    return sums


def _name_hash(symbol: str) -> int:
    value = 0xCBF29CE484222325
    for byte in symbol.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value
