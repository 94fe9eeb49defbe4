"""Sessions as people see them, and which of them are asked for."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from core.endpoints import endpoint
from l4fast.addresses import text_of

# enum state of types.h
STATES = ("established", "unproven", "fin-wait", "closed", "udp", "answer")
ANSWER = STATES.index("answer")  # fullnat: no session, but the other direction of one
PHASES = STATES[:ANSWER]  # what a session may be


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session; addresses are "address:port"."""

    client: str
    vip: str
    real: str
    protocol: str
    state: str
    packets: int
    bytes: int
    idle_s: int
    synced: bool
    source: str = ""  # fullnat: whom the real sees


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions: all that agree with what is not empty. An end is an address or network, with a port or without:
    "192.0.2.7", "192.0.2.0/24:80", "2001:db8::/32", "[2001:db8::1]:80"."""

    client: str = ""
    vip: str = ""
    real: str = ""
    state: str = ""

    @classmethod
    def of(cls, arguments: Mapping[str, object]) -> Wanted:
        """From a request, whose other arguments are not looked at. Raises ValueError with the remedy."""
        given = {field.name: arguments.get(field.name) or "" for field in fields(cls)}
        for name, value in given.items():
            if not isinstance(value, str):
                raise ValueError(f"{name} is a text")
            if name != "state" and value:
                end(value)
        if given["state"] not in ("", *PHASES):
            raise ValueError(f"{given['state']!r} is no state; give {', '.join(PHASES)}")
        return cls(**given)  # type: ignore[arg-type]  # all are texts by now

    def matcher(self) -> Matcher:
        client, vip, real = (end(text) if text else ANY for text in (self.client, self.vip, self.real))
        return Matcher(client, vip, real, STATES.index(self.state) if self.state else None)


@dataclass(frozen=True, slots=True)
class End:
    """An address or network, and a port, in wire order, as a session holds them; None: any.

    `spare` is how many bits of an address do not count.
    """

    address: bytes | None = None
    spare: int = 0
    port: int | None = None

    def matches(self, address: Any, port: int) -> bool:
        return (self.address is None or self._covers(bytes(address))) and self.port in (None, port)

    def _covers(self, address: bytes) -> bool:
        assert self.address is not None
        if not self.spare:
            return address == self.address
        # The lengths first: an IPv4 network and an IPv6 address may agree as numbers.
        return (
            len(address) == len(self.address)
            and (int.from_bytes(address) ^ int.from_bytes(self.address)) >> self.spare == 0
        )


ANY = End()


@dataclass(frozen=True, slots=True)
class Matcher:
    """A `Wanted` in the program's own terms."""

    client: End
    vip: End
    real: End
    state: int | None

    @property
    def names_one_flow(self) -> bool:
        """Whether both ends are given whole, so that the flow need not be searched for (one of each protocol)."""
        return all(
            end.address is not None and not end.spare and end.port is not None for end in (self.client, self.vip)
        )

    def matches(self, key: Any, value: Any) -> bool:
        return (
            value.state != ANSWER
            and (self.client is ANY or self.client.matches(key.client, key.client_port))
            and (self.vip is ANY or self.vip.matches(key.vip, key.vip_port))
            and (self.real is ANY or self.real.matches(value.real, value.real_port))
            and self.state in (None, value.state)
        )


def end(text: str) -> End:
    """`ADDRESS` or `NETWORK/LENGTH`, and a port behind a colon; before that one of IPv6 stands in brackets. Raises
    ValueError with the remedy."""
    match = re.fullmatch(r"\[([^]]*)\](:)(.*)|([^:]*)(:)([^:]*)|(.*)", text, re.S)
    assert match is not None, "the last way takes any text"
    bracketed, six_colon, six_port, four, four_colon, four_port, whole = match.groups()
    address = next(part for part in (bracketed, four, whole) if part is not None)
    colon, port = six_colon or four_colon, six_port or four_port or ""
    try:
        interface = ipaddress.ip_interface(address)
        if "%" in address or (bracketed is not None and interface.version == 4):
            raise ValueError(address)
    except ValueError:
        raise ValueError(f"{text!r}: give an address or network, ADDRESS:PORT or [ADDRESS]:PORT") from None
    network = interface.network
    if interface.ip != network.network_address:
        raise ValueError(f"{text!r} has bits beyond its prefix; give {network}")
    if colon and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: give a port from 1 to 65535 after the colon")
    spare = network.max_prefixlen - network.prefixlen
    return End(interface.ip.packed, spare, socket.htons(int(port)) if colon else None)


def view(key: Any, value: Any, now_s: int, *, fullnat: bool) -> SessionView:
    """What the maps hold, for people."""

    def shown(address: Any, port: int) -> str:
        return endpoint(text_of(bytes(address)), socket.ntohs(port))

    return SessionView(
        client=shown(key.client, key.client_port),
        vip=shown(key.vip, key.vip_port),
        real=shown(value.real, value.real_port),
        protocol="tcp" if key.protocol == socket.IPPROTO_TCP else "udp",
        state=STATES[value.state],
        packets=value.packets,
        bytes=value.bytes,
        idle_s=max(0, now_s - value.last_s),
        synced=bool(value.learnt),
        source=shown(value.source, value.source_port) if fullnat else "",
    )
