"""The two small machines of an exchange, as tables: the request's way up and the answer's way down.

    state        → …
    up    ASSIGNING    SENDING, SENT (no body is left to be sent), ENDED
          SENDING      ASSIGNING (to be sent a second time), SENT, ENDED
          SENT         ASSIGNING, TUNNEL, ENDED
          TUNNEL       ENDED
    down  WAITING      BODY, TUNNEL, ENDED
          BODY         ENDED
          TUNNEL       ENDED

What is not in the tables is an error of ours, never a peer's.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final


class Up(IntEnum):
    """The request on its way to the server."""

    ASSIGNING = auto()
    SENDING = auto()
    SENT = auto()
    TUNNEL = auto()
    ENDED = auto()


class Down(IntEnum):
    """The answer on its way to the client."""

    WAITING = auto()
    BODY = auto()
    TUNNEL = auto()
    ENDED = auto()


UP_MOVES: Final = {
    Up.ASSIGNING: {Up.SENDING, Up.SENT, Up.ENDED},
    Up.SENDING: {Up.ASSIGNING, Up.SENT, Up.ENDED},
    Up.SENT: {Up.ASSIGNING, Up.TUNNEL, Up.ENDED},
    Up.TUNNEL: {Up.ENDED},
    Up.ENDED: set[Up](),
}
DOWN_MOVES: Final = {
    Down.WAITING: {Down.BODY, Down.TUNNEL, Down.ENDED},
    Down.BODY: {Down.ENDED},
    Down.TUNNEL: {Down.ENDED},
    Down.ENDED: set[Down](),
}


class Waits(IntEnum):
    """What an exchange is waiting for, which decides its deadline."""

    CONNECT = auto()
    CLIENT = auto()
    UPSTREAM = auto()
    TUNNEL = auto()
