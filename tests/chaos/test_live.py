"""kill -9 of the services at the plant's edges, feed and API, while the plant consumes a vendor's stream.

Each service is a separate process, and the vendor is the sandbox: WebSocket and REST. Expected values come from the
log, the vendor's model and the clients' messages, never from another run: no two live runs are alike.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.e2e.support import bars_of_ticks, near, rows
from tests.e2e.test_services import free_port
from tests.support.plant import Plant, json_lines, kill_trees
from tests.support.waiting import PATIENCE, until
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.core.errors import LogError
from tickerplant.core.flags import TickFlag
from tickerplant.core.records import Bars, Down, FeedState, Mark, Record, Start, Ticks, Values, VendorBars, decode
from tickerplant.core.schemas import ANALYTICS, FORMING, OHLCV, RAW, STATUS
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import MINUTE_US, SECOND_US, datetime_of, micros_of
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.market_data.backfill.progress import read_progress
from tickerplant.sandbox import MarketSettings, SimulatedMarket

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(240)]

SERVICES = ("api", "aggregation", "analytics", "persistence", "market_data")
SYMBOLS = ("AAPL", "MSFT", "BTC/USD")
FEED = "sandbox"
RATE = 15.0
SEED = 7
PARTITIONS = 2
COMPARED_TICKS = 100
"""Minimum ticks of a symbol that are compared with the market's prints."""
FASTER = 5
"""Rate of the clock on an idle machine, as a multiple of real time, in the test in which minutes must pass."""
CLOCK = Path(__file__).parents[1] / "support" / "clock"


