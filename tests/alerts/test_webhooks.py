"""Delivery of webhooks from the log through the outbox to a receiver, with a real database and log."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from tests.alerts.support import T0, add_rule, delivering, failed, fire, query, receiver, remove_rule
from tests.support.waiting import until
from tickerplant.alerts.webhooks import WebhookOptions
from tickerplant.log.port import EventLog

SECRET = "sixteen letters!"


@pytest.fixture
def metrics(log: EventLog, dsn: str) -> Iterator[CollectorRegistry]:
    with delivering(log, dsn, WebhookOptions(timeout_s=1.0)) as registry:
        yield registry


def counted(metrics: CollectorRegistry, name: str) -> float | None:
    return metrics.get_sample_value(f"tickerplant_alert_webhooks_{name}_total")


def test_an_alert_is_posted_once_and_signed(metrics: CollectorRegistry, log: EventLog, dsn: str) -> None:
    with receiver(lambda n: 200) as (url, got):
        rule = add_rule(dsn, "r1", url, SECRET)
        names = fire(log, rule, T0, T0 + 1)
        until(lambda: len(got) == 2)
        fire(log, rule, T0)  # a repeated crossing has the same alert id
        fire(log, "unknown", T0)
        (marker,) = fire(log, rule, T0 + 9)
        until(lambda: marker in [one[0]["X-Tickerplant-Alert-Id"] for one in got], "the alert that was fired last")
        assert len(got) == 3
    headers, body = next(one for one in got if one[0]["X-Tickerplant-Alert-Id"] == names[0])
    alert = json.loads(body)
    assert (alert["alert_id"], alert["symbol"], alert["left"]) == (names[0], "AAPL", 71.0)
    assert alert["time"] == "2026-03-09T13:30:00Z"
    stamp, digest = (part.split("=")[1] for part in headers["X-Tickerplant-Signature"].split(","))
    assert digest == hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert abs(int(stamp) - time.time()) < 60


def test_a_failed_webhook_is_retried_and_a_slow_receiver_delays_no_other(
    metrics: CollectorRegistry, log: EventLog, dsn: str
) -> None:
    statuses = {1: 500, 2: 302, 3: 204}
    with receiver(lambda n: 0) as (slow, received), receiver(lambda n: statuses.get(n, 200)) as (url, got):
        fire(log, add_rule(dsn, "slow", slow), *(T0 + n for n in range(40)))
        fire(log, add_rule(dsn, "fast", url), T0)
        until(lambda: got)
        assert len(received) < 40, "the fast receiver waited for the slow one"
        until(lambda: len(got) == 3)
        assert "X-Tickerplant-Signature" not in got[0][0]
        until(lambda: counted(metrics, "delivered") == 1.0)
    assert query(dsn, "SELECT count(*) FROM alert_webhooks WHERE state = 'pending'") == [(40,)]


def test_a_webhook_is_given_up_at_410_and_when_its_rule_is_removed(
    metrics: CollectorRegistry, log: EventLog, dsn: str
) -> None:
    with receiver(lambda n: 410) as (url, got):
        fire(log, add_rule(dsn, "gone", url), T0)
        until(lambda: got)
        until(lambda: failed(dsn) == 1)
    fire(log, add_rule(dsn, "removed", url), T0)
    until(lambda: (counted(metrics, "failed_attempts") or 0) >= 2.0)
    remove_rule(dsn, "removed")
    until(lambda: failed(dsn) == 2)
    assert counted(metrics, "given_up") == 2.0


def test_private_addresses_are_refused_if_the_setting_forbids_them(log: EventLog, dsn: str) -> None:
    options = WebhookOptions(timeout_s=1.0, private=False)
    with receiver(lambda n: 200) as (url, got), delivering(log, dsn, options):
        for name, address in (("ip", url), ("name", url.replace("127.0.0.1", "localhost"))):
            fire(log, add_rule(dsn, name, address), T0)
        errors = "SELECT error FROM alert_webhooks WHERE error <> ''"
        until(lambda: len(query(dsn, errors)) == 2)
        assert all("not a public address" in error for (error,) in query(dsn, errors))
        assert got == []
