"""What the connections of one worker share: backend services, listeners, counters, clock, request ids."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from time import time
from typing import Final, Protocol, TypedDict
from uuid import uuid4

from control.node.tasks import Tasks
from core.choices import ProxyProtocol
from core.resolve import Guard
from proxy.access_log import Record, Visit
from proxy.admission import Means
from proxy.commands import Copy
from proxy.crowd import Allowance, Crowd
from proxy.journal import Journal
from proxy.lane import Answers
from proxy.log_shape import LogField
from proxy.message import RequestHead
from proxy.origin import USUAL, Origin, Telling
from proxy.rules import Router
from proxy.service import Service
from proxy.sticky import SECRET_BYTES, Seal, Sticky
from proxy.throttle import Throttling
from proxy.tls_profile import DEFAULT, Profile
from proxy.tracing import Tracer

READ_BYTES: Final = 131_072
DEFAULT_ALLOWANCE: Final = Allowance()


class Activity(StrEnum):
    """What a client's connection is at."""

    IDLE = "idle"  # between requests
    HEAD = "head"  # the first bytes of a request are here
    REQUEST = "request"
    TUNNEL = "tunnel"  # a WebSocket
    STREAMS = "streams"  # of HTTP/2, each of which is told apart
    CLOSING = "closing"


class View(TypedDict):
    """A client's connection for people; what does not apply is empty or 0."""

    listener: str
    client: str
    activity: Activity
    age_s: float
    tls: str
    busy_s: float
    method: str
    host: str
    path: str
    request_id: str
    server: str
    client_port: int
    port: int  # the listener's
    worker: int  # its process
    requests: int  # so far
    rule: str
    service: str
    stage: str  # how far the exchange is
    bytes_in: int  # of the exchange so far
    bytes_out: int


class Newcomer(Protocol):
    """A connection that has not said yet whose it is."""

    def cut(self) -> None: ...


class Request(Protocol):
    """What a worker looks after: a stream of HTTP/2, or a client's connection."""

    deadline: float
    since: float

    @property
    def activity(self) -> Activity: ...

    def view(self) -> View: ...

    def expire(self) -> None: ...

    def leave_dead_server(self) -> None: ...

    def tell_progress(self) -> None: ...


class Connection(Request, Protocol):
    """A client's connection, as its worker sees it."""

    def admit(self) -> None: ...

    def give_way(self) -> None: ...

    def drain(self) -> None: ...

    def retire(self) -> None: ...

    def cut(self) -> None: ...


@dataclass(slots=True)
class Site:
    """A listener as its connections see it; changed in place when the configuration changes."""

    name: str
    scheme: str
    port: int
    router: Router
    idle_timeout_s: float
    request_timeout_s: float
    tunnel_timeout_s: float
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    access: Guard | None = None
    hsts: bytes = b""  # a line for every answer, or empty
    profile: Profile = DEFAULT
    acme_service: str = ""  # the backend service of an https listener to which an ACME CA's handshakes are led
    allowance: Allowance = DEFAULT_ALLOWANCE
    telling: Telling = USUAL
    throttling: Throttling | None = None  # its limits, if it has any
    introduction: ProxyProtocol = ProxyProtocol.OFF
    introducers: tuple[IPv4Network | IPv6Network, ...] = ()  # who may tell whose connections they bring
    prior_knowledge: bool = False  # what begins as a connection of HTTP/2 is one, without TLS
    next_crowding_logged: float = 0.0
    next_denial_logged: float = 0.0
    next_underscore_logged: float = 0.0
    next_introduction_logged: float = 0.0
    next_http2_logged: float = 0.0
    closing: bool = False  # drained or removed: no connection is kept alive
    connections: set[Connection] = field(default_factory=set)
    streams: set[Request] = field(default_factory=set)  # of those that are HTTP/2
    newcomers: set[Newcomer] = field(default_factory=set)
    most_connections: int = 0  # at once, since somebody asked


class Hub:
    """What the connections of a worker share. `now()` is the loop's clock in seconds."""

    def __init__(
        self,
        node: str,
        tasks: Tasks,
        write_record: Callable[[Record], None],
        write_visits: Callable[[Sequence[Visit]], None] | None = None,
    ) -> None:
        self.node = node.encode("ascii")
        self.tasks = tasks
        self.lines_lost: Callable[[], int] = int  # of the access log
        self.reopen_log: Callable[[], None] = lambda: None
        self.log_fields: tuple[LogField, ...] = ()  # what lines of the access log need
        self.tracer: Tracer | None = None
        self.journal = Journal(write_record, write_visits)
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.means = Means(self.now, self.count)
        self.services: dict[str, Service] = {}
        self.on_ejected: Callable[[str, tuple[str, int], float], None] = lambda *_: None
        self.seal = Seal(os.urandom(SECRET_BYTES), time)  # until the control plane's secret comes
        self.stickies: dict[str, Sticky] = {}  # of the services whose clients stay with their servers
        self.buffer = bytearray(READ_BYTES)
        self.mirror: Callable[[RequestHead, Origin, Copy], None] = lambda *_: None
        self.crowd = Crowd(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._answers: dict[tuple[bytes, bool], Answers] = {}
        self._second = 0
        self._date = b""
        self._id_prefix = uuid4().hex[:20].encode()
        self._id_number = 0

    @property
    def counters(self) -> Counter[str]:
        """By name."""
        return self.journal.counters

    def count(self, name: str, more: int = 1) -> None:
        """Adds to a counter."""
        self.journal.count(name, more)

    def answers(self, hsts: bytes, keeps: bool = True) -> Answers:
        """The reader of answers for listeners with this line in their heads; there are few such lines."""
        key = hsts, keeps
        if key not in self._answers:
            self._answers[key] = Answers(self.node, hsts, self.date, keeps=keeps)
        return self._answers[key]

    def reseal(self, secret: bytes) -> None:
        """The secret of all L7 nodes."""
        self.seal.replace(secret)
        for sticky in self.stickies.values():
            sticky.reseal()

    def date(self) -> bytes:
        """The Date field's value now (RFC 9110 §5.6.7)."""
        second = int(time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return self._date

    def new_request_id(self) -> bytes:
        """Unique over workers and restarts: a random prefix for the process and a number."""
        self._id_number += 1
        return b"%b%012x" % (self._id_prefix, self._id_number)
