"""TLS and SASL settings that the brokers refuse: reported at once, in librdkafka's words."""

from __future__ import annotations

import datetime as dt
import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE
from tickerplant.core.errors import LogError
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog

pytestmark = pytest.mark.kafka

NOW = dt.datetime.now(dt.UTC)


def make_certificate(path: Path, start: dt.datetime, end: dt.datetime) -> None:
    """Write a self-signed certificate of 127.0.0.1 with its key, and the certificate alone beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    text = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + text)
    path.with_suffix(".ca").write_bytes(text)


@dataclass
class Secured:
    """A broker with listeners for SASL, TLS, and TLS with an expired certificate; and the folder of certificates."""

    broker: KafkaBroker
    folder: Path

    def log(self, listener: str, **config: str) -> KafkaLog:
        config = {name.replace("_", "."): value for name, value in config.items()}
        return KafkaLog(self.broker.address(listener), config=config, patience_s=PATIENCE.seconds(30.0))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    day = dt.timedelta(days=1)
    make_certificate(folder / "valid.pem", NOW - day, NOW + 10 * day)
    make_certificate(folder / "other.pem", NOW - day, NOW + 10 * day)
    make_certificate(folder / "expired.pem", NOW - 10 * day, NOW - day)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    settings = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{module} user_alice="right";',
    }
    for name, file in (("tls", "valid.pem"), ("expired", "expired.pem")):
        settings[f"listener.name.{name}.ssl.keystore.type"] = "PEM"
        settings[f"listener.name.{name}.ssl.keystore.location"] = str(folder / file)
    listeners = {"SASL": "SASL_PLAINTEXT", "TLS": "SSL", "EXPIRED": "SSL"}
    with KafkaBroker(folder / "broker", settings=settings, listeners=listeners) as broker:
        yield Secured(broker, folder)


def sasl(password: str) -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "alice",
        "sasl_password": password,
    }  # fmt: skip


def test_right_settings_work(secured: Secured) -> None:
    specs = [TopicSpec(RAW, 5 * DAY_US), TopicSpec(STATE_AGGREGATION, None)]
    with secured.log("SASL", **sasl("right")) as log:
        log.create_topics(specs, 1)
        assert log.outage() == ""
    ca = str(secured.folder / "valid.ca")
    with secured.log("TLS", security_protocol="SSL", ssl_ca_location=ca) as log:
        assert log.partitions(RAW) == 1


@pytest.mark.parametrize(
    ("listener", "config", "words"),
    [
        ("SASL", sasl("wrong"), "SASL authentication error.*[Ii]nvalid username or password"),
        ("TLS", {"security_protocol": "SSL", "ssl_ca_location": "other.ca"}, "certificate verify failed"),
        (
            "EXPIRED",
            {"security_protocol": "SSL", "ssl_ca_location": "expired.ca"},
            "certificate (verify|has expired)",
        ),
        ("TLS", {}, "security.protocol"),
        ("SASL", {"security_protocol": "SSL", "ssl_ca_location": "valid.ca"}, "SSL handshake failed|PLAINTEXT"),
    ],
    ids=["wrong password", "unknown CA", "expired certificate", "plaintext to TLS", "TLS to plaintext"],
)
def test_refused_settings_are_reported_before_the_patience_ends(
    secured: Secured, listener: str, config: dict[str, str], words: str
) -> None:
    ca = config.get("ssl_ca_location")
    more = {"ssl_ca_location": str(secured.folder / ca)} if ca else {}
    with secured.log(listener, **(config | more)) as log:
        patience_s, began = log.cluster.patience_s, time.monotonic()
        for call in (lambda: log.partitions(RAW), lambda: log.members("g"), lambda: log.identity()):
            with pytest.raises(LogError, match=words):
                call()
        assert time.monotonic() - began < patience_s  # without the callback's error each call takes all of it
        assert log.outage()
