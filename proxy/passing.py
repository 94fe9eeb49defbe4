"""Listening sockets on their way from one process to another, by SCM_RIGHTS (unix(7)).

They travel on a pair of their own (SOCK_SEQPACKET), BATCH of them in a packet whose data says which is which. What the
other side gets is the same socket, not a copy: one queue, from which any process that has it may accept, and which is
gone only when the last of them has closed it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Mapping
from typing import Final

Seat = tuple[str, int, int]  # address, port, number: see proxy/seats.py

BATCH: Final = 100  # the kernel takes 253 (SCM_MAX_FD)
PACKET_BYTES: Final = 32_768
AGAIN_S: Final = 0.01


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, neither of which blocks."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


async def send(way: socket.socket, sockets: Mapping[Seat, socket.socket]) -> None:
    """Gives the other side these. Waits while it does not take them; raises OSError where it is gone."""
    seats = list(sockets)
    for start in range(0, len(seats), BATCH):
        batch = seats[start : start + BATCH]
        data = json.dumps(batch).encode()
        while True:
            try:
                socket.send_fds(way, [data], [sockets[seat].fileno() for seat in batch])
                break
            except OSError as error:
                # Full; or as many descriptors of ours are under way as we may have open.
                if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                    raise
                await asyncio.sleep(AGAIN_S)


def receive(way: socket.socket) -> dict[Seat, socket.socket] | None:
    """What has come, without waiting; None when the other side is gone. Raises OSError when descriptors were lost."""
    received: dict[Seat, socket.socket] = {}
    while True:
        try:
            data, descriptors, flags, _ = socket.recv_fds(way, PACKET_BYTES, BATCH)
        except BlockingIOError:
            return received
        except ConnectionError:
            data, descriptors, flags = b"", [], 0
        if not data:
            return received or None
        sockets = [socket.socket(fileno=each) for each in descriptors]
        for sock in sockets:
            sock.set_inheritable(False)  # recv_fds() has no way to ask for it
        seats = [(address, port, number) for address, port, number in json.loads(data)]
        if flags & socket.MSG_CTRUNC or len(seats) != len(sockets):
            for sock in (*sockets, *received.values()):
                sock.close()
            raise OSError(errno.EMFILE, "some of the listening sockets did not arrive: too many open files")
        received |= zip(seats, sockets, strict=True)
