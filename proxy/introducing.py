"""What servers are told by the PROXY protocol of the client whose requests a connection carries.

The header stands at the beginning of a connection, and holds until its end: such a connection is never another
client's. The header itself is what it is known by (`Pool.assign`, `label`): who would begin a connection by the same
bytes may use it. That is another request of the same client connection, since the client's port is part of it.

Version 2 tells besides: the client's server name (authority), its TLS, and the unique id that a proxy in front of us
has given the connection. Not its ALPN: servers take that for what *we* speak to them.
"""

from __future__ import annotations

import asyncio

from control.node.introducing import end
from core.proxy_protocol import Header, Tls, write
from proxy.client_identity import common_name


def introduction(transport: asyncio.BaseTransport, version: int) -> bytes:
    """The header for a client's connection."""
    info = transport.get_extra_info
    told = info("proxy_header")  # of a proxy in front of us (introduction.py)
    source, destination = end(info("peername")), end(info("sockname"))
    if version == 1:
        return write(Header(1, source, destination))
    tls = _tls(transport) if info("cipher") else told.tls if told is not None else None
    unique_id = told.unique_id if told is not None else b""
    return write(Header(2, source, destination, authority=info("sni") or "", unique_id=unique_id, tls=tls))


def _tls(transport: asyncio.BaseTransport) -> Tls:
    """What we know of the client's TLS, which ends here. A certificate that is not sound does not come so far."""
    info = transport.get_extra_info
    der = info("client_certificate")
    return Tls(info("tls_version") or "", info("cipher") or "", bool(der), bool(der), common_name(der) if der else "")


class Nowhere:
    """Where a connection to a client would be, of those who carry requests of nobody's (errand.py, copies.py)."""

    def abort(self) -> None:
        """There is nothing to cut."""

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        """It has no ends: servers that are told whose a connection is hear that it is ours."""
