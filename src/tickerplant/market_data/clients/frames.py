"""A WebSocket client connection that hands over text messages in bulk.

Feeds send many small text frames; the library makes an object, an event and a wake-up of each. Here whole unmasked text
frames are cut out of what the socket gave in one loop, and everything else (the handshake, control frames, fragments,
binary messages, the close, whatever is against the protocol) goes to the library, frame by frame and in order, which
answers, assembles, refuses and closes as ever. `recv` gets nothing on such a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

Take = Callable[[list[bytes]], None]

MAX_MESSAGE_BYTES: Final = 1 << 24
"""An answer to a subscription to 2,000 symbols is 200 KB; what is larger than this is no message of a feed."""
_TEXT: Final = 0x81  # FIN and the opcode of a text
_END_OF_HEAD: Final = b"\r\n\r\n"
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class FrameConnection(ClientConnection):
    """Give it to `websockets.connect(create_connection=…, max_size=MAX_MESSAGE_BYTES, compression=None)`.

    Set `take` before the loop runs on after `connect`: it gets the messages of each read, undecoded, in order, from
    within the event loop, and must be quick. `heard` is called for every read whatever is in it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: Callable[[], None] = _nothing
        self._take: Take | None = None
        self._early: list[bytes] = []
        self._rest = b""
        self._head_tail = b""
        self._pieces: list[bytes] = []
        self._texts: list[bytes] = []
        self._library_alone = False
        self._ending = False

    @property
    def take(self) -> Take | None:
        """Who gets the messages; what came before it was set is given at once."""
        return self._take

    @take.setter
    def take(self, take: Take) -> None:
        self._take = take
        early, self._early = self._early, []
        if early:
            take(early)

    def data_received(self, data: bytes) -> None:
        """Take what the socket gave (a method of `asyncio.Protocol`)."""
        self.heard()
        if self.response is None:
            data = self._handshake(data)
        if data:
            if self._library_alone or self.protocol.state is not State.OPEN:
                super().data_received(data)
            else:
                self._rest = self._cut(self._rest + data if self._rest else bytes(data))
        if self.protocol.state is State.CLOSING and not self._ending:
            self._ending = True  # the vendor should close the socket now; whether it does is not waited for
            self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)
        if self._texts:
            texts, self._texts = self._texts, []
            if self._take is None:
                self._early += texts
            else:
                self._take(texts)

    def process_event(self, event: Event) -> None:
        """Put messages that the library has read among the others."""
        if isinstance(event, Frame) and event.opcode in _DATA and self.response is not None:
            self._pieces.append(bytes(event.data))
            if event.fin:
                self._texts.append(b"".join(self._pieces))
                self._pieces.clear()
        else:
            super().process_event(event)

    def _handshake(self, data: bytes) -> bytes:
        """Give the library the answer's head and no more; return what follows it."""
        seen = self._head_tail + data
        end = seen.find(_END_OF_HEAD)
        if end < 0:
            self._head_tail = seen[-3:]
            super().data_received(data)
            return b""
        rest = end + len(_END_OF_HEAD) - len(self._head_tail)
        super().data_received(data[:rest])
        if self.protocol.state is not State.OPEN:  # refused: a body follows, which is the library's
            super().data_received(data[rest:])
            return b""
        return data[rest:]

    def _cut(self, buffer: bytes) -> bytes:
        """Cut whole frames off; return the rest, which is less than one."""
        texts, at, size = self._texts, 0, len(buffer)
        while size - at >= 2:
            length = buffer[at + 1]
            begin = at + 2
            if length >= 126:
                if length > 127:  # masked: against the protocol
                    return self._leave(buffer[at:])
                begin += 2 if length == 126 else 8
                if begin > size:
                    break
                length = int.from_bytes(buffer[at + 2 : begin], "big")
                if length > MAX_MESSAGE_BYTES:
                    return self._leave(buffer[at:])
            end = begin + length
            if end > size:
                break
            if buffer[at] == _TEXT:
                texts.append(buffer[begin:end])
            else:
                super().data_received(buffer[at:end])
                if self.protocol.state is not State.OPEN:
                    return self._leave(buffer[end:])
            at = end
        return buffer[at:]

    def _leave(self, buffer: bytes) -> bytes:
        """Leave this and all that comes to the library."""
        self._library_alone = True
        if buffer:
            super().data_received(buffer)
        return b""


def _nothing() -> None:
    """Do nothing."""
