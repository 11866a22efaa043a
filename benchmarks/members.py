"""Two members of each service on Kafka: kills, leaves and joins under load, and the standstills of clients.

    python -m benchmarks.members [--changes 30] [--seed 1] [--rate 2000]

The plant runs two processes each of aggregation, analytics, persistence and the API, and a feed. The feed is a paced
replay of a file, in place of market_data, because a replay can be repeated exactly. The changes follow from the seed:

- `kill`: SIGKILL of a member, which is not started again until a `join`.
- `crash`: SIGKILL of a member, which is started again at once.
- `leave`: SIGTERM of a member, which is not started again until a `join`.
- `join`: start of a member after a `kill` or `leave`.
- `restart`: SIGTERM of the feed, which is started again at once.

Each API member has a WebSocket client of all symbols. A client that loses its connection connects to the other member
and resumes at its position. The longest standstill is the longest time in which a client received nothing of one
partition of ticks, bars or values. The same is measured for the positions of the tables.

Last, the rest of the file is replayed at full speed. The clients must have received each earlier tick once. The rows of
the tables must equal those of a single run, and `tickerplant verify` must find equal bars.

The aims: a standstill of at most the session timeout plus 5 s after a kill, and 3 s after another change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.plant import make_ticks
from benchmarks.support.processes import Processes, environment
from benchmarks.support.standstill import Progress, StreamClient, TableProbe, wait_until
from benchmarks.support.tables import Rows, differences, read_tables
from tools.kafka.broker import KafkaBroker, free_port

from tickerplant.app.config.settings import load
from tickerplant.app.wiring.database import database

SERVICES = ("aggregation", "analytics", "persistence", "api")
MEMBERS = 2
FEED = "feed"
SESSION_S = 6.0
AIM_KILL_S = SESSION_S + 5.0
AIM_ORDERLY_S = 3.0
WARM_S = 30.0
"""Seconds before the first change. A broker's virtual machine compiles in this time."""
SETTLE_S = {"kill": 15.0, "crash": 15.0, "leave": 8.0, "join": 8.0, "restart": 8.0}
"""Seconds after each kind of change, counted from the end of a start, before the next change."""
REST_S = 5.0
"""Seconds after the end of the feed in which clients receive the last records."""
PATIENCE_S = 90.0
BROKER = {"group.initial.rebalance.delay.ms": "3000"}  # Kafka's default; the tool's broker has 0


class Change(NamedTuple):
    """One change of the plant. The feed has a single member."""

    kind: str
    service: str
    member: int

    @property
    def process(self) -> str:
        """Return the name of the member's process."""
        return self.service if self.service == FEED else f"{self.service}-{self.member}"

    @property
    def aim_s(self) -> float:
        """Return the maximum standstill in seconds."""
        return AIM_KILL_S if self.kind in ("kill", "crash") else AIM_ORDERLY_S


def plan(count: int, seed: int) -> list[Change]:
    """Return at least `count` changes.

    All kinds of change are applied to all services once before they are applied to the other members.
    """
    choose = random.Random(seed)
    first = {service: choose.randrange(MEMBERS) for service in SERVICES}
    changes: list[Change] = []
    turn = 0
    while len(changes) < count:
        targets = [(kind, service) for kind in ("kill", "crash", "leave") for service in SERVICES]
        targets += [("crash", FEED), ("restart", FEED)]
        choose.shuffle(targets)
        for kind, service in targets:
            member = 0 if service == FEED else (first[service] + turn) % MEMBERS
            changes.append(Change(kind, service, member))
            if kind in ("kill", "leave"):
                changes.append(Change("join", service, member))
            if len(changes) >= count:
                break
        turn += 1
    return changes


def duration_s(changes: Sequence[Change]) -> float:
    """Return the seconds that the changes take at most on an idle machine."""
    return WARM_S + sum(SETTLE_S[change.kind] + 5 for change in changes)


@dataclass
class Plant(Processes):
    """The members, the feed of a file, and the clients."""

    file: Path = Path()
    ticks: int = 0
    speed: float = 1.0
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(MEMBERS)])
    clients: list[StreamClient] = field(default_factory=list)

    def begin_member(self, service: str, member: int) -> Callable[[], bool]:
        """Start a member or the feed; return a function that returns whether it is up."""
        if service == FEED:
            self.begin(FEED, "replay", str(self.file), "--speed", f"{self.speed:g}", "--no-wait")
            began_s = time.monotonic()
            return lambda: self.clients[0].progress.have_advanced(began_s)
        process, greeting = f"{service}-{member}", f"{service} is up"
        before = self.output(process).read_text().count(greeting) if self.output(process).exists() else 0
        port = {"api__port": str(self.ports[member])} if service == "api" else {}
        self.begin(process, "run", service, instance=str(member), **port)
        return lambda: self.output(process).read_text().count(greeting) > before

    def begin_all(self) -> None:
        """Start all members and clients, then the feed; wait until ticks arrive."""
        ready = [self.begin_member(service, member) for service in reversed(SERVICES) for member in range(MEMBERS)]
        wait_until(lambda: self.ended() or all(is_up() for is_up in ready), "not all members are up", PATIENCE_S)
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.clients = [StreamClient(addresses), StreamClient(addresses[::-1])]
        for client in self.clients:
            client.start()
        self.settle_clients()
        self.begin_member(FEED, 0)
        progress = [client.progress for client in self.clients]
        wait_until(lambda: self.ended() or all(one.have_advanced(0.0) for one in progress), "no ticks", PATIENCE_S)

    def settle_clients(self) -> None:
        """Connect each client to its own member, if that member runs."""
        for member, client in enumerate(self.clients):
            if f"api-{member}" in self.running:
                wait_until(client.is_home, f"the client of api-{member} is elsewhere", PATIENCE_S)

    def make(self, change: Change) -> Callable[[], bool]:
        """Make a change; return a function that returns whether a started process is up."""
        if change.kind in ("kill", "crash"):
            self.end(change.process, signal.SIGKILL)
        elif change.kind in ("leave", "restart"):
            self.end(change.process)
        if change.kind in ("kill", "leave"):
            return lambda: True
        return self.begin_member(change.service, change.member)


