"""Opens a log by its address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tickerplant.core.digits import is_digits
from tickerplant.core.errors import EXTRAS, ConfigError, MissingExtra
from tickerplant.log.port import EventLog
from tickerplant.log.topic_policy import DEFAULT, TopicPolicy

FILE_NAME = "market.log"
"""File name of an embedded log in the data folder."""

PATIENCE_S = 30.0
"""Default timeout of a service's calls, in seconds. A restarted broker answers within seconds."""

_FORMS = "`embedded:`, `sqlite:///path/of/a/file` or `kafka://host:port[,host:port][?prefix=...&replication=3]`"


def has_file(url: str, data: Path) -> bool:
    """Return True if the file of an embedded log exists, or if the log is on brokers."""
    parts = urlsplit(url)
    path = data / FILE_NAME if parts.scheme == "embedded" else Path(parts.path)
    return parts.scheme == "kafka" or path.exists()


def open_log(
    url: str,
    *,
    data: Path | None = None,
    config: Mapping[str, str] | None = None,
    patience_s: float = PATIENCE_S,
    policy: TopicPolicy = DEFAULT,
) -> EventLog:
    """Return the log at `url`: `embedded:` for the file in the folder `data`, a file by path, or Kafka's brokers.

    `config`: settings of Kafka's clients (TLS, SASL). `patience_s`: timeout of a call that waits for other writers or
    for brokers. `policy`: chosen settings of topics on Kafka. Raises ConfigError for any other address and for
    `embedded:` without `data`, and the errors of the adapters.
    """
    parts = urlsplit(url)
    try:
        options = (
            {key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=True).items()}
            if parts.query
            else {}
        )
    except ValueError as error:
        raise ConfigError(
            f"cannot parse the options of the event log's address {url!r} ({error}); write them like "
            "?prefix=a.&replication=3"
        ) from error
    if parts.scheme == "embedded" and not parts.netloc and not parts.path and not options:
        if data is None:
            raise ConfigError("the embedded event log needs a data folder; set data (--data)")
        return _embedded(data / FILE_NAME, patience_s)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.strip("/") and not options:
        return _embedded(Path(parts.path), patience_s)
    if (
        parts.scheme == "kafka"
        and parts.netloc
        and parts.path in ("", "/")
        and options.keys() <= {"prefix", "replication"}
    ):
        return _kafka(parts.netloc, options, config or {}, patience_s, policy)
    raise ConfigError(f"{url!r} is not an address of an event log; use {_FORMS}")


def _embedded(path: Path, patience_s: float) -> EventLog:
    from tickerplant.log.embedded import EmbeddedLog  # an adapter's libraries are imported only if it is used

    return EmbeddedLog(path, patience_s=patience_s)


def _kafka(
    bootstrap: str, options: Mapping[str, str], config: Mapping[str, str], patience_s: float, policy: TopicPolicy
) -> EventLog:
    replication = options.get("replication")
    if replication is not None and not (is_digits(replication) and int(replication)):
        raise ConfigError(f"replication={replication} in the event log's address is not a replica count; use 1 or 3")
    if replication is not None and policy.replicas not in (None, int(replication)):
        raise ConfigError(
            f"replication={replication} in the event log's address differs from topics.replicas, {policy.replicas}; "
            "remove one of them"
        )
    for broker in bootstrap.split(","):
        host, _, port = broker.rpartition(":")
        if not host or not is_digits(port):
            raise ConfigError(f"{broker!r} in the event log's address is not host:port; write it like broker:9092")
    try:
        from tickerplant.log.kafka import KafkaLog
    except ModuleNotFoundError as error:
        if error.name != EXTRAS["kafka"]:
            raise
        raise MissingExtra("an event log on Kafka", "kafka") from None

    return KafkaLog(
        bootstrap,
        config=config,
        topic_prefix=options.get("prefix", ""),
        policy=policy if replication is None else replace(policy, replicas=int(replication)),
        patience_s=patience_s,
    )
