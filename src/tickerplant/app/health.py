"""How the plant does: each part with a state and one sentence, and the worst of them as the whole.

`ok`; `degraded`: it works, but somebody should look (a feed is down, a group lags, a job failed); `failed`: it does not
work. A part that cannot be asked has failed; asking one never hides another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tickerplant.core.errors import TickerplantError, UnknownTopic, UnreadableRecord
from tickerplant.core.records import FeedState, header_of
from tickerplant.core.schemas import ANALYTICS, OHLCV, RAW, STATUS
from tickerplant.core.times import iso

if TYPE_CHECKING:
    from tickerplant.app.supervisor import Status
    from tickerplant.log.port import EventLog

OK: Final = "ok"
DEGRADED: Final = "degraded"
FAILED: Final = "failed"
_WORST: Final = (OK, DEGRADED, FAILED)

GROUPS: Final = {
    "aggregation": (RAW,),
    "analytics": (OHLCV,),
    "persistence": (RAW, OHLCV, ANALYTICS),
}
"""The groups that must keep up, and what they read."""

LAG_DEGRADED: Final = 5_000
"""Records a group may lie behind before that is said to be ill: a plant at 100 k ticks/s writes about 400 a second, so
some ten seconds; a replay at full speed goes beyond, and is rightly called behind while it lasts."""

STATUS_TAIL: Final = 500
"""Records of `market.status` a partition that are read back to find the feeds' newest states."""


@dataclass(frozen=True)
class Part:
    """One part of the plant."""

    name: str
    state: str
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """The whole."""

    parts: Sequence[Part]

    @property
    def state(self) -> str:
        """The worst state of a part."""
        return max((part.state for part in self.parts), key=_WORST.index, default=OK)

    def as_dict(self) -> dict[str, Any]:
        """Return what `/health` and `--json` give."""
        return {"status": self.state, "parts": [asdict(part) for part in self.parts]}


def ask(name: str, question: Callable[[], Iterable[Part]]) -> list[Part]:
    """Return what `question` finds, or a failed part that says why it could not be asked."""
    try:
        return list(question())
    except TickerplantError as error:
        return [Part(name, FAILED, str(error))]
    except Exception as error:  # a health check must answer whatever is broken
        return [Part(name, FAILED, f"cannot be asked: {type(error).__name__}: {error}")]


def log_parts(event_log: EventLog) -> Iterable[Part]:
    """Say which log it is and how far each group is behind."""
    try:
        identity, partitions = event_log.identity(), event_log.partitions(RAW)
    except UnknownTopic:
        yield Part("log", FAILED, "the log has no topics yet; `tickerplant create-topics` makes them")
        return
    held = {topic: sum(end - first for first, end in event_log.offsets(topic).values()) for topic in (RAW, OHLCV)}
    yield Part(
        "log",
        OK,
        f"log {identity.log_id}, generation {identity.generation}, {partitions} partitions, {held[RAW]} raw records",
        {"log_id": identity.log_id, "generation": identity.generation, "partitions": partitions},
    )
    known = set(event_log.groups())
    for group, topics in GROUPS.items():
        if group not in known and not held[RAW]:
            yield Part(f"lag {group}", OK, "nothing to read yet", {"lag": 0})
            continue
        lag = sum(event_log.lag(group, topics).values())
        state = DEGRADED if lag > LAG_DEGRADED else OK
        yield Part(f"lag {group}", state, f"{lag} records behind" if lag else "has read everything", {"lag": lag})


def feed_parts(event_log: EventLog) -> Iterable[Part]:
    """Say how each feed does, by the newest state on `market.status`."""
    newest: dict[str, FeedState] = {}
    offsets = event_log.offsets(STATUS)
    from tickerplant.log.port import at_positions

    start = at_positions({tp: max(first, end - STATUS_TAIL) for tp, (first, end) in offsets.items()})
    with event_log.reader([STATUS], start=start) as reader:
        while deliveries := reader.poll(timeout_s=0.05, max_records=1000):
            for delivery in deliveries:
                try:
                    header = header_of(delivery.value)
                except UnreadableRecord:
                    continue
                if isinstance(header, FeedState) and header.state in ("up", "down", "ended"):
                    known = newest.get(header.feed)
                    if known is None or known.sent_at_us <= header.sent_at_us:
                        newest[header.feed] = header
    for feed, said in sorted(newest.items()):
        ill = said.state == "down"
        since = f" since {_when(said.since_us)}" if ill else ""
        reason = f": {said.reason}" if said.reason else ""
        yield Part(f"feed {feed}", DEGRADED if ill else OK, f"{said.state}{since}{reason}", {"state": said.state})


def _when(us: int) -> str:
    try:
        return iso(us)
    except OverflowError:
        return "ever"


def service_parts(statuses: Iterable[Status]) -> Iterable[Part]:
    """Say how each service of this process does."""
    for status in statuses:
        times = f", started again {status.restarts} times" if status.restarts else ""
        because = f" after {status.error}" if status.error and status.state != "running" else ""
        state = (
            OK if status.state in ("running", "stopped") else DEGRADED if status.state in ("waiting", "new") else FAILED
        )
        yield Part(f"service {status.name}", state, f"{status.state}{because}{times}", {"restarts": status.restarts})


def job_parts(jobs: Iterable[dict[str, Any]]) -> Iterable[Part]:
    """Say how the store's scheduled jobs went."""
    for job in jobs:
        error = job.get("error")
        when = job.get("last_run_at")
        sentence = f"failed: {error}" if error else f"last ran {when}" if when else "has not been due yet"
        yield Part(f"job {job['name']}", DEGRADED if error else OK, sentence, dict(job))


def left_out_parts(feeds: Iterable[dict[str, Any]]) -> Iterable[Part]:
    """Say how much was left out of bars since the store began, by feed. No illness: the tables of ticks have it."""
    told, details = [], {}
    for row in feeds:
        counts = {name: int(row[name]) for name in ("late_ticks", "unsupported", "differences")}
        details[row["feed"]] = counts
        said = (
            (counts["late_ticks"], "ticks too late for any bar"),
            (counts["unsupported"], "ticks or bars that could not be used, or not for all bars"),
            (counts["differences"], "bars that another source gives differently"),
        )
        told.append(f"{row['feed']}: {', '.join(f'{number} {what}' for number, what in said if number)}")
    yield Part("left out of bars", OK, "; ".join(told) or "nothing", details)
