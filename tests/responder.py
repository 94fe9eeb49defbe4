"""A CA with an OCSP responder, for tests: chains that name it, and an HTTP server that answers for them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
HOUR = timedelta(hours=1)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Responder:
    """Signs certificates, and answers about them as its fields say."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    url: str = "http://ocsp.test/"
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    begins: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - HOUR)
    ends: datetime | None = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) + HOUR)
    delegate: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None  # who signs answers
    shows_delegate: bool = True
    mistaken: bool = False  # answers about another certificate
    body: bytes | None = None  # answered in place of all that
    code: int = 200
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self.sign(name("responding CA"), self.key.public_key(), [constraints])

    def sign(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey,
        extensions: Sequence[x509.ExtensionType],
        until: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(name("responding CA"))
        builder = builder.public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=2)).not_valid_after(now + until)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def leaf(self, key: Private, domain: str = "web.test", *, must_staple: bool = False) -> x509.Certificate:
        place = x509.UniformResourceIdentifier(self.url)
        extensions: list[x509.ExtensionType] = [
            x509.SubjectAlternativeName([x509.DNSName(domain)]),
            x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)]),
        ]
        if must_staple:
            extensions.append(x509.TLSFeature([x509.TLSFeatureType.status_request]))
        return self.sign(name(domain), key.public_key(), extensions)

    def chain(self, leaf: x509.Certificate) -> str:
        return "".join(each.public_bytes(Encoding.PEM).decode() for each in (leaf, self.certificate))

    def name_delegate(self, *usages: x509.ObjectIdentifier, until: timedelta = HOUR) -> None:
        """Answers are signed by another key from now on, whose certificate has these usages."""
        key = ec.generate_private_key(ec.SECP256R1())
        extension = x509.ExtendedKeyUsage(usages or [ExtendedKeyUsageOID.OCSP_SIGNING])
        self.delegate = self.sign(name("delegate"), key.public_key(), [extension], until), key

    def answer(self, leaf: x509.Certificate) -> bytes:
        """What is answered about a leaf, in DER."""
        issuer, subject = self.certificate, self.leaf(self.key) if self.mistaken else leaf
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            subject, issuer, hashes.SHA1(), self.status, self.begins, self.ends,
            self.begins if revoked else None, None,
        )  # fmt: skip
        if self.delegate is None:
            builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer)
            return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)
        certificate, key = self.delegate
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
        if self.shows_delegate:
            builder = builder.certificates([certificate])
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class _Handler(http.server.BaseHTTPRequestHandler):
    responder: ClassVar[Responder]
    leaves: ClassVar[dict[int, x509.Certificate]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        responder = self.responder
        responder.asked.append(body)
        leaf = self.leaves.get(ocsp.load_der_ocsp_request(body).serial_number)
        unknown = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        answer = unknown.public_bytes(Encoding.DER) if leaf is None else responder.answer(leaf)
        answer = answer if responder.body is None else responder.body
        self.send_response(responder.code)
        self.send_header("Content-Type", "application/ocsp-response")
        if responder.code == 302:
            self.send_header("Location", responder.url + "elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def responding(responder: Responder) -> Iterator[dict[int, x509.Certificate]]:
    """Serve it on a free port, which becomes its `url`. What it answers about goes into the mapping."""
    leaves: dict[int, x509.Certificate] = {}
    handler = type("Handler", (_Handler,), {"responder": responder, "leaves": leaves})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    responder.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield leaves
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
