"""Answers tls-alpn-01 (RFC 8737): a TLS server that speaks `acme-tls/1` and has a certificate for each challenge.

The CA asks for one name in its handshake, and looks at the certificate: self-signed, for that name alone, with a hash
of the key authorization in an extension that is critical, so that nobody else takes it for a certificate. Its key is
made for this one challenge. Nothing is said after the handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import private_pem
from control.node.tasks import Tasks

log = logging.getLogger(__name__)

PROTOCOL: Final = "acme-tls/1"
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 §6.1
LIFE: Final = timedelta(days=1)
HANDSHAKE_S: Final = 10.0
CLOSE_S: Final = 2.0
ACCEPT_AGAIN_S: Final = 1.0
MOST: Final = 64  # connections at a time; a CA comes from a handful of places
_OCTET_STRING_OF_32: Final = b"\x04\x20"  # DER
_UNRECOGNIZED_NAME: Final = 112  # RFC 6066 §3


def certificate(domain: str, authorization: str) -> tuple[bytes, bytes]:
    """What proves a name by this key authorization: certificate and key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    digest = _OCTET_STRING_OF_32 + hashlib.sha256(authorization.encode()).digest()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFE)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM), private_pem(key)


class Challenges:
    """The names that are being proved. `prove` may be called in any thread."""

    def __init__(self, most: int = MOST) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._places = asyncio.Semaphore(most)
        self._front = _context()
        self._front.sni_callback = self._choose

    def prove(self, domain: str, authorization: str) -> None:
        """Show the CA this name's certificate from now on."""
        context = _context()
        with _file(b"".join(certificate(domain, authorization))) as path:
            context.load_cert_chain(path)
        self._contexts[domain.lower()] = context

    def clear(self) -> None:
        self._contexts.clear()

    async def serve(self, sock: socket.socket) -> None:
        """Answer on a listening socket until cancelled. Who finds no place waits in its queue."""
        loop, tasks = asyncio.get_running_loop(), Tasks()
        try:
            while True:
                await self._places.acquire()
                try:
                    connection, _ = await loop.sock_accept(sock)
                except OSError as error:  # no descriptors are left, say
                    log.warning("cannot accept: %s", error)
                    self._places.release()
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                    continue
                tasks.spawn(self._talk(connection), "ACME challenge")
        finally:
            await tasks.close()

    def _choose(self, tls: ssl.SSLObject, name: str | None, _front: ssl.SSLContext) -> int | None:
        context = self._contexts.get((name or "").lower())
        if context is None:
            log.info("somebody asked for %r, which is not being proved", name)
            return _UNRECOGNIZED_NAME
        tls.context = context
        return None

    async def _talk(self, sock: socket.socket) -> None:
        """The handshake is all."""
        closed = _Closed()
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: closed, sock, ssl=self._front, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=CLOSE_S
            )
            transport.close()
            await closed.wait()
        except (OSError, TimeoutError) as error:
            log.debug("a handshake failed: %s", error)
        finally:
            self._places.release()


class _Closed(asyncio.Protocol):
    """Says nothing, and knows when its connection is over."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.wait = self._event.wait

    def connection_lost(self, exc: Exception | None) -> None:
        self._event.set()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8737 §4
    context.set_alpn_protocols([PROTOCOL])
    context.num_tickets = 0
    return context


@contextlib.contextmanager
def _file(pem: bytes) -> Iterator[str]:
    """A path to this text, in memory alone: OpenSSL's loader takes nothing but paths."""
    descriptor = os.memfd_create("challenge", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
