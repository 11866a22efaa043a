"""Files that the pages name, and the ticks in the shared plant for the times in the pages' examples."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.market_data.files import databento

SETTINGS = """
symbols = ["AAPL", "MSFT", "GOOG", "EUR/USD", "BTC/USD"]
history = ["1d:60", "1m:1"]

[store]
listen = "127.0.0.1:5432"
"""
"""Settings of the shared plant: those of docs/sql.md, and fewer symbols and less history than the defaults."""

OPEN = dt.datetime(2026, 3, 9, 13, 30, tzinfo=dt.UTC)


def ticks() -> str:
    """Return ticks of AAPL for the first 67 minutes of the session in the pages' examples, as CSV."""
    rows = [
        f"{(OPEN + dt.timedelta(seconds=10 * i, milliseconds=118)).isoformat()},AAPL,{257 + i % 7 / 10:.2f},100"
        for i in range(400)
    ]
    return "\n".join(["time,symbol,price,size", *rows]) + "\n"


def bars(count: int = 300) -> pa.Table:
    """Return daily bars with waves of prices."""
    closes = [200 + 20 * ((number * 37) % 101) / 101 for number in range(count)]
    start = dt.date(2025, 1, 2)
    return pa.table(
        {
            "time": [(start + dt.timedelta(days=number)).isoformat() for number in range(count)],
            "open": closes,
            "high": [close + 1 for close in closes],
            "low": [close - 1 for close in closes],
            "close": closes,
            "volume": [1000.0] * count,
        }
    )


def write_files(folder: Path) -> None:
    """Write the files that pages name into a reader's folder."""
    table = bars()
    columns = [table.column(name).to_pylist() for name in table.column_names]
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    (folder / "msft.csv").write_text("\n".join([",".join(table.column_names), *lines]) + "\n")
    pq.write_table(table.append_column("symbol", pa.array(["AAPL"] * len(table))), folder / "bars.parquet")
    head = databento.metadata(databento.dbn.Schema.TRADES)
    trades = [databento.trade(number * 1000) for number in range(20)]
    data = databento.zstd(databento.encoded(head, trades))
    (folder / "xnas-itch-20240102.trades.dbn.zst").write_bytes(data)


def replay(folder: Path, env: Mapping[str, str]) -> None:
    """Replay the ticks into the running plant of the environment's home."""
    folder.mkdir()
    file = folder / "ticks.csv"
    file.write_text(ticks())
    subprocess.run(["tickerplant", "replay", str(file)], env=dict(env), check=True, stdout=subprocess.DEVNULL)
