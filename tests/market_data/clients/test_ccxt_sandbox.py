"""The provider of crypto exchanges, connected over sockets to the Binance of the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.clients.sandboxed import COMMON_FAULTS, Sandboxed
from tests.support.waiting import PATIENCE
from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import SECOND_US
from tickerplant.market_data.clients.ccxt import client as ccxt_client
from tickerplant.market_data.clients.ccxt.client import CcxtProvider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest, Connected, StreamEvent, Ticks


@pytest.fixture
async def provider(sandbox: Sandboxed) -> AsyncIterator[CcxtProvider]:
    made = ccxt_client.provider(sandbox.context("ccxt"))
    yield made
    await made.close()
    sandbox.order("clear")


@pytest.mark.parametrize(("interval", "bars"), [("1m", 900), ("5m", 500), ("1d", 200)])
async def test_bars_equal_those_of_the_market(
    sandbox: Sandboxed, provider: CcxtProvider, interval: str, bars: int
) -> None:
    length = intervals.parse(interval)
    to_us = length.floor(sandbox.endpoint.clock.now_us() - 10 * SECOND_US)
    from_us = to_us - bars * length.us
    answer = await provider.bars(BarsRequest(("BTC/USDT",), interval, from_us, to_us))
    found = answer.found["BTC/USDT"]
    assert isinstance(found, pa.RecordBatch), found
    truth = sandbox.get("bars", symbol="BTC/USD", interval=interval, from_us=from_us, to_us=to_us - 1)
    # For an interval without trades the exchange returns a flat bar, but the market has no bar.
    traded = found.filter(pa.array(np.isin(times_of(found["time"]), truth["time_us"])))
    assert times_of(traded["time"]).tolist() == truth["time_us"]
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(traded[name].to_numpy(), truth[name], rtol=2e-7, err_msg=name)
    assert found.num_rows == bars
    assert answer.covers == {"BTC/USDT": (from_us, to_us)}


async def test_the_stream_delivers_each_trade_once_in_order(sandbox: Sandboxed, provider: CcxtProvider) -> None:
    stream = provider.stream(["BTC/USDT"])
    assert stream is not None
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue(2)
    task = asyncio.create_task(stream.run(queue))
    ids: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE.seconds(30)):
            assert isinstance(await queue.get(), Connected)
            while len(ids) < 3:
                event = await queue.get()
                assert isinstance(event, Ticks)
                ids += event.batch["trade_id"].to_pylist() if event.batch is not None else []
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


@pytest.mark.parametrize(("order", "kind"), COMMON_FAULTS)
async def test_each_fault_raises_its_error(
    sandbox: Sandboxed, provider: CcxtProvider, order: dict[str, str], kind: type[errors.VendorError]
) -> None:
    assert isinstance(await sandbox.trouble(provider, "BTC/USDT", {**order, "vendor": "binance"}), kind)
