"""docs/security.md, step by step on real servers: certificates, database, broker, settings file, and a running plant.

Only `make test-all` runs it, because it takes a minute.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from tools.certificates import give
from tools.kafka.broker import free_port
from tools.postgres.tls import programs_with_tls

from tests.support.kafka import KafkaBroker, get_jars
from tests.support.waiting import PATIENCE, until
from tickerplant.store.server.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CONFIGS = """\
#!/bin/sh
exec java -cp '{jars}/*' kafka.admin.ConfigCommand "$@"
"""
ACLS = """\
#!{python}
# The broker of the tests has no kafka-acls.sh: this program sets the rules of its arguments.
import argparse
from confluent_kafka.admin import (
    AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType,
)
parser = argparse.ArgumentParser()
parser.add_argument("--add", action="store_true", required=True)
for name in ("bootstrap-server", "allow-principal", "resource-pattern-type"):
    parser.add_argument("--" + name, required=True)
for name in ("topic", "group", "transactional-id"):
    parser.add_argument("--" + name)
parser.add_argument("--operation", action="append", required=True)
given = parser.parse_args()
kinds = {{"topic": given.topic, "group": given.group, "transactional_id": given.transactional_id}}
[(kind, name)] = [(kind, name) for kind, name in kinds.items() if name]
names = {{"DescribeConfigs": "DESCRIBE_CONFIGS"}}
rules = [
    AclBinding(
        ResourceType[kind.upper()], name, ResourcePatternType[given.resource_pattern_type.upper()],
        given.allow_principal, "*", AclOperation[names.get(operation, operation.upper())], AclPermissionType.ALLOW,
    )
    for operation in given.operation
]
client = AdminClient({{"bootstrap.servers": given.bootstrap_server}})
for future in client.create_acls(rules).values():
    future.result(30)
"""


class Page:
    """The blocks of the page, in order, with the paths, hosts and ports of the test in place of the page's."""

    def __init__(self, replacements: Mapping[str, str]) -> None:
        self._left = BLOCK.findall(PAGE.read_text())
        self._replacements = dict(replacements)

    def replace(self, replacements: Mapping[str, str]) -> None:
        """Replace these texts in all later blocks."""
        self._replacements |= replacements

    def next(self, language: str) -> str:
        """Return the next block, which must have this language."""
        found, text = self._left.pop(0)
        assert found == language, text
        for place, here in self._replacements.items():
            text = text.replace(place, here)
        return str(text)

    @property
    def is_finished(self) -> bool:
        return not self._left


def properties(text: str) -> dict[str, str]:
    """Return the settings of a block of `name = value` lines."""
    pairs = (line.partition("=") for line in text.splitlines() if line.strip())
    return {name.strip(): value.strip().strip("'") for name, _, value in pairs}


def run_shell(text: str, folder: Path, **env: str) -> None:
    done = subprocess.run(
        ["bash", "-eu", "-c", text], cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def database(page: Page, folder: Path, passwords: Mapping[str, str]) -> Iterator[int]:
    """Run the database of step 2 for the block; yield its port."""
    port = free_port()
    settings = properties(page.next("ini"))
    rules = folder / "pg_hba.conf"
    rules.write_text("local all tickerplant scram-sha-256\n" + page.next("text").replace("10.0.0.0/8", "127.0.0.1/32"))
    nobody = pwd.getpwnam("nobody")
    for name in ("database.crt", "database.key", "pg_hba.conf"):
        give(folder / name, nobody.pw_uid, nobody.pw_gid)
    more = {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(rules)}
    with EmbeddedPostgres(folder / "postgres", settings | more, binaries=programs_with_tls()) as server:

        async def create() -> None:
            connection = await asyncpg.connect(server.dsn)
            try:
                for statement in page.next("sql").split(";"):
                    if statement.strip():
                        await connection.execute(statement)
                await connection.execute(f"ALTER ROLE plant PASSWORD '{passwords['database']}'")
            finally:
                await connection.close()

        asyncio.run(create())
        yield port


@contextmanager
def kafka(page: Page, folder: Path) -> Iterator[KafkaBroker]:
    """Run the broker of step 3 for the block, with its user and access rules."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "kafka-configs.sh").write_text(CONFIGS.format(jars=get_jars()))
    (tools / "kafka-acls.sh").write_text(ACLS.format(python=sys.executable))
    for tool in tools.iterdir():
        tool.chmod(0o755)
    broker = KafkaBroker(folder / "kafka", settings=properties(page.next("ini")), listeners={"CLIENTS": "SASL_SSL"})
    clients = broker.address("CLIENTS").rpartition(":")[2]
    broker._settings["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{broker.port},CLIENTS://localhost:{clients}"
    with broker:
        page.replace({"localhost:9092": broker.bootstrap, "localhost:9093": f"localhost:{clients}"})
        run_shell(page.next("sh"), folder, PATH=f"{tools}:{os.environ['PATH']}")
        yield broker


def test_the_steps_of_the_page_lead_to_a_running_plant(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, data = tmp_path_factory.mktemp("security"), tmp_path_factory.mktemp("d")
    assert shutil.which("openssl")
    places = {f"/etc/{name}/": f"{folder}/" for name in ("postgresql/tls", "kafka/tls", "tickerplant")}
    page = Page(places | {"broker.example.com": "localhost", "database.example.com": "localhost"})
    run_shell(page.next("sh"), folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.[kp]e[ym]")} == {0o600}
    passwords = {path.stem: path.read_text().strip() for path in folder.glob("*.password")}
    assert passwords.keys() == {"database", "kafka", "reader", "api"}
    with database(page, folder, passwords) as port, kafka(page, folder):
        api_port = free_port()
        page.replace({":5432": f":{port}"} | {f"{name.upper()}": word for name, word in passwords.items()})
        file = data / "tickerplant.toml"
        file.touch(mode=0o600)
        text = page.next("toml")
        file.write_text(text.replace("[api]", f"[api]\nport = {api_port}") + "\n[sandbox]\nrate = 20.0\n")
        command = [sys.executable, "-m", "tickerplant.app"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
        env |= {"TICKERPLANT_DATA": str(data), "TICKERPLANT_HISTORY": "none"}

        def tickerplant(*arguments: str) -> subprocess.CompletedProcess[str]:
            done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, check=False)
            assert not [name for name, word in passwords.items() if word in done.stdout + done.stderr]
            return done

        *steps, last = page.next("sh").splitlines()
        assert last == "tickerplant up"
        for step in steps:
            done = tickerplant(*step.split()[1:])
            assert done.returncode == 0, (step, done)
        with (data / "up.txt").open("wb") as output:
            plant = subprocess.Popen([*command, "up"], env=env, stdout=output, stderr=output)
        try:
            query = "SELECT count(*) > 5 FROM latest_prices WHERE time > now() - INTERVAL '1 minute'"
            until(lambda: "True" in tickerplant("sql", "--csv", query).stdout, "live prices", 120)
            shown = tickerplant("config").stdout + tickerplant("health", "--json").stdout
            assert "SASL_SSL" in shown
        finally:
            plant.terminate()
            plant.wait(PATIENCE.seconds(60))
        written = (data / "up.txt").read_text()
        assert not [name for name, word in passwords.items() if word in written], written
    assert page.is_finished
