"""Clients that stay with their server, by a cookie.

`insert`: the answer of a server brings a cookie of ours, `SERVER.ISSUED.SEAL`, which we take out of the requests that
carry it. It is good for `cookie_timeout_s`; when half of that is over, an answer renews it. `server`: the server sets
the cookie itself, when it likes; its value gets the prefix `SERVER~` on the way to the client and loses it on the way
back, so that the server finds what it has set.

SERVER is a keyed hash of the server's address and port, SEAL one of what stands before it: clients learn nothing of
the servers, and can make up neither. The key is the same on all L7 nodes and stays (docs/decisions/0029), so that a
cookie is good on every node and after every restart. What is not good counts as no cookie.

A client goes to another server when its own is gone, unhealthy, ejected or full, and stays there. A server of weight 0
keeps its clients.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Final

from core.endpoints import endpoint
from core.model import StickySession, StickyType
from proxy.balance import Address
from proxy.changes import Changes
from proxy.message import Fields

SECRET_BYTES: Final = 32
_MAC_BYTES: Final = 12  # 96 bits: nobody guesses one; 16 characters
_MARK: Final = b"~"
COOKIES: Final = 8  # of our name are looked at; browsers send one for each path
CLOCK_SLACK_S: Final = 300  # another node's clock may be ahead of ours


class Seal:
    """What cookies are made with. `wall_clock`: seconds since 1970."""

    __slots__ = ("_secret", "_wall_clock")

    def __init__(self, secret: bytes, wall_clock: Callable[[], float]) -> None:
        self._secret = secret
        self._wall_clock = wall_clock

    def __repr__(self) -> str:
        return "<Seal>"

    def replace(self, secret: bytes) -> None:
        """Use this one from now on; who has made identities has to make them anew."""
        self._secret = secret

    def identity(self, server: Address) -> bytes:
        """What a server is called in cookies."""
        return self._mac(b"server " + endpoint(*server).encode())

    def issue(self, identity: bytes) -> bytes:
        """A cookie's value for a server, from now on."""
        text = b"%b.%x" % (identity, int(self._wall_clock()))
        return b"%b.%b" % (text, self._mac(b"cookie " + text))

    def age_s(self, value: bytes) -> tuple[bytes, float] | None:
        """The server that a value names and how long ago it was issued; None for what we have not issued."""
        text, _, mac = value.rpartition(b".")
        identity, _, issued = text.partition(b".")
        if not hmac.compare_digest(mac, self._mac(b"cookie " + text)):
            return None
        return identity, self._wall_clock() - int(issued, 16)

    def _mac(self, text: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self._secret, text, "sha256")[:_MAC_BYTES])


class Stay:
    """What stickiness means for one request: the server it wants, and what changes in its head."""

    __slots__ = ("_due", "_sticky", "request", "server")

    def __init__(self, sticky: Sticky, server: Address | None, request: Changes | None, *, due: bool) -> None:
        self._sticky, self.server, self.request, self._due = sticky, server, request, due

    def answer(self, head: Fields, server: Address, *, secure: bool) -> Changes | None:
        """What changes in the head of the answer of `server`."""
        if self._sticky.inserts:
            return self._sticky.cookie(server, secure=secure) if self._due or server != self.server else None
        return self._sticky.rewritten(head, server)


class Sticky:
    """The stickiness of one backend service, changed in place with the configuration."""

    __slots__ = ("_addresses", "_identities", "_name", "_seal", "_timeout_s", "inserts")

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._identities: dict[Address, bytes] = {}
        self._addresses: dict[bytes, Address] = {}
        self._name = b""
        self._timeout_s = 0
        self.inserts = True

    def update(self, settings: StickySession, servers: Iterable[Address]) -> None:
        self._name = settings.cookie.encode("ascii")
        self._timeout_s = settings.cookie_timeout_s
        self.inserts = settings.type is StickyType.INSERT
        self._identities = dict.fromkeys(servers, b"")
        self.reseal()

    def reseal(self) -> None:
        """The seal has another secret."""
        self._identities = {server: self._seal.identity(server) for server in self._identities}
        self._addresses = {identity: server for server, identity in self._identities.items()}

    def stay(self, head: Fields) -> Stay:
        """For a request, by its cookies. Of several of our name, the first that is good counts (RFC 6265 §5.4)."""
        fields = head.values(b"cookie")
        if not any(self._name in field for field in fields):
            return Stay(self, None, None, due=True)
        server, due, kept, touched, left = None, True, [], False, COOKIES
        for pair in (pair.strip() for field in fields for pair in field.split(b";")):
            name, _, value = pair.partition(b"=")
            if name.rstrip() != self._name:
                kept.append(pair)
                continue
            value = value.strip()
            left -= 1
            found, fresh, rest = self._read(value) if left >= 0 else (None, False, value)
            touched = touched or rest != value
            if rest is not None:
                kept.append(b"%b=%b" % (self._name, rest))
            if server is None and found is not None:
                server, due = found, not fresh
        line = b"Cookie: %b\r\n" % b"; ".join(kept) if kept else b""
        return Stay(self, server, Changes(frozenset((b"cookie",)), line) if touched else None, due=due)

    def _read(self, value: bytes) -> tuple[Address | None, bool, bytes | None]:
        """The server that a cookie names, whether it need not be renewed, and what of it goes to the server."""
        if not self.inserts:
            identity, mark, rest = value.partition(_MARK)
            server = self._addresses.get(identity) if mark else None
            # A prefix of a server that is gone is ours all the same: the application must not get to see it.
            ours = server is not None or (mark and len(identity) == _MAC_BYTES * 4 // 3)
            return server, True, rest if ours else value
        found = self._seal.age_s(value)
        if found is None or not -CLOCK_SLACK_S <= found[1] <= self._timeout_s:
            return None, False, None
        return self._addresses.get(found[0]), found[1] <= self._timeout_s / 2, None

    def cookie(self, server: Address, *, secure: bool) -> Changes | None:
        """The line that tells a client of its server; None for one that is not of this service (a fallback's)."""
        identity = self._identities.get(server)
        if identity is None:
            return None
        line = b"Set-Cookie: %b=%b; Path=/; Max-Age=%d; HttpOnly%b\r\n"
        value = self._seal.issue(identity)
        return Changes(frozenset(), line % (self._name, value, self._timeout_s, b"; Secure" if secure else b""))

    def rewritten(self, head: Fields, server: Address) -> Changes | None:
        """The server's cookies, that of our name with its prefix; None where there is none of that name."""
        fields = head.values(b"set-cookie")
        identity = self._identities.get(server)
        if identity is None or not any(self._is_ours(field) for field in fields):
            return None
        lines = [b"Set-Cookie: %b\r\n" % (self._with(identity, f) if self._is_ours(f) else f) for f in fields]
        return Changes(frozenset((b"set-cookie",)), b"".join(lines))

    def _is_ours(self, field: bytes) -> bool:
        name, mark, _ = field.partition(b";")[0].partition(b"=")
        return bool(mark) and name.strip() == self._name

    def _with(self, identity: bytes, field: bytes) -> bytes:
        name, _, value = field.partition(b"=")
        return b"%b=%b%b%b" % (name.strip(), identity, _MARK, value.lstrip())


def merged(rule: Changes | None, sticky: Changes | None) -> Changes | None:
    """Both; what the rule takes out is not put back."""
    if sticky is None or rule is None:
        return rule or sticky
    if rule.removed & sticky.removed:
        return rule
    return Changes(rule.removed | sticky.removed, rule.lines + sticky.lines)
