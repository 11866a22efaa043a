"""`tickerplant skip-lost`: moves a service past records that Kafka's retention has dropped unread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import emit, notify
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.retention_loss import Loss
    from tickerplant.log.port import EventLog, TopicPartition


def skip_lost(
    loaded: Loaded,
    service: Annotated[str, typer.Argument(help="aggregation, analytics or persistence.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Skip the lost records. Without this option, only print which are lost.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Move a stopped service past records that Kafka's retention has dropped before the service read them.

    Exits with 1 if records are lost and --yes is missing.
    """
    from tickerplant.app import retention_loss
    from tickerplant.app.health import GROUPS
    from tickerplant.app.wiring import open_readonly

    if service not in GROUPS:
        raise BadInput(f"{service!r} has no position in the log; name one of {', '.join(GROUPS)}")
    with open_readonly.log_of(loaded.settings) as event_log:
        losses = _losses(loaded, event_log, service)
        if losses and yes:
            retention_loss.require_stopped(event_log, service)
            retention_loss.skip_lost(event_log, service, GROUPS[service], losses)
            if service == "persistence":
                _advance_store(loaded, event_log, losses)
    done = bool(losses) and yes
    if json:
        emit({"service": service, "skipped": done, "lost": [_row(loss) for loss in losses]})
    elif not losses:
        echo(f"{service} has lost no records")
    else:
        for loss in losses:
            echo(str(loss))
        echo(f"{service} skips them when it starts" if done else f"to skip them, stop {service} and add --yes")
    if losses and not yes:
        notify("No record was skipped.")
        raise typer.Exit(1)


def _losses(loaded: Loaded, event_log: EventLog, service: str) -> list[Loss]:
    """Return the service's losses, one per partition. The positions of persistence are the store's positions."""
    from tickerplant.app import retention_loss
    from tickerplant.app.health import GROUPS

    positions = event_log.committed(service)
    if service == "persistence":
        positions = positions | _stored_positions(loaded)
    return retention_loss.find(event_log, positions, GROUPS[service])


def _stored_positions(loaded: Loaded) -> dict[TopicPartition, int]:
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.store import positions
    from tickerplant.log.port import TopicPartition

    with open_readonly.store_of(loaded.settings) as dsn:
        return {TopicPartition(*source): position for source, position in positions(dsn).items()}


def _advance_store(loaded: Loaded, event_log: EventLog, losses: list[Loss]) -> None:
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.store import skip_positions

    with open_readonly.store_of(loaded.settings) as dsn:
        skip_positions(dsn, event_log.identity(), [(one.topic, one.partition, one.first) for one in losses])


def _row(loss: Loss) -> dict[str, Any]:
    return {
        "topic": loss.topic, "partition": loss.partition, "position": loss.position, "first": loss.first,
        "offsets": loss.offsets,
    }  # fmt: skip
