"""A Kafka broker for clients with SASL/SCRAM over TLS, certificates of their own and access rules (ACLs).

The listener `CLIENTS` requires all of them. The listener without security is for administration only: its user may do
everything, and it exists on 127.0.0.1 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from tools.certificates import Authority, Certificate

LISTENER: Final = "CLIENTS"
USER: Final = "plant"
MECHANISM: Final = "SCRAM-SHA-512"
RULES: Final = (
    (ResourceType.TOPIC, ("CREATE", "READ", "WRITE", "DESCRIBE_CONFIGS")),
    (ResourceType.GROUP, ("READ",)),
    (ResourceType.TRANSACTIONAL_ID, ("WRITE",)),
)
"""Operations that a plant needs on the resources whose names start with its prefix. READ and WRITE imply DESCRIBE."""
_MODULE: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_TIMEOUT_S: Final = 30.0


def broker_settings(authority: Authority, made: Certificate, *, own_certificates: bool = True) -> dict[str, str]:
    """Return the settings of a broker with this certificate. `own_certificates`: clients need a certificate too."""
    listener = f"listener.name.{LISTENER.lower()}"
    found = {
        "sasl.enabled.mechanisms": MECHANISM,
        f"{listener}.{MECHANISM.lower()}.sasl.jaas.config": _MODULE,
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.location": str(made.both),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    if own_certificates:
        found |= {
            f"{listener}.ssl.client.auth": "required",
            f"{listener}.ssl.truststore.type": "PEM",
            f"{listener}.ssl.truststore.location": str(authority.ca),
        }
    return found


def client_settings(
    authority: Authority, password: str, own: Certificate | None = None, key_password: str = ""
) -> dict[str, str]:
    """Return the setting `kafka` of a plant. `own`: its certificate, whose key `key_password` decrypts."""
    found = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": MECHANISM,
        "sasl.username": USER,
        "sasl.password": password,
        "ssl.ca.location": str(authority.ca),
    }
    if own is not None:
        found |= {"ssl.certificate.location": str(own.certificate), "ssl.key.location": str(own.key)}
    return found | ({"ssl.key.password": key_password} if key_password else {})


class Administrator:
    """Users and access rules of a broker, set through the listener without security."""

    def __init__(self, bootstrap: str) -> None:
        self._client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def set_password(self, password: str, user: str = USER) -> None:
        """Create the user, or change its password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        _finish(self._client.alter_user_scram_credentials([change]))

    def allow(self, prefix: str, user: str = USER) -> None:
        """Grant a user the rights that a plant with this prefix needs."""
        rules = [
            AclBinding(
                kind, prefix, ResourcePatternType.PREFIXED, f"User:{user}", "*", getattr(AclOperation, operation),
                AclPermissionType.ALLOW,
            )
            for kind, operations in RULES
            for operation in operations
        ]  # fmt: skip
        _finish(self._client.create_acls(rules))


def _finish(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result(_TIMEOUT_S)
