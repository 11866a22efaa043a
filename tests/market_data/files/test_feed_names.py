"""The name of a file's feed is that of earlier versions, so that a file is not read twice after an upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.market_data.support import embedded, headers
from tickerplant.core import records
from tickerplant.market_data.files.replay import ReplayOptions, replay

TRADE = "time,symbol,price\n1340285400,A,1\n"
LOCAL = "time,price,cond\n2012-06-21T13:30,1,B\n"
BAR = "date,open,high,low,close\n1/2/2012,1,1,1,1\n"


@pytest.mark.parametrize(
    ("text", "options", "feed"),
    [
        (TRADE, ReplayOptions(), "file:922565dc12fdf4b31514-aa7d246f"),
        (TRADE, ReplayOptions(whole=False), "file:922565dc12fdf4b31514-5ac07801"),
        (TRADE, ReplayOptions(tz="Asia/Tokyo", source="me"), "file:922565dc12fdf4b31514-5d5aeedf"),
        (LOCAL, ReplayOptions("aapl", tz="US/Eastern", conditions="utp"), "file:b88d632e7c44fcb49427-b22cb495"),
        (BAR, ReplayOptions("A", "1day", date_order="dmy"), "file:0345fd921e6c6c058a38-b2f8dee6"),
    ],
)
def test_a_file_keeps_the_feed_name_of_commit_2def005(
    tmp_path: Path, text: str, options: ReplayOptions, feed: str
) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text)
    with embedded(tmp_path, 1) as log:
        assert replay(log, path, options).feed == feed


@pytest.mark.parametrize(("whole", "claims", "firm"), [(None, True, False), (True, True, True), (False, False, False)])
def test_the_claim_of_a_file_follows_the_option(tmp_path: Path, whole: bool | None, claims: bool, firm: bool) -> None:
    path = tmp_path / "f.csv"
    path.write_text(TRADE + "1340285410,B,2\n")
    with embedded(tmp_path) as log:
        names = {replay(log, path, ReplayOptions(whole=decision)).feed for decision in (None, True, False)}
        assert len(names) == 3
    (tmp_path / "log").mkdir()
    with embedded(tmp_path / "log") as log:
        replay(log, path, ReplayOptions(whole=whole))
        for partition in range(3):
            start, *_, end = headers(log, partition)
            assert isinstance(start, records.Start)
            assert isinstance(end, records.End)
            assert (start.whole, start.firm, end.whole) == (claims, firm, claims)
            assert end.watermark_us == 1_340_285_410_000_000  # also in the partitions that lack the last row
