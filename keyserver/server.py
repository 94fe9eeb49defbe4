"""The key server's sockets: a unix socket whose peers the kernel vouches for, and TCP with mutual TLS.

What all connections share is here: who is connected, chain checks, replies of crews, the audit lines that precede them.
What one connection does is in connection.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from certs.report import ChainReport, Staple
from control.node.identity import Identity, IdentityError, generation_of, peer_of
from control.node.tcp import cannot_bind
from core.endpoints import endpoint
from keyserver.connection import GREETING_DEADLINE_S, MAX_CONNECTIONS, Connection, without_signature
from keyserver.crew import Crew
from keyserver.errors import ErrorCode, StartError
from keyserver.listen import BACKLOG, Peer, bind_unix, local_peer, tls_peer
from keyserver.policy import Access, TokenBucket
from keyserver.protocol import (
    ChainChecked,
    CheckChain,
    Failed,
    GetStaple,
    Goodbye,
    Message,
    StapleGiven,
)
from keyserver.service import Service

log = logging.getLogger(__name__)

MAX_CHAINS = 16  # chain checks that wait, of all connections
REFUSALS_RECORDED = 100  # at once, and one a second: a stranger must not fill the audit log
MAX_WHY = 4000  # characters


class KeyServer:
    """All connections of one key server. Made in a running loop; `listen_*` as often as wanted, `drain` at the end."""

    def __init__(self, service: Service, access: Access, crews: Sequence[Crew] = ()) -> None:
        self.service = service
        self.access = access
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.clients: Counter[str] = Counter()  # connections that were let in
        self.in_flight: Counter[str] = Counter()  # requests of each client that crews have
        self._identity: Identity | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._socket_files: dict[Path, int] = {}
        self._unsent: list[tuple[Connection, Message]] = []  # replies of crews
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
        listener, self._socket_files[path] = bind_unix(path, group)
        self._servers.append(await self.loop.create_unix_server(lambda: Connection(self, local_peer), sock=listener))

    async def listen_tcp(self, host: str, port: int, identity: Identity) -> int:
        """Listen with mutual TLS 1.3 and return the port. Raises StartError.

        Roles are checked after the handshake and not in it, so that a refused node learns why and the log names it.
        """
        self._identity = identity
        try:
            server = await self.loop.create_server(
                lambda: Connection(self, self._tls_peer),
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

    def _tls_peer(self, access: Access, transport: asyncio.Transport) -> Peer:
        """Raises IdentityError, also for who is refused by the control plane's word."""
        peer = tls_peer(access, transport)
        if why := self._revoked(transport):
            raise IdentityError(why)
        return peer

    def _revoked(self, transport: asyncio.Transport) -> str:
        """Why a client's identity counts no more; empty: it does, or there is none."""
        tls = transport.get_extra_info("ssl_object")
        if tls is None or self._identity is None:
            return ""
        return self._identity.why_not(*peer_of(tls), generation_of(tls))

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

    def add(self, connection: Connection) -> bool:
        """Whether there is room for one more connection."""
        if self._draining or len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        return True

    def cut_off(self) -> None:
        """Close the connections of clients that the policy does not name any more, and of those who are revoked."""
        for connection in list(self.connections):
            if not connection.admitted:
                continue
            if why := self.service.why_not(connection.client, connection.serial) or self._revoked(connection.transport):
                log.warning("%s: cut off: %s", connection.client, why)
                self.service.counters["refused_client"] += 1
                self.service.record("client_cut_off", {"client": connection.client, "why": why})
                connection.reply([Failed(0, ErrorCode.REFUSED_CLIENT)])
                connection.close()

    def remove(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._draining and not self.connections:
            self._idle.set()

    def later(self, connection: Connection, reply: Message) -> None:
        """Keep a reply until its crew says that no more come at once."""
        self._unsent.append((connection, reply))

    def _send_unsent(self) -> None:
        if not self._unsent:
            return
        self.flush_audit()
        unsent, self._unsent = self._unsent, []
        by_connection: dict[Connection, list[Message]] = {}
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
            self._unsent = [(connection, without_signature(reply)) for connection, reply in self._unsent]
            return False
        return True

    def check_chain(self, connection: Connection, request: CheckChain | GetStaple) -> bool:
        """Whether a chain check was begun; its reply comes later."""
        if self._chains_waiting >= MAX_CHAINS:
            return False
        self._chains_waiting += 1
        checking = self.loop.run_in_executor(self._chains, self.service.check_chain, request.pem)
        checking.add_done_callback(lambda done: self._chain_checked(connection, request, done))
        return True

    def _chain_checked(
        self, connection: Connection, request: CheckChain | GetStaple, done: asyncio.Future[ChainReport]
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
