"""A WebSocket client connection that delivers text messages in bulk.

Feeds send many small text frames, and the library creates an object, an event and a wake-up for each. This class cuts
whole unmasked text frames out of the socket's data in one loop. The library processes everything else, frame by frame
and in order: the handshake, control frames, fragments, binary messages, the close, and protocol errors. `recv`
receives no messages on such a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

OnMessages = Callable[[list[bytes]], None]

MAX_MESSAGE_BYTES: Final = 4 << 20
"""Maximum size of a message in bytes. The answer to a subscription to 2,000 symbols has 200 KB."""
MAX_UNSENT_BYTES: Final = 1 << 20
"""Maximum bytes that wait to be sent: answers to pings of a vendor that does not read. Above it, the connection is
aborted."""
MAX_OVERHEAD_FRAMES: Final = 30_000
"""Maximum control frames and fragments per `WINDOW_S`. The library takes 10 µs for each. Above it, the connection is
aborted."""
WINDOW_S: Final = 60.0
_TEXT: Final = 0x81  # FIN and the opcode of a text
_END_OF_HEAD: Final = b"\r\n\r\n"
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class FrameConnection(ClientConnection):
    """A connection for `websockets.connect(create_connection=…, max_size=MAX_MESSAGE_BYTES, compression=None)`.

    `on_messages` is called in the event loop with the messages of each read, undecoded and in order. It must not block.
    `on_read` is called for every read, and `on_flood` with the reason when more than `MAX_OVERHEAD_FRAMES` arrive
    within `WINDOW_S`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_read: Callable[[], None] = _nothing
        self.on_flood: Callable[[str], None] = _ignore
        self._overhead_frames = 0
        self._window_began_s = 0.0
        self._on_messages: OnMessages | None = None
        self._early: list[bytes] = []
        self._buffer = bytearray()
        self._wanted_bytes = 2
        self._head_tail = b""
        self._fragments: list[bytes] = []
        self._texts: list[bytes] = []
        self._library_only = False
        self._ending = False

    @property
    def on_messages(self) -> OnMessages | None:
        """Return the receiver of messages; None before it is set. Setting it also delivers the earlier messages."""
        return self._on_messages

    @on_messages.setter
    def on_messages(self, receive: OnMessages) -> None:
        self._on_messages = receive
        early, self._early = self._early, []
        if early:
            receive(early)

    def data_received(self, data: bytes) -> None:
        """Process the socket's data (a method of `asyncio.Protocol`)."""
        self.on_read()
        if self.loop.time() - self._window_began_s > WINDOW_S:
            self._overhead_frames, self._window_began_s = 0, self.loop.time()
        if self.response is None:
            data = self._handshake(data)
        if data:
            if self._library_only or self.protocol.state is not State.OPEN:
                super().data_received(data)
            else:
                self._append(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()
        if self.protocol.state is State.CLOSING and not self._ending:
            self._ending = True  # the vendor should now close the socket, but may fail to
            self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)
        if self._texts:
            texts, self._texts = self._texts, []
            if self._on_messages is None:
                self._early += texts
            else:
                self._on_messages(texts)

    def process_event(self, event: Event) -> None:
        """Collect a message that the library has read; pass other events to the library."""
        if isinstance(event, Frame) and event.opcode in _DATA and self.response is not None:
            if event.data:  # the number of empty fragments of a message is not limited
                self._fragments.append(bytes(event.data))
            if event.fin:
                self._texts.append(b"".join(self._fragments))
                self._fragments.clear()
        else:
            super().process_event(event)

    def _handshake(self, data: bytes) -> bytes:
        """Pass the head of the answer to the library; return the bytes after it.

        If the vendor refuses the connection, the library gets all bytes.
        """
        seen = self._head_tail + data
        end = seen.find(_END_OF_HEAD)
        if end < 0:
            self._head_tail = seen[-3:]
            super().data_received(data)
            return b""
        end += len(_END_OF_HEAD) - len(self._head_tail)
        super().data_received(data[:end])
        if self.protocol.state is not State.OPEN:  # refused: the body belongs to the library
            super().data_received(data[end:])
            return b""
        return data[end:]

    def _append(self, data: bytes) -> None:
        """Cut off the frames that are complete now. A long frame in many pieces is not copied with each piece."""
        buffer = self._buffer
        if not buffer:
            remainder = self._cut(bytes(data))
            if remainder:
                buffer += remainder
            return
        buffer += data
        if len(buffer) >= self._wanted_bytes:
            self._buffer = bytearray(self._cut(bytes(buffer)))

    def _cut(self, buffer: bytes) -> bytes:
        """Cut whole frames off; return the remainder, which is less than one frame.

        `_wanted_bytes` is then the size at which the remainder may be a whole frame.
        """
        self._wanted_bytes = 2
        texts, at, size = self._texts, 0, len(buffer)
        while size - at >= 2:
            length = buffer[at + 1]
            begin = at + 2
            if length >= 126:
                if length > 127:  # masked: a protocol error
                    return self._use_library(buffer[at:])
                begin += 2 if length == 126 else 8
                if begin > size:
                    self._wanted_bytes = begin - at
                    break
                length = int.from_bytes(buffer[at + 2 : begin], "big")
                if length > MAX_MESSAGE_BYTES:
                    return self._use_library(buffer[at:])
            end = begin + length
            if end > size:
                self._wanted_bytes = end - at
                break
            if buffer[at] == _TEXT:
                texts.append(buffer[begin:end])
            else:
                if self._is_flood(buffer[at]):
                    return b""
                super().data_received(buffer[at:end])
                if self.protocol.state is not State.OPEN:
                    return self._use_library(buffer[end:])
            at = end
        return buffer[at:]

    def _is_flood(self, first: int) -> bool:
        """Count a frame with this first byte if it is a control frame or a fragment; return True if there are too many.

        The connection then ends.
        """
        if first & 0x80 and not first & 0x08 and first & 0x0F:  # a whole message
            return False
        self._overhead_frames += 1
        if self._overhead_frames <= MAX_OVERHEAD_FRAMES:
            return False
        if not self._library_only:
            self._library_only = True
            self.on_flood(f"flood: more than {MAX_OVERHEAD_FRAMES:,} control frames and fragments within a minute")
            self.transport.abort()
        return True

    def _use_library(self, buffer: bytes) -> bytes:
        """Pass this and all later data to the library; return an empty remainder."""
        self._library_only = True
        if buffer:
            super().data_received(buffer)
        return b""


def _nothing() -> None:
    """Do nothing."""


def _ignore(reason: str) -> None:
    """Ignore the reason."""
