"""kill -9 of the whole plant and of each service, repeatedly during one paced replay: the tables stay correct.

Ticks, closed bars and their values must equal those of an undisturbed replay. The tests that kill the plant or a
service also assert that the kills had an effect. Processes died at the expected points. Restarts read records again and
discarded the outputs.

`make chaos` and `make test-all` kill 25 times at random moments of a replay of more than a minute, and the whole plant
at every named point. `make test` kills a few times, and the whole plant at some points. Single services die at all
points, but on Kafka only with `make chaos` and `make test-all`. `make test` kills at the same moments each time, the
other commands at new moments. `CHAOS_SEED` repeats the moments of a run.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.data import session
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant, assert_same, json_lines, kill_trees
from tests.support.waiting import PATIENCE, Guard, until
from tickerplant.app.config.settings import load
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.core.errors import LogUnavailable
from tickerplant.log.open import open_log
from tickerplant.log.port import EventLog

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1200)]

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
SEED = int(os.environ.get("CHAOS_SEED", "7"))
SESSION_S = 6.5 * 3600
THOROUGH = KILLS >= 25
REPLAY_S = 150.0 if THOROUGH else 60.0
"""Seconds of an undisturbed replay. The replay is paced until after the kills, and then continues unpaced."""
SHORT_SESSION = {"TICKERPLANT_KAFKA__SESSION_TIMEOUT_MS": "3000"}
"""Settings with which the broker notices a killed member after 3 s."""
STATEFUL = ("aggregation", "analytics")
SERVICES = (*STATEFUL, "persistence")

Tables = dict[str, list[tuple[Any, ...]]]


def pace(idle_s: float) -> float:
    """Return the replay speed that takes this long on an idle machine, and longer on a busy one."""
    return SESSION_S / PATIENCE.seconds(idle_s)


def _points() -> list[str]:
    """Return the names of the crash points in the code, except those that other tests cover.

    `test_alerts` covers the points of the API and of alert delivery. `test_backfill` covers the points of the request
    scheduler and the backfill. No replay reaches the points of backups, moves and restores.
    """
    code = "".join(path.read_text() for path in sorted((Path(__file__).parents[2] / "src").rglob("*.py")))
    found = set(re.findall(r'faults\.reach\("([a-z.]+)"\)', code))
    shared = re.findall(r'faults\.reach\(f"\{self\.name\}\.([a-z.]+)"\)', code)
    found = {
        point
        for point in found
        if not point.startswith(("alerts.", "api.", "backfill.", "backup.", "desk.", "move.", "restore."))
    }
    return sorted(found | {f"{name}.{point}" for name in STATEFUL for point in shared})


POINTS = _points()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Return the tables of a replay without kills. The first worker that needs them stores them for all workers."""
    own = tmp_path_factory.getbasetemp()
    stored = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "undisturbed.pickle"
    with stored.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stored.exists():
            plant = Plant(tmp_path_factory.mktemp("undisturbed") / "data")
            plant.run("replay", str(session().path))
            stored.write_bytes(pickle.dumps(plant.tables()))
    tables: Tables = pickle.loads(stored.read_bytes())
    assert len(tables["realtime_prices"]) == session().count
    assert all(tables.values()), "a table has no rows"
    return tables


