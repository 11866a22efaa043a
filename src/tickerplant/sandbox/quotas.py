"""Quotas by vendor and key, counters, and a log of recent requests. Pure."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, datetime_of, micros_of
from tickerplant.protocols.http_types import BURST, DAY, MINUTE, Refusal, Request, find_zone

MAX_REQUESTS: Final = 5_000
"""Maximum requests in the log. Older requests are dropped from the log, but not from the counters."""
SECRETS: Final = frozenset({"apikey", "crumb", "signature", "token"})

FREE_PLANS: Final[Mapping[str, tuple[Quota, ...]]] = {
    "twelvedata": (Quota(8, MINUTE_US), Quota(800, DAY_US)),
    "alphavantage": (Quota(25, DAY_US, "America/New_York"),),
    "yahoo": (Quota(2_000, 60 * MINUTE_US),),
    "binance": (Quota(6_000, MINUTE_US),),
}
"""Quotas of the vendors' free plans. Yahoo publishes no quota; its value is from users' reports."""
FREE_PACE_S: Final[Mapping[str, float]] = {"alphavantage": 1.0}
"""Minimum seconds between two requests of a key in the free plans."""


@dataclass(slots=True)
class _Window:
    """A window of a quota. `spent`: credits granted; `requested`: credits requested, refused credits included."""

    number: int = -1
    spent: int = 0
    requested: int = 0


@dataclass(slots=True)
class _VendorCounters:
    """A vendor's counters. `largest` and `requested`: most credits spent and requested in a window, by quota."""

    requests: int = 0
    credits: int = 0
    refused: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """An entry of the request log, without the key."""

    time_us: int
    vendor: str
    path: str
    query: Mapping[str, str]
    status: int
    credits: int
    refused: bool


class QuotaTracker:
    """Tracks quotas and counters. `pace_s`: minimum seconds between two requests of a key, by vendor.

    Credits per minute and per day are counted even for a vendor without such a quota.
    """

    def __init__(self, quotas: Mapping[str, Sequence[Quota]], pace_s: Mapping[str, float]) -> None:
        self._quotas = quotas
        self._pace_us = {vendor: int(pace * SECOND_US) for vendor, pace in pace_s.items()}
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._last_us: dict[tuple[str, str], int] = {}
        self._counters: dict[str, _VendorCounters] = {}
        self._requests: deque[LoggedRequest] = deque(maxlen=MAX_REQUESTS)

    def spend(self, vendor: str, key: str, credits: int, now_us: int) -> Refusal | None:
        """Spend a key's credits, all or none. Return the refusal, or None if the credits were spent."""
        if not credits:
            return None
        last_us = self._last_us.get((vendor, key))
        if last_us is not None and now_us - last_us < self._pace_us.get(vendor, 0):
            return Refusal(BURST, retry_after_s=1)
        self._last_us[vendor, key] = now_us
        counters = self._counters.setdefault(vendor, _VendorCounters())
        refusal = None
        windows = []
        for name, quota, limit in self._limits(vendor):
            window = self._windows.setdefault((vendor, key, name), _Window())
            number, end_us = window_of(quota, now_us)
            if window.number != number:
                window.number, window.spent, window.requested = number, 0, 0
            window.requested += credits
            counters.requested[name] = max(counters.requested.get(name, 0), window.requested)
            windows.append((name, window))
            if limit and window.spent + credits > limit and (refusal is None or quota.daily):
                kind = DAY if quota.daily else MINUTE
                refusal = Refusal(kind, window.requested, limit, -(-(end_us - now_us) // SECOND_US))
        if refusal is None:
            for name, window in windows:
                window.spent += credits
                counters.largest[name] = max(counters.largest.get(name, 0), window.spent)
            counters.credits += credits
        return refusal

    def minute(self, vendor: str, key: str, now_us: int) -> tuple[int, int]:
        """Return the credits that a key has spent this minute, and the limit. Limit 0 means no limit."""
        for name, quota, limit in self._limits(vendor):
            if quota.period_us == MINUTE_US:
                window = self._windows.get((vendor, key, name), _Window())
                return (window.spent if window.number == window_of(quota, now_us)[0] else 0), limit
        return 0, 0

    def record(self, now_us: int, vendor: str, request: Request, status: int, credits: int, *, refused: bool) -> None:
        """Count a finished request and add it to the log. `status` is 0 if the connection was reset."""
        counters = self._counters.setdefault(vendor, _VendorCounters())
        counters.requests += 1
        counters.refused += refused
        counters.statuses[status] = counters.statuses.get(status, 0) + 1
        query = {name: value for name, value in request.query.items() if name.lower() not in SECRETS}
        self._requests.append(LoggedRequest(now_us, vendor, request.path, query, status, credits, refused))

    def requests(self, vendor: str = "") -> list[dict[str, Any]]:
        """Return the logged requests of a vendor, or of all vendors if it is "", oldest first."""
        return [asdict(request) for request in self._requests if vendor in ("", request.vendor)]

    def counts(self) -> dict[str, Any]:
        """Return the counters by vendor."""
        return {
            vendor: {
                "requests": counters.requests,
                "credits": counters.credits,
                "refused": counters.refused,
                "statuses": {str(status): number for status, number in sorted(counters.statuses.items())},
                "windows": [
                    {
                        "quota": name, "limit": limit or None, "largest": counters.largest.get(name, 0),
                        "largest_asked": counters.requested.get(name, 0),
                    }
                    for name, _, limit in self._limits(vendor)
                ],
            }
            for vendor, counters in sorted(self._counters.items())
        }  # fmt: skip

    def _limits(self, vendor: str) -> list[tuple[str, Quota, int]]:
        limits = [(_name(quota), quota, quota.credits) for quota in self._quotas.get(vendor, ())]
        for length in (MINUTE_US, DAY_US):
            if not any(quota.period_us == length for _, quota, _ in limits):
                limits.append((_PERIODS[length], Quota(1, length), 0))
        return limits


_PERIODS: Final = {MINUTE_US: "minute", 60 * MINUTE_US: "hour", DAY_US: "day"}


def _name(quota: Quota) -> str:
    zone = f"@{quota.zone}" if quota.zone != "UTC" else ""
    return f"{_PERIODS.get(quota.period_us, f'{quota.period_us // SECOND_US}s')}{zone}"


def window_of(quota: Quota, now_us: int) -> tuple[int, int]:
    """Return the index of the quota's window at a time, and the window's end (µs)."""
    if not quota.daily or quota.zone == "UTC":
        number = now_us // quota.period_us
        return number, (number + 1) * quota.period_us
    local = datetime_of(now_us).astimezone(find_zone(quota.zone))
    tomorrow = dt.datetime.combine(local.date() + dt.timedelta(days=1), dt.time(), local.tzinfo)
    return local.toordinal(), micros_of(tomorrow)
