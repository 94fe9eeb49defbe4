"""Who has come: what a client's connection says of its other end before the first byte of a request.

The transport knows it all, a TLS stream (tls_stream.py) as well as a socket's: addresses, the session, a certificate.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from proxy import client_identity, headers
from proxy.access_log import Visitor
from proxy.client_identity import UnusableIdentity
from proxy.hub import Site
from proxy.origin import USUAL, Origin


def visitor_of(site: Site, transport: asyncio.BaseTransport) -> Visitor:
    """What the log's lines say of the client."""
    peer = transport.get_extra_info("peername")
    client = str(peer[0]).partition("%")[0] if peer else ""  # a link-local address has its link behind a %
    tls_version, sni = (str(transport.get_extra_info(name) or "") for name in ("tls_version", "sni"))
    return Visitor(site.name, client, tls_version, sni)


def origin_of(site: Site, transport: asyncio.BaseTransport, client: str, node: bytes, identity: bytes | None) -> Origin:
    """What servers are told of the client, whose address is `client`."""
    scheme, port = site.scheme, site.port
    header = transport.get_extra_info("proxy_header") if site.introducers else None
    if header is not None:  # a proxy's word, which counts here as the client's address does
        scheme = "https" if header.tls is not None else scheme
        port = header.destination[1] if header.destination is not None else port
    der = transport.get_extra_info("client_certificate") if site.profile.authorities else None
    client_port, vip = _ends(transport) if site.telling != USUAL else (b"", b"")
    return Origin(
        client.encode("ascii"), scheme.encode("ascii"), b"%d" % port,
        headers.is_trusted(client, site.trusted), node, identity,
        site.telling, client_port, vip, der or b"",
    )  # fmt: skip


def identity_of(site: Site, transport: asyncio.BaseTransport) -> bytes | None:
    """The lines about a client's certificate; see `Origin.identity`. Raises UnusableIdentity."""
    profile = site.profile
    if not profile.authorities:
        return None
    der = transport.get_extra_info("client_certificate")
    if der:
        return client_identity.lines(der, datetime.now(UTC), site.telling.certificate)
    if profile.required:  # asked for since the handshake began
        raise UnusableIdentity("there is none")
    return client_identity.nobody(site.telling.certificate)


def _ends(transport: asyncio.BaseTransport) -> tuple[bytes, bytes]:
    """The client's port, and the address of ours that it came to."""
    peer, own = (transport.get_extra_info(name) for name in ("peername", "sockname"))
    return b"%d" % peer[1] if peer else b"", str(own[0]).encode("ascii") if own else b""
