"""Records of Databento as CSV or Parquet: selection of the trades, and prices in units of 1e-9. Pure, column-wise.

A file is Databento's if it has the columns `rtype`, `publisher_id` and `instrument_id`. Databento writes prices with a
decimal point or as integers in units of 1e-9: https://databento.com/docs/standards-and-conventions.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array
from tickerplant.market_data.files.block import Block
from tickerplant.market_data.files.dbn_file import UNDEFINED_PRICE
from tickerplant.market_data.files.layout import BARS, FileLayout

RECORD_TYPES: Final = {"32": "1s", "33": "1m", "34": "1h", "35": "1d"}
"""Intervals of bars by record type."""


class DatabentoRecords:
    """Selects the rows of a file, block by block. The state is the instrument of a file without symbols."""

    def __init__(self, name: str, layout: FileLayout) -> None:
        self._name = name
        self._layout = layout
        self._instrument: str | None = None

    def select(self, block: Block) -> Block:
        """Return the trades or bars of a block.

        Raises BadInput for several instruments without symbols, and for bars of several venues of one instrument.
        """
        names = self._layout.databento
        if self._layout.kind != BARS and "action" in names:
            trades = pc.equal(block.columns[names["action"]].cast(pa.utf8()), "T").fill_null(False)
            if not pc.all(trades).as_py():
                columns = {name: column.filter(trades) for name, column in block.columns.items()}
                numbers = block.numbers[trades.to_numpy(zero_copy_only=False)]
                block = Block(columns, numbers, block.end, block.broken)
        instruments = block.columns[names["instrumentid"]].cast(pa.utf8())
        if "symbol" not in self._layout.columns:
            self._check_instrument(instruments)
        venues = pc.binary_join_element_wise(instruments, block.columns[names["publisherid"]].cast(pa.utf8()), " ")
        if self._layout.kind == BARS and len(pc.unique(venues)) > len(pc.unique(instruments)):
            raise BadInput(
                f"{self._name} has bars of several venues for one instrument: none of them is the bar of the whole "
                "market; request the bars of one venue, or trades"
            )
        return block

    def _check_instrument(self, instruments: pa.Array) -> None:
        for found in pc.unique(instruments).to_pylist():
            self._instrument = self._instrument or found
            if found != self._instrument:
                raise BadInput(
                    f"{self._name} has no symbols, and several instruments: {self._instrument}, {found}; export it "
                    "with symbols, or one instrument per file"
                )


def fixed_prices(column: pa.Array) -> Float64Array | None:
    """Return prices in units of 1e-9 as float64, NaN for a missing price; None if a price has a decimal point.

    Division gives the float64 nearest to the decimal.
    """
    try:
        fixed = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    missing = pc.equal(fixed, UNDEFINED_PRICE).fill_null(True).to_numpy(zero_copy_only=False)
    values = fixed.fill_null(0).to_numpy(zero_copy_only=False)
    return np.where(missing, np.nan, values / 1e9)
