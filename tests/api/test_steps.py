"""Records are applied in steps: many subscriptions do not block the event loop, and no position is sent in between."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Final

from tests.api.loop_cpu import measured
from tests.api.support import PARTITIONS, T0
from tests.api.test_hub import tick_record
from tests.api.test_loop_cpu import MOST_SPINS
from tickerplant.api.blocking import Pools
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.protocol import pairs_of
from tickerplant.core.schemas import RAW
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.log.port import Identity, TopicPartition

CLIENTS: Final = 400
RECORDS: Final = 32


def stream_of(log: EmbeddedLog) -> Stream:
    hub = Hub(Identity("x", 1), {TopicPartition(RAW, partition): 0 for partition in range(PARTITIONS)})
    return Stream(log, hub, pools=Pools())


async def test_a_batch_for_many_subscriptions_does_not_block_the_loop(log: EmbeddedLog) -> None:
    stream = stream_of(log)
    clients = [stream.hub.join(lambda: None) for _ in range(CLIENTS)]
    for number, client in enumerate(clients):
        stream.hub.subscribe(client, pairs_of(["ticks"], ["A", f"S{number}"]))
    records = [tick_record(n, [(T0 + n, "A", 1.0), (T0 + n, "B", 2.0)]) for n in range(RECORDS)]
    with measured(threading.current_thread().name) as cpu:
        await asyncio.create_task(stream.apply(records, False))
    assert all(value <= MOST_SPINS for value in cpu.spins().values()), cpu.longest
    for client in clients:
        assert len(json.loads(client.pop() or "")["rows"]) == RECORDS


async def test_no_position_is_sent_while_a_batch_is_applied(log: EmbeddedLog) -> None:
    stream = stream_of(log)
    first, second = stream.hub.join(lambda: None), stream.hub.join(lambda: None)
    stream.hub.subscribe(first, pairs_of(["ticks"], ["A"]))
    stream.hub.subscribe(second, pairs_of(["ticks"], ["A", "B"]))
    steps = stream.hub.apply_in_steps([tick_record(0, [(T0, "A", 1.0)])])
    async with stream.in_step:
        next(steps)
        waiting = asyncio.create_task(stream.apply([tick_record(1, [(T0 + 1, "A", 2.0)])], False))
        await asyncio.sleep(0)
        for _ in steps:
            pass
        assert (len(first), len(second)) == (1, 1)
    await waiting
    prices = [
        [row[2] for row in json.loads(client.pop() or "")["rows"]] for client in (first, second) for _ in range(2)
    ]
    assert prices == [[1.0], [2.0], [1.0], [2.0]]
