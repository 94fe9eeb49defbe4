"""What servers are told about where a request comes from.

A listener says which of these fields it adds. What a client itself claims counts only when its address is trusted: then
X-Forwarded-For and Forwarded grow by a hop, and of the others what the first trusted hop said stands. Of everybody else
such fields are replaced, or dropped where the listener does not add them. `SLB-IP` and `SLB-ID` are Alibaba Cloud's
names, which servers that move from there look for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.model import CertificateFields, Listener

FOR: Final = b"X-Forwarded-For"
ORIGIN_FIELDS: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip", b"forwarded")
)
SLB_FIELDS: Final = frozenset((b"slb-ip", b"slb-id"))
_USUAL: Final = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %b\r\nX-Real-IP: %b\r\n"


@dataclass(frozen=True, slots=True)
class Telling:
    """Which fields a listener adds: about the client's address, our scheme, our port, the client's port, our address
    and, if it is not empty, our instance. `underscores`: fields of clients pass whose names have one. `certificate`:
    how it tells of the client's."""

    address: bool = True
    scheme: bool = True
    port: bool = True
    client_port: bool = False
    vip: bool = False
    instance: bytes = b""
    underscores: bool = False
    certificate: CertificateFields = CertificateFields.RFC9440

    @classmethod
    def of(cls, listener: Listener) -> Telling:
        return cls(
            listener.x_forwarded_for, listener.x_forwarded_proto, listener.x_forwarded_port,
            listener.x_forwarded_client_port, listener.x_forwarded_slb_ip,
            listener.instance.encode("ascii") if listener.x_forwarded_slb_id else b"", listener.underscored_fields,
            listener.client_certificate_fields,
        )  # fmt: skip


USUAL: Final = Telling()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a client connection comes from and where it arrived: the peer, our scheme and port, our name in Via.

    `identity` are the lines about its verified certificate, empty if it has none; None where we do not ask for one, so
    that whom we trust may tell of his clients'. `client_port` and `vip` are needed only where `telling` says so.
    `lines` tell a server so, for a client that made no claims or is not trusted to make any.
    """

    client: bytes
    scheme: bytes
    port: bytes
    trusted: bool
    node: bytes
    identity: bytes | None = None
    telling: Telling = USUAL
    client_port: bytes = b""
    vip: bytes = b""
    certificate: bytes = b""  # the client's, in DER, verified by us
    lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        if self.telling == USUAL:
            lines = _USUAL % (self.client, self.scheme, self.port, self.client)
        else:
            lines = b"".join(b"%b: %b\r\n" % each for each in self._said())
        object.__setattr__(self, "lines", lines)

    @property
    def secure(self) -> bool:
        return self.scheme == b"https"

    def tail(self, version: bytes) -> bytes:
        """The end of a head that goes to a server, up to the request id; it came in this version of HTTP."""
        return b"%b%bVia: %b %b\r\nX-Request-Id: " % (self.lines, self.identity or b"", version, self.node)

    def claimed(self) -> frozenset[bytes]:
        """Fields (lower case) of a trusted client that are part of what we say."""
        return ORIGIN_FIELDS | {name.lower() for name, _ in self._said()}

    def with_claims(self, claims: Mapping[bytes, Sequence[bytes]]) -> bytes:
        """The lines for a trusted client that made these claims, by their lower-case names."""
        lines = []
        for name, ours in self._said():
            said = claims.get(name.lower(), ())
            value = b", ".join([*said, ours]) if name == FOR else [*said, ours][0]
            lines.append(b"%b: %b\r\n" % (name, value))
        if b"forwarded" in claims and self.telling.address:  # RFC 7239 §4
            hop = b"for=%b;proto=%b" % (self.client, self.scheme)
            lines.append(b"Forwarded: %b\r\n" % b", ".join([*claims[b"forwarded"], hop]))
        return b"".join(lines)

    def _said(self) -> list[tuple[bytes, bytes]]:
        told = self.telling
        return [
            (name, value)
            for wanted, name, value in (
                (told.address, FOR, self.client),
                (told.scheme, b"X-Forwarded-Proto", self.scheme),
                (told.port, b"X-Forwarded-Port", self.port),
                (told.address, b"X-Real-IP", self.client),
                (told.client_port, b"X-Forwarded-Client-srcport", self.client_port),
                (told.vip, b"SLB-IP", self.vip),
                (told.instance, b"SLB-ID", told.instance),
            )
            if wanted
        ]
