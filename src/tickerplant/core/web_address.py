"""HTTP hosts and origins as text: strict parsing, so that two programs cannot read one text differently. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from tickerplant.core.errors import BadInput

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_NAME_CHARS: Final = 253
"""Maximum characters of a host name, as in DNS."""

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_NUMERIC_END: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
"""Names whose last label is a number. Some programs read them as an IPv4 address: `0177.0.0.1`, `127.1`, `0x7f1`."""
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?\Z")


class Authority(NamedTuple):
    """Host and port of an address. The host is in canonical form, an IPv6 address without brackets."""

    host: str
    port: int | None


class Origin(NamedTuple):
    """The origin of a page: scheme, host and port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


def parse_host(text: str) -> str | None:
    """Return a host name or IP address in canonical form, or None if the text is neither.

    A name is returned in lower case without a final dot. Spellings of IPv4 other than four decimal numbers are refused.

    >>> parse_host("LocalHost."), parse_host("[::0001]"), parse_host("0177.0.0.1"), parse_host("ex%61mple.com")
    ('localhost', '::1', None, None)
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            return None if "%" in text else str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return None
    name = text.lower().removesuffix(".")
    if _NUMERIC_END.match(name):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            return None
    return name if len(name) <= MAX_NAME_CHARS and name.isascii() and _NAME.match(name) else None


def parse_authority(text: str) -> Authority | None:
    """Return host and port of `host` or `host:port`, or None if the text is neither. A missing port is None.

    >>> parse_authority("[::1]:8000"), parse_authority("user@host")
    (Authority(host='::1', port=8000), None)
    """
    match = _AUTHORITY.match(text)
    host = None if match is None else parse_host(match[1])
    if match is None or host is None:
        return None
    port = None if match[2] is None else int(match[2])
    return None if port is not None and not 1 <= port <= 65_535 else Authority(host, port)


def parse_origin(text: str) -> Origin | None:
    """Return the origin of a text such as `https://example.com:8443`, or None if it is not an HTTP origin.

    >>> str(parse_origin("HTTPS://Example.com:443")), parse_origin("null")
    ('https://example.com', None)
    """
    scheme, separator, rest = text.partition("://")
    authority = parse_authority(rest)
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS or authority is None:
        return None
    return Origin(scheme, authority.host, authority.port or DEFAULT_PORTS[scheme])


def check_host(text: str) -> str:
    """Return a host of a setting in canonical form. Raises BadInput; a port or a scheme is refused."""
    host = parse_host(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if host is None:
        raise BadInput(f"{text!r} is not a host; use a name or an address without scheme and port, such as plant.lan")
    return host


def check_origin(text: str) -> str:
    """Return an origin of a setting in canonical form. Raises BadInput."""
    origin = parse_origin(text)
    if origin is None:
        raise BadInput(f"{text!r} is not an origin; use scheme, host and port, such as https://charts.example.com:8443")
    return str(origin)


def check_network(text: str) -> str:
    """Return an IP address or network of a setting in canonical form. Raises BadInput.

    >>> check_network("::0001"), check_network("10.0.0.0/8")
    ('::1', '10.0.0.0/8')
    """
    try:
        return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))
    except ValueError:
        raise BadInput(f"{text!r} is neither an IP address nor a network, such as 10.0.0.0/8") from None


class WebAddress(NamedTuple):
    """An HTTP address in parts. `target` is path and query as sent; "" means /."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{Origin(self.scheme, self.host, self.port)}{self.target}"


_ADDRESS: Final = re.compile(r"([A-Za-z]+)://([^/?#]*)([^#]*)(?:#.*)?\Z")


def parse_address(text: str) -> WebAddress | None:
    """Return the parts of an address such as `https://example.com/hook`, or None if it is not an HTTP address.

    A user and a password are refused. The fragment is removed, because it is never sent.

    >>> str(parse_address("HTTP://Example.com:80/hook?x=1#y"))
    'http://example.com/hook?x=1'
    """
    match = _ADDRESS.match(text)
    origin = None if match is None else parse_origin(f"{match[1]}://{match[2]}")
    if match is None or origin is None or not text.isascii() or not text.isprintable() or " " in text:
        return None
    return WebAddress(*origin, match[3])


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 addresses that IANA allocates to public hosts of the Internet."""
_NEVER_PUBLIC: Final = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.0.0.0/24", "192.88.99.0/24")))
"""Addresses of documentation, of IETF protocols, and of relays to 6to4. `is_global` of Python 3.11 is True for some."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def is_address(host: str) -> bool:
    """Return True if a host in canonical form is an IP address, False if it is a name."""
    return ":" in host or _NUMERIC_END.match(host) is not None


def is_public(text: str) -> bool:
    """Return True for an IP address of the public Internet.

    An IPv6 address that contains an IPv4 address is public if the IPv4 address is.

    >>> is_public("64:ff9b::8.8.8.8"), is_public("64:ff9b::10.0.0.1"), is_public("localhost")
    (True, False, False)
    """
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = _inner(found)
        if inner is not None:
            return is_public(str(inner))
        if found not in _UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NEVER_PUBLIC)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address contains (mapped, NAT64, or of a tunnel); None if there is none."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    if address in _NAT64 or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
