"""Leadership: one member leads at a time, until it ends or dies."""

from __future__ import annotations

from tests.conformance.conftest import Bench, kill, line
from tests.support.waiting import until
from tickerplant.log.kafka.leadership import KafkaLeadership
from tickerplant.log.kafka.reader import generation_of


def test_a_member_leads_until_it_ends(bench: Bench) -> None:
    with bench.log.lead("feeds", "a") as first:
        until(lambda: first.poll(timeout_s=0.1), "a leader")
        with bench.log.lead("feeds", "b") as second:
            for _ in range(3):
                assert not second.poll(timeout_s=0.1)
            assert first.poll(timeout_s=0.1)
            with bench.log.lead("other", "a") as other:
                until(lambda: other.poll(timeout_s=0.1), "the leader of another name")
            first.close()
            until(lambda: second.poll(timeout_s=0.1), "the next leader")


def test_a_member_leads_after_the_leader_died(bench: Bench) -> None:
    child = bench.child("leader", "feeds")
    assert line(child) == "leads"
    with bench.log.lead("feeds", "next") as leadership:
        assert not leadership.poll(timeout_s=0.1)
        kill(child)
        until(lambda: leadership.poll(timeout_s=0.1), "the next leader")


def test_a_member_that_joins_does_not_take_the_leadership(kafka: Bench) -> None:
    with kafka.log.lead("feeds", "b") as leader:
        until(lambda: leader.poll(timeout_s=0.1), "a leader")
        assert isinstance(leader, KafkaLeadership)
        for name in ("a", "c"):  # names before and after the leader's
            with kafka.log.lead("feeds", name) as joining:
                assert isinstance(joining, KafkaLeadership)

                def is_member(joining: KafkaLeadership = joining) -> bool:
                    assert not joining.poll(timeout_s=0.05)
                    assert leader.poll(timeout_s=0.05)
                    known = generation_of(joining._consumer.consumer_group_metadata())
                    return known is not None and known[0] > 0

                until(is_member, "a member of the group")
                assert not joining.poll(timeout_s=1.0)
                assert leader.poll(timeout_s=0.1)
