"""Which version of HTTP a TLS connection speaks: the one that its handshake agreed on (ALPN, RFC 7301)."""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.h2_conn import Http2Connection
from proxy.hub import Hub, Site
from proxy.quick import QuickConnection
from proxy.tls_profile import HTTP2


class ByAlpn(asyncio.Protocol):
    """The protocol of a connection to `site` until its handshake is done; then another takes over."""

    __slots__ = ("_hub", "_site")

    def __init__(self, hub: Hub, site: Site) -> None:
        self._hub, self._site = hub, site

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        kind = Http2Connection if transport.get_extra_info("alpn") == HTTP2 else QuickConnection
        chosen = kind(self._hub, self._site)
        cast(asyncio.Transport, transport).set_protocol(chosen)
        chosen.connection_made(transport)
