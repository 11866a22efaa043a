"""Bars from Twelve Data over REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx
import pyarrow as pa

from tickerplant.core.times import from_us
from tickerplant.market_data.clients.errors import VendorDown, VendorError
from tickerplant.market_data.clients.twelvedata_messages import (
    SOURCE,
    Credits,
    credits_of,
    parse_series,
    vendor_interval,
    without_key,
)

PAGE_BARS: Final = 5_000
MAX_BATCH: Final = 120
_TIMEOUT_S: Final = 30.0


class TwelveDataRest:
    """The vendor's REST API for one key. One request at a time; never more than `requests_per_minute`.

    When the headers say that no credits are left, the next request waits for the next minute.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        requests_per_minute: float = 0,
        source: str = SOURCE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.credits = Credits()
        self._source = source
        self._sleep = sleep
        self._pause_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = 0.0
        # The key goes in the header, so that it stands in no address and no log of one.
        self._client = httpx.AsyncClient(
            base_url=base_url, headers={"Authorization": f"apikey {key}"}, timeout=_TIMEOUT_S, follow_redirects=False
        )

    async def time_series(
        self, symbols: Sequence[str], interval: str, from_us_: int, to_us: int, *, limit: int = PAGE_BARS
    ) -> dict[str, pa.RecordBatch | VendorError]:
        """Return each symbol's bars of `[from, to)`, as traded, at most the newest `limit`; or its error.

        Raises VendorError (see `clients.errors`) for what concerns the whole request.
        """
        params = {
            "symbol": ",".join(symbols),
            "interval": vendor_interval(interval),
            "start_date": from_us(from_us_).strftime("%Y-%m-%d %H:%M:%S"),
            "end_date": from_us(to_us - 1).strftime("%Y-%m-%d %H:%M:%S"),
            "outputsize": str(limit),
            "timezone": "UTC",
            "order": "desc",
            "adjust": "none",
        }
        await self._wait()
        try:
            answer = await self._client.get("/time_series", params=params)
        except httpx.HTTPError as error:
            raise VendorDown(without_key(f"{type(error).__name__}: {error}")) from None
        self.credits = credits_of(answer.headers)
        if self.credits.left == 0:
            self._next_s = max(self._next_s, time.monotonic() + 60.0 - time.time() % 60.0)
        return parse_series(answer.content, answer.status_code, symbols, interval, source=self._source)

    async def _wait(self) -> None:
        now = time.monotonic()
        if self._next_s > now:
            await self._sleep(self._next_s - now)
        self._next_s = max(now, self._next_s) + self._pause_s

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
