"""Authorities of the tests, and clients that have certificates of theirs."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.model import CaCertificate
from tests.proxy.tls_support import client_context

DAY = timedelta(days=1)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass
class Authority:
    """Self-signed, or signed by `above`."""

    common: str = "Partners"
    above: Authority | None = None
    ca: bool = True
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        issuer = self.above or self
        self.certificate = (
            _builder(self.common, issuer.common, self.key)
            .add_extension(x509.BasicConstraints(self.ca, None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        common: str,
        *,
        until: timedelta = DAY,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        names: Sequence[str] = (),
    ) -> ClientCert:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(common, self.common, key, until)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        return ClientCert(builder.sign(self.key, hashes.SHA256()), key)

    def revoke(self, *clients: ClientCert, until: timedelta = DAY) -> str:
        """A revocation list."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(name(self.common))
        builder = builder.last_update(now - 2 * DAY).next_update(now + until)
        for client in clients:
            revoked = x509.RevokedCertificateBuilder().serial_number(client.certificate.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def admits(self, crl: str = "") -> CaCertificate:
        return CaCertificate("partners", bundle=self.pem, crl=crl)


@dataclass
class ClientCert:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def context(self, directory: Path, version: str = "") -> ssl.SSLContext:
        """A client that shows this certificate."""
        pem = self.certificate.public_bytes(Encoding.PEM)
        pem += self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = directory / f"{self.certificate.serial_number:x}.pem"
        file.write_bytes(pem)
        context = client_context(version)
        context.load_cert_chain(file)
        return context


def _builder(
    common: str, issuer: str, key: ec.EllipticCurvePrivateKey, until: timedelta = DAY
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + until)
    )
