"""Failures inside a commit, against a producer that the test controls."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tickerplant.core.errors import LogUnavailable
from tickerplant.log.kafka import writer as writers
from tickerplant.log.kafka.writer import KafkaWriter
from tickerplant.log.port import TopicPartition

STEPS: list[tuple[str, type[BaseException], type[BaseException]]] = [
    ("flush", RuntimeError, LogUnavailable),
    ("flush", KeyboardInterrupt, KeyboardInterrupt),
    ("commit_transaction", KeyboardInterrupt, KeyboardInterrupt),
]


class Producer:
    """A producer with one transaction. `fails`: the call that raises `error`."""

    def __init__(self, fails: str = "", error: type[BaseException] = RuntimeError) -> None:
        self._fails, self._error = fails, error
        self.is_open = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: Any, **__: Any) -> None:
            if name == self._fails:
                raise self._error("a callback failed")
            if name == "begin_transaction":
                assert not self.is_open, "the former transaction is still open"
                self.is_open = True

        return call


@pytest.mark.parametrize(("fails", "error", "raised"), STEPS)
def test_a_commit_that_fails_in_any_way_leaves_no_open_transaction(
    monkeypatch: pytest.MonkeyPatch, fails: str, error: type[BaseException], raised: type[BaseException]
) -> None:
    producers = [Producer(fails, error), Producer()]
    monkeypatch.setattr(writers, "checked", lambda *_: producers.pop(0))
    forgotten: list[Any] = []
    cluster = SimpleNamespace(producer=lambda **options: options, patience_s=1.0)
    context: Any = SimpleNamespace(
        cluster=cluster, named=str, claim=lambda _: 1, is_claimed_by=lambda *_: True,
        forget_chunks=forgotten.append, note_chunks=lambda _: None, note_written=lambda _: None,
    )  # fmt: skip
    writer = KafkaWriter(context, "w")
    with pytest.raises(raised), writer.transaction():
        pass
    if fails == "commit_transaction":
        assert forgotten, "the chunks of an unknown transaction are read again"
        with pytest.raises(LogUnavailable, match="unknown"), writer.transaction():
            pass
    with writer.transaction():
        pass
    assert producers == []


def test_outputs_do_not_commit_if_their_positions_were_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    producers = [Producer("send_offsets_to_transaction"), Producer()]
    monkeypatch.setattr(writers, "checked", lambda *_: producers.pop(0))
    cluster = SimpleNamespace(producer=lambda **options: options, patience_s=1.0)
    context: Any = SimpleNamespace(cluster=cluster, named=str, claim=lambda _: 1, is_claimed_by=lambda *_: True)
    writer = KafkaWriter(context, "w")
    reader: Any = SimpleNamespace(check_owned=lambda _: None, group_metadata=lambda: b"")
    with pytest.raises(LogUnavailable, match="RuntimeError: a callback failed"), writer.transaction() as transaction:
        transaction.positions.append((reader, {TopicPartition("in", 0): 5}))
    assert writer._producer is None  # the next transaction starts a producer, which aborts this one
