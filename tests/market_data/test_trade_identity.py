"""Two ticks with a trade id are one tick if feed, symbol, trade id, time, kind and exchange are equal."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import at, last, run
from tests.market_data.support import OPEN_US, SECOND, Clock, embedded, read_all, rows, ticks
from tests.support.properties import examples
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import DAY_US, HOUR_US, NEVER_US
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.cursor import Identities, RecentIds
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.files.replay import replay

GOLDEN = Path(__file__).parent / "golden" / "cursors"
"""Cursors of commit 2def005, created by `make_cursors`. It appended 40 ticks with ids t0 to t19 of AAPL and of BRK.B,
one a second from `OPEN_US` on. A cancel of AAPL's t1 at second 50 follows. The live feed's watermark is second 50."""
HEAD = "time,symbol,price,size,trade_id,exchange\n"


def live(log: EventLog, name: str = "vendor", clock: int = OPEN_US + 10 * DAY_US) -> FeedWriter:
    feed = FeedWriter(log, name, clock=Clock(clock))
    feed.start(["AAPL"], start_us=OPEN_US, live=True)
    return feed


def same(count: int) -> list[int]:
    return [OPEN_US] * count


def test_an_equal_id_is_a_repeat_only_at_the_same_time_and_of_the_same_symbol_and_kind(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        with live(log) as feed:
            first = ticks(["AAPL", "AAPL", "MSFT"], same(3), [1.0] * 3, ["1", "1", "1"])
            assert feed.append_ticks(first, OPEN_US) == 2
            assert feed.append_ticks(ticks(["AAPL"] * 2, same(2), [1.0] * 2, ["1", None]), OPEN_US) == 1
            cancel = ticks(["AAPL"] * 2, same(2), [1.0] * 2, ["1", "1"], [TickFlag.CANCEL, TickFlag.CORRECTION])
            assert feed.append_ticks(cancel, OPEN_US) == 2
            assert feed.append_ticks(cancel, OPEN_US) == 0
            tomorrow = ticks(["AAPL"], [OPEN_US + DAY_US], [1.0], ["1"])
            assert feed.append_ticks(tomorrow, OPEN_US + DAY_US) == 1
            assert (feed.cursor.repeats, feed.cursor.conflicts, feed.cursor.dead) == (4, 0, 0)
        with live(log) as feed:  # the cursor contains the identities
            assert feed.append_ticks(first, OPEN_US) == 0
            assert feed.append_ticks(tomorrow, OPEN_US + DAY_US) == 0
        with live(log, "another feed") as feed:
            assert feed.append_ticks(first, OPEN_US) == 2


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("flags", [0, TickFlag.CANCEL, TickFlag.EXTENDED])
def test_an_equal_identity_with_another_price_or_size_is_a_dead_letter(
    tmp_path: Path, restart: bool, flags: int
) -> None:
    def one(price: float, size: float, symbol: str = "AAPL") -> pa.RecordBatch:
        batch = ticks([symbol], same(1), [price], ["7"], [flags])
        return batch.set_column(3, batch.schema.field(3), pa.array([size]))

    with embedded(tmp_path) as log:
        feed = live(log)
        assert feed.append_ticks(one(100.25, 3.0), OPEN_US) == 1
        if restart:
            feed.close()
            feed = live(log)
        assert feed.append_ticks(one(100.50, 3.0), OPEN_US) == 0
        assert feed.append_ticks(one(100.25, 4.0), OPEN_US) == 0
        assert feed.append_ticks(one(100.25, 3.0), OPEN_US) == 0
        assert (feed.cursor.repeats, feed.cursor.conflicts, feed.cursor.dead) == (1, 2, 2)
        feed.close()
        dead = rows(log, records.Dead, schemas.DEADLETTER)
        assert [row["reason"] for row in dead] == [
            "an earlier tick of AAPL at 2012-06-21T13:30:00Z has the trade id 7 and another price or size than "
            f"{price} and {size}; it is kept"
            for price, size in (("100.5", "3"), ("100.25", "4"))
        ]
        assert b'"price":100.5' in dead[0]["payload"]
        assert [row["price"] for row in rows(log, records.Ticks)] == [100.25]


def test_a_conflict_within_one_batch_keeps_the_first_tick(tmp_path: Path) -> None:
    with embedded(tmp_path) as log, live(log) as feed:
        batch = ticks(["AAPL"] * 4, same(4), [1.0, 2.0, 1.0, 3.0], ["a", "a", "a", "b"])
        assert feed.append_ticks(batch, OPEN_US) == 2
        assert [row["price"] for row in rows(log, records.Ticks)] == [1.0, 3.0]
        assert (feed.cursor.repeats, feed.cursor.conflicts) == (1, 1)


def test_a_second_correction_of_a_trade_is_appended_and_its_repeat_is_not(tmp_path: Path) -> None:
    with embedded(tmp_path) as log, live(log) as feed:
        for price, accepted in ((10.0, 1), (10.5, 1), (10.0, 0), (10.5, 0)):
            batch = ticks(["AAPL"], same(1), [price], ["1"], [TickFlag.CORRECTION])
            assert feed.append_ticks(batch, OPEN_US) == accepted
        assert (feed.cursor.repeats, feed.cursor.conflicts) == (2, 0)


def test_the_window_of_identities_survives_a_restart(tmp_path: Path) -> None:
    n = feed_cursor.SEGMENT_IDS * 2 + 100
    ids: list[str | None] = [f"trade-{i}" for i in range(n)]
    with embedded(tmp_path) as log:
        with live(log) as feed:
            assert feed.append_ticks(ticks(["AAPL"] * n, trade_ids=ids), OPEN_US) == n
        with live(log) as feed:
            assert feed.append_ticks(ticks(["AAPL"] * n, trade_ids=ids), OPEN_US) == 0
            other = ticks(["AAPL"] * n, prices=[1.0] * n, trade_ids=ids)
            assert feed.append_ticks(other, OPEN_US) == 0
            assert (feed.cursor.repeats, feed.cursor.conflicts) == (n, n)


# Exchanges -----------------------------------------------------------------------------------------------------------


def test_exchanges_that_number_their_trades_separately_do_not_hide_each_other(tmp_path: Path) -> None:
    path = tmp_path / "venues.csv"
    path.write_text(
        HEAD
        + "1340285400,A,10,1,1,N\n"
        + "1340285400,A,11,2,1,Q\n"  # another exchange: another trade
        + "1340285400,A,11,2,1,Q\n"  # a repeat
        + "1340285400,A,12,3,1,\n"  # without an exchange
        + "1340285400,A,12,4,1,N\n"  # a conflict with line 2
    )
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path)
        assert (summary.ticks, summary.repeats, summary.conflicts, summary.dead) == (3, 1, 1, 1)
        assert [(row["price"], row["exchange"]) for row in rows(log, records.Ticks)] == [
            (10.0, "N"), (11.0, "Q"), (12.0, None),
        ]  # fmt: skip
        (dead,) = rows(log, records.Dead, schemas.DEADLETTER)
        assert dead["reason"].startswith("venues.csv line 6: an earlier tick of A at 2012-06-21T13:30:00Z has ")
        (note,) = summary.notes
        assert note.startswith(
            "1 trades have the id, time and symbol of an earlier trade but a different price or size"
        )
        assert "venues.csv line 6" in note
        assert "If the column trade_id does not identify trades, rename it" in note


@pytest.mark.parametrize("name", ["Exchange", "exch", "venue", "MIC", "market_center", "participant_id"])
def test_an_exchange_is_read_under_each_common_column_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(HEAD.replace("exchange", name) + "1340285400,A,1,1,1,4\n1340285400,A,1,1,1,12\n")
    with embedded(tmp_path, 1) as log:
        assert replay(log, path).ticks == 2


def test_a_file_without_trade_ids_does_not_use_its_exchanges(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("time,symbol,price,size,exchange\n1340285400,A,1,1,N\n1340285400,A,1,1,N\n")
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path)
        assert (summary.ticks, summary.notes) == (2, ("columns not used: exchange",))
        (record,) = [r for r in read_all(log)[0] if isinstance(r.header, records.Ticks)]
        assert record.batch.schema.names == schemas.TICKS.names  # the same bytes as without the column


def test_a_cancel_removes_the_trade_of_its_exchange_only(tmp_path: Path) -> None:
    start = at("2026-01-05T14:30")
    lines = [(0, 10.0, "1", "N", 0), (0, 20.0, "1", "Q", 0), (0, 30.0, "1", "", 0), (1, 15.0, "2", "N", 0)]
    lines += [(0, 20.0, "1", "Q", int(TickFlag.CANCEL)), (1, 16.0, "2", "N", int(TickFlag.CORRECTION))]
    path = tmp_path / "f.csv"
    path.write_text(
        "time,symbol,price,size,source,trade_id,exchange,flags\n"
        + "".join(f"{start // SECOND + s},A,{p},1,me,{i},{x},{f}\n" for s, p, i, x, f in lines)
    )
    with embedded(tmp_path, 1) as log:
        replay(log, path)
        raw = []
        with log.reader([schemas.RAW]) as reader:
            while found := reader.poll(timeout_s=0.05):
                raw += [bytes(one.value) for one in found]
    bar = last(run(raw))["1m", "A", start]
    assert [bar[name] for name in ("open", "high", "low", "close", "volume", "trades")] == [10, 30, 10, 16, 3, 3]


# Cursors of earlier versions -----------------------------------------------------------------------------------------


def golden(log: EventLog, name: str, file: str) -> None:
    """Store a cursor of an earlier version."""
    with log.writer(f"feed:{name}") as writer, writer.transaction() as transaction:
        transaction.put_state(schemas.STATE_FEEDS, 0, f"feed:{name}", (GOLDEN / file).read_bytes())


@pytest.mark.parametrize(("name", "file"), [("vendor", "live.msgpack"), ("file:x", "file.msgpack")])
def test_a_cursor_of_an_earlier_version_still_recognises_its_repeats(tmp_path: Path, name: str, file: str) -> None:
    symbols, ids = ["AAPL", "BRK.B"] * 20, [f"t{n // 2}" for n in range(40)]
    cancel = ticks(["AAPL"], [OPEN_US + 50 * SECOND], [1.0], ["t1"], [TickFlag.CANCEL])
    with embedded(tmp_path, 1) as log:
        golden(log, name, file)
        for run_number in range(3):  # also after the new version has committed, and after a restart
            with FeedWriter(log, name, clock=Clock(OPEN_US + 60 * SECOND)) as feed:
                assert feed.cursor.resume_token == (b"8" if run_number == 0 else b"9")
                feed.start(["AAPL"], start_us=OPEN_US, live=feed.cursor.live)
                assert feed.append_ticks(ticks(symbols, trade_ids=list(ids)), OPEN_US, b"9") == 0
                assert feed.append_ticks(cancel, OPEN_US) == 0
                fresh = ticks(
                    ["AAPL", "MSFT"], same(2), [1.0, 1.0], [f"u{run_number}", "t1" if not run_number else "v"]
                )
                assert feed.append_ticks(fresh, OPEN_US) == (2 if run_number < 2 else 1)
                assert feed.cursor.conflicts == 0


def test_ids_that_restart_after_an_upgrade_are_new_trades_of_a_live_feed(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        golden(log, "vendor", "live.msgpack")
        with live(log) as feed:
            # The earlier version's watermark is second 50. Its ticks are hardly an hour newer.
            soon = OPEN_US + 50 * SECOND + HOUR_US
            batch = ticks(["AAPL"] * 2, [soon - 1, soon], [1.0, 1.0], ["t5", "t6"])
            assert feed.append_ticks(batch, soon) == 1
            assert rows(log, records.Ticks)[0]["trade_id"] == "t6"


def test_a_full_segment_of_an_earlier_version_is_read() -> None:
    texts = pa.array([f"x{n}" for n in range(feed_cursor.SEGMENT_IDS)])
    symbols, kinds = np.full(len(texts), 77, np.uint64), np.zeros(len(texts), np.uint16)
    former = feed_cursor.former_id_keys(symbols, texts, kinds)
    window = RecentIds([former.tobytes()])
    values = feed_cursor.value_digests(np.ones(len(texts)), np.ones(len(texts)))
    keys = feed_cursor.id_keys(symbols, texts, kinds, np.arange(len(texts)), None, values)
    added = window.add(Identities(keys, values, former))
    assert not added.fresh.any()
    assert not added.conflicts.any()
    assert window.add(Identities(keys, values, np.zeros_like(former))).fresh.all()


def test_a_new_feed_has_no_ticks_of_an_earlier_version() -> None:
    assert feed_cursor.decode(None, "a").former_until_us == NEVER_US


# The same result in any batches ---------------------------------------------------------------------------------------

one = st.tuples(
    st.sampled_from(["AAPL", "MSFT"]), st.sampled_from(["1", "2", None]), st.integers(0, 2),
    st.sampled_from([0, int(TickFlag.CANCEL), int(TickFlag.CORRECTION), int(TickFlag.NO_OHLC)]),
    st.sampled_from([None, "N", "Q"]), st.sampled_from([1.0, 2.0]),
)  # fmt: skip


@given(st.lists(one, max_size=30), st.lists(st.integers(0, 30), max_size=4), st.booleans())
@examples(60)
def test_batches_and_restarts_do_not_change_which_ticks_are_kept(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[Any, ...]], cuts: list[int], restart: bool
) -> None:
    known: dict[tuple[Any, ...], float] = {}
    kept, repeats, conflicts = [], 0, 0
    for symbol, trade_id, second, flags, exchange, price in drawn:
        kind = int(flags) & int(TickFlag.CANCEL | TickFlag.CORRECTION)
        identity = (symbol, trade_id, second, kind, exchange, price if kind == TickFlag.CORRECTION else None)
        if trade_id is None or identity not in known:
            known[identity] = price
            kept.append((symbol, trade_id, second, flags, exchange, price))
        elif known[identity] == price:
            repeats += 1
        else:
            conflicts += 1
    edges = sorted({0, len(drawn), *(min(cut, len(drawn)) for cut in cuts)})
    with embedded(tmp_path_factory.mktemp("log"), 1) as log:
        feed = live(log)
        for begin, stop in pairwise(edges):
            part = drawn[begin:stop]
            batch = ticks(
                [str(row[0]) for row in part], [OPEN_US + int(row[2]) * SECOND for row in part],
                [row[5] for row in part], [row[1] for row in part], [row[3] for row in part],
            )  # fmt: skip
            exchanges = pa.array([row[4] for row in part], pa.utf8()).dictionary_encode().cast(schemas.TEXT)
            batch = pa.RecordBatch.from_arrays([*batch.columns, exchanges], schema=schemas.TICKS_OF_EXCHANGES)
            feed.append_ticks(batch, OPEN_US)
            if restart:
                feed.close()
                feed = live(log)
        assert (feed.cursor.repeats, feed.cursor.conflicts) == (repeats, conflicts)
        feed.close()
        found = [
            (*(r[name] for name in ("symbol", "trade_id", "flags", "exchange", "price")), r["time"].timestamp())
            for r in rows(log, records.Ticks)
        ]  # fmt: skip
        assert found == [(r[0], r[1], *r[3:6], OPEN_US / SECOND + int(r[2])) for r in kept]
