"""A header of the PROXY protocol in front of a connection: whose it is, read before anything else is done with it.

A connection of a listener with `proxy_protocol` begins with an `Introduction`, the first protocol behind the limits of
the listener (throttle.py: these are of the listener as a whole). It asks the peer's address alone whether it may tell:

    peer in proxy_protocol_from   required   a header has to come, and to be sound
                                  optional   one is read if what comes begins like one
    any other peer                required   cut off at once
                                  optional   served as it is; a header is bytes that are neither HTTP nor TLS

Whatever stands behind it (access list, TLS, the connection) gets an `Introduced` as its transport, whose ends are those
that were told. So the told address is the client's everywhere, and nobody has to know of any of this. Without ends in
the header (LOCAL, UNKNOWN: the proxy's own checks) they are the connection's.

The header has the time of a request's head, and core/proxy_protocol.py bounds its size. A peer that connects and says
nothing is a check, and nobody's fault.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast

from core.choices import ProxyProtocol
from core.proxy_protocol import LOCAL, Header, Malformed, begins, read
from proxy.gate import LOG_EVERY_S
from proxy.headers import is_trusted
from proxy.hub import Hub, Site

log = logging.getLogger(__name__)

# What an Introduced passes on as it is: bound to each, since a call between would be dear with every write.
_AS_IS: Final = (
    "abort", "can_write_eof", "close", "get_write_buffer_size", "is_closing", "is_reading",
    "set_write_buffer_limits", "write", "write_eof", "writelines",
)  # fmt: skip


class Introduced(asyncio.Transport):
    """The transport of a connection whose client was told by its proxy. `header` says what."""

    def __init__(self, raw: asyncio.Transport, header: Header) -> None:
        super().__init__()
        self._raw = raw
        self.header = header
        self._held = False  # the protocol does not want to read, and has not begun to
        for name in _AS_IS:
            setattr(self, name, getattr(raw, name))

    def hand_over(self, protocol: asyncio.BaseProtocol, rest: bytes) -> None:
        """Gives the connection to its next protocol, with what has come behind the header.

        The loop looks at what kind of protocol it has when it begins to read: so it stops for that long.
        """
        raw = self._raw
        raw.pause_reading()
        self.set_protocol(protocol)
        protocol.connection_made(self)
        while rest and not raw.is_closing():
            inner = self._inner
            if isinstance(inner, asyncio.BufferedProtocol):
                buffer = memoryview(inner.get_buffer(len(rest))).cast("B")
                size = min(len(buffer), len(rest))
                buffer[:size] = rest[:size]
                inner.buffer_updated(size)
                rest = rest[size:]
            else:
                cast(asyncio.Protocol, inner).data_received(rest)
                break
        for name in ("pause_reading", "resume_reading"):
            setattr(self, name, getattr(raw, name))
        if not self._held and not raw.is_closing():
            raw.resume_reading()

    def pause_reading(self) -> None:
        self._held = True

    def resume_reading(self) -> None:
        self._held = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol
        self._raw.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername`, `sockname` as they were told; `proxy_header`; `tls_version`, `sni` of the client's own TLS, where
        we speak none ourselves; and whatever the socket's transport knows."""
        header = self.header
        if name == "proxy_header":
            return header
        if name == "peername" and header.source is not None:
            return header.source
        if name == "sockname" and header.destination is not None:
            return header.destination
        if name == "tls_version" and header.tls is not None:
            return header.tls.version
        if name == "sni" and header.authority:
            return header.authority
        return self._raw.get_extra_info(name, default)


class Introduction(asyncio.Protocol):
    """The first protocol of an accepted connection to `site`; `inner` is the next one."""

    def __init__(self, hub: Hub, site: Site, inner: asyncio.BaseProtocol) -> None:
        self._hub = hub
        self._site = site
        self._inner = inner
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        site = self._site
        peer = transport.get_extra_info("peername")
        if not peer or not is_trusted(str(peer[0]).partition("%")[0], site.introducers):
            if site.introduction is ProxyProtocol.REQUIRED:
                self._refuse("it is not in proxy_protocol_from")
            else:
                self._raw.set_protocol(self._inner)
                self._inner.connection_made(self._raw)
            return
        site.newcomers.add(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            return
        self._data += data
        try:
            found = self._look()
        except Malformed as error:
            self._refuse(str(error))
            return
        if found is not None:
            self._leave()
            header, size = found
            Introduced(self._raw, header).hand_over(self._inner, self._data[size:])

    def _look(self) -> tuple[Header, int] | None:
        """Raises Malformed."""
        if self._site.introduction is ProxyProtocol.OPTIONAL:
            comes = begins(self._data)
            if not comes:
                return (LOCAL, 0) if comes is False else None
        return read(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    # -- time

    def _wait(self) -> None:
        self._timer = self._hub.loop.call_later(self._site.allowance.head_timeout_s, self._expire)

    def _expire(self) -> None:
        throttle = self._raw.get_extra_info("throttle")
        if throttle is not None and throttle.waits:  # it is for the listener's limits that nothing comes
            self._wait()
        elif self._data:
            self._refuse("the header does not come to its end")
        else:
            self.cut()

    def cut(self) -> None:
        """Nothing came, or there is no more time."""
        self._leave()
        self._raw.abort()

    def _leave(self) -> None:
        self._site.newcomers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, why: str) -> None:
        site, now = self._site, self._hub.now()
        self._hub.count("introductions_refused")
        if now >= site.next_introduction_logged:
            site.next_introduction_logged = now + LOG_EVERY_S
            (peer, *_) = self._raw.get_extra_info("peername") or ("a client that has gone",)
            log.warning("%s: a connection of %s is cut, PROXY protocol: %s", site.name, peer, why)
        self.cut()
