"""What the other side says on a connection of HTTP/2, as h2_session.py hears a client, and h2_calls.py a server."""

from __future__ import annotations

from typing import NamedTuple

from proxy.h2_frames import Error
from proxy.hpack import Pair


class Asked(NamedTuple):
    """A stream's head. `fields` is None where they are too many."""

    stream: int
    fields: list[Pair] | None
    ended: bool


class Headed(NamedTuple):
    """A block of fields of an answer: an interim head, the head, or trailers. `fields` as in `Asked`."""

    stream: int
    fields: list[Pair] | None
    ended: bool


class Came(NamedTuple):
    """Some of a body. `size` is what it counts in the windows, until `credit` gives it back."""

    stream: int
    payload: bytes
    size: int
    ended: bool


class Trailed(NamedTuple):
    """A body's trailers, and so its end. `fields` as in `Asked`."""

    stream: int
    fields: list[Pair] | None


class WasReset(NamedTuple):
    """The stream is gone: by the client, or because of what it has sent for it (`why`; then we have told it)."""

    stream: int
    code: int
    why: str = ""


class Opened(NamedTuple):
    """More may be sent on a stream; 0: on any."""

    stream: int


class Leaving(NamedTuple):
    """The client begins no more streams."""

    code: int


class Left(NamedTuple):
    """The server takes no more streams, and has done nothing about these, which are gone."""

    code: int
    unserved: list[int]


class Acknowledged(NamedTuple):
    """A ping of ours has come back."""

    payload: bytes


class Broken(NamedTuple):
    """The connection is over: nothing is read any more, and what is to be sent ends with a GOAWAY."""

    code: Error
    why: str


Event = Asked | Headed | Came | Trailed | WasReset | Opened | Leaving | Left | Acknowledged | Broken
