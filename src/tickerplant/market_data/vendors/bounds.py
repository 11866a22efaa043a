"""Bounds of the numbers and texts that a vendor sends: waits, counts, messages. Pure.

A header is foreign text. It may have thousands of digits, digits of other scripts, or no number at all. A text
without a valid number is never used for quotas and pauses. It becomes a note in the vendor's error instead. A wait
above its bound is reduced to the bound.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from typing import Final

from tickerplant.core.times import SECOND_US, datetime_of

MAX_WAIT_S: Final = 86_400.0
"""Maximum seconds that the plant waits because a vendor requests it. No quota period of a vendor is longer than a
day."""
MAX_COUNT: Final = 10**12
"""Maximum credits that a header can count. No plan has a trillion credits."""
MAX_ERROR_CHARS: Final = 500
"""Maximum characters of a vendor's message in an error. An error is stored, logged and printed."""
SHOWN_CHARS: Final = 40
"""Maximum characters of an invalid header or symbol that a message quotes."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT: Final = re.compile(r"[0-9]{1,12}")


def shortened(text: str, chars: int = MAX_ERROR_CHARS) -> str:
    """Return the text, or its beginning and its length if it has more than `chars` characters."""
    return text if len(text) <= chars else f"{text[:chars]}… ({len(text):,} characters)"


def retry_after(headers: Mapping[str, str], now_us: int) -> tuple[float | None, str]:
    """Return the seconds of the header `retry-after`, 0 to `MAX_WAIT_S`, and a note about an invalid header.

    The seconds are None if the header is missing or invalid. The note is "" for a valid or missing header. An HTTP date
    is valid too.
    """
    text = (headers.get("retry-after") or "").strip()
    if not text:
        return None, ""
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_WAIT_S), ""
    at = _http_date(text) if text.isascii() and len(text) <= SHOWN_CHARS else None
    if at is None:
        return None, f"the header Retry-After has no valid number of seconds: {shortened(text, SHOWN_CHARS)!r}"
    return min(max((at - datetime_of(now_us)).total_seconds(), 0.0), MAX_WAIT_S), ""


def _http_date(text: str) -> dt.datetime | None:
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)


def parse_count(text: str) -> int | None:
    """Return a count of credits, 0 to `MAX_COUNT`; None if the text is not a number of 1 to 12 ASCII digits."""
    return int(text) if _COUNT.fullmatch(text.strip()) else None


def is_same_symbol(asked: str, answered: str) -> bool:
    """Return True if both texts name the same symbol; case, separators and exchange may differ."""
    return _letters(asked) == _letters(answered)


def _letters(symbol: str) -> str:
    return "".join(filter(str.isalnum, symbol.partition(":")[0])).upper()


def bounded_wait_s(seconds: object) -> float:
    """Return the wait of a vendor's error: finite seconds, 0 to `MAX_WAIT_S`. A value that is not a number becomes 0.

    A plug-in may set any value.
    """
    if not isinstance(seconds, int | float) or seconds != seconds:  # NaN
        return 0.0
    return float(min(max(seconds, 0), MAX_WAIT_S))


def bounded_wait_us(seconds: object) -> int:
    """Return `bounded_wait_s` in microseconds."""
    return int(bounded_wait_s(seconds) * SECOND_US)


def bounded_count(count: object) -> int | None:
    """Return the count of credits of an answer, 0 to `MAX_COUNT`. A value that is not an integer becomes None."""
    return min(max(count, 0), MAX_COUNT) if isinstance(count, int) else None