class Live:
    """A plant of five processes on the sandbox, and its log."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.env = {
            "TICKERPLANT_SYMBOLS": ",".join(SYMBOLS),
            "TICKERPLANT_PARTITIONS": str(PARTITIONS),
            "TICKERPLANT_SANDBOX__RATE": str(RATE),
            "TICKERPLANT_SANDBOX__SEED": str(SEED),
            "TICKERPLANT_API__PORT": str(self.port),
            **env,
        }
        self.plant = Plant(folder / "data", self.env)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[str] = []
        self._log: EventLog | None = None
        self._read: dict[TopicPartition, list[tuple[int, Record]]] = {}

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> EventLog:
        if self._log is None:
            self._log = open_log("embedded:", data=self.plant.data)
        return self._log

    def begin(self, *names: str) -> None:
        for name in names:
            self.running[name] = self.plant.start("run", name, output=self.output(name))

    def begin_all(self) -> None:
        """Start all five at once; wait until they are up, tables exist and ticks arrive."""
        self.begin(*SERVICES)
        for name in SERVICES:
            self.wait_for(name, lambda name=name: "is up" in self.output(name).read_text())
        self.wait_for("ticks in the tables", lambda: newest_us(self) and self.ticks_stored())

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> None:
        """Kill one service with SIGKILL. The vendor, a child of market_data, ends by itself."""
        process = self.running.pop(name)
        assert process.poll() is None, f"{name} ended with {process.returncode}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed.append(name)

    def wait_for(self, what: str, condition: Callable[[], Any], timeout_s: float = 90) -> None:
        """Wait until the condition holds; fail at once if a service ends meanwhile."""

        def checked() -> Any:
            ended = {name: process.returncode for name, process in self.running.items() if process.poll() is not None}
            assert not ended, ended
            return condition()

        until(checked, what, timeout_s)

    def assert_undisturbed(self, *names: str) -> None:
        """Check that these services logged no warning; `wait_for` checked that they run."""
        for name in names:
            lines = json_lines(self.output(name))
            warnings = [line for line in lines if line.get("level") in ("warning", "error") and not is_start(line)]
            assert not warnings, (name, warnings)

    def stop(self) -> None:
        """Send SIGTERM to each service in turn, feeds first. Fail if a service does not end cleanly."""
        for name in reversed(SERVICES):
            self.running[name].send_signal(signal.SIGTERM)
            assert self.running.pop(name).wait(PATIENCE.seconds(30)) == 0, name

    def close(self) -> None:
        """Leave no process behind."""
        kill_trees(list(self.running.values()))
        self.running.clear()
        if self._log is not None:
            self._log.close()
        # None of the services owns the store. It stops some seconds after its last user.
        store = FolderLock(self.plant.data, "store.lock")
        if store.is_held():
            os.kill(int(store.holder()["pid"]), signal.SIGTERM)
        until(lambda: not store.is_held(), "the store to stop")

    def read(self, topic: str, feed: str | None = None) -> dict[int, list[tuple[int, Record]]]:
        """Return offsets and records in a topic, by partition: of one feed, or of all feeds if `feed` is None.

        Returns {} before the log exists.
        """
        try:
            ends = self.log.offsets(topic)
        except LogError:
            return {}
        found = {}
        for source, (_, end) in ends.items():
            known = self._read.setdefault(source, [])
            begin = known[-1][0] + 1 if known else 0
            known += [(new.offset, decode(new.value)) for new in self.log.read_range(source, begin, end)]
            found[source.partition] = [pair for pair in known if feed is None or pair[1].header.feed == feed]
        return found

    def ticks_stored(self) -> int:
        with self.plant.store() as dsn:
            return int(rows(dsn, "SELECT count(*) FROM realtime_prices")[0][0])


def is_start(line: Mapping[str, Any]) -> bool:
    """Return whether a service waited for the tables, which another service creates at the same time."""
    event, error = str(line.get("event", "")), str(line.get("error", ""))
    partition_waits = event.startswith("store unavailable; the partition waits for it before the start")
    return event.startswith("waiting for the store") or (partition_waits and "init-db" in error)


@contextmanager
def explained(live: Live) -> Iterator[Live]:
    """End all processes at the end of the block; print the end of their output if the block fails."""
    try:
        yield live
    except BaseException:
        print(f"killed: {live.killed}; in the end these ran: {sorted(live.running)}")
        for path in [*sorted(live.folder.glob("*.log")), live.plant.data / "store.log"]:
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()
                print(f"\n--- {path.name}: the last of {len(lines)} lines ---", *lines[-40:], sep="\n")
        raise
    finally:
        live.close()


# The feed ------------------------------------------------------------------------------------------------------------


def test_the_log_records_the_gaps_of_a_feed_killed_while_streaming(tmp_path: Path) -> None:
    now_ns = time.time_ns()
    fast = {
        "PYTHONPATH": str(CLOCK),
        "TEST_CLOCK": f"{now_ns}:{max(1, round(FASTER / PATIENCE.factor()))}",
        "TICKERPLANT_HISTORY": "1d:3650",
    }
    with explained(Live(tmp_path, **fast)) as live:
        live.begin(*SERVICES)
        # The first kill: during the backfill, in the first minute.
        live.wait_for("history and ticks", lambda: history_of(live).rows and newest_us(live))
        live.kill("market_data")
        assert not history_of(live).over, "the history ended before the kill"
        live.begin("market_data")
        live.wait_for("the second start", lambda: len(starts_of(live)) == 2)
        # The second kill: after a complete minute, in the middle of the next one.
        complete_us = starts_of(live)[1].from_us // MINUTE_US * MINUTE_US + 2 * MINUTE_US
        live.wait_for("a complete minute", lambda: newest_us(live) > complete_us + 10 * SECOND_US)
        live.kill("market_data")
        live.begin("market_data")
        live.wait_for("the third start", lambda: len(starts_of(live)) == 3)
        gap_us = downs_of(live)[1].since_us
        live.wait_for("the bars of the gap's minute", lambda: len(finals(live, gap_us)) == len(SYMBOLS))
        live.wait_for("the history", lambda: history_of(live).over)
        # In quiet hours of the simulated market a few minutes have too few ticks to compare.
        live.wait_for("ticks to compare", lambda: min(ticks_of_symbols(live)) > COMPARED_TICKS)
        (bar,) = httpx.get(
            f"{live.base}/v1/intraday/AAPL",
            params={"interval": "1m", "start": datetime_of(gap_us // MINUTE_US * MINUTE_US).isoformat(), "limit": 1},
        ).json()["bars"]
        assert (bar["state"], bar["complete"]) == ("final", False)
        live.assert_undisturbed("api", "aggregation", "analytics", "persistence")
        live.stop()
        closed_until = datetime_of(gap_us // MINUTE_US * MINUTE_US + MINUTE_US)

        assert_each_kill_is_a_gap(live, kills=2)
        logged = logged_ticks(live)
        assert_nothing_twice(logged)
        with live.plant.store() as dsn:
            stored = rows(dsn, "SELECT time, symbol, price, size FROM realtime_prices WHERE source = 'sandbox'")
            bars = rows(dsn, MINUTES)
        assert sorted(stored) == sorted((t, symbol, price, size) for t, symbol, price, size, _ in logged)
        covered = coverage_of(live)
        for symbol in SYMBOLS:
            assert_minutes(symbol, [row[1:] for row in bars if row[0] == symbol], logged, covered, closed_until)
        verified = [json.loads(line) for line in live.plant.run("verify", "--json").splitlines()]
        assert len(verified) >= PARTITIONS
        assert all(line["equal"] for line in verified), verified


MINUTES = (
    "SELECT symbol, time, open, high, low, close, volume, vwap, trades, complete, reason FROM intraday_ohlcv "
    "WHERE interval = '1m' AND state = 'final' ORDER BY symbol, time"
)


@dataclass
class History:
    """Progress of the daily backfill: the count of its bars, and whether it has ended. It requests no minutes."""

    rows: int = 0
    over: bool = False


def history_of(live: Live) -> History:
    found = History()
    for pairs in live.read(RAW).values():
        for _, record in pairs:
            header = record.header
            if header.feed == "backfill" and isinstance(header, VendorBars):
                found.rows += record.batch.num_rows
    progress = read_progress(live.log) if found.rows else None
    found.over = progress is not None and not progress.working
    return found


def of_feed(live: Live, kind: type[Any]) -> list[Any]:
    """Return the headers of the feed's records of one kind in the first partition."""
    first = live.read(RAW, FEED).get(0, [])
    return [record.header for _, record in first if isinstance(record.header, kind)]


