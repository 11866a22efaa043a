"""Positions of the log as users see them: what a REST answer was read at, and what a subscription goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tickerplant.core.errors import BadInput
from tickerplant.log.port import TopicPartition

HEADER: Final = "X-Log-Position"
"""Every answer that was read from the store carries its position in this header too, as JSON on one line."""


class Position(msgspec.Struct, frozen=True):
    """Where in the log: for each topic and partition the offset of the next record."""

    log_id: str
    generation: int
    offsets: dict[str, dict[int, int]]

    @classmethod
    def of(cls, log_id: str, generation: int, positions: Mapping[TopicPartition, int]) -> Position:
        """Return the position made of offsets by partition."""
        offsets: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in sorted(positions.items()):
            offsets.setdefault(topic, {})[partition] = offset
        return cls(log_id, generation, offsets)

    def flat(self) -> dict[TopicPartition, int]:
        """Return offsets by partition, as the log's port has them."""
        return {
            TopicPartition(topic, partition): offset
            for topic, partitions in self.offsets.items()
            for partition, offset in partitions.items()
        }

    def json(self) -> str:
        """Return the position as JSON on one line."""
        return msgspec.json.encode(self).decode()


def parse_position(value: Any) -> Position:
    """Return the position that a client sent: the object of an answer's body, or the header's text.

    Raises BadInput saying what a position looks like.
    """
    try:
        if isinstance(value, str):
            return msgspec.json.decode(value, type=Position)
        # Keys of JSON objects are text; `str_keys` lets them be the numbers of partitions again.
        return msgspec.convert(value, Position, str_keys=True)
    except msgspec.MsgspecError as error:
        raise BadInput(
            f"`since` is no position ({error}); send the `position` of a REST answer or of a message unchanged"
        ) from None
