from __future__ import annotations

import hashlib
import hmac

from tickerplant.alerts.signature import signature
from tickerplant.alerts.webhook_client import _is_public


def test_public_addresses_are_distinguished_from_private_ones() -> None:
    assert all(map(_is_public, ("93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8")))
    bad = ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1",
           "0.0.0.0", "224.0.0.1", "100.64.0.1", "x")  # fmt: skip
    assert not any(map(_is_public, bad))


def test_a_signature_covers_time_and_body() -> None:
    assert signature("k" * 16, b"{}", 7) == ("t=7,v1=" + hmac.new(b"k" * 16, b"7.{}", hashlib.sha256).hexdigest())
