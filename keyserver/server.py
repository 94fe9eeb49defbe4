"""The key server's sockets: a unix socket whose peers the kernel vouches for, and TCP with mutual TLS.

A connection's requests are served in turns of at most `TURN_REQUESTS`, so that a client that pipelines thousands delays
the others by a millisecond. While a client has requests waiting, or does not read its replies, nothing more is read
from it; so what a connection can occupy is bounded. ECDSA and Ed25519 are signed in the turn itself; what a crew signs
(crew.py) is answered when its worker is done. Chain checks, which are long and rare, go to one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

from certs.report import ChainReport, Staple
from control.node.identity import Identity, IdentityError, peer_of
from control.node.tcp import cannot_bind
from core.endpoints import endpoint
from keyserver.crew import MAX_QUEUED, Crew, Job
from keyserver.errors import ErrorCode, KeyServerError, StartError
from keyserver.policy import Access, Shape, TokenBucket
from keyserver.protocol import (
    Broken,
    ChainChecked,
    CheckChain,
    Event,
    Failed,
    Find,
    GetStaple,
    Goodbye,
    Hello,
    Malformed,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    StapleGiven,
    Tickets,
    Unknown,
    server_side,
)
from keyserver.service import Service
from keyserver.store import Elsewhere

log = logging.getLogger(__name__)

TURN_REQUESTS = 64  # about a millisecond of P-256
MAX_CONNECTIONS = 1024
MAX_IN_FLIGHT = 1024  # requests of one connection that crews have
# One client must leave room for others, however many connections it opens: a TLS node has one for each worker process.
MAX_CLIENT_CONNECTIONS = MAX_CONNECTIONS // 4
MAX_CLIENT_IN_FLIGHT = MAX_QUEUED // 2
MAX_CHAINS = 16  # chain checks that wait, of all connections
GREETING_DEADLINE_S = 5.0
REFUSAL_LINGERS_S = 0.5
REFUSALS_RECORDED = 100  # at once, and one a second: a stranger must not fill the audit log
BACKLOG = 128
SOCKET_MODE = 0o660
MAX_WHY = 4000  # characters
_UCRED = struct.Struct("3i")  # unix(7): pid, uid, gid


class Peer(NamedTuple):
    """Who is at the other end: as the audit log names it, and its certificate's serial number if it has one."""

    client: str
    serial: int | None


