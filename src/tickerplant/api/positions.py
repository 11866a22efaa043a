"""Log positions in REST answers and on the stream: where data was read, and where a subscription resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tickerplant.core.errors import BadInput
from tickerplant.log.port import TopicPartition

HEADER: Final = "X-Log-Position"
"""Header with the position of an answer from the store, as JSON on one line. A JSON body contains it too."""


class Position(msgspec.Struct, frozen=True):
    """A position in the log: the offset of the next record, for each topic and partition."""

    log_id: str
    generation: int
    offsets: dict[str, dict[int, int]]

    @classmethod
    def of(cls, log_id: str, generation: int, positions: Mapping[TopicPartition, int]) -> Position:
        """Return the position with these offsets."""
        offsets: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in sorted(positions.items()):
            offsets.setdefault(topic, {})[partition] = offset
        return cls(log_id, generation, offsets)

    def flat(self) -> dict[TopicPartition, int]:
        """Return the offsets by topic and partition."""
        return {
            TopicPartition(topic, partition): offset
            for topic, partitions in self.offsets.items()
            for partition, offset in partitions.items()
        }

    def json(self) -> str:
        """Return the position as JSON on one line."""
        return self.raw().decode()

    def raw(self) -> bytes:
        """Return the position as JSON. Consecutive answers often have the same position, so the last JSON is kept."""
        global _encoded
        position, text = _encoded
        if position is not self:
            text = msgspec.json.encode(self)
            _encoded = self, text
        return text


_encoded: tuple[Position | None, bytes] = (None, b"")
"""The position that was encoded last, and its JSON."""


def parse_position(value: Any) -> Position:
    """Return the position that a client sent: the object from an answer's body, or the header's text.

    Raises BadInput, whose message explains the form of a position.
    """
    try:
        if isinstance(value, str):
            return msgspec.json.decode(value, type=Position)
        # Keys of JSON objects are text; `str_keys` converts them to partition numbers.
        return msgspec.convert(value, Position, str_keys=True)
    except msgspec.MsgspecError as error:
        raise BadInput(
            f"`since` is not a position ({error}); send the `position` of a REST answer or of a message unchanged"
        ) from None
