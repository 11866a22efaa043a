"""yfinance, unchanged, against the sandbox: a session that sends every request for Yahoo to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pytest

from tests.market_data.sdks.conftest import Vendor
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US

yf = pytest.importorskip("yfinance")
curl = pytest.importorskip("curl_cffi.requests")


def session_to(url: str) -> Any:
    """Return a session that asks a sandbox for what is Yahoo's, and says that it was Yahoo."""
    place = urlsplit(url)

    class Session(curl.Session):  # type: ignore[misc,name-defined]
        def request(self, method: str, url: str, **options: Any) -> Any:
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.hostname.endswith("yahoo.com")
            answer = super().request(method, urlunsplit(parts._replace(scheme=place.scheme, netloc=place.netloc)), **options)
            answer.url = url
            return answer

    return Session()
