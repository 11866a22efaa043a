"""A plant with security everywhere: SASL_SSL, client certificates and ACLs on Kafka, and TLS on the database.

    python -m benchmarks.secure [--seconds 3600] [--rate 50] [--faults] [--keep FOLDER]

The script starts a broker and a database on 127.0.0.1, with certificates and passwords that it creates. `init-db`
creates the tables and the read-only role. The five services run on both servers. The sandbox replaces Twelve Data. The
plant has an API key, a vendor's key, and alert rules with signed webhooks, which the script receives.

During the run, the read-only role reads the newest ticks over TLS. The script searches the command lines and
environments of all processes for secrets. At the end, it checks:

- Every minute equals the sandbox's own, and `tickerplant verify` finds equal bars.
- `/health` is not `failed`, no process has ended, ticks reach the read-only role, and webhooks reach their receiver.
- No output contains a secret. Outputs are those of the services and commands, `/health`, `/metrics` and other answers.
- The files of the data folder, all topics, and the log of the database server contain no secret.
- The read-only role can read no secret, and no command line and no environment of a child process contains one.

The settings file contains the passwords and the vendor's key. The environment of the services contains the API key and
the password of Kafka.

With `--faults`, the broker refuses the plant's password after half of the time, until `/health` names the cause. Then
the same is done with an expired certificate of the database. The plant must name both causes in `/health`, and recover.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import asyncpg
from benchmarks.outage import Minutes, Plant, running
from benchmarks.support.leaks import LeakSearch
from benchmarks.support.processes import Processes, environment
from confluent_kafka import Consumer, TopicPartition
from tools.certificates import EXPIRED, Authority
from tools.kafka.broker import KafkaBroker, free_port
from tools.kafka.secured import LISTENER, Administrator, broker_settings, client_settings
from tools.postgres.tls import TlsPostgres

SETTINGS_FILE: Final = "tickerplant.toml"
PREFIX: Final = "secure."
VENDOR: Final = "twelvedata"
READ_S: Final = 2.0
LIMIT_S: Final = 240.0
"""Maximum seconds of one wait for the plant."""
RULES: Final = ("AAPL", "MSFT", "GOOG", "BTC/USD")
"""Symbols with two alert rules each, at their current price."""
COMMANDS: Final = (
    ("config",), ("config", "--json"), ("doctor",), ("doctor", "--json"), ("health", "--json"), ("vendors", "--json"),
    ("alert", "list", "--json"), ("alert", "firings", "--json"), ("coverage", "AAPL", "--json"),
)  # fmt: skip
PATHS: Final = ("/health", "/metrics", "/v1/status", "/v1/alerts", "/v1/alerts/firings", "/openapi.json")


class Receiver:
    """Receives webhooks on 127.0.0.1, and checks their signatures."""

    def __init__(self, secret: str) -> None:
        self.valid, self.invalid = 0, 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = dict(part.split("=", 1) for part in self.headers["X-Tickerplant-Signature"].split(","))
                signed = hmac.new(secret.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
                if hmac.compare_digest(signed, fields["v1"]):
                    receiver.valid += 1
                else:
                    receiver.invalid += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


@dataclass
class Servers:
    """The broker and the database, and the secrets of a plant that uses them."""

    folder: Path
    broker: KafkaBroker
    database: TlsPostgres
    kafka: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """Return the setting `log`."""
        return f"kafka://{self.broker.address(LISTENER)}?prefix={PREFIX}"

    def write_settings(self, data: Path) -> None:
        """Write the settings file of the plant, with the passwords and the vendor's key."""
        data.mkdir(mode=0o700)
        file = data / SETTINGS_FILE
        file.touch(mode=0o600)
        kafka = "\n".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in self.kafka.items())
        file.write_text(
            f"""\
history = ["1m:1"]
store = {{ url = {json.dumps(self.database.address())}, reader_password = {json.dumps(self.secrets["reader"])} }}

[kafka]
{kafka}

[vendors]
twelve_data_key = {json.dumps(self.secrets["vendor key"])}
quotas = {{ {VENDOR} = "" }}

[sandbox]
enabled = true
vendors = ["{VENDOR}"]
"""
        )

    def environment(self) -> dict[str, str]:
        """Return the settings with secrets that the environment of the services contains."""
        return {"api__key": self.secrets["API key"], "kafka__sasl_password": self.secrets["Kafka"]}


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run the broker and the database for the block."""
    given = {
        name: f"{name[0]}{secrets.token_urlsafe(18)}"
        for name in ("Kafka", "key", "reader", "API key", "vendor key", "webhook")
    }
    certificates = folder / "certificates"
    certificates.mkdir(mode=0o700)
    authority = Authority(certificates)
    own = authority.issue("plant", password=given["key"])
    settings = broker_settings(authority, authority.issue("broker"))
    broker = KafkaBroker(folder / "kafka", settings=settings, listeners={LISTENER: "SASL_SSL"})
    database = TlsPostgres(folder / "database", authority, free_port(), {"log_statement": "ddl"})
    given["database"] = database.password
    with broker, database:
        administrator = Administrator(broker.bootstrap)
        administrator.set_password(given["Kafka"])
        administrator.allow(PREFIX)
        kafka = client_settings(authority, given["Kafka"], own, given["key"])
        yield Servers(folder, broker, database, kafka, given)


@dataclass
class Reader:
    """Reads as the read-only role over TLS: the newest ticks every `READ_S`."""

    dsn: str
    reads: int = 0
    newest: int = 0
    """Count of reads that returned a newer tick than the read before."""
    error: str = ""

    def watch(self, stop: threading.Event) -> None:
        """Read until `stop`."""
        try:
            asyncio.run(self._read(stop))
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    async def _read(self, stop: threading.Event) -> None:
        connection = await asyncpg.connect(self.dsn)
        assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        last = None
        while not stop.is_set():
            at = await connection.fetchval("SELECT max(time) FROM latest_prices")
            self.reads += 1
            self.newest += at is not None and (last is None or at > last)
            last = at or last
            await asyncio.sleep(READ_S)
        await connection.close()

    async def everything(self) -> dict[str, str]:
        """Return up to 200,000 rows, as text, of each relation that the role may read, by the name of the relation."""
        connection = await asyncpg.connect(self.dsn)
        relations = await connection.fetch(
            "SELECT relname, has_table_privilege(oid, 'SELECT') AS readable FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') ORDER BY 1"
        )
        found = {}
        for name, readable in relations:
            if readable:
                rows = await connection.fetch(f'SELECT t::text FROM "{name}" t LIMIT 200000')
                found[name] = "\n".join(row[0] or "" for row in rows)
        await connection.close()
        assert "latest_prices" in found
        assert "alerts" not in found
        return found


def wait_for(condition: Callable[[], bool], what: str, limit_s: float) -> bool:
    """Wait until the condition is true; print and return whether it was in time."""
    began = time.monotonic()
    while not (found := condition()) and time.monotonic() - began < limit_s:
        time.sleep(0.5)
    print(f"{what}: {f'after {time.monotonic() - began:.0f} s' if found else 'NOT in time'}", flush=True)
    return found


def refuse(servers: Servers, plant: Plant) -> bool:
    """Refuse the login at the broker, then the certificate of the database; return whether the plant recovers."""

    def is_named(text: str) -> bool:
        parts = (plant.probes[-1].body or {}).get("parts", []) if plant.probes else []
        return any(text in part["sentence"] for part in parts)

    administrator, database = Administrator(servers.broker.bootstrap), servers.database
    administrator.set_password(secrets.token_urlsafe(18))
    servers.broker.restart()
    named = wait_for(lambda: is_named("SASL authentication error"), "health names the refused password", LIMIT_S)
    administrator.set_password(servers.secrets["Kafka"])
    level = wait_for(plant.is_level, "level again", LIMIT_S)
    database.set_certificate(database.authority.issue("expired", span=EXPIRED))
    database.reload()
    database.disconnect()
    expired = wait_for(lambda: is_named("certificate has expired"), "health names the expired certificate", LIMIT_S)
    database.set_certificate(database.authority.issue("renewed"))
    database.reload()
    return named and level and expired and wait_for(plant.is_level, "level again", LIMIT_S)


def add_rules(plant: Plant, url: str, secret: str) -> int:
    """Create alert rules that fire often; return their count."""
    count = 0
    for symbol in RULES:
        found = plant.get(f"/v1/intraday/{symbol.replace('/', '%2F')}?interval=1m&limit=1")
        if not found or not found.get("bars"):  # no bars yet, or a busy plant's refusal
            continue
        price = found["bars"][-1]["close"]
        for operator in ("crosses_above", "crosses_below"):
            rule = {
                "symbol": symbol, "interval": "1m", "left": "close", "operator": operator, "right": price,
                "when": "update", "webhook": url, "secret": secret,
            }  # fmt: skip
            request = urllib.request.Request(
                f"http://127.0.0.1:{plant.port}/v1/alerts", json.dumps(rule).encode(),
                {"Content-Type": "application/json", "X-API-Key": plant.key},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=60) as answer:
                count += answer.status in (200, 201)
    return count


def look_in_topics(search: LeakSearch, bootstrap: str) -> int:
    """Search the keys and values of all messages of the plant's topics; return the count of messages."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "search", "auto.offset.reset": "earliest",
        "enable.partition.eof": True, "enable.auto.commit": False,
    })  # fmt: skip
    topics = consumer.list_topics(timeout=30).topics
    sources = {(name, one) for name, topic in topics.items() if name.startswith(PREFIX) for one in topic.partitions}
    consumer.assign([TopicPartition(name, one, 0) for name, one in sources])
    count = 0
    while sources:
        for message in consumer.consume(1_000, timeout=5):
            if message.error():
                sources.discard((message.topic(), message.partition()))
                continue
            count += 1
            search.look(f"topic {message.topic()}", (message.value() or b"") + (message.key() or b""))
    consumer.close()
    return count


