"""Sessions as people see them, and which of them are asked for."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from l4fast.addresses import endpoint, text_of

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
    """Which sessions: all that agree with what is not empty. An end is "address" or "address:port"."""

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
        client, vip, real = (end(text) if text else (None, None) for text in (self.client, self.vip, self.real))
        return Matcher(client, vip, real, STATES.index(self.state) if self.state else None)


End = tuple[bytes | None, int | None]  # address and port in wire order, as in a session; None: any


@dataclass(frozen=True, slots=True)
class Matcher:
    """A `Wanted` in the program's own terms."""

    client: End
    vip: End
    real: End
    state: int | None

    def matches(self, key: Any, value: Any) -> bool:
        return (
            value.state != ANSWER
            and self.client[0] in (None, bytes(key.client))
            and self.client[1] in (None, key.client_port)
            and self.vip[0] in (None, bytes(key.vip))
            and self.vip[1] in (None, key.vip_port)
            and self.real[0] in (None, bytes(value.real))
            and self.real[1] in (None, value.real_port)
            and self.state in (None, value.state)
        )


def end(text: str) -> End:
    """`ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. Raises ValueError with the remedy."""
    match = re.fullmatch(r"\[([^]]*)\](:)(.*)|([^:]*)(:)([^:]*)|(.*)", text, re.S)
    assert match is not None, "the last way takes any text"
    bracketed, six_colon, six_port, four, four_colon, four_port, whole = match.groups()
    address = next(part for part in (bracketed, four, whole) if part is not None)
    colon, port = six_colon or four_colon, six_port or four_port or ""
    try:
        packed = ipaddress.ip_address(address).packed
    except ValueError:
        raise ValueError(f"{text!r}: give an address, ADDRESS:PORT or [ADDRESS]:PORT") from None
    if colon and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: give a port from 1 to 65535 after the colon")
    return packed, socket.htons(int(port)) if colon else None


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
