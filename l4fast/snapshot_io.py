"""Giving and taking snapshots of the session table, over mutual TLS between L4 nodes of the cluster's CA.

Every node listens, on a port that its hellos tell. It gives at most `GIVEN_AT_ONCE` snapshots at a time; others wait
for `TURN_S` and are refused then, and ask somebody else. More than `CONNECTIONS_MOST` are closed unheard: before the
handshake nobody knows who they are. The table is read in blocks (one system call for 4,096 sessions) between which the
loop goes on; what the peer does not take holds the reading up, and after `STALLED_S` ends it.

A node takes one at a time, from whom `CatchingUp` names. Records that come by multicast meanwhile are merged by the
same rule as those of the snapshot: the later packet holds, whichever came first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn, Protocol

from control.node.identity import Identity, IdentityError, peer_of
from control.node.tasks import Tasks
from l4fast.merging import Merged
from l4fast.snapshot import (
    Ask,
    Block,
    Frame,
    Frames,
    SnapshotError,
    Taking,
    checksum,
    pack_ask,
    pack_begin,
    pack_block,
    pack_end,
    pack_ended,
    pack_refused,
    refusal,
)
from l4fast.sync_ends import Ended
from l4fast.sync_peer import Sync
from l4fast.sync_peers import Source

log = logging.getLogger(__name__)

ROLE: Final = "l4"
BLOCK: Final = 4096  # sessions read in one go, 1 ms
GIVEN_AT_ONCE: Final = 2
TURN_S: Final = 3.0  # less than an asker's patience, STALLED_S
CONNECTIONS_MOST: Final = 16
UNSENT_BYTES: Final = 1 << 20  # what a peer may be behind before the reading waits
ASK_MOST: Final = 1 << 11  # bytes of a request
READ_BYTES: Final = 1 << 18
HANDSHAKE_S: Final = 5.0
STALLED_S: Final = 5.0  # without a byte
WHOLE_S: Final = 300.0
LOOK_S: Final = 0.05  # how often it is asked whether a snapshot is needed


class SessionTable(Protocol):
    """What snapshots need of the data plane (`l4fast.tables.Tables`)."""

    def session_blocks(self, size: int) -> Iterator[tuple[int, bytes, bytes, int]]: ...
    def merge_sessions(self, version: int, body: bytes, count: int, shift_s: int = 0) -> Merged: ...
    def end_keys(self, version: int, keys: bytes, until_s: int) -> int: ...


def listener(interface: str, ip: int, port: int) -> socket.socket:
    """A listening socket for the node's own addresses of that interface; port 0: any. Raises OSError."""
    family = socket.AF_INET6 if ip == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if ip == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if ip == 6 else "0.0.0.0", port))
        sock.listen(CONNECTIONS_MOST)
    except BaseException:
        sock.close()
        raise
    return sock


def _close(connection: socket.socket, _given: asyncio.Task[None]) -> None:
    connection.close()


