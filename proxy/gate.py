"""Turns away clients that a listener's access list does not admit, before anything else is spent on them.

A connection of a listener with a list begins with a `Gate`, which looks at the peer's address and either hands the
transport over to the protocol behind it or aborts it. Behind L4 nodes the list has been enforced already, and nobody
is turned away here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast

from proxy.hub import Hub, Site

log = logging.getLogger(__name__)

LOG_EVERY_S: Final = 10.0  # a flood of denied clients must not fill the log


class Gate(asyncio.Protocol):
    """The first protocol of an accepted connection to `site`; `inner` is the next one."""

    def __init__(self, hub: Hub, site: Site, inner: asyncio.BaseProtocol) -> None:
        self._hub = hub
        self._site = site
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw = cast(asyncio.Transport, transport)
        if admits(self._site, raw):
            raw.set_protocol(self._inner)
            self._inner.connection_made(raw)
            return
        self._hub.count("connections_denied")
        now = self._hub.now()
        if now >= self._site.next_denial_logged:
            self._site.next_denial_logged = now + LOG_EVERY_S
            (client, *_) = raw.get_extra_info("peername") or ("a client that has gone",)
            log.info("%s: %s is denied by its access list", self._site.name, client)
        raw.abort()


def admits(site: Site, transport: asyncio.BaseTransport) -> bool:
    """Whether the site's list, as it is now, admits the peer. One that has gone already is denied."""
    peer = transport.get_extra_info("peername")
    return site.access is None or (bool(peer) and site.access.admits(peer[0]))
