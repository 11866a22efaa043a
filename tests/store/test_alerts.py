"""Alert rules, fired alerts and the outbox in the database."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import MINUTE_US
from tickerplant.store import Store
from tickerplant.store.repositories.alerts import DELIVERED, FAILED, AlertRules, Firings, Outbox
from tickerplant.store.repositories.positions import Log, adopt, check_log

OPEN_US = 1_340_285_400_000_000
RULE = Rule(id="r", symbol="A", interval="1m", left="close", operator="greater", right="5")


def alerts(*names: str, rule: str = "r") -> pa.Table:
    n = len(names)

    def text(value: str, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * n).dictionary_encode().cast(kind)

    columns = [
        pa.array(names), pa.array([rule] * n), pa.array([1] * n, pa.int32()),
        timestamps(OPEN_US + MINUTE_US * np.arange(n)), text("A", schemas.TEXT), text("1m", schemas.SMALL_TEXT),
        pa.array(["close greater 5"] * n), pa.array([6.0] * n), pa.array([5.0] * n),
        text("final", schemas.SMALL_TEXT), pa.array([False] * n), pa.array([1] * n),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=schemas.ALERT)


async def kept(store: Store, name: str = "r", webhook: str | None = "http://a/") -> None:
    async with store.session() as session:
        assert await AlertRules(session).add(msgspec.structs.replace(RULE, id=name), webhook, "s" * 16)


async def log_revisions(store: Store) -> list[tuple[str, int, bool]]:
    async with store.session() as session, session.transaction():
        rules = AlertRules(session)
        unsent = await rules.unlogged(10)
        await rules.mark_logged(unsent)
    return [(one.rule.id, one.rule.revision, one.removed) for one in unsent]


async def test_each_revision_is_logged_once_and_a_removed_rule_is_deleted_after_logging(store: Store) -> None:
    await kept(store)
    assert await log_revisions(store) == [("r", 1, False)]
    assert await log_revisions(store) == []
    async with store.session() as session:
        rules = AlertRules(session)
        assert not await rules.add(RULE, None, None)
        await rules.change(msgspec.structs.replace(RULE, revision=2, right="7", active=False))
        found = await rules.get("r")
        assert found is not None
        assert (found.rule.right, found.rule.active, found.logged, found.signed) == ("7", False, False, True)
        assert await rules.remove("r")
        assert not await rules.remove("r")
        assert await rules.get("r") is None
    assert await log_revisions(store) == [("r", 3, True)]
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM alerts") == 0


async def test_concurrent_loggers_log_each_revision_once_and_in_order(store: Store) -> None:
    for number in range(5):
        await kept(store, f"r{number}")
    logged = await asyncio.gather(*(log_revisions(store) for _ in range(3)))
    assert sorted(map(len, logged)) == [0, 0, 5]


async def test_a_new_log_gets_all_rules_again(store: Store) -> None:
    await kept(store)

    async def ends() -> dict[tuple[str, int], int]:
        return {}

    async with store.session() as session:
        await check_log(session, Log("a", 1), ends)
    await log_revisions(store)
    async with store.session() as session:
        await adopt(session, Log("b", 2))
    assert await log_revisions(store) == [("r", 1, False)]


async def test_a_fired_alert_is_stored_once_with_the_state_of_its_webhook(store: Store) -> None:
    await kept(store)
    async with store.session() as session, session.transaction():
        for _ in range(2):
            await Firings(session).put(alerts("r.1.0.0", "r.1.1.0"), OPEN_US)
        await Firings(session).put(alerts(*(f"q.1.{i}.0" for i in range(50)), rule="q"), OPEN_US + MINUTE_US)
        assert await Outbox(session).put([("r.1.0.0", "r", "{}"), ("q.1.0.0", "q", "{}")]) == 1
        assert await Outbox(session).put([("r.1.0.0", "r", "{}")]) == 0
    async with store.read() as session:
        rows = await session.firings.read("r", None, None, None, 10)
        assert [(row["alert_id"], row["webhook"]) for row in rows] == [("r.1.1.0", None), ("r.1.0.0", "pending")]
        assert len(await session.firings.read(None, "A", OPEN_US, OPEN_US + MINUTE_US, 10)) == 2
        assert len(await session.firings.read(None, None, None, None, 100)) == 52


async def test_due_webhooks_are_claimed_once_and_fairly_among_receivers(store: Store) -> None:
    await kept(store, "a", "http://a/")
    await kept(store, "b", "http://b/")
    async with store.session() as session:
        outbox = Outbox(session)
        await outbox.put([(f"{name}.{n}", name, "{}") for name in "ab" for n in range(10)])
        first = await outbox.claim(6, 4, [], 60.0)
        assert len(first) == 6
        assert max(sum(post.url == url for post in first) for url in ("http://a/", "http://b/")) == 4
        second = await outbox.claim(100, 4, ["http://a/"], 60.0)
        assert {post.url for post in second} == {"http://b/"}
        assert not {post.alert_id for post in first} & {post.alert_id for post in second}
        await outbox.finish(first[0].alert_id, DELIVERED, "")
        await outbox.finish(first[1].alert_id, FAILED, "removed")
        await outbox.retry(first[2].alert_id, 0.0, "it answered 503")
        [again] = [p for p in await outbox.claim(100, 100, [], 60.0) if p.alert_id == first[2].alert_id]
        assert (again.attempts, again.secret) == (2, "s" * 16)
        counts = await outbox.counts()
        assert (counts["pending"], counts["failed"]) == (18, 1)
        await AlertRules(session).remove("a")
        await session.script("UPDATE alert_webhooks SET next_at = now()")
        assert {post.url for post in await outbox.claim(100, 100, [], 60.0)} == {None, "http://b/"}


async def test_a_claim_expires_when_its_owner_has_died(store: Store) -> None:
    await kept(store)
    async with store.session() as session:
        outbox = Outbox(session)
        assert await outbox.next_s() is None
        await outbox.put([("x", "r", "{}")])
        assert len(await outbox.claim(1, 1, [], 0.0)) == 1
        assert len(await outbox.claim(1, 1, [], 30.0)) == 1
        assert await outbox.claim(1, 1, [], 30.0) == []
        next_s = await outbox.next_s()
        assert next_s is not None
        assert 25 < next_s <= 30
