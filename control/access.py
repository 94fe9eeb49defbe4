"""Who may come in by the users' API, and how often: tokens, limits and the audit log of one control plane.

Limits are of one control node. Those of an address stand before the token is looked at; a wrong token takes from a
second, far smaller bucket of its address. A right token is let in however many wrong ones come from beside it: nobody
guesses 256 bits, and nobody is to lock out others behind the same NAT or reverse proxy.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from control.audit import Audit
from control.limits import Buckets, Places
from control.node.addresses import is_loopback
from control.node.tasks import Tasks
from control.store import Store
from control.token_record import Token
from control.tokens import Tokens

_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?")
KEYS_HELD = 10_000  # addresses and tokens in each table; a hundred bytes each
BURST_S = 4.0  # seconds' worth of requests that may come at once


@dataclass(frozen=True)
class Limits:
    """What is granted. Requests that wait (for a change, for a stream) have a place as long as they do."""

    requests_per_s: float = 50.0  # of a token
    address_per_s: float = 200.0  # of an address, whatever its tokens
    failures_per_s: float = 1 / 6  # of an address, with wrong tokens
    failures_at_once: int = 10
    places: int = 256  # requests at a time
    places_each: int = 64  # for a token
    bodies: int = 16  # bodies held at a time: 256 MiB at most
    body_s: float = 30.0  # until a body has to be in


@dataclass(slots=True)
class Access:
    """One per application. `hosts`: the names that may stand in `Host`, besides loopback's; None: any."""

    tokens: Tokens
    audit: Audit
    limits: Limits = field(default_factory=Limits)
    hosts: frozenset[str] | None = None
    clock: Callable[[], float] = time.monotonic
    of_tokens: Buckets = field(init=False)
    of_addresses: Buckets = field(init=False)
    of_failures: Buckets = field(init=False)
    places: Places = field(init=False)
    bodies: asyncio.Semaphore = field(init=False)
    tasks: Tasks = field(init=False, default_factory=Tasks)

    def __post_init__(self) -> None:
        limits = self.limits
        self.of_tokens = Buckets(limits.requests_per_s, limits.requests_per_s * BURST_S, KEYS_HELD)
        self.of_addresses = Buckets(limits.address_per_s, limits.address_per_s * BURST_S, KEYS_HELD)
        self.of_failures = Buckets(limits.failures_per_s, limits.failures_at_once, KEYS_HELD)
        self.places = Places(limits.places, limits.places_each)
        self.bodies = asyncio.Semaphore(limits.bodies)

    @classmethod
    def of(cls, store: Store, limits: Limits | None = None, hosts: frozenset[str] | None = None) -> Access:
        """With the tokens and the audit log of a store."""
        return cls(Tokens(store), Audit(store), limits or Limits(), hosts)

    def used(self, token: Token, address: str) -> None:
        """Have it written down beside the request, now and then."""
        if self.tokens.is_use_news(token):
            self.tasks.spawn(self.tokens.note_use(token, address), "use of a token")

    def host_is_ours(self, host: str) -> bool:
        """Whether a request's `Host` names this machine, and not a name that somebody has bound to its address.

        A page that a browser has loaded from such a name could otherwise speak to us as its own (DNS rebinding).
        """
        if self.hosts is None:
            return True
        match = _HOST.fullmatch(host)
        name = (match[1] or match[2]).lower().removesuffix(".") if match else ""
        return is_loopback(name) or name in self.hosts


ACCESS = web.AppKey("access", Access)
