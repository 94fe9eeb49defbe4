"""What the TLS tests share: keys and chains, a key holder inside the test, a server on a free port, real clients."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.report import Staple
from core.model import Certificate
from keyserver.errors import ErrorCode, KeyServerError
from proxy.tls import TlsServer
from proxy.tls_admission import Terms
from proxy.tls_profile import DEFAULT, Profile
from proxy.tls_waiting import GreenletWaiting, ThreadWaiting, Waiting

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
WAYS: dict[str, Callable[[], Waiting]] = {"greenlet": GreenletWaiting, "threads": lambda: ThreadWaiting(8)}
HASHES = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}


def run(main: Coroutine[Any, Any, T], loop: str = "uvloop") -> T:
    """As asyncio.run, on the loop named, in debug mode, within 30 s."""

    async def bounded() -> T:
        return await asyncio.wait_for(main, 30)

    with asyncio.Runner(debug=True, loop_factory=LOOPS[loop]) as runner:
        return runner.run(bounded())


@cache
def new_key(kind: str, number: int = 0) -> Key:
    """One key of a kind and number in each test run: RSA keys take long to make."""
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ED25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind])


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Key) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def certificate(key: Key, names: Sequence[str], name: str = "web") -> Certificate:
    """A self-signed leaf for `names`; the first one is its subject."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    return Certificate(name, chain=leaf.public_bytes(Encoding.PEM).decode())


def sign(key: Key, scheme: int, content: bytes) -> bytes:
    """What a TLS SignatureScheme code point stands for, RFC 8446 §4.2.3."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        assert scheme == 0x0807
        return key.sign(content)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        assert scheme & 0xFF == 3
        return key.sign(content, ec.ECDSA(HASHES[scheme >> 8]))
    if scheme >> 8 == 8:
        digest = HASHES[scheme & 0xFF]
        return key.sign(content, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    assert scheme & 0xFF == 1
    return key.sign(content, padding.PKCS1v15(), HASHES[scheme >> 8])


@dataclass
class Report:
    problems: Sequence[str] = ()


@dataclass
class LocalKeys:
    """Stands in for KeyClient: signs in the test's own process, when and if it is told to."""

    keys: Sequence[Key]
    fails: bool = False  # there is no key server
    silent: bool = False  # there is one that never answers; what it was asked is in `asked`
    problems: Sequence[str] = ()  # what it finds in every chain
    asked: list[Callable[[], None]] = field(default_factory=list)
    schemes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    secrets: Sequence[tuple[int, bytes]] = ()  # of session tickets

    async def ticket_secrets(self) -> Sequence[tuple[int, bytes]]:
        if self.fails:
            raise KeyServerError(ErrorCode.UNAVAILABLE)
        return self.secrets

    def sign_soon(
        self, key: bytes, scheme: int, content: bytes, sni: str, done: Callable[[bytes | KeyServerError], None], /
    ) -> object:
        """As the client of a key server, it returns what knows whom to tell."""
        held = next(each for each in self.keys if key_id(each) == key)

        def answer() -> None:
            done(KeyServerError(ErrorCode.UNAVAILABLE) if self.fails else sign(held, scheme, content))

        self.schemes.append(scheme)
        self.names.append(sni)
        if self.silent:
            self.asked.append(answer)
        else:
            asyncio.get_running_loop().call_soon(answer)
        return answer

    def distrust(self, asked: object, /) -> None:
        raise AssertionError("the signature was right")

    async def staple(self, chain_pem: str, /) -> Staple:
        raise KeyServerError(ErrorCode.UNKNOWN_REQUEST)

    async def check_chain(self, chain_pem: str, /) -> Report:
        await asyncio.sleep(0)
        if self.fails:
            raise KeyServerError(ErrorCode.UNAVAILABLE)
        return Report(self.problems)


class Http(asyncio.Protocol):
    """Answers each request with what it knows of its connection, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        if b"\r\n\r\n" in self.head:
            info = self.transport.get_extra_info
            body = f"{info('tls_version')} sni={info('sni')} alpn={info('alpn')} cipher={info('cipher')}\n".encode()
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.writelines([head, body])
            self.transport.close()


@dataclass
class Served:
    port: int
    tls: TlsServer
    keys: LocalKeys

    async def settled(self) -> dict[str, int]:
        """The counters, once no handshake is in flight."""
        while self.tls.counters()["in_flight"]:
            await asyncio.sleep(0.005)
        return {name: value for name, value in self.tls.counters().items() if value}


@asynccontextmanager
async def serving(
    keys: LocalKeys,
    certificates: Sequence[Certificate],
    way: str = "greenlet",
    inner: Callable[[], asyncio.Protocol] = Http,
    profile: Profile = DEFAULT,
    terms: Terms | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """A TlsServer on a free port of 127.0.0.1, with one listener named "web"."""
    tls = TlsServer(keys, waiting=WAYS[way](), **options)
    await tls.configure({"web": certificates}, {"web": profile}, {"web": terms} if terms else {})
    server = await asyncio.get_running_loop().create_server(lambda: tls.protocol("web", inner()), "127.0.0.1", 0)
    try:
        yield Served(server.sockets[0].getsockname()[1], tls, keys)
    finally:
        server.close()
        await tls.close()
        await asyncio.sleep(0.01)  # connections that were cut are told so


async def s_client(port: int, *options: str) -> str:
    """What `openssl s_client` says of a handshake."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "web.test", "-brief", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode()


def client_context(version: str = "", trust: str = "") -> ssl.SSLContext:
    """A client that verifies against `trust` (PEM), or not at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust:
        context.load_verify_locations(cadata=trust)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    return context


def connect(port: int, name: str | None = "web.test", context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A blocking connection whose handshake is done."""
    raw = socket.create_connection(("127.0.0.1", port), 10)
    try:
        return (context or client_context()).wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def get(port: int, name: str | None = "web.test", context: ssl.SSLContext | None = None) -> str:
    """The body of one HTTP exchange, blocking."""
    with connect(port, name, context) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
        data = b""
        while part := tls.recv(65536):
            data += part
    return data.partition(b"\r\n\r\n")[2].decode()


def subject(port: int, name: str | None, context: ssl.SSLContext | None = None) -> str:
    """The subject's common name of the certificate that a client which asks for `name` is shown."""
    with connect(port, name, context) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    shown = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    return str(shown)
