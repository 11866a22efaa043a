"""A replay converts the conditions of trades to flags, and notes the codes that it does not recognise."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.market_data.support import OPEN_US, SECOND, embedded, rows
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.replay import ReplayOptions, replay


def write(folder: Path, text: str) -> Path:
    path = folder / "f.csv"
    path.write_text(text)
    return path


def _folder(parent: Path) -> Path:
    path = parent / "second"
    path.mkdir()
    return path


TRADES = (
    "time,symbol,price,size,{}\n"
    "2024-03-05T14:29:59Z,A,9,100,{}\n"  # before the open
    "2024-03-05T14:30:00Z,A,9.5,100,{}\n"  # a trade before the open that was reported after it
    "2024-03-05T14:30:01Z,A,10,100,{}\n"
    "2024-03-05T14:30:02Z,A,11,7,{}\n"
    "2024-03-05T21:00:01Z,A,12,5000,{}\n"
    "2024-03-05T21:00:02Z,A,12,5000,{}\n"
)


@pytest.mark.parametrize(
    "name", ["conditions", "condition", "Conds", "cond", "sale_condition", "Sale Conditions", "trade_conditions"]
)
def test_conditions_become_flags_under_every_common_column_name(tmp_path: Path, name: str) -> None:
    with embedded(tmp_path, 1) as log:
        path = write(tmp_path, TRADES.format(name, "@ T", "@ T", "@", "@ I", '"6,X"', "@  M"))
        summary = replay(log, path)
        assert [row["flags"] for row in rows(log, records.Ticks)] == [16, 17, 0, 1, 32, 3]
        assert (summary.dead, summary.unknown_conditions, summary.notes) == (0, {}, ())


def test_a_parquet_file_may_have_lists_of_conditions_and_flags(tmp_path: Path) -> None:
    table = pa.table(
        {
            "time": pa.array([OPEN_US + n * SECOND for n in range(4)]).view(schemas.TIMESTAMP),
            "symbol": ["A"] * 4,
            "price": [1.0, 2.0, 3.0, 4.0],
            "size": [1, 2, 3, 4],
            "flags": pa.array([0, 16, 0, None], pa.int32()),
            "conditions": [["@"], ["@", "I"], None, ["@", "6"]],
        }
    )
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with embedded(tmp_path, 1) as log:
        replay(log, tmp_path / "t.parquet", ReplayOptions(columns=(("flags", "flags"),)))
        assert [row["flags"] for row in rows(log, records.Ticks)] == [0, 17, 0, 32]


def test_the_flags_of_the_plants_own_files_are_used_unchanged(tmp_path: Path) -> None:
    text = "time,symbol,price,source,trade_id,flags\n1340285400,A,1,x,,33\n1340285401,A,2,x,,\n1340285402,A,3,x,,4096\n"
    with embedded(tmp_path, 1) as log:
        replay(log, write(tmp_path, text))
        assert [row["flags"] for row in rows(log, records.Ticks)] == [33, 0]
        (dead,) = rows(log, records.Dead, schemas.DEADLETTER)
        assert dead["reason"] == "f.csv line 4: the flags contain unknown bits"


def test_the_tape_selects_the_table_of_conditions_unless_an_option_does(tmp_path: Path) -> None:
    text = "time,symbol,price,size,tape,conditions\n" + "".join(
        f"{1340285400 + n},A,1,1,{tape},{code}\n" for n, (tape, code) in enumerate(["AB", "BB", "CB", " B", "3I"])
    )
    text += '1340285406,A,1,1,2,"37,14"\n'
    path = write(tmp_path, text)
    with embedded(tmp_path, 1) as log:
        by_tape = replay(log, path)
        assert [row["flags"] for row in rows(log, records.Ticks)] == [1, 1, 0, 1, 0, 1]
        assert by_tape.unknown_conditions == {"I": 1}
        assert by_tape.notes == (
            "unknown conditions, treated as ordinary trades: I (1)",
            "conditions that CTA and UTP define differently, treated as setting no price (set --conditions cta or "
            "utp): B (1)",
        )
    with embedded(_folder(tmp_path), 1) as log:
        by_user = replay(log, path, ReplayOptions(conditions="utp"))
        assert [row["flags"] for row in rows(log, records.Ticks)] == [0, 0, 0, 0, 1, 0]
        assert by_user.unknown_conditions == {"14": 1, "37": 1}
        assert by_user.feed != by_tape.feed


def test_conditions_are_counted_over_all_blocks_of_a_file(tmp_path: Path) -> None:
    lines = [f"{1340285400 + n},A,1,{'J' if n % 1000 else 'I'}\n" for n in range(100_000)]
    with embedded(tmp_path, 1) as log:
        summary = replay(log, write(tmp_path, "time,symbol,price,cond\n" + "".join(lines)))
        assert summary.unknown_conditions == {"J": 99_900}
        assert sum(row["flags"] for row in rows(log, records.Ticks)) == 100


def test_cancelled_trades_set_no_price_and_no_volume(tmp_path: Path) -> None:
    lines = "".join(f"{1340285400 + n},A,1,@,{text}\n" for n, text in enumerate(["00", "01", "08", "10", "12", "33"]))
    with embedded(tmp_path, 1) as log:
        summary = replay(log, write(tmp_path, "time,symbol,price,cond,correction\n" + lines))
        assert [row["flags"] for row in rows(log, records.Ticks)] == [0, 0, 3, 3, 3, 0]
        assert summary.notes[-1] == "unknown corrections, treated as ordinary trades: 33 (1)"


def test_a_table_of_conditions_without_conditions_is_noted(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        path = write(tmp_path, "time,symbol,price,size,tape\n1340285400,A,1,1,A\n")
        summary = replay(log, path, ReplayOptions(conditions="cta"))
        assert summary.notes == ("columns not used: tape", "no column for conditions: --conditions has no effect")
        with pytest.raises(BadInput, match="unknown table of conditions 'otc'"):
            replay(log, path, ReplayOptions(conditions="otc"))