def measure(plant: Plant, change: Change, number: int, tables: Progress) -> bool:
    """Make one change and print the longest standstills; return whether the aim is reached."""
    plant.settle_clients()
    seen = [client.progress for client in plant.clients]
    for one in (*seen, tables):
        one.longest(time.monotonic())
    began_s = time.monotonic()
    is_up = plant.make(change)
    ended_s = time.monotonic() - began_s
    wait_until(is_up, f"{change.process} is not up", PATIENCE_S)
    up_s = time.monotonic() - began_s
    time.sleep(SETTLE_S[change.kind])
    moved = time.monotonic() - 2.0
    wait_until(lambda: all(one.have_advanced(moved) for one in seen), f"standstill after {change}", PATIENCE_S)
    longest = max(one.longest(began_s) for one in seen)
    is_reached = longest.seconds <= change.aim_s and not plant.ended()
    print(
        f"{number:>3} {change.kind:<8}{change.process:<15}stream {longest!s:<32}tables {tables.longest(began_s)!s:<32}"
        f"ended {ended_s:.1f} s, up {up_s:.1f} s, load {os.getloadavg()[0]:.1f}{'' if is_reached else '   MISSED'}",
        flush=True,
    )
    return is_reached


def disturb(plant: Plant, changes: Sequence[Change]) -> bool:
    """Run the plant with all changes, then the rest of the file; return whether the aims are reached."""
    plant.begin_all()
    with database(load({"data": plant.data}).settings) as dsn:
        probe = TableProbe(dsn)
        probe.start()
        time.sleep(WARM_S)
        calm_s = time.monotonic()
        time.sleep(10)
        for name, one in (("stream", plant.clients[0].progress), ("tables", probe.progress)):
            print(f"without changes: {name} {one.longest(calm_s)}")
        reached = [measure(plant, change, number, probe.progress) for number, change in enumerate(changes, 1)]
        print(f"ended by themselves: {', '.join(plant.ended()) or 'none'}")
        plant.end(FEED, signal.SIGKILL)
        time.sleep(REST_S)
        received = [(client.ticks, client.skipped) for client in plant.clients]
        rest = plant.run("replay", str(plant.file), "--json")
        probe.stop()
    if rest.returncode:
        print(rest.stdout, rest.stderr)
        return False
    wanted = plant.ticks - json.loads(rest.stdout.splitlines()[-1])["read"]
    print(f"{wanted:,} ticks while the members changed")
    return have_each_tick(plant.clients, received, wanted) and all(reached)


def have_each_tick(clients: Sequence[StreamClient], received: Sequence[tuple[int, int]], wanted: int) -> bool:
    """Print what the clients received; return whether each tick arrived once, unless ticks were conflated."""
    for client, (ticks, skipped) in zip(clients, received, strict=True):
        print(
            f"client: {ticks:,} ticks, {skipped:,} rows conflated, {client.connections} connections, "
            f"problems: {client.problems or 'none'}"
        )
    return all(ticks == wanted or skipped for ticks, skipped in received) and not any(one.problems for one in clients)


def rows_of(data: Path) -> dict[str, Rows]:
    """Return the rows of the store in a data folder."""
    with database(load({"data": data}).settings) as dsn:
        return asyncio.run(read_tables(dsn))


def main() -> None:
    """Run the changes; exit with 1 if an aim is missed or rows differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2_000, help="ticks per second")
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--speed", type=float, default=2.0, help="seconds of the file per second")
    parser.add_argument("--keep", type=Path, help="folder for the data, which is kept")
    given = parser.parse_args()
    changes = plan(given.changes, given.seed)
    seconds = 1.5 * duration_s(changes) + 60
    count = int(given.rate * seconds)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        KafkaBroker(Path(name) / "kafka", settings=BROKER) as broker,
    ):
        folder = given.keep or Path(name)
        file = folder / "ticks.parquet"
        (folder / "members").mkdir(parents=True)
        (folder / "single").mkdir()
        make_ticks(file, count, given.symbols, minutes=seconds * given.speed / 60, seed=given.seed)
        partitions = {"partitions": str(given.partitions), "history": "none"}
        env = environment(f"kafka://{broker.bootstrap}", **partitions)
        plant = Plant(env, folder / "members", file=file, ticks=count, speed=given.speed)
        try:
            is_reached = disturb(plant, changes)
            verified = plant.run("verify")
            print("verify:", (verified.stdout + verified.stderr).strip().splitlines()[-1])
        finally:
            for client in plant.clients:
                client.stop()
            plant.stop()
        single = Processes(environment("embedded:", **partitions), folder / "single")
        print("the single run:", single.run("replay", str(file), "--json").stdout.strip()[-300:])
        found = differences(rows_of(plant.data), rows_of(single.data))
        print("\n".join(found) or "all rows of the tables equal those of the single run")
    sys.exit(bool(not is_reached or found or verified.returncode))


if __name__ == "__main__":
    main()