class KeyServer:
    """All connections of one key server. Made in a running loop; `listen_*` as often as wanted, `drain` at the end."""

    def __init__(self, service: Service, access: Access, crews: Sequence[Crew] = ()) -> None:
        self.service = service
        self.access = access
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.clients: Counter[str] = Counter()  # connections that were let in
        self.in_flight: Counter[str] = Counter()  # requests of each client that crews have
        self._servers: list[asyncio.AbstractServer] = []
        self._socket_files: dict[Path, int] = {}
        self._unsent: list[tuple[_Connection, Message]] = []  # replies of crews
        self._chains = ThreadPoolExecutor(1, thread_name_prefix="chain")
        self._chains_waiting = 0
        self._draining = False
        self._idle = asyncio.Event()
        self.refusals = TokenBucket(1, REFUSALS_RECORDED, self.loop.time())
        for crew in crews:
            crew.flush = self._send_unsent

    async def listen_unix(self, path: Path, group: str | None = None) -> None:
        """Listen on a unix socket of mode 0660 and, if given, of a group by name. Raises StartError.

        A socket that is there already is replaced; its server, if it lives, keeps its connections.
        """
        listener, self._socket_files[path] = _bind_unix(path, group)
        self._servers.append(await self.loop.create_unix_server(lambda: _Connection(self, _local_peer), sock=listener))

    async def listen_tcp(self, host: str, port: int, identity: Identity) -> int:
        """Listen with mutual TLS 1.3 and return the port. Raises StartError.

        Roles are checked after the handshake and not in it, so that a refused node learns why and the log names it.
        """
        try:
            server = await self.loop.create_server(
                lambda: _Connection(self, _tls_peer),
                host,
                port,
                ssl=identity.server_context(),
                ssl_handshake_timeout=GREETING_DEADLINE_S,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise StartError(f"cannot listen on {endpoint(host, port)}: {cannot_bind(error)}") from None
        self._servers.append(server)
        return cast(int, server.sockets[0].getsockname()[1])

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing new, say goodbye, serve until every client has gone or the time is over."""
        self._draining = True
        for server in self._servers:
            server.close()
        for path, inode in self._socket_files.items():
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # not that of a successor
                    path.unlink()
        for connection in list(self.connections):
            connection.reply([Goodbye()])
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        for connection in list(self.connections):
            connection.close()
        self._chains.shutdown(wait=True, cancel_futures=True)

    def add(self, connection: _Connection) -> bool:
        """Whether there is room for one more connection."""
        if self._draining or len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        return True

    def cut_off(self) -> None:
        """Close the connections of clients that the policy does not name any more."""
        for connection in list(self.connections):
            if connection.admitted and (why := self.service.why_not(connection.client, connection.serial)):
                log.warning("%s: cut off: %s", connection.client, why)
                self.service.counters["refused_client"] += 1
                self.service.record("client_cut_off", {"client": connection.client, "why": why})
                connection.reply([Failed(0, ErrorCode.REFUSED_CLIENT)])
                connection.close()

    def remove(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._draining and not self.connections:
            self._idle.set()

    def later(self, connection: _Connection, reply: Message) -> None:
        """Keep a reply until its crew says that no more come at once."""
        self._unsent.append((connection, reply))

    def _send_unsent(self) -> None:
        if not self._unsent:
            return
        self.flush_audit()
        unsent, self._unsent = self._unsent, []
        by_connection: dict[_Connection, list[Message]] = {}
        for connection, reply in unsent:
            by_connection.setdefault(connection, []).append(reply)
        for connection, replies in by_connection.items():
            if not connection.gone:
                connection.reply(replies)

    def flush_audit(self) -> bool:
        """Whether the audit lines of all that was signed and not sent are written. If not, none of it may be sent."""
        try:
            self.service.end_turn()
        except OSError as error:
            log.error("signatures are refused, because the audit log cannot be written: %s", error)
            self.service.counters["audit_failed"] += 1
            self._unsent = [(connection, _without_signature(reply)) for connection, reply in self._unsent]
            return False
        return True

    def check_chain(self, connection: _Connection, request: CheckChain | GetStaple) -> bool:
        """Whether a chain check was begun; its reply comes later."""
        if self._chains_waiting >= MAX_CHAINS:
            return False
        self._chains_waiting += 1
        checking = self.loop.run_in_executor(self._chains, self.service.check_chain, request.pem)
        checking.add_done_callback(lambda done: self._chain_checked(connection, request, done))
        return True

    def _chain_checked(
        self, connection: _Connection, request: CheckChain | GetStaple, done: asyncio.Future[ChainReport]
    ) -> None:
        self._chains_waiting -= 1
        if done.cancelled() or connection.gone:
            return
        if (error := done.exception()) is not None:
            log.error("a chain check failed", exc_info=error)
            connection.reply([Failed(request.request_id, ErrorCode.INTERNAL)])
            return
        now = self.loop.time()
        report = self.service.judged(connection.client, done.result(), now)
        if isinstance(request, CheckChain):
            connection.reply([ChainChecked(request.request_id, report)])
        elif report.problems:
            connection.reply([StapleGiven(request.request_id, Staple(b"", 0, "; ".join(report.problems)[:MAX_WHY]))])
        else:
            staple = self.service.new_staple(request.pem, report.key_id, now)
            connection.reply([StapleGiven(request.request_id, staple)])


class _Connection(asyncio.Protocol):
    """One client. `identify` says who it is once connected."""

    def __init__(self, server: KeyServer, identify: Callable[[Access, asyncio.Transport], Peer]) -> None:
        self._server = server
        self._service = server.service
        self._identify = identify
        self._wire = server_side(MAX_IN_FLIGHT)
        self._backlog: deque[Event] = deque()
        self._turning = False
        self._refused = False
        self._choked = False  # the client does not read its replies
        self._reading = True
        self._greeting: asyncio.TimerHandle | None = None
        self.client = "?"
        self.serial: int | None = None
        self.in_flight = 0
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.add(self):
            self._refuse("too many connections, or draining", ErrorCode.BUSY)
            self.close()
            return
        try:
            client, serial = self._identify(self._server.access, self._transport)
            if why := self._service.why_not(client, serial):
                raise IdentityError(why)
            self.client, self.serial = client, serial
        except IdentityError as error:
            self._refuse(str(error), ErrorCode.REFUSED_CLIENT)
            if self._server.refusals.take(self._server.loop.time()):
                self._service.record("client_refused", {"why": str(error)})
            # A client that is closed upon while it greets fails to write, and never reads why.
            self._greeting = self._server.loop.call_later(REFUSAL_LINGERS_S, self.close)
            return
        if self._server.clients[client] >= MAX_CLIENT_CONNECTIONS:
            self._refuse(f"{client} has {MAX_CLIENT_CONNECTIONS} connections", ErrorCode.BUSY)
            self._greeting = self._server.loop.call_later(REFUSAL_LINGERS_S, self.close)
            return
        self._server.clients[client] += 1
        self._greeting = self._server.loop.call_later(GREETING_DEADLINE_S, self._greet_late)
        log.info("%s: connected%s", self.client, "" if serial is None else f", certificate {serial:X}")

    def _refuse(self, why: str, code: ErrorCode) -> None:
        self._service.counters[code.name.lower()] += 1
        log.warning("%s: connection refused: %s", self._transport.get_extra_info("peername") or "local", why)
        self._refused = True
        self.reply([Failed(0, code)])

    def _greet_late(self) -> None:
        self._service.counters["greeting_timeout"] += 1
        log.warning("%s: no greeting within %g s", self.client, GREETING_DEADLINE_S)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self.close()
        if self.gone:
            return
        self._wire.receive_data(data)
        self._backlog.extend(self._wire.events())
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        """Serve some of what has arrived; go on in the loop's next turn if there is more."""
        self._turning = False
        backlog, replies = self._backlog, list[Message]()
        now = self._server.loop.time()
        self._service.begin_turn()
        for _ in range(min(TURN_REQUESTS, len(backlog))):
            event = backlog.popleft()
            reply = self._sign(event, now) if type(event) is Sign else self._other(event, now)
            if reply is not None:
                replies.append(reply)
        self.reply(replies)
        if backlog and not self.gone and not self._choked:
            self._turning = True
            self._server.loop.call_soon(self._turn)
        self._regulate()

    def _sign(self, request: Sign, now: float) -> Message | None:
        service, client = self._service, self.client
        try:
            held, shape = service.admit(client, request, now)
            if isinstance(held, Elsewhere):
                self._hand_over(held, request, shape, now)
                return None
        except KeyServerError as error:
            return service.refuse(client, request, error.code)
        return service.sign(client, request, held, shape)

    def _hand_over(self, held: Elsewhere, request: Sign, shape: Shape, now: float) -> None:
        """Let a crew sign. Raises KeyServerError where there is no room."""

        def done(result: bytes | ErrorCode) -> None:
            self.in_flight -= 1
            self._server.in_flight[self.client] -= 1
            if self.gone:
                return
            service = self._service
            service.begin_turn()
            if isinstance(result, ErrorCode):
                reply: Message = service.refuse(self.client, request, result)
            else:
                reply = service.signed(self.client, request, held.key_type, shape, result)
            self._server.later(self, reply)

        if self.in_flight >= MAX_IN_FLIGHT or self._server.in_flight[self.client] >= MAX_CLIENT_IN_FLIGHT:
            raise KeyServerError(ErrorCode.BUSY)
        if not held.crew.ask(Job(request, now, done, lambda: self.gone)):
            raise KeyServerError(ErrorCode.BUSY)
        self.in_flight += 1
        self._server.in_flight[self.client] += 1

    def _other(self, event: Event, now: float) -> Message | None:
        match event:
            case Ping():
                return Pong(event.request_id)
            case Find():
                return self._service.find(self.client, event, now)
            case Tickets():
                return self._service.ticket_secrets(self.client, event, now)
            case CheckChain():
                return self._check_chain(event, now)
            case GetStaple():
                return self._get_staple(event, now)
            case Hello():
                if self._greeting is not None:
                    self._greeting.cancel()
            case Malformed():
                self._count("malformed", event.why)
                return Failed(event.request_id, ErrorCode.MALFORMED)
            case Unknown():
                self._count("unknown_request", f"tag 0x{event.tag:02x}")
                return Failed(event.request_id, ErrorCode.UNKNOWN_REQUEST)
            case Broken():
                self._count("broken_connection", event.why)
                self._server.loop.call_soon(self.close)
                return Failed(0, event.code)
        return None

    def _get_staple(self, request: GetStaple, now: float) -> Message | None:
        staple = self._service.staple(self.client, request.pem, now)
        return StapleGiven(request.request_id, staple) if staple is not None else self._check_chain(request, now)

    def _check_chain(self, request: CheckChain | GetStaple, now: float) -> Message | None:
        try:
            self._service.admit_chain(self.client, now)
        except KeyServerError as error:
            return Failed(request.request_id, error.code)
        if self._server.check_chain(self, request):
            return None
        return Failed(request.request_id, ErrorCode.BUSY)

    def _count(self, name: str, why: str) -> None:
        self._service.counters[name] += 1
        log.warning("%s: %s", self.client, why)

    def reply(self, replies: list[Message]) -> None:
        """Write replies, their audit lines before them."""
        if not self._server.flush_audit():
            replies = [_without_signature(reply) for reply in replies]
        for reply in replies:
            self._wire.send(reply)
        if data := self._wire.data_to_send():
            self._transport.write(data)

    @property
    def admitted(self) -> bool:
        """Whether we know who it is, and let it in."""
        return not (self._refused or self.gone)

    def close(self) -> None:
        """Close once what has been written is out."""
        self.gone = True
        self._transport.close()

    def pause_writing(self) -> None:
        self._choked = True
        self._regulate()

    def resume_writing(self) -> None:
        self._choked = False
        if self._backlog and not self._turning:
            self._turning = True
            self._server.loop.call_soon(self._turn)
        self._regulate()

    def _regulate(self) -> None:
        """Read only while everything that has been read is served and the client takes its replies."""
        wanted = not (self._backlog or self._choked)
        if wanted is self._reading or self.gone:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._backlog.clear()
        if self._greeting is not None:
            self._greeting.cancel()
        self._server.remove(self)
        if not self._refused:
            self._server.clients[self.client] -= 1
        log.info("%s: connection closed", self.client)


def _without_signature(reply: Message) -> Message:
    return Failed(reply.request_id, ErrorCode.INTERNAL) if isinstance(reply, Signed) else reply


def _bind_unix(path: Path, group: str | None) -> tuple[socket.socket, int]:
    """A listening socket and its inode, put in place by a rename: never is there none, or one open to all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if os.path.lexists(path) and not path.is_socket():
            raise StartError(f"cannot listen on {path}: a file that is no socket is there; remove it")
        beside.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            listener.bind(str(beside))
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(beside, -1, grp.getgrnam(group).gr_gid)
        beside.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
        inode = beside.stat().st_ino
        beside.rename(path)
    except (OSError, KeyError, StartError) as error:
        listener.close()
        beside.unlink(missing_ok=True)
        if isinstance(error, StartError):
            raise
        raise StartError(f"cannot listen on {path}: {_why_not(error, group)}") from None
    return listener, inode


def _why_not(error: OSError | KeyError, group: str | None) -> str:
    if isinstance(error, KeyError):
        return f"there is no group {group}; `getent group` lists them"
    if error.errno is None:  # Python's own check
        return f"{error}; use a shorter one"
    return f"{error.strerror}; is its directory there, and ours to write?"


def _local_peer(access: Access, transport: asyncio.Transport) -> Peer:
    """Who is at the other end of a unix socket, on the kernel's word. Raises IdentityError."""
    sock = transport.get_extra_info("socket")
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if not access.admits_uid(uid):
        raise IdentityError(f"uid {uid} may not use this key server (--allow-uid {uid} would let it)")
    return Peer(f"uid:{uid}", None)


def _tls_peer(access: Access, transport: asyncio.Transport) -> Peer:
    """Which node is at the other end, on our CA's word. Raises IdentityError."""
    tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
    role, name = peer_of(tls)
    if not access.admits_node(role, name):
        wanted = " or ".join(sorted(access.roles))
        raise IdentityError(f"{name} is of role {role}; nodes of role {wanted} get in, and only those of --allow-node")
    return Peer(f"{role}:{name}", int(str((tls.getpeercert() or {})["serialNumber"]), 16))
