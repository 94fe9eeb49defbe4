"""How the control plane's APIs listen: connections bounded, and TLS for users wherever others could read along.

The users' API has TLS 1.2 or 1.3 with the suites of `tls_1_2_strict_with_1_3` (RFC 9325: forward secrecy and AEAD), and
no session tickets. The certificate may change under it: the files are looked at every ten seconds, and at once after
SIGHUP. What cannot be served, a key that does not fit say, is logged, and the certificate before stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509

from control.node.tcp import cannot_bind
from core.endpoints import endpoint

log = logging.getLogger(__name__)

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
LOOK_EVERY_S = 10.0
WARN_BEFORE = timedelta(days=7)
WARN_EVERY = timedelta(days=1)
DRAIN_S = 3.0
HANDSHAKE_S = 10
IDLE_S = 75.0  # of a connection between requests, and before the head of its first one is in
CONNECTIONS_LIMIT = 2000
LINE_BYTES = 8190  # of a request's first line


class ListenError(Exception):
    """Cannot listen; the text has the remedy."""


class TlsError(Exception):
    """A certificate or a key that cannot be served; the text names the file and the remedy."""


class Listening:
    """An application that is served on one address; made by `start`."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner, self._server = runner, server

    @property
    def address(self) -> tuple[str, int]:
        """Where, with the port that port 0 has become."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    @classmethod
    async def start(
        cls,
        app: web.Application,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        connections: int = CONNECTIONS_LIMIT,
        handshake_s: int = HANDSHAKE_S,
        line_bytes: int = LINE_BYTES,
    ) -> Listening:
        """Begin to serve. Raises ListenError."""
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=DRAIN_S, keepalive_timeout=IDLE_S, max_line_size=line_bytes
        )
        await runner.setup()
        handlers = runner.server
        assert handlers is not None

        def accept() -> asyncio.Protocol:
            return handlers() if len(handlers.connections) < connections else _NoRoom()

        host, port = address
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                accept,
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=None if context is None else handshake_s,
                reuse_address=True,
            )
        except OSError as error:
            await runner.cleanup()
            raise ListenError(f"cannot listen on {endpoint(host, port)}: {cannot_bind(error)}") from None
        return cls(runner, server)

    async def close(self) -> None:
        """Stop accepting, and give requests under way DRAIN_S."""
        self._server.close()
        await self._runner.cleanup()


class _NoRoom(asyncio.Protocol):
    """Ends a connection that there is no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate chain and its key, both PEM."""

    certificate: Path
    key: Path

    def stamp(self) -> tuple[object, ...]:
        """Another one when the files may have changed."""
        found: list[object] = []
        for path in (self.certificate, self.key):
            try:
                stat = path.stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found += (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return tuple(found)


class ServerTls:
    """The TLS of one listening address. `context` stays the same; handshakes go by the certificate loaded last."""

    def __init__(self, files: Files) -> None:
        """Raises TlsError."""
        self._files, self._stamp = files, files.stamp()
        self._now, self.end = loaded(files)
        self._warned: datetime | None = None
        self.context = server_context()
        self.context.sni_callback = self._choose
        # The callback replaces it in every handshake; OpenSSL wants one to begin with.
        self.context.load_cert_chain(files.certificate, files.key)

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._now

    def reload(self) -> bool:
        """Take the files as they are now; whether they can be served."""
        self._stamp = self._files.stamp()
        try:
            self._now, self.end = loaded(self._files)
        except TlsError as error:
            log.error("%s; the certificate before stays, until %s", error, f"{self.end:%Y-%m-%d}")
            return False
        self._warned = None
        log.info("the users' API has the certificate of %s, until %s", self._files.certificate, f"{self.end:%Y-%m-%d}")
        return True

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Reload what has changed, and warn of the end, until cancelled."""
        while True:
            self.warn(datetime.now(UTC))
            await asyncio.sleep(every_s)
            if self._files.stamp() != self._stamp:
                self.reload()

    def warn(self, now: datetime) -> None:
        """Say once a day that the certificate ends soon."""
        if self.end - now < WARN_BEFORE and (self._warned is None or now - self._warned >= WARN_EVERY):
            self._warned = now
            ends = "ended" if self.end <= now else "ends"
            log.warning(
                "the certificate %s of the users' API %s on %s", self._files.certificate, ends, f"{self.end:%Y-%m-%d}"
            )


def server_context() -> ssl.SSLContext:
    """A context without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.set_ciphers(SUITES)
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    return context


def loaded(files: Files) -> tuple[ssl.SSLContext, datetime]:
    """A context with the certificate of these files, and when it ends. Raises TlsError."""
    for path in (files.certificate, files.key):
        try:
            path.read_bytes()
        except OSError as error:
            raise TlsError(f"{path}: {error.strerror}; give PEM files by --api-tls-cert and --api-tls-key") from None
    if os.stat(files.key).st_mode & 0o007:
        raise TlsError(f"{files.key}: every user of this machine may read it; chmod 600 it")
    try:
        end = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise TlsError(f"{files.certificate}: is no certificate in PEM ({error})") from None
    context = server_context()
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _EncryptedError:
        raise TlsError(f"{files.key}: is encrypted; `openssl pkey -in {files.key}` makes one that is not") from None
    except (ssl.SSLError, OSError) as error:
        remedy = "the key has to be that of the first certificate in the file"
        raise TlsError(f"{files.certificate} and {files.key} do not fit ({error}); {remedy}") from None
    return context, end


class _EncryptedError(Exception):
    """OpenSSL asks for a password, which nobody is there to type."""


def _no_password() -> str:
    raise _EncryptedError
