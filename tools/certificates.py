"""Certificates for tests and benchmarks: a new CA, and certificates of 127.0.0.1 or a host name that the CA signs.

Each call creates new keys. Certificates are valid for `VALID` unless the caller gives a `span`. `Authority` writes PEM
files into one folder.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY: Final = dt.timedelta(days=1)
VALID: Final = (-DAY, 10 * DAY)
"""Begin and end of a valid certificate, relative to now."""
EXPIRED: Final = (-10 * DAY, -DAY)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path
    both: Path
    """Key and certificate in one file, as Kafka's `ssl.keystore.location` expects them."""


class Authority:
    """A CA whose certificate is `ca`. `folder` receives all files; private keys have mode 0600."""

    def __init__(self, folder: Path, name: str = "ca", span: tuple[dt.timedelta, dt.timedelta] = VALID) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(f"Test CA {name}")
        builder = _builder(subject, subject, self._key.public_key(), span)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.ca = folder / f"{name}.crt"
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        host: str = "127.0.0.1",
        span: tuple[dt.timedelta, dt.timedelta] = VALID,
        password: str = "",
    ) -> Certificate:
        """Write a certificate of this address or host name, and its key, which `password` encrypts unless it is ""."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), self._certificate.subject, key.public_key(), span)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        signed += self.ca.read_bytes()
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            hidden = serialization.BestAvailableEncryption(password.encode())
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        made = Certificate(*(self._folder / f"{name}.{kind}" for kind in ("crt", "key", "pem")))
        made.certificate.write_bytes(signed)
        for path, content in ((made.key, secret), (made.both, secret + signed)):
            path.touch(mode=0o600)
            path.write_bytes(content)
        return made


def give(path: Path, uid: int, gid: int) -> None:
    """Change the owner of a file, if this process is root."""
    if os.geteuid() == 0:
        os.chown(path, uid, gid)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    span: tuple[dt.timedelta, dt.timedelta],
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now + span[0]).not_valid_after(now + span[1])
