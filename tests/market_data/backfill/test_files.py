"""The backfill manager fills gaps from a folder of files, and ends although the files have gaps too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from tests.market_data.backfill.bench import SYMBOLS, VENDOR, bench, sandbox
from tests.support.waiting import PATIENCE
from tickerplant.core.schemas import NO_DATA
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, iso
from tickerplant.market_data.backfill import WantedRange
from tickerplant.market_data.clients.files import client as files_client
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest, Provider, ProviderContext

HEAD = "time,symbol,interval,open,high,low,close,volume\n"


def minutes(symbol: str, first_us: int, count: int) -> str:
    return "".join(f"{iso(first_us + at * MINUTE_US)},{symbol},1m,1,2,1,2,{at}\n" for at in range(count))


class Counting:
    """A provider that records its requests."""

    def __init__(self, made: Provider, asked: list[BarsRequest]) -> None:
        self._made, self._asked = made, asked
        self.name, self.offer = made.name, made.offer
        self.cost, self.actions, self.stream, self.close = made.cost, made.actions, made.stream, made.close

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        self._asked.append(request)
        return await self._made.bars(request)


async def test_gaps_are_filled_from_files_and_gaps_of_the_files_are_no_data(tmp_path: Path, dsn: str) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    asked: list[BarsRequest] = []
    with sandbox() as endpoint:
        now_us = endpoint.clock.now_us()
        begin = now_us - now_us % DAY_US - 40 * DAY_US
        both = "".join(minutes(symbol, begin, 120) for symbol in SYMBOLS[:2])
        (folder / "2026-01.csv").write_text(HEAD + both)
        (folder / "2026-02.csv").write_text(HEAD + minutes(SYMBOLS[0], begin + 9 * DAY_US, 60))

        def wrap(made: Provider) -> Provider:
            options = {"path": str(folder)}
            return Counting(files_client.provider(ProviderContext(VENDOR, "", options, clock=endpoint.clock)), asked)

        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.wrap = wrap
            end = begin + 9 * DAY_US + 3 * HOUR_US
            async with asyncio.timeout(PATIENCE.seconds(30)):
                await parts.fill(ranges=[WantedRange(symbol, "1m", begin, end) for symbol in SYMBOLS])
            have, complete = await parts.have(SYMBOLS[0], "1m", begin, end)
            later = begin + 9 * DAY_US
            expected = [*range(begin, begin + 120 * MINUTE_US, MINUTE_US), *range(later, later + HOUR_US, MINUTE_US)]
            assert have.tolist() == expected
            assert complete.all()
            have, _ = await parts.have(SYMBOLS[1], "1m", begin, end)
            assert have.tolist() == expected[:120]
            have, _ = await parts.have(SYMBOLS[2], "1m", begin, end)
            assert not len(have)
            answers = await parts.answers(SYMBOLS[0], "1m")
            assert NO_DATA in answers.verdict.tolist() if isinstance(answers.verdict, np.ndarray) else answers
            assert len(asked) < 30
            before = len(asked)
            await parts.fill(ranges=[WantedRange(symbol, "1m", begin, end) for symbol in SYMBOLS[:2]])
            assert len(asked) == before, "stored bars, or bars that no file has, were requested again"
