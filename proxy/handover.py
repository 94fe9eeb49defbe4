"""A node process takes the place of another one on the same machine: `paifang l7 --replace`.

Both talk over a unix socket in the state directory (SOCK_SEQPACKET, mode 0600), on which only our own user and root
are heard. A packet is one JSON object, or listening sockets (proxy/passing.py):

    new → {"replace": NAME}
    old → {"sockets": N}, then the sockets; or {"error": WHY}
    new → {"serving": true}    once all its workers run a configuration, and accept from the sockets too
    old → {"left": true}       it answers neither /ready nor its administrator any more, and drains
    old → {"drain": STATUS}    every second until it has ended

A new process that goes away before it serves has changed nothing. From there on nothing is ever refused, reset or
waited for: the queues of the sockets belong to both until the old process closes its side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from control.node.admin import check_path
from control.node.tasks import Tasks
from proxy import passing
from proxy.errors import ApplyError
from proxy.passing import Seat

log = logging.getLogger(__name__)

SOCKET: Final = "handover.sock"  # in the state directory
# Numbers of sockets that are no seat, but the node's own.
READY: Final = -1
METRICS: Final = -2
ANSWER_S: Final = 10.0
PACKET_BYTES: Final = 1 << 17
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid

Message = Mapping[str, Any]


class Way:
    """One side of the conversation. `receive` gives None when the other side is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    async def receive(self) -> Message | None:
        """The next object."""
        while True:
            try:
                data = self.sock.recv(PACKET_BYTES)
            except BlockingIOError:
                await self._readable()
            except ConnectionError:
                return None
            else:
                if not data:
                    return None
                message = json.loads(data)
                if not isinstance(message, dict):
                    raise ValueError(f"{message!r} is no object")
                return message

    async def receive_sockets(self, count: int) -> dict[Seat, socket.socket]:
        """So many sockets. Raises ApplyError when they do not come."""
        received: dict[Seat, socket.socket] = {}
        try:
            while len(received) < count:
                more = passing.receive(self.sock)
                if more is None:
                    raise ApplyError("the node before has gone away")
                received |= more
                if len(received) < count:
                    await self._readable()
        except BaseException:
            for sock in received.values():
                sock.close()
            raise
        return received

    def send(self, message: Message) -> None:
        """A side that is gone, or does not listen, hears nothing."""
        with contextlib.suppress(OSError):
            self.sock.send(json.dumps(message).encode())

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self.sock)


class Offer:
    """The old side: lets one process at a time take over. `replaced` is set when one has, and `way` leads to it."""

    def __init__(self, path: Path, name: str, sockets: Callable[[], Mapping[Seat, socket.socket]]) -> None:
        """Listens at `path`, also where another process does: that one has been replaced. `sockets`: what we have."""
        check_path(path)
        self.replaced = asyncio.Event()
        self.way: Way | None = None
        self._name = name
        self._sockets = sockets
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        path.unlink(missing_ok=True)
        self._listening.bind(str(path))
        path.chmod(0o600)  # before listen(): nobody can have connected yet
        self._listening.listen()

    async def run(self) -> None:
        """Until somebody has taken over, or cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            way = Way(sock)
            try:
                async with asyncio.timeout(ANSWER_S):
                    accepted = await self._offer(way)
                if accepted and await self._serves(way):
                    self.way = way
                    self.replaced.set()
                    return
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("a process that asked to replace this node is not heard: %r", error)
            finally:
                if self.way is not way:
                    sock.close()

    async def _offer(self, way: Way) -> bool:
        asked = await way.receive()
        if asked is None:
            return False
        uid = _CREDENTIALS.unpack(way.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):
            way.send({"error": "only the node's own user and root may replace it"})
            return False
        if asked.get("replace") != self._name:
            way.send({"error": f"the node that runs here is {self._name}"})
            return False
        sockets = dict(self._sockets())
        way.send({"sockets": len(sockets)})
        await passing.send(way.sock, sockets)
        log.info("another process is about to replace this one")
        return True

    async def _serves(self, way: Way) -> bool:
        """However long it takes the other one to be ready; we serve on."""
        said = await way.receive()
        if said is None:
            log.warning("the process that was about to replace this one is gone; going on")
        return said is not None and "serving" in said

    def close(self) -> None:
        """Stops listening; `way` stays open."""
        self._listening.close()


async def tell(way: Way, status: Callable[[], Any], every_s: float) -> None:
    """Tells the new side how our drain goes, until cancelled."""
    while True:
        way.send({"drain": await status()})
        await asyncio.sleep(every_s)


class Succession:
    """The new side. `sockets` are those of the node before; `before` is what it says while it drains."""

    def __init__(self, way: Way, sockets: dict[Seat, socket.socket]) -> None:
        self._way = way
        self.sockets = sockets
        self.before: Message | None = None

    @classmethod
    async def begin(cls, path: Path, name: str) -> Succession | None:
        """Asks the node that listens at `path`; None where none does. Raises ApplyError if it does not let us."""
        check_path(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        way = Way(sock)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except OSError as error:
            sock.close()
            raise ApplyError(f"{path}: {error.strerror}") from None
        way.send({"replace": name})
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await way.receive()
                if answer is None or "error" in answer:
                    why = "it has gone away" if answer is None else answer["error"]
                    raise ApplyError(f"{path}: the node before does not let us replace it: {why}")
                return cls(way, await way.receive_sockets(answer["sockets"]))
        except TimeoutError:
            sock.close()
            raise ApplyError(f"{path}: the node before does not answer within {ANSWER_S:.0f} s") from None
        except BaseException:
            sock.close()
            raise

    def take(self, number: int, address: str, port: int) -> socket.socket | None:
        """The node's own socket of this kind and address, if there is one; it is the caller's from here on."""
        return self.sockets.pop((address, port, number), None)

    @property
    def seats(self) -> dict[Seat, socket.socket]:
        """The sockets of listeners. What is left of the others is closed: the new node listens elsewhere."""
        for seat in [seat for seat in self.sockets if seat[2] < 0]:
            self.sockets.pop(seat).close()
        return self.sockets

    async def take_over(self, tasks: Tasks) -> None:
        """We serve: the other side leaves, and is listened to from here on."""
        self._way.send({"serving": True})
        try:
            async with asyncio.timeout(ANSWER_S):
                if await self._way.receive() is None:
                    log.warning("the node before has ended without draining")
        except TimeoutError:
            log.warning("the node before has not said within %.0f s that it drains", ANSWER_S)
        tasks.spawn(self._listen(), "the node before")

    async def _listen(self) -> None:
        while (said := await self._way.receive()) is not None:
            self.before = said.get("drain", self.before)
        self.before = None
        log.info("the node before has ended")
        self._way.sock.close()

    def close(self) -> None:
        """Gives up, or has no more use for it."""
        self._way.sock.close()
