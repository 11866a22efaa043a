"""What the sandbox is asked and answers over HTTP, whoever's protocol it is. Pure."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from tickerplant.sandbox.corporate_actions import Tape

MINUTE, DAY, BURST = "minute", "day", "burst"
PREMIUM, DOWN = "premium", "down"


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Names of `headers` are lower case; `query` holds the last of parameters of one name.

    `used`, `limit`: credits of this minute that its key has spent, this request's among them, and how many there are.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: bytes = b""
    used: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `reset`: none, the connection breaks instead. `cut`: it breaks after half of the body.

    `wait_s`: what it waits for before it goes, in seconds of the sandbox's clock.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    cut: bool = False
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a vendor turns a request away before it looks at it; each vendor has words of its own for it.

    `kind`: MINUTE or DAY (a quota is spent), BURST, PREMIUM, DOWN. `used` counts this request too.
    """

    kind: str
    used: int = 0
    limit: int = 0
    again_s: int = 60
    status: int = 503


class Vendor(Protocol):
    """One vendor's REST API. Methods are pure; `answer` may take long, it runs in a thread."""

    name: str

    def speaks(self, request: Request) -> bool:
        """Whether the request is to this vendor."""
        ...

    def key(self, request: Request) -> str:
        """Return the key of the request, or "" where the vendor knows none: then quotas are the address's."""
        ...

    def cost(self, request: Request) -> int:
        """Return the credits that the request takes; 0 for what is free."""
        ...

    def bad_key(self, request: Request) -> Reply | None:
        """Return the answer to a missing or wrong key, or None for a good one."""
        ...

    def refuse(self, refusal: Refusal, request: Request) -> Reply:
        """Return how the vendor tells a refusal."""
        ...

    def answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        """Return the answer to a request that was let in. Errors are answers too."""
        ...

    def credit_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the headers that tell the quota of the minute; `limit` 0: there is none."""
        ...


def json_reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer of JSON."""
    return Reply(status, msgspec.json.encode(body), headers=headers or {})


def text_reply(text: str, status: int = 200) -> Reply:
    """Return an answer of plain text."""
    return Reply(status, text.encode(), "text/plain; charset=utf-8")


def zone_of(name: str) -> dt.tzinfo | None:
    """Return the IANA time zone of that name, letter case included, or None."""
    try:
        return dt.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None
