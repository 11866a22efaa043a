"""A broker with SASL/SCRAM over TLS, client certificates and access rules: the log works, and refusals are reported."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tools.certificates import EXPIRED, Authority, Certificate
from tools.kafka.secured import LISTENER, Administrator, broker_settings, client_settings

from tests.support.commands import assert_refused, invoke
from tests.support.kafka import KafkaBroker
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until
from tickerplant.core.errors import ConfigError, LogError
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TOPICS
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog

pytestmark = pytest.mark.kafka

PREFIX = "mine."
PASSWORD = "right-password"
KEY_PASSWORD = "key-password"
OTHER_LISTENER = "EXPIRED"
"""Name of a second listener, whose certificate has expired."""


@dataclass
class Secured:
    """A broker whose clients need a password, a certificate and access rules."""

    broker: KafkaBroker
    administrator: Administrator
    authority: Authority
    other: Authority
    own: Certificate
    folder: Path
    changes: dict[str, str] = field(default_factory=dict)

    def config(self, **changes: str | None) -> dict[str, str]:
        """Return the right settings of a client, with changes by name; None removes a setting."""
        found: dict[str, str | None] = dict(client_settings(self.authority, PASSWORD, self.own, KEY_PASSWORD))
        found |= {name.replace("_", "."): value for name, value in changes.items()}
        return {name: value for name, value in found.items() if value is not None}

    def log(self, config: dict[str, str], listener: str = LISTENER, prefix: str = PREFIX) -> KafkaLog:
        address = self.broker.address(listener) if listener else self.broker.bootstrap
        return KafkaLog(address, config=config, topic_prefix=prefix, patience_s=PATIENCE.seconds(30.0))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority, other = Authority(folder), Authority(folder, "other")
    settings = broker_settings(authority, authority.issue("broker"))
    expired = broker_settings(authority, authority.issue("expired", span=EXPIRED))
    first, second = (f"listener.name.{name.lower()}." for name in (LISTENER, OTHER_LISTENER))
    settings |= {name.replace(first, second): value for name, value in expired.items() if name.startswith(first)}
    listeners = {LISTENER: "SASL_SSL", OTHER_LISTENER: "SASL_SSL"}
    own = authority.issue("client", password=KEY_PASSWORD)
    with KafkaBroker(folder / "broker", settings=settings, listeners=listeners) as broker:
        administrator = Administrator(broker.bootstrap)
        administrator.set_password(PASSWORD)
        administrator.allow(PREFIX)
        yield Secured(broker, administrator, authority, other, own, folder)


def write_and_read(log: KafkaLog, value: bytes) -> list[bytes]:
    """Append a record and a state in one transaction; return all records that a member of a group reads."""
    with log.writer("w") as writer, writer.transaction() as transaction:
        transaction.append(RAW, 0, value)
        transaction.put_state(STATE_AGGREGATION, 0, "key", value)
    found: list[bytes] = []
    with log.reader([RAW], group=f"g-{value.decode()}") as reader:
        until(lambda: found.extend(record.value for record in reader.poll(timeout_s=0.5)) or value in found)
        reader.commit({next(iter(reader.assignment())): 1})
    assert log.get_state(STATE_AGGREGATION, 0, "key") == value
    return found


def test_the_log_works_with_the_documented_access_rules(secured: Secured) -> None:
    with secured.log(secured.config()) as log:
        log.create_topics(TOPICS, 1)
        assert write_and_read(log, b"a") == [b"a"]
        assert log.groups() == ["g-a"]
        assert log.members("g-a") in (0, 1)
        assert log.check_topics(TOPICS) == ([], [])
        assert sum(log.lag("g-a", [RAW]).values()) == 0
        log.trim(DAY_US)
        assert log.outage() == ""


def test_topics_outside_the_access_rules_are_refused_in_one_line(secured: Secured) -> None:
    with secured.log(secured.config(), prefix="theirs.") as log:
        with pytest.raises(LogError, match=r"theirs\..*[Aa]uthorization failed") as caught:
            log.create_topics(TOPICS, 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("listener", "changes", "words"),
    [
        (LISTENER, {"sasl_password": "wrong"}, "SASL authentication error.*invalid credentials"),
        (LISTENER, {"sasl_username": "stranger"}, "SASL authentication error.*invalid credentials"),
        (LISTENER, {"sasl_mechanism": "PLAIN"}, "SASL.*mechanism.*PLAIN|PLAIN.*mechanism"),
        (LISTENER, {"ssl_ca_location": "other.crt"}, "certificate verify failed"),
        (OTHER_LISTENER, {}, "certificate (verify|has expired)"),
        (LISTENER, {"ssl_certificate_location": None, "ssl_key_location": None, "ssl_key_password": None},
         r"a broker refuses the certificate of the client; check ssl\.certificate\.location"),
        (LISTENER, {"security_protocol": "SASL_PLAINTEXT"}, "security.protocol"),
        ("", {}, "SSL handshake failed|PLAINTEXT|security.protocol"),
    ],
    ids=["wrong password", "unknown user", "mechanism", "unknown CA", "expired certificate", "no client certificate",
         "plaintext to TLS", "TLS to plaintext"],
)  # fmt: skip
def test_refused_settings_are_reported_before_the_patience_ends(
    secured: Secured, listener: str, changes: dict[str, str | None], words: str
) -> None:
    if "ssl_ca_location" in changes:
        changes = {"ssl_ca_location": str(secured.other.ca)}
    with secured.log(secured.config(**changes), listener) as log:
        patience_s, began = log.cluster.patience_s, time.monotonic()
        for call in (lambda: log.partitions(RAW), lambda: log.members("g"), lambda: log.identity()):
            with pytest.raises(LogError, match=words) as caught:
                call()
            assert "\n" not in str(caught.value)
            assert PASSWORD not in str(caught.value)
        assert time.monotonic() - began < patience_s  # without the error callback, one call takes the whole time
        assert log.outage()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ssl_key_password": "wrong"}, r"settings: ssl\.key\.location .*wrong file, or wrong ssl\.key\.password"),
        ({"ssl_key_password": None}, r"settings: ssl\.key\.location .*wrong file, or wrong ssl\.key\.password"),
        ({"ssl_ca_location": "/missing/ca.crt"}, r"settings: the file /missing/ca\.crt of ssl\.ca\.location cannot be"),
        ({"sasl_mechanism": "SCRAM-MD5"}, "settings: Unsupported SASL mechanism: SCRAM-MD5; correct"),
    ],
    ids=["password of the key", "no password", "missing CA", "unknown mechanism"],
)
def test_settings_that_the_client_itself_rejects_are_refused_at_once(
    secured: Secured, changes: dict[str, str | None], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        secured.log(secured.config(**changes))
    assert "\n" not in str(caught.value)
    assert KEY_PASSWORD not in str(caught.value)


def test_a_command_prints_one_line_without_the_password(secured: Secured, tmp_path: Path) -> None:
    address = f"kafka://{secured.broker.address(LISTENER)}?prefix={PREFIX}"
    config = secured.config(sasl_password="wrong-password")
    plant = Plant(tmp_path, {"TICKERPLANT_LOG": address, "TICKERPLANT_KAFKA": json.dumps(config)})
    refused = invoke(plant, "create-topics")
    assert_refused(refused, 1, "refuse the connection", "SASL authentication error")
    assert "wrong-password" not in refused.err


def test_an_open_log_recovers_when_the_password_is_right_again(secured: Secured) -> None:
    with secured.log(secured.config()) as log:
        log.create_topics(TOPICS, 1)
        write_and_read(log, b"before")
        secured.administrator.set_password("another")
        secured.broker.restart()  # open connections stay authenticated
        until(lambda: "SASL authentication error" in _outage(log), "the refusal")
        began = time.monotonic()
        with pytest.raises(LogError, match="SASL authentication error"):
            log.writer("w").close()
        assert time.monotonic() - began < log.cluster.patience_s
        secured.administrator.set_password(PASSWORD)
        until(lambda: _outage(log) == "", "the recovery")
        assert write_and_read(log, b"after")[-1] == b"after"


def _outage(log: KafkaLog) -> str:
    try:
        log.offsets(RAW)
    except LogError:
        return log.outage() or "unknown"
    return log.outage()
