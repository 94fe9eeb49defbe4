"""What clients may take of a worker: time, connections, memory. Pure.

One that is slow on purpose costs next to nothing himself, so nothing that a client can hold is without a bound:

* A head has `head_timeout_s` from its first byte to its last. A body may pause for `body_timeout_s`, and each byte of
  it buys 1/`min_body_rate_bytes_s` seconds, of which no more than `body_timeout_s` are kept: so a body goes on as long
  as it comes at that rate on the whole, whatever its size, and single bytes keep nothing alive. Of an answer a buffer
  (16 KiB) has to be taken in `send_timeout_s`.
* A client (an IPv4 address, or the /64 of an IPv6 one) has `per_client` connections at a time, if the listener says so.
* A worker has so many connections that descriptors are left for its own to servers. When three quarters of the places
  are taken, those give way that wait for a next request, or for the end of a head, and would have to go first anyway.
* Bytes that wait for their turn (heads in progress, requests sent ahead, bodies whose server is not found yet) have
  HELD_BYTES together. When they are used up, whoever holds more than FAIR_BYTES has to give them back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from core.model import Listener
from proxy.tls_admission import Clients, Terms, client_of

HELD_BYTES: Final = 64 << 20
FAIR_BYTES: Final = 8192  # heads of browsers are below that
SPARE_DESCRIPTORS: Final = 256  # listening sockets, logs, the key server


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a listener grants each client. `exempt`: who may have any number of connections."""

    head_timeout_s: float = 15.0
    body_timeout_s: float = 15.0
    min_body_rate_bytes_s: int = 500
    send_timeout_s: float = 60.0
    per_client: int = 0
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, listener: Listener, exempt: Iterable[IPv4Network | IPv6Network]) -> Allowance:
        return cls(
            listener.head_timeout_s, listener.body_timeout_s, listener.min_body_rate_bytes_s, listener.send_timeout_s,
            listener.max_connections_per_client, tuple(exempt),
        )  # fmt: skip

    def body_until(self, until: float, received_bytes: int, now: float) -> float:
        """When a body has to have gone on that could wait until `until` and of which so many bytes came now."""
        whole = now + self.body_timeout_s
        if not self.min_body_rate_bytes_s:
            return whole
        return min(until + received_bytes / self.min_body_rate_bytes_s, whole)


class Crowd:
    """The clients of one worker: how many connections they have, and how many bytes are held for them."""

    def __init__(self, descriptors: int) -> None:
        self.most = max((descriptors - SPARE_DESCRIPTORS) // 2, 1)
        self.connections = 0
        self.held_bytes = 0
        self._clients = Clients()

    def enter(self, address: str, allowance: Allowance) -> str | None:
        """A connection of this client comes. What `leave` is to be told; None if the client has too many."""
        client = ""
        if allowance.per_client:
            client = client_of(address, Terms(per_client=allowance.per_client, exempt=allowance.exempt))
        if client and not self._clients.take(client, allowance.per_client, 0.0):
            return None
        self.connections += 1
        return client

    def take(self) -> bool:
        """A request comes that shares its connection: it has a place of its own, since its server's connection needs
        one. False: there is none left; else `leave("")` has to follow."""
        if self.connections >= self.most:
            return False
        self.connections += 1
        return True

    def leave(self, client: str) -> None:
        self.connections -= 1
        if client:
            self._clients.give_back(client)

    @property
    def full(self) -> bool:
        """Whether there is one connection too many."""
        return self.connections > self.most

    @property
    def surplus(self) -> int:
        """How many connections should give way; below 1: none."""
        return self.connections - self.most * 3 // 4

    def hold(self, before: int, now: int) -> bool:
        """Somebody held `before` bytes and holds `now`; whether he has to give them back."""
        self.held_bytes += now - before
        return self.held_bytes > HELD_BYTES and now > FAIR_BYTES