class Snapshots:
    """Gives and takes them. `start` in the loop's thread; the caller closes it.

    `complete` is set while this node knows every session that its peers have told of.
    """

    def __init__(
        self, sync: Sync, table: SessionTable, identity: Identity, tasks: Tasks, *, given_at_once: int = GIVEN_AT_ONCE,
        stalled_s: float = STALLED_S, turn_s: float = TURN_S,
    ) -> None:  # fmt: skip
        self._sync = sync
        self._table = table
        self._identity = identity
        self._tasks = tasks
        self._turns = asyncio.Semaphore(given_at_once)
        self._stalled_s = stalled_s
        self._turn_s = turn_s
        self._loop = asyncio.get_running_loop()
        self._context = identity.server_context({ROLE})
        self._connections = 0
        self.complete = asyncio.Event()

    def start(self, sock: socket.socket) -> None:
        """Serves the listening socket, which is the caller's to close after the tasks have ended, and takes a snapshot
        whenever one is needed."""
        self._sync.port = sock.getsockname()[1]
        self._tasks.spawn(self._keep_giving(sock), "snapshots to give")
        self._tasks.spawn(self._keep_taking(), "snapshots to take")

    # Giving

    async def _keep_giving(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(sock)
            except OSError as error:  # too many open files
                log.warning("nobody gets a snapshot: %s", error)
                await asyncio.sleep(1.0)
                continue
            if self._connections >= CONNECTIONS_MOST:
                log.warning("%s: too many ask for snapshots at once", address[0])
                self._sync.counters["snapshots_refused"] += 1
                connection.close()
            else:
                self._connections += 1
                given = self._tasks.spawn(self._connected(connection, address[0]), "snapshot")
                given.add_done_callback(partial(_close, connection))  # also if it never began

    async def _connected(self, connection: socket.socket, name: str) -> None:
        """One peer's connection. Whatever it does ends this connection at most."""
        transport: asyncio.WriteTransport | None = None
        try:
            async with asyncio.timeout(WHOLE_S):
                reader, writer = await self._secured(connection)
                transport = writer.transport
                name = peer_of(writer.get_extra_info("ssl_object"))[1]
                transport.set_write_buffer_limits(high=UNSENT_BYTES)
                records = await self._give(reader, writer)
            log.info("%s: took a snapshot of %d sessions", name, records)
        except SnapshotError as error:
            log.warning("%s: gets no snapshot: %s", name, error)
            self._sync.counters["snapshots_refused"] += 1
        except (OSError, TimeoutError, IdentityError) as error:
            log.warning("%s: a snapshot has broken off: %s", name, str(error) or type(error).__name__)
            self._sync.counters["snapshots_broken"] += 1
        finally:
            self._connections -= 1
            if transport is not None:
                transport.abort()

    async def _secured(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """After the handshake, in which the peer has shown that it is an L4 node."""
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        ask = await self._asked(reader)
        if why := refusal(ask, self._sync.layouts, self._sync.clusters()):
            await self._refuse(writer, why)
        try:
            async with asyncio.timeout(self._turn_s):
                await self._turns.acquire()
        except TimeoutError:
            await self._refuse(writer, "busy with others")
        try:
            return await self._send_table(reader, writer)
        finally:
            self._turns.release()

    async def _refuse(self, writer: asyncio.StreamWriter, why: str) -> NoReturn:
        writer.write(pack_refused(why))
        await self._sent(writer)
        await self._close(writer)
        raise SnapshotError(why)

    async def _asked(self, reader: asyncio.StreamReader) -> Ask:
        frames = Frames(ASK_MOST)
        asked: list[Frame] = []
        async with asyncio.timeout(self._stalled_s):
            while not asked:
                data = await reader.read(READ_BYTES)
                if not data:
                    raise SnapshotError("it has asked for nothing")
                asked = frames.receive_data(data)
        if len(asked) > 1 or not isinstance(asked[0], Ask):
            raise SnapshotError("it has not asked for a snapshot")
        return asked[0]

    async def _send_table(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """All sessions that are in the table from now until the end, and those that were ended."""
        sync = self._sync
        now = self._loop.time()
        writer.write(pack_begin(sync.node, sync.boot, sync.sessions, sync.in_step(now)))
        records = 0
        for version, keys, values, count in self._table.session_blocks(BLOCK):
            writer.write(pack_block(version, keys, values, count))
            records += count
            await self._sent(writer)
            await asyncio.sleep(0)
        for ended in sync.ends.kept(int(time.time())):
            for frame in pack_ended(ended):
                writer.write(frame)
                await self._sent(writer)
        writer.write(pack_end(records))
        await self._sent(writer)
        await self._ended(reader, writer)
        sync.counters["snapshots_given"] += 1
        return records

    async def _sent(self, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._stalled_s):
            await writer.drain()

    async def _ended(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the peer has read everything and closed."""
        transport = writer.transport
        while True:
            unsent = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._stalled_s):
                    if await reader.read(1):
                        raise SnapshotError("it says more than its request")
                    return
            except TimeoutError:
                if transport.get_write_buffer_size() == unsent:
                    raise

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        """When what was written has been taken."""
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._stalled_s):
                await writer.wait_closed()

    # Taking

    async def _keep_taking(self) -> None:
        while True:
            source = self._sync.catching_up.source(self._loop.time())
            if source is not None:
                await self._take(source)
            if self._sync.complete(self._loop.time()):
                self.complete.set()
            else:
                self.complete.clear()
            await asyncio.sleep(LOOK_S)

    async def _take(self, source: Source) -> None:
        """One snapshot of this peer, and what became of it."""
        sync = self._sync
        try:
            async with asyncio.timeout(WHOLE_S):
                taking, outcome = await self._fetch(source)
        except (OSError, TimeoutError, SnapshotError, IdentityError) as error:
            why = str(error) or ("it takes too long" if isinstance(error, TimeoutError) else type(error).__name__)
            sync.catching_up.failed(source, why, self._loop.time())
            sync.counters["snapshots_failed"] += 1
            log.warning("%s: no snapshot of its sessions: %s", source.name, why)
            return
        assert taking.begin is not None, "a snapshot that is whole has begun"
        now = self._loop.time()
        for ended in sync.ends.kept(int(time.time())):
            self._table.end_keys(ended.ip, ended.keys, ended.until_s)
        sync.catching_up.taken(source, taking.begin.in_step, now)
        sync.counters["snapshots_taken"] += 1
        log.info(
            "%s: its snapshot is in: %d sessions, %d of them new here, in %.2f s", source.name, taking.records,
            outcome.new, now - source.asked,
        )  # fmt: skip

    async def _fetch(self, source: Source) -> tuple[Taking, Merged]:
        """Raises what connections raise, SnapshotError and IdentityError."""
        taking = Taking(source.node, self._sync.layouts)
        outcome = Merged()
        async with asyncio.timeout(HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(
                source.address, source.port, ssl=self._identity.client_context(ROLE), limit=READ_BYTES
            )
        try:
            name = peer_of(writer.get_extra_info("ssl_object"))[1]
            if name != source.name:
                raise SnapshotError(f"{source.address} port {source.port} is {name}")
            writer.write(pack_ask(Ask(checksum(self._sync.layouts), tuple(self._sync.clusters()))))
            while not taking.whole:
                async with asyncio.timeout(self._stalled_s):
                    data = await reader.read(READ_BYTES)
                if not data:
                    raise SnapshotError(f"it broke off after {taking.records} records")
                for part in taking.receive_data(data):
                    outcome = self._merge(part, outcome, source.shift_s)
                    await asyncio.sleep(0)
        finally:
            await self._close(writer)
        return taking, outcome

    def _merge(self, part: Block | Ended, before: Merged, shift_s: int) -> Merged:
        sync = self._sync
        if isinstance(part, Ended):
            part = replace(part, until_s=part.until_s + shift_s)
            self._table.end_keys(part.ip, part.keys, part.until_s)
            sync.ends.add(part, self._loop.time(), int(time.time()))
            return before
        merged = self._table.merge_sessions(part.ip, part.body, part.count, shift_s)
        sync.counters["snapshot_records"] += part.count
        sync.counters["write_failed"] += merged.full
        return Merged(*(a + b for a, b in zip(before, merged, strict=True)))
