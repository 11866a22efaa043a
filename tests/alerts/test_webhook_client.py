from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.alerts.support import receiver
from tests.support.waiting import PATIENCE
from tickerplant.alerts import webhook_client
from tickerplant.alerts.errors import PostFailed
from tickerplant.alerts.signature import signature
from tickerplant.alerts.webhook_client import WebhookClient
from tickerplant.api.alert_rules import check_webhook
from tickerplant.core.errors import BadInput
from tickerplant.core.web_address import is_public


def test_public_addresses_are_distinguished_from_private_ones() -> None:
    assert all(map(is_public, ("93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8")))
    bad = ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1",
           "0.0.0.0", "224.0.0.1", "100.64.0.1", "x", "192.0.0.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "::",
           "fd00::1", "ff02::1", "2001:db8::1", "64:ff9b:1::808:808", "100::1", "::ffff:0:10.0.0.1", "3fff::1",
           "4000::1", "5f00::1", "192.88.99.1", "192.0.0.8")  # fmt: skip
    assert [address for address in bad if is_public(address)] == []


@pytest.mark.parametrize(
    ("inner", "public"), [("127.0.0.1", False), ("10.0.0.1", False), ("169.254.169.254", False), ("8.8.8.8", True)]
)
def test_an_address_that_contains_a_private_one_is_private(inner: str, public: bool) -> None:
    """Build the addresses by hand, as RFC 6052 (NAT64), 3056 (6to4), 4291 (mapped) and 5214 (ISATAP) define them."""
    octets = bytes(map(int, inner.split(".")))
    high, low = octets[:2].hex(), octets[2:].hex()
    leading = (f"64:ff9b::{high}:{low}", f"2002:{high}:{low}::1", f"::ffff:{high}:{low}")
    assert [is_public(address) for address in leading] == [public] * 3
    assert is_public(f"2606:2800:220:1:0:5efe:{high}:{low}") == public
    assert not is_public(f"::{high}:{low}"), "IPv4-compatible addresses are not used any more"
    assert not is_public(f"fec0::{high}:{low}"), "site-local addresses are private"


@pytest.mark.parametrize(
    "url",
    [
        "http://0177.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://ex%61mple.com/",
        "http://example.com\\@evil.example/", "http://user@example.com/", "http://example.com:٨٠/", "http://١.example/",
        "http://a..b/", "http://[::1%eth0]/", "http://[::1", "http:example.com", "//example.com/", "ftp://example.com/",
        "http://example.com:0/", "http://example.com:65536/", "http://exa mple.com/", "http://é.example/",
        "http://example.com/\r\nX: y", "http://" + "a" * 2_000,
    ],
)  # fmt: skip
def test_an_address_that_programs_read_differently_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="`webhook`"):
        check_webhook(url, None)


def test_an_address_is_stored_in_canonical_form() -> None:
    assert check_webhook("HTTPS://Example.COM:443/Hook?a=%20#top", None) == "https://example.com/Hook?a=%20"
    assert check_webhook("http://[0::1]:80/x?y=z", None) == "http://[::1]/x?y=z"
    assert check_webhook(None, None) is None


def test_a_literal_private_address_is_refused_when_the_rule_is_stored() -> None:
    for url in ("http://127.0.0.1/", "http://[64:ff9b::7f00:1]/", "http://[::1]:8000/"):
        assert check_webhook(url, None) is not None
        with pytest.raises(BadInput, match="private_webhooks"):
            check_webhook(url, None, private=False)


async def _post(url: str, *, private: bool) -> None:
    client = WebhookClient(timeout_s=PATIENCE.seconds(5), private=private, agent="test")
    try:
        await client.post(url, b"{}", {})
    finally:
        await client.close()


def test_a_name_is_resolved_once_and_the_checked_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a name to a private address after the check. All addresses of the test belong to this machine."""
    asked: list[str] = []

    async def resolve(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = (
            "127.0.0.2" if host != "127.0.0.2" and len(asked) == 1 else host if host == "127.0.0.2" else "127.0.0.1"
        )
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(webhook_client, "is_public", lambda address: address == "127.0.0.2")
    with receiver(lambda n: 200, "0.0.0.0") as (url, got):
        port = urlsplit(url).port
        asyncio.run(_post(f"http://rebound.example:{port}", private=False))
        assert [headers["Host"] for headers, _ in got] == [f"rebound.example:{port}"]
        assert asked.count("rebound.example") == 1
        with pytest.raises(PostFailed, match="not a public address"):
            asyncio.run(_post(f"http://rebound.example:{port}", private=False))
        assert len(got) == 1


def test_cookies_of_a_receiver_are_not_sent_back() -> None:
    async def post_twice(url: str) -> None:
        client = WebhookClient(timeout_s=PATIENCE.seconds(5), private=True, agent="test")
        for _ in range(2):
            await client.post(url, b"{}", {})
        await client.close()

    with receiver(lambda n: 200) as (url, got):
        asyncio.run(post_twice(url))
    assert len(got) == 2
    assert not any("Cookie" in headers for headers, _ in got)


def test_an_invalid_address_of_an_older_version_is_reported() -> None:
    with pytest.raises(PostFailed, match="change it in the rule"):
        asyncio.run(_post("http://0177.0.0.1/", private=True))


def test_a_signature_covers_time_and_body() -> None:
    assert signature("k" * 16, b"{}", 7) == ("t=7,v1=" + hmac.new(b"k" * 16, b"7.{}", hashlib.sha256).hexdigest())