def starts_of(live: Live) -> list[Start]:
    return of_feed(live, Start)


def downs_of(live: Live) -> list[Down]:
    return of_feed(live, Down)


def newest_us(live: Live) -> int:
    """Return the newest watermark of the feed's ticks in the first partition, in µs; 0 before its first tick."""
    return max((header.watermark_us for header in of_feed(live, Ticks)), default=0)


def finals(live: Live, time_us: int) -> list[Any]:
    with live.plant.store() as dsn:
        minute = datetime_of(time_us // MINUTE_US * MINUTE_US)
        return [row for row in rows(dsn, MINUTES) if row[1] == minute]


def assert_each_kill_is_a_gap(live: Live, *, kills: int) -> None:
    """Check the records after each kill: `down` since the watermark, then `start` after the gap."""
    every = live.read(RAW, FEED)
    reported = live.read(STATUS, FEED)
    for partition, pairs in every.items():
        sessions = [record.header for _, record in pairs if isinstance(record.header, Start | Down)]
        assert [type(header) for header in sessions] == [Start, *[Down, Start] * kills, Down], partition
        assert [header.hole for header in sessions if isinstance(header, Start)] == [False, *[True] * kills]
        assert all(header.live for header in sessions if isinstance(header, Start))
        for number, header in enumerate(sessions[:-1]):
            if isinstance(header, Down):
                assert header.reason == "not stopped cleanly"
                assert header.since_us < sessions[number + 1].from_us  # type: ignore[union-attr]
                before = [
                    record.header.watermark_us
                    for _, record in pairs[: [record.header for _, record in pairs].index(header)]
                    if isinstance(record.header, Ticks | Mark)
                ]
                assert max(before) <= header.since_us
        states = [record.header for _, record in reported[partition] if isinstance(record.header, FeedState)]
        gaps = [header.since_us for header in sessions if isinstance(header, Down)]
        assert [header.since_us for header in states if header.state == "down"] == gaps, partition


def ticks_of_symbols(live: Live) -> list[int]:
    """Return the number of logged ticks of each symbol."""
    counts = Counter(row[1] for row in logged_ticks(live))
    return [counts[symbol] for symbol in SYMBOLS]


def logged_ticks(live: Live) -> list[tuple[dt.datetime, str, float, float, int]]:
    """Return (time, symbol, price, size, time of receipt in µs) of the feed's ticks, by partition, in log order."""
    found = []
    for pairs in live.read(RAW, FEED).values():
        for _, record in pairs:
            if isinstance(record.header, Ticks):
                for row in record.batch.to_pylist():
                    assert row["flags"] in (0, TickFlag.SIZE_UNKNOWN)
                    found.append((row["time"], row["symbol"], row["price"], row["size"], micros_of(row["received_at"])))
    return found


def assert_nothing_twice(logged: Sequence[tuple[dt.datetime, str, float, float, int]]) -> None:
    """Check that each tick is a distinct print of the vendor's market, in its order."""
    market = SimulatedMarket(MarketSettings(SYMBOLS, RATE, SEED))
    times = [micros_of(row[0]) for row in logged]
    prints = market.trades(min(times) - SECOND_US, max(times) + 2 * SECOND_US)
    for symbol, code in market.code.items():
        mine = prints.codes == code
        seconds = (prints.times_us[mine] // SECOND_US * SECOND_US).tolist()
        left = iter(zip(seconds, prints.prices[mine].tolist(), strict=True))
        found = [(micros_of(row[0]), row[2]) for row in logged if row[1] == symbol]
        assert len(found) > COMPARED_TICKS
        for tick in found:
            assert tick in left, f"{symbol}: no later print of the market equals {tick}"


def coverage_of(live: Live) -> list[tuple[int, int]]:
    """Return the ranges in which the feed was up, `[start, end)` in µs, from its records."""
    ups = [header.from_us for header in starts_of(live)]
    return list(zip(ups, [header.since_us for header in downs_of(live)], strict=True))


def assert_minutes(
    symbol: str,
    found: list[tuple[Any, ...]],
    logged: Sequence[tuple[dt.datetime, str, float, float, int]],
    covered: list[tuple[int, int]],
    closed_until: dt.datetime,
) -> None:
    """Check that minutes equal a batch over the ticks, and are complete exactly if the feed was up for all of them."""
    ticks = sorted(
        (row for row in logged if row[1] == symbol), key=lambda row: row[0]
    )  # the sort keeps ticks of one second in order
    frame = pl.DataFrame([(row[0], row[2], row[3]) for row in ticks], schema=["time", "price", "size"], orient="row")
    wanted = {row[0]: row[1:] for row in bars_of_ticks(frame, "1m")}
    live = {row[0]: row[1:] for row in found}
    assert {start for start in wanted if start < closed_until} <= live.keys() <= wanted.keys(), symbol
    for start, (*prices, volume, vwap, trades, complete, _) in live.items():
        open_, high, low, close, wanted_volume, wanted_vwap, wanted_trades = wanted[start]
        assert (*prices, trades) == (open_, high, low, close, wanted_trades), (symbol, start)
        assert near(volume, wanted_volume, 1e-12)
        assert near(vwap, wanted_vwap, 1e-12)
        begin = micros_of(start)
        assert complete == any(up <= begin and begin + MINUTE_US <= down for up, down in covered), (symbol, start)
    assert {row[-2] for row in live.values()} == {True, False}, "complete and incomplete minutes exist"


# The API -------------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """One stream client in a thread; it resumes from its position as docs/stream.md describes."""

    address: str
    symbols: list[str]
    position: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, list[tuple[Any, ...]]]] = field(
        default_factory=lambda: {channel: defaultdict(list) for channel in ("ticks", "bars", "analytics")}
    )
    began: dict[str, Any] = field(default_factory=dict)
    connects: int = 0
    is_live: bool = False
    resyncs: list[str] = field(default_factory=list)
    conflated: int = 0
    failure: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(PATIENCE.seconds(30))
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def subscribes_to(self, symbol: str) -> bool:
        return symbol in self.symbols or self.symbols == ["*"]

    def count(self, channel: str) -> int:
        return sum(map(len, list(self.rows[channel].values())))

    def is_past(self, ends: Mapping[str, Mapping[TopicPartition, tuple[int, int]]]) -> bool:
        """Return whether the client has reached these end offsets in the partitions of its symbols."""
        mine = {partition_of(symbol, PARTITIONS) for symbol in SYMBOLS if self.subscribes_to(symbol)}
        return all(
            self.position["offsets"][topic][str(source.partition)] >= end
            for topic, of_topic in ends.items()
            for source, (_, end) in of_topic.items()
            if source.partition in mine
        )

    @staticmethod
    def kept(channel: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("time_us", "price", "size") if channel == "ticks" else ("interval", "time_us", "version", "state")
        return tuple(row[name] for name in names)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                before = deepcopy((self.position, self.rows, self.conflated))
                self.is_live = was_live = False
                with suppress(OSError, ConnectionClosed, InvalidHandshake, EOFError), connect(self.address) as socket:
                    self.connects += 1
                    self._follow(socket)
                was_live, self.is_live = self.is_live, False
                if not was_live:  # the old position is valid until `live`; later rows are sent again
                    self.position, self.rows, self.conflated = before
                time.sleep(0.02)
        except BaseException as error:
            self.failure = error

    def _follow(self, socket: ClientConnection) -> None:
        while not self._stop.is_set():
            try:
                message = json.loads(socket.recv(timeout=0.2))
            except TimeoutError:
                continue
            kind = message["type"]
            if kind == "welcome":
                self.began = self.began or deepcopy(message["position"])
                self.position = self.position or message["position"]
                socket.send(json.dumps({"action": "subscribe", "symbols": self.symbols, "since": self.position}))
            elif kind in self.rows:
                self._add(kind, message)
            self.is_live |= kind == "live"
            self.conflated += kind == "conflated"
            self.resyncs += [message["message"]] if kind == "resync" else []
            assert kind != "error", message

    def _add(self, channel: str, message: dict[str, Any]) -> None:
        for cells in message["rows"]:
            row = dict(zip(message["columns"], cells, strict=True))
            if channel == "ticks" or row["state"] != FORMING:
                self.rows[channel][row["symbol"]].append(self.kept(channel, row))
        self.position["offsets"][message["topic"]].update(message["offsets"])


def test_clients_of_a_killed_api_resume_without_gaps_or_duplicates(tmp_path: Path) -> None:
    # Ten-trade bars close continuously, so no minute must pass.
    rules = {"TICKERPLANT_RULES__ACTIVITY_BARS": '{"*": ["10t"]}', "TICKERPLANT_HISTORY": "none"}
    rules["TICKERPLANT_RULES__INDICATORS"] = '{"10t": ["SMA(3)"]}'
    with explained(Live(tmp_path, **rules)) as live:
        live.begin_all()
        address = f"{live.base.replace('http', 'ws')}/v1/stream"
        clients = [Client(address, ["*"]), Client(address, ["AAPL"]), Client(address, list(SYMBOLS[1:]))]
        with following(clients):
            for number in range(KILLS_OF_API):
                if number == 1:  # during reconnection, before the missed rows are sent
                    connects = sum(client.connects for client in clients)
                    live.wait_for("a client to reconnect", lambda n=connects: sum(c.connects for c in clients) > n)
                else:
                    stream(live, clients)
                live.kill("api")
                stored = live.ticks_stored()
                live.wait_for("the plant to store ticks without the API", lambda n=stored: live.ticks_stored() > n + 30)
                live.begin("api")
            stream(live, clients)
            ends = {topic: live.log.offsets(topic) for topic in CHANNEL_OF}
            live.wait_for(
                "all clients to reach the ends of the topics", lambda: all(client.is_past(ends) for client in clients)
            )
        live.assert_undisturbed("market_data", "aggregation", "analytics", "persistence")
        for client in clients:
            assert not client.resyncs
            assert client.connects >= KILLS_OF_API
            assert_received(client, live)
        live.stop()


KILLS_OF_API = 3 if int(os.environ.get("CHAOS_KILLS", "4")) >= 25 else 2
CHANNEL_OF = {RAW: "ticks", OHLCV: "bars", ANALYTICS: "analytics"}


@contextmanager
def following(clients: Sequence[Client]) -> Iterator[None]:
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.stop()


def stream(live: Live, clients: Sequence[Client]) -> None:
    """Wait until every client has received `live`, ticks and a closed bar on its current connection."""
    live.wait_for("clients to be live", lambda: all(client.is_live for client in clients))
    had = [(client.count("ticks"), client.count("bars")) for client in clients]

    def more() -> bool:
        found = [(client.count("ticks"), client.count("bars")) for client in clients]
        return all(
            now > before
            for pair, former in zip(found, had, strict=True)
            for now, before in zip(pair, former, strict=True)
        )

    live.wait_for("the stream", more)


def assert_received(client: Client, live: Live) -> None:
    """Check that a client received all rows of the log between its first and last position, once, in order.

    A conflated stream may omit ticks; it never omits closed bars and their values.
    """
    for topic, channel in CHANNEL_OF.items():
        wanted: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for partition, pairs in live.read(topic).items():
            begin, end = (position["offsets"][topic][str(partition)] for position in (client.began, client.position))
            for offset, record in pairs:
                if begin <= offset < end and isinstance(record.header, Ticks | Bars | Values):
                    for row in record.batch.to_pylist():
                        if client.subscribes_to(row["symbol"]) and (channel == "ticks" or row["state"] != FORMING):
                            wanted[row["symbol"]].append(
                                Client.kept(channel, row | {"time_us": micros_of(row["time"])})
                            )
        found = client.rows[channel]
        assert found.keys() <= wanted.keys()
        assert wanted.keys() == {symbol for symbol in SYMBOLS if client.subscribes_to(symbol)}, channel
        for symbol, rows_ in wanted.items():
            if channel == "ticks" and client.conflated:
                left = iter(rows_)
                assert all(row in left for row in found[symbol]), symbol
            else:
                assert found[symbol] == rows_, (channel, symbol, len(found[symbol]), len(rows_))
