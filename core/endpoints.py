"""Addresses and ports as people read and write them, of both IP versions.

An IPv6 address stands in brackets before a port (RFC 3986 §3.2.2, RFC 5952 §6): "[2001:db8::1]:80". Addresses are in
the canonical form that `core.reader` gives them, so that equal addresses are equal strings.
"""

from __future__ import annotations

import re
from typing import Final

UNIX: Final = "unix:"  # begins an address that is the path of a socket, and has no port

_ENDPOINT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})")


def version(address: str) -> int:
    """4 or 6; the caller knows that it is an IP address."""
    return 6 if ":" in address else 4


def is_loopback(address: str) -> bool:
    """Whether an IP address is of the machine itself (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3)."""
    return address.startswith("127.") or address == "::1"


def endpoint(address: str, port: int) -> str:
    """ "192.0.2.1:80", "[2001:db8::1]:80" or "unix:/path"; an empty address, which stands for all, is "0.0.0.0"."""
    if address.startswith(UNIX):
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address or '0.0.0.0'}:{port}"


def split(text: str) -> tuple[str, int] | None:
    """Address and port of what `endpoint` writes; whether there is such an address is for the caller to say. None
    where the form differs, an IPv6 address without brackets among others."""
    match = _ENDPOINT.fullmatch(text)
    return (match[1] or match[2] or "", int(match[3])) if match else None
