"""What the sandbox was asked, what that cost, and what each key has left: quotas by vendor and key. Pure."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, datetime_of, micros_of
from tickerplant.protocols.http_types import BURST, DAY, MINUTE, Refusal, Request, zone_of

MAX_REQUESTS: Final = 5_000
"""Requests remembered; older ones are forgotten, the counts stay."""
SECRETS: Final = frozenset({"apikey", "crumb", "signature", "token"})

FREE_PLANS: Final[Mapping[str, tuple[Quota, ...]]] = {
    "twelvedata": (Quota(8, MINUTE_US), Quota(800, DAY_US)),
    "alphavantage": (Quota(25, DAY_US, "America/New_York"),),
    "yahoo": (Quota(2_000, 60 * MINUTE_US),),
    "binance": (Quota(6_000, MINUTE_US),),
}
"""What the vendors give for nothing. Yahoo says nothing of its own; that is what its users report."""
FREE_PACE_S: Final[Mapping[str, float]] = {"alphavantage": 1.0}


@dataclass(slots=True)
class _Window:
    """A window of a quota: what was spent in it, and asked for in vain."""

    number: int = -1
    spent: int = 0
    asked: int = 0


@dataclass(slots=True)
class _Count:
    """Counts of a vendor. `largest`: credits spent in the fullest window of each quota; `asked` with the refused."""

    requests: int = 0
    credits: int = 0
    refused: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is remembered, without its key."""

    time_us: int
    vendor: str
    path: str
    query: Mapping[str, str]
    status: int
    credits: int
    refused: bool


class Books:
    """Quotas and counts. `quotas` by vendor; `pace_s`: the least time between two requests of a key, by vendor.

    Where a vendor has no quota of the minute or day its credits are counted in such windows all the same.
    """

    def __init__(self, quotas: Mapping[str, Sequence[Quota]], pace_s: Mapping[str, float]) -> None:
        self._quotas = quotas
        self._pace_us = {vendor: int(pace * SECOND_US) for vendor, pace in pace_s.items()}
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._last_us: dict[tuple[str, str], int] = {}
        self._counts: dict[str, _Count] = {}
        self._requests: deque[Asked] = deque(maxlen=MAX_REQUESTS)

    def take(self, vendor: str, key: str, credits: int, now_us: int) -> Refusal | None:
        """Spend a key's credits, all or none; return why that cannot be."""
        if not credits:
            return None
        last_us = self._last_us.get((vendor, key))
        if last_us is not None and now_us - last_us < self._pace_us.get(vendor, 0):
            return Refusal(BURST, again_s=1)
        self._last_us[vendor, key] = now_us
        count = self._counts.setdefault(vendor, _Count())
        refusal = None
        windows = []
        for name, quota, limit in self._limits(vendor):
            window = self._windows.setdefault((vendor, key, name), _Window())
            number, end_us = window_of(quota, now_us)
            if window.number != number:
                window.number, window.spent, window.asked = number, 0, 0
            window.asked += credits
            count.asked[name] = max(count.asked.get(name, 0), window.asked)
            windows.append((name, window))
            if limit and window.spent + credits > limit and (refusal is None or quota.daily):
                kind = DAY if quota.daily else MINUTE
                refusal = Refusal(kind, window.asked, limit, -(-(end_us - now_us) // SECOND_US))
        if refusal is None:
            for name, window in windows:
                window.spent += credits
                count.largest[name] = max(count.largest.get(name, 0), window.spent)
            count.credits += credits
        return refusal

    def minute(self, vendor: str, key: str, now_us: int) -> tuple[int, int]:
        """Return the credits that a key has spent in this minute, and the limit; 0: there is none."""
        for name, quota, limit in self._limits(vendor):
            if quota.period_us == MINUTE_US:
                window = self._windows.get((vendor, key, name), _Window())
                return (window.spent if window.number == window_of(quota, now_us)[0] else 0), limit
        return 0, 0

    def note(self, now_us: int, vendor: str, request: Request, status: int, credits: int, *, refused: bool) -> None:
        """Remember a request and how it ended. `status` 0: the connection was broken."""
        count = self._counts.setdefault(vendor, _Count())
        count.requests += 1
        count.refused += refused
        count.statuses[status] = count.statuses.get(status, 0) + 1
        query = {name: value for name, value in request.query.items() if name.lower() not in SECRETS}
        self._requests.append(Asked(now_us, vendor, request.path, query, status, credits, refused))

    def requests(self, vendor: str = "") -> list[dict[str, Any]]:
        """Return the last requests, oldest first, of one vendor or of all."""
        return [asdict(asked) for asked in self._requests if vendor in ("", asked.vendor)]

    def counts(self) -> dict[str, Any]:
        """Return what was counted, by vendor."""
        return {
            vendor: {
                "requests": count.requests,
                "credits": count.credits,
                "refused": count.refused,
                "statuses": {str(status): number for status, number in sorted(count.statuses.items())},
                "windows": [
                    {
                        "quota": name, "limit": limit or None, "largest": count.largest.get(name, 0),
                        "largest_asked": count.asked.get(name, 0),
                    }
                    for name, _, limit in self._limits(vendor)
                ],
            }
            for vendor, count in sorted(self._counts.items())
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
    """Return the number of the quota's window at a time, and when that ends."""
    if not quota.daily or quota.zone == "UTC":
        number = now_us // quota.period_us
        return number, (number + 1) * quota.period_us
    local = datetime_of(now_us).astimezone(zone_of(quota.zone))
    tomorrow = dt.datetime.combine(local.date() + dt.timedelta(days=1), dt.time(), local.tzinfo)
    return local.toordinal(), micros_of(tomorrow)
