"""What an exchange asks its connection to do."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.balance import Address


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


@dataclass(frozen=True, slots=True)
class SendUpstream:
    data: bytes


@dataclass(frozen=True, slots=True)
class EndUpstream:
    """Nothing more is sent to the server, which may still send."""


@dataclass(frozen=True, slots=True)
class SendClient:
    data: bytes


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


Command = Assign | SendUpstream | EndUpstream | SendClient | ReleaseUpstream | Finish | Abort
