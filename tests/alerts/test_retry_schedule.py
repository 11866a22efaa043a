from __future__ import annotations

from tickerplant.alerts.retry_schedule import MAX_BACKOFF_S, backoff_s, is_expired


def test_the_backoff_grows_and_is_capped() -> None:
    assert all(0.5 <= backoff_s(1) <= 1.0 for _ in range(20))
    assert all(8.0 <= backoff_s(5) <= 16.0 for _ in range(20))
    assert max(backoff_s(n) for n in range(1, 200)) <= MAX_BACKOFF_S


def test_a_webhook_expires_after_the_retry_hours() -> None:
    assert not is_expired(3_600.0, 1.0)
    assert is_expired(3_601.0, 1.0)