def report(search: LeakSearch, servers: Servers, plant: Plant, reader: Reader) -> bool:
    """Search the answers, outputs, files, rows and messages of the plant; return whether no secret was found."""
    for path in PATHS:
        for key in (plant.key, ""):
            request = urllib.request.Request(
                f"http://127.0.0.1:{plant.port}{path}", headers={"X-API-Key": key} if key else {}
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    search.look(path, answer.read())
            except urllib.error.HTTPError as error:
                search.look(path, error.read())
    for arguments in COMMANDS:
        done = plant.run(*arguments)
        search.look(" ".join(arguments), done.stdout + done.stderr)
        if arguments[0] in ("config", "alert") and done.returncode:
            print(f"{arguments}: {done.stderr}")
    search.look_in_folder(plant.data, without=(SETTINGS_FILE,))
    search.look_in_folder(servers.folder / "database" / "cluster" / "log")
    for name, rows in asyncio.run(reader.everything()).items():
        search.look(f"relation {name}", rows)
    messages = look_in_topics(search, servers.broker.bootstrap)
    print(
        f"secrets: {len(search.secrets)} in {search.texts:,} texts ({search.bytes / 1e6:,.0f} MB; {messages:,} "
        f"messages), {len(search.processes)} processes, {len(search.children)} child processes"
    )
    for name, place in sorted(search.found):
        print(f"  FOUND: the secret {name!r} in {place}")
    return not search.found and bool(search.children)


def settle(plant: Plant, minutes: Minutes) -> bool:
    """Wait until all minutes are equal, and run `verify`; return whether both succeed."""
    minutes.settle()
    equal = minutes.report()
    done = plant.run("verify")
    print("verify:", (done.stdout + done.stderr).strip().splitlines()[-1])
    return equal and done.returncode == 0


def run(folder: Path, seconds: float, rate: float, faults: bool) -> bool:
    """Run the plant for `seconds`; return whether all checks succeed and no secret was found."""
    data = folder / "data"
    with servers(folder) as made, contextlib.closing(Receiver(made.secrets["webhook"])) as receiver:
        made.write_settings(data)
        setup = Processes(environment(made.log), data)
        for command in (("create-topics",), ("init-db",)):
            done = setup.run(*command)
            assert done.returncode == 0, done.stderr
        reader = Reader(setup.run("dsn", "--read-only").stdout.strip())
        assert "sslmode=verify-full" in reader.dsn
        search, stop, reached = LeakSearch(made.secrets), threading.Event(), True
        key, own = made.secrets["API key"], made.environment()
        with running(made.log, data, rate, key, **own) as (plant, minutes):
            search.roots += [process.pid for process in plant.running.values()]
            watchers = [threading.Thread(target=one, args=(stop,)) for one in (reader.watch, search.watch_processes)]
            for thread in watchers:
                thread.start()
            began = time.monotonic()
            rules, recovered = 0, not faults
            while time.monotonic() - began < seconds or not rules or not recovered:
                time.sleep(5)
                rules = rules or add_rules(plant, receiver.url, made.secrets["webhook"])
                if not recovered and time.monotonic() - began >= seconds / 2:
                    reached, recovered = refuse(made, plant), True
            equal = settle(plant, minutes)
            health = plant.get("/health") or {}
            stop.set()
            for thread in watchers:
                thread.join()
            print(
                f"health {health.get('status')}; {reader.newest} of {reader.reads} reads over TLS found newer ticks; "
                f"{rules} alert rules, {receiver.valid} signed webhooks, {receiver.invalid} with another signature; "
                f"ended: {', '.join(plant.ended()) or 'none'} {reader.error}"
            )
            for part in health.get("parts", []):
                if part["state"] != "ok":
                    print(f"  {part['name']}: {part['state']}: {part['sentence']}")
            flows = reader.newest > 1 and not reader.error and receiver.valid > 0 and not receiver.invalid
            flows = flows and health.get("status") in ("ok", "degraded") and not plant.ended()
            clean = report(search, made, plant, reader)
    return equal and flows and clean and reached


def main() -> None:
    """Run the plant; exit with 1 if a check fails or a secret was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--rate", type=float, default=50.0, help="ticks per second of the feed")
    parser.add_argument("--faults", action="store_true", help="refuse the password and the certificate for a while")
    parser.add_argument("--keep", type=Path, help="folder for the data, which is kept")
    given = parser.parse_args()
    os.umask(0o077)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="secure-", ignore_cleanup_errors=True) as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        good = run(folder, given.seconds, given.rate, given.faults)
    print("everything flows, and no secret was found" if good else "MISSED: see above")
    sys.exit(not good)


if __name__ == "__main__":
    main()
