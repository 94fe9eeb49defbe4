"""What an exchange asks its connection to do.

`SendClient` and `SendUpstream` carry bytes: of HTTP/1 as they stand on the wire, head, chunks and all; in any other
dialect, and in tunnels, those of the payload alone. Heads and ends are then commands of their own, `TellClient`,
`EndClient`, `TellUpstream` and `EndUpstream`, which HTTP/1 has no use for (proxy/dialects.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.actions import Forward
from proxy.admission import Verdict
from proxy.balance import Address
from proxy.message import Outgoing


@dataclass(frozen=True, slots=True)
class Assign:
    """Find an upstream; answer with `assigned`, `connect_failed` or `no_server`. See `Pool.assign`.

    With `tried` or `fresh` it is a second attempt, for which `denied` is an answer too. `prefer`: whom the client stays
    with.
    """

    service: str
    repeatable: bool
    tried: frozenset[Address] = frozenset()
    fresh: bool = False
    prefer: Address | None = None
    sheddable: bool = False  # refused first where more comes than the servers do


@dataclass(frozen=True, slots=True)
class Copy:
    """Forward a copy of the request besides, with this body, and do not wait for it."""

    forward: Forward
    identifier: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Call `Exchange.go_on_admitting` after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Do this, which takes its time; what comes of it goes to `Exchange.decided`."""

    work: Callable[[], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class SendUpstream:
    data: bytes


@dataclass(frozen=True, slots=True)
class TellUpstream:
    """The request's head. `ended`: it has no body."""

    request: Outgoing
    ended: bool


@dataclass(frozen=True, slots=True)
class EndUpstream:
    """Nothing more is sent to the server, which may still send. `trailers` are whole lines; HTTP/1 has none here."""

    trailers: bytes = b""


@dataclass(frozen=True, slots=True)
class SendClient:
    data: bytes


@dataclass(frozen=True, slots=True)
class TellClient:
    """The head of an answer, an interim one if its status says so. `lines` are whole field lines.

    `ended`: there is no body. `tunnel`: from now on both sides send what they like.
    """

    status: int
    lines: bytes
    ended: bool = False
    tunnel: bool = False


@dataclass(frozen=True, slots=True)
class EndClient:
    """The answer is whole. `trailers` are whole lines."""

    trailers: bytes = b""


@dataclass(frozen=True, slots=True)
class FlushSoon:
    """An encoder holds back a part of the answer: in a moment, ask for it by `Exchange.flush`."""


@dataclass(frozen=True, slots=True)
class ReleaseUpstream:
    """The upstream connection is no longer ours; `reuse`: it may carry another request."""

    reuse: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """The exchange is over. Not `keep_alive`: close; `linger`: but first read and drop what the client still sends."""

    keep_alive: bool
    linger: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """The exchange is over and its answer incomplete: cut the client connection."""


Command = (
    Ask | Assign | Copy | Pause | TellUpstream | SendUpstream | EndUpstream | TellClient | SendClient | EndClient
    | FlushSoon | ReleaseUpstream | Finish | Abort
)  # fmt: skip