@dataclass
class Parts:
    """A plant's processes by name, their output and their exit codes."""

    plant: Plant
    folder: Path
    on_kafka: bool
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _log: EventLog | None = None

    def begin(self, name: str, *, speed: float | None = None, fault: str | None = None) -> None:
        """Start `replay`, `up` or a service; a fault is armed in this process alone."""
        arguments = {
            "replay": ["replay", str(session().path), *(["--speed", f"{speed:g}"] if speed else [])],
            "up": ["up", "--no-sandbox", "--port", "0"],
            "api": ["run", "api", "--port", "0"],
        }.get(name, ["run", name])
        env = {"TICKERPLANT_TESTING__CRASH_AT": fault} if fault else {}
        self.running[name] = self.plant.start(*arguments, output=self.output(name), **env)

    def begin_plant(self, *, speed: float | None = None, fault: str | None = None) -> None:
        """Start the services and the feed, which are one process with the embedded log. Arm `fault` in one process."""
        if not self.on_kafka:
            self.begin("replay", speed=speed, fault=fault)
            return
        of_the_feed = fault is not None and fault.startswith("feed.")
        self.begin("up", fault=None if of_the_feed else fault)
        store = FolderLock(self.plant.data, "store.lock")
        # The first process owns the database and stops it at its end: this must be `up`.
        until(lambda: self.dead() or (store.is_held() and store.holder().get("dsn")), "the store")
        self.begin("replay", speed=speed, fault=fault if of_the_feed else None)

    def begin_services(self) -> None:
        """Start each service as a separate process, and wait until all are up."""
        for name in SERVICES:
            self.begin(name)
        outputs = [self.output(name) for name in SERVICES]
        until(lambda: self.dead() or all("is up" in path.read_text() for path in outputs), "services")
        assert not self.dead()

    def committed(self) -> dict[str, int]:
        """Return the sum of the committed offsets over all partitions, by stateful service; 0 if they are unknown."""
        if self._log is None:
            settings = load(
                {"data": self.plant.data, "log": self.plant.env.get("TICKERPLANT_LOG", "embedded:")}
            ).settings
            self._log = open_log(settings.log, data=settings.data)
        with suppress(LogUnavailable):  # the broker was just killed: the positions are unknown
            return {group: sum(self._log.committed(group).values()) for group in STATEFUL}
        return dict.fromkeys(STATEFUL, 0)

    def wait_for_work(self, before: dict[str, int]) -> None:
        """Wait until both stateful services have advanced beyond `before`, or a process has ended."""

        def further() -> bool:
            return bool(self.dead()) or all(now > before[group] for group, now in self.committed().items())

        until(further, "work")

    def close(self) -> None:
        """End all processes."""
        self.kill_all()
        if self._log is not None:
            self._log.close()

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def dead(self) -> list[str]:
        """Return the names of the processes that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def wait_for_a_death(self, timeout_s: float) -> dict[str, int]:
        """Wait until a process has ended and return the exit codes, or {} after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not (dead := self.dead()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return {name: self.running[name].returncode for name in dead}

    def kill(self, name: str) -> bool:
        """Kill one process with SIGKILL, without its children; return False if it had ended."""
        process = self.running[name]
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True

    def kill_all(self) -> None:
        """Kill all processes at once with SIGKILL, the database server included."""
        kill_trees(list(self.running.values()))
        self.running.clear()

    def finish(self, timeout_s: float = 180) -> None:
        """Wait for the end of the replay, then stop the other processes cleanly."""
        code = self.running["replay"].wait(PATIENCE.seconds(timeout_s))
        assert code == 0, f"replay ended with {code}"
        del self.running["replay"]
        self.stop()

    def stop(self) -> None:
        """Send SIGTERM to all processes. Fail if a process does not end cleanly."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(PATIENCE.seconds(30)) for name, process in self.running.items()}
        self.running.clear()
        # A process that just started dies of the signal itself.
        assert set(codes.values()) <= {0, -signal.SIGTERM}, f"a process did not end cleanly: {codes}"

    def resumed(self) -> dict[str, tuple[int, int]]:
        """Return the count of records read again and of outputs discarded by restarts, by service."""
        found = dict.fromkeys(STATEFUL, (0, 0))
        for path in self.folder.glob("*.log"):
            for line in json_lines(path):
                if line.get("event") == "resumed":
                    records, outputs = found[line["service"]]
                    found[line["service"]] = (records + line["records"], outputs + line["discarded_outputs"])
        return found

    def assert_kills_had_effect(self, *, each: bool) -> None:
        """Check that restarts replayed records and discarded outputs: in each stateful service if `each`, or in one."""
        affected = [service for service, (records, outputs) in self.resumed().items() if records and outputs]
        assert len(affected) >= (len(STATEFUL) if each else 1), f"seed {SEED}: {self.resumed()}"


@contextmanager
def explained(parts: Parts) -> Iterator[None]:
    """End all processes at the end of the block; print the end of their output if the block fails."""
    try:
        yield
    except BaseException:
        print(f"seed {SEED}, {len(POINTS)} points; in the end these ran: {sorted(parts.running)}")
        for path in [*sorted(parts.folder.glob("*.log")), parts.plant.data / "store.log"]:
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()
                print(f"\n--- {path.name}: the last of {len(lines)} lines ---", *lines[-40:], sep="\n")
        raise
    finally:
        parts.close()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Parts:
    on_kafka = request.param == "kafka"
    # Named points of snapshots must occur soon; a random kill right after a snapshot replays nothing.
    snapshot_interval_records = "100" if "random" in request.node.name else "20"
    # Replays and plants log the resumed positions only below the level of warnings.
    env = {
        "TICKERPLANT_SNAPSHOT_INTERVAL_RECORDS": snapshot_interval_records,
        "TICKERPLANT_PARTITIONS": "2",
        "TICKERPLANT_LOG_LEVEL": "info",
    }
    if on_kafka:
        broker: KafkaBroker = request.getfixturevalue("kafka_broker")
        prefix = re.sub(r"\W+", "-", request.node.name).strip("-")
        env["TICKERPLANT_LOG"] = f"kafka://{broker.bootstrap}?prefix={prefix}."
        env |= SHORT_SESSION
    return Parts(Plant(tmp_path / "data", env), tmp_path, on_kafka)


def test_the_whole_plant_is_killed_at_each_named_point(parts: Parts, undisturbed: Tables) -> None:
    not_reached: list[str] = []
    with explained(parts):
        for point in POINTS if THOROUGH else POINTS[parts.on_kafka :: 4]:
            parts.begin_plant(speed=pace(REPLAY_S), fault=_fault(point))
            codes = parts.wait_for_a_death(PATIENCE.seconds(120))
            if -signal.SIGKILL not in codes.values():
                not_reached.append(f"{point}: {codes}")
            parts.kill_all()
        parts.begin_plant()
        parts.finish()
        assert not not_reached
        assert_same(parts.plant.tables(), undisturbed)
        parts.assert_kills_had_effect(each=True)


def test_the_whole_plant_is_killed_at_random_moments(parts: Parts, undisturbed: Tables) -> None:
    moments = random.Random(SEED)
    kills = 0
    with explained(parts):
        for number in range(KILLS):
            before = parts.committed() if number else dict.fromkeys(STATEFUL, 0)
            parts.begin_plant(speed=pace(REPLAY_S))
            # A start takes two seconds: some kills occur during the start, most in the middle of the work.
            if number % 4 == 3:
                codes = parts.wait_for_a_death(moments.uniform(0.0, 3.0))
            else:
                parts.wait_for_work(before)
                codes = parts.wait_for_a_death(moments.uniform(0.0, min(3.0, 1.6 * REPLAY_S / KILLS)))
            assert not any(codes.values()), codes
            kills += not codes
            parts.kill_all()
        parts.begin_plant()
        parts.finish()
        assert_same(parts.plant.tables(), undisturbed)
        assert kills > KILLS // 2, f"seed {SEED}: the replay ended after {kills} kills"
        parts.assert_kills_had_effect(each=THOROUGH)


def test_each_service_is_killed_at_each_named_point(parts: Parts, undisturbed: Tables) -> None:
    todo = {name: [p for p in POINTS if p.startswith(f"{name}.")] for name in SERVICES}
    todo["replay"] = [p for p in POINTS if p.startswith("feed.")]
    assert sum(map(len, todo.values())) == len(POINTS)
    armed: dict[str, str | None] = {}
    killed: list[str] = []

    def begin(name: str) -> None:
        point = armed[name] = todo[name].pop(0) if todo[name] else None
        parts.begin(name, speed=pace(REPLAY_S), fault=point and _fault(point))

    with explained(parts):
        # A replay without services starts its own plant, and services then find the folder in use. The API runs all the
        # time and is not killed.
        parts.begin("api")
        until(lambda: parts.dead() or "is up" in parts.output("api").read_text(), "the API")
        for name in todo:
            begin(name)
        guard = Guard(240)
        while any(armed.values()):
            for name in parts.dead():
                code = parts.running[name].returncode
                assert code == -signal.SIGKILL, f"{name} ended with {code} before it reached {armed[name]}"
                killed.append(str(armed[name]))
                begin(name)
            guard.check(f"the kills at {armed}, then {todo}")
            time.sleep(0.02)
        assert sorted(killed) == POINTS
        parts.kill("replay")
        parts.begin("replay")
        parts.finish()
        assert_same(parts.plant.tables(), undisturbed)
        parts.assert_kills_had_effect(each=True)


def test_each_service_is_killed_at_random_moments(parts: Parts, undisturbed: Tables) -> None:
    moments = random.Random(SEED)
    speed = pace(REPLAY_S)
    names = [*SERVICES, "replay"]
    kills = dict.fromkeys(names, 0)
    with explained(parts):
        parts.begin_services()
        parts.begin("replay", speed=speed)
        number_of_kills = max(KILLS, len(names))
        for number in range(number_of_kills):
            before = parts.committed() if number else dict.fromkeys(STATEFUL, 0)
            parts.wait_for_work(before)  # all services have resumed
            time.sleep(moments.uniform(0.0, min(3.0, 1.6 * REPLAY_S / number_of_kills)))
            if parts.running["replay"].poll() == 0:
                break
            name = names[number % len(names)]
            assert parts.kill(name), f"{name} ended with {parts.running[name].returncode}"
            kills[name] += 1
            parts.begin(name, speed=speed)
        parts.kill("replay")
        parts.begin("replay")
        parts.finish()
        assert_same(parts.plant.tables(), undisturbed)
        assert all(kills.values()), f"seed {SEED}: {kills}"
        parts.assert_kills_had_effect(each=THOROUGH)


def test_the_database_is_killed_while_the_plant_works(tmp_path: Path, undisturbed: Tables) -> None:
    parts = Parts(Plant(tmp_path / "data", {"TICKERPLANT_PARTITIONS": "2"}), tmp_path, on_kafka=False)
    with explained(parts):
        parts.begin_plant(speed=pace(20))
        killed: int | None = None
        for _ in range(3 if THOROUGH else 2):
            killed = _postgres(parts.plant, other_than=killed)
            parts.wait_for_work(parts.committed())
            os.kill(killed, signal.SIGKILL)
        parts.finish()
        assert_same(parts.plant.tables(), undisturbed)


@pytest.mark.kafka
def test_the_broker_is_killed_while_the_plant_works(
    tmp_path: Path, kafka_broker: KafkaBroker, undisturbed: Tables
) -> None:
    """Check that plant and feed resume by themselves."""
    env = {"TICKERPLANT_LOG": f"kafka://{kafka_broker.bootstrap}?prefix=broker.", "TICKERPLANT_PARTITIONS": "2"}
    env |= SHORT_SESSION
    parts = Parts(Plant(tmp_path / "data", env), tmp_path, on_kafka=True)
    kills = 2 if THOROUGH else 1
    with explained(parts):
        parts.begin_plant(speed=pace(120 if THOROUGH else 20))
        before = dict.fromkeys(STATEFUL, 0)
        for _ in range(kills):
            parts.wait_for_work(before)
            parts.wait_for_work(parts.committed())  # the rules count as progress; from here on the ticks are processed
            assert not parts.dead(), "the replay ended before the kill"
            kafka_broker.kill()
            kafka_broker.start()
            before = parts.committed()
        parts.finish(timeout_s=180 if THOROUGH else 120)
        assert_same(parts.plant.tables(), undisturbed)


def _fault(point: str) -> str:
    """Return a crash point and the number of its hit that kills. Snapshots are rarer than other points."""
    return f"{point}:{1 if 'snapshot' in point else 3}"


def _postgres(plant: Plant, *, other_than: int | None = None) -> int:
    """Wait until the embedded server answers, and return its pid; ignore a killed server."""
    found: list[int] = []

    def answers() -> bool:
        try:
            lines = (plant.data / "postgres" / "cluster" / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        if len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) != other_than:
            found.append(int(lines[0]))
        return bool(found)

    until(answers, "the database")
    return found[0]
