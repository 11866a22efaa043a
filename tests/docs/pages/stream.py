"""The conversations with the stream that docs/stream.md shows, held with the running plant."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import connect

from tests.docs.pages.shapes import differences, parse
from tests.support.waiting import PATIENCE

ADDRESS = "ws://localhost:8000/v1/stream"


def converse(place: str, text: str) -> None:
    """Send the lines with `→`; assert that messages with the type and the fields of the lines with `←` arrive."""
    asyncio.run(_converse(place, text.splitlines()))


async def _converse(place: str, lines: list[str]) -> None:
    async with asyncio.timeout(PATIENCE.seconds(120)), connect(ADDRESS, proxy=None) as socket:
        received: list[Any] = [json.loads(await socket.recv())]
        position = received[0]["position"]
        for line in lines:
            message = parse(line[1:].strip())
            if line.startswith("→"):
                if "since" in message:
                    message["since"] = position
                await socket.send(json.dumps(message))
                continue
            while not (found := [each for each in received if each["type"] == message["type"]]):
                received.append(json.loads(await socket.recv()))
            # Messages of one type may differ in their fields, such as a snapshot without values. One of them must fit.
            wrong = min((list(differences(message, each)) for each in found), key=len)
            assert not wrong, f"{place}: {message['type']} differs from the page: {wrong}"
        if not any(line.startswith("←") for line in lines):
            answers = {json.loads(await socket.recv())["type"] for _ in range(2)}
            assert "error" not in answers, f"{place}: {answers}"
