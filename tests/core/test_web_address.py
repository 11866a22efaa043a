from __future__ import annotations

import pytest

from tickerplant.core.errors import BadInput
from tickerplant.core.web_address import (
    check_host,
    check_network,
    check_origin,
    parse_authority,
    parse_host,
    parse_origin,
)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Plant.LAN.", "plant.lan"), ("127.0.0.1", "127.0.0.1"), ("[0:0::1]", "::1"), ("xn--bcher-kva.example", None),
        ("my_service", None), ("1.example", None),
    ],
)  # fmt: skip
def test_a_host_has_one_canonical_form(text: str, host: str | None) -> None:
    assert parse_host(text) == (host or text)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "-a", "a-", "a b", "bücher.example", "ex%61mple.com", "user@host", "a/b", "a\\b", "a\x00b",
        "0177.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0x7f000001", "127.0.0.0x1", "1.2.3.4.5", "256.1.1.1",
        "١٢٧.0.0.1", "[::1", "[fe80::1%eth0]", "[]", "::1", "a" * 64, "a." * 130 + "a", "localhost:80",
    ],
)  # fmt: skip
def test_a_text_that_programs_read_differently_is_no_host(text: str) -> None:
    assert parse_host(text) is None


def test_an_authority_has_a_port_in_ascii_digits() -> None:
    assert parse_authority("a.example:8000") == ("a.example", 8000)
    assert parse_authority("[::1]") == ("::1", None)
    for text in ("a:", "a:0", "a:65536", "a:٨", "a:8 ", "a:1:2", "u:p@a:1", "[::1]x", ":80"):
        assert parse_authority(text) is None, text


def test_an_origin_has_the_default_port_of_its_scheme() -> None:
    assert parse_origin("http://a.example") == parse_origin("HTTP://A.example:80") == ("http", "a.example", 80)
    assert parse_origin("https://[::1]") == ("https", "::1", 443)
    for text in ("null", "", "a.example", "http:/a", "ftp://a", "http://a/", "http://a?b", "http://", "://a"):
        assert parse_origin(text) is None, text


def test_settings_are_stored_in_canonical_form() -> None:
    assert (check_host("::1"), check_host("Plant")) == ("::1", "plant")
    assert check_origin("https://[0::1]:443") == "https://[::1]"
    assert (check_network("0::1"), check_network("10.0.0.0/8")) == ("::1", "10.0.0.0/8")
    for text in ("plant", "10.0.0.1/8", "*", "127.1"):
        with pytest.raises(BadInput, match="neither an IP address nor a network"):
            check_network(text)
    for text in ("http://plant", "plant:8000", "*"):
        with pytest.raises(BadInput, match="is not a host"):
            check_host(text)
    for text in ("plant", "https://plant/charts", "*"):
        with pytest.raises(BadInput, match="is not an origin"):
            check_origin(text)
