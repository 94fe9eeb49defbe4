"""Whom a verified client certificate names, as lines for the server's eyes. Pure.

rfc9440
    Client-Cert                        the whole certificate (RFC 9440)
    X-Forwarded-Client-Cert-Subject    its subject, as RFC 4514 writes names
    X-Forwarded-Client-Cert-Issuer     its issuer
    X-Forwarded-Client-Cert-Serial     its serial number, hexadecimal
    X-Forwarded-Client-Cert-Sha256     the hash of its DER, hexadecimal

ssl_client, for servers that know these names from nginx's or HAProxy's configurations
    X-SSL-Client-Verify                SUCCESS, or NONE for a client without a certificate
    X-SSL-Client-DN, -CN, -Issuer-DN   its subject, the common name therein, its issuer
    X-SSL-Client-Serial                its serial number, hexadecimal
    X-SSL-Client-Not-After             its end, as 2027-01-31T23:59:59Z
    X-SSL-Client-SHA1, -SHA256         hashes of its DER, hexadecimal

Names are what an authority was talked into signing: whatever is not printable ASCII is written as RFC 4514 escapes it
(`\\0D\\0A`), so that no name can begin a line of its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from core.model import CertificateFields

# Servers refuse heads of more than 8 to 64 KiB, and this one goes with every request.
MOST_BYTES: Final = 4096
PREFIXES: Final = (b"x-forwarded-client-cert", b"x-ssl-client")
FIELDS: Final = frozenset((b"client-cert", b"client-cert-chain"))


class UnusableIdentity(Exception):
    """A certificate that OpenSSL has verified and that we do not pass on. The text says why."""


def is_ours(lower: bytes) -> bool:
    """Whether a field of this name says who the client is."""
    return lower in FIELDS or lower.startswith(PREFIXES)


def nobody(style: CertificateFields) -> bytes:
    """The lines for a client without a certificate that was asked for one."""
    return b"X-SSL-Client-Verify: NONE\r\n" if style is CertificateFields.SSL_CLIENT else b""


def lines(der: bytes, now: datetime, style: CertificateFields = CertificateFields.RFC9440) -> bytes:
    """The lines for a certificate that OpenSSL has verified, now or when its session began. Raises UnusableIdentity."""
    if len(der) > MOST_BYTES:
        raise UnusableIdentity(f"it has {len(der)} bytes; {MOST_BYTES} are allowed")
    try:
        certificate = x509.load_der_x509_certificate(der)
        told = _TOLD[style](certificate, der)
    except ValueError as error:
        raise UnusableIdentity(f"it cannot be read: {error}") from None
    if certificate.not_valid_after_utc < now:
        raise UnusableIdentity("it has expired since its session began")
    return b"".join(b"%b: %b\r\n" % each for each in told)


def common_name(der: bytes) -> str:
    """The most specific common name of a certificate's subject; empty if it has none that can be read."""
    try:
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    name = names[-1].value if names else ""
    return name if isinstance(name, str) and name.isprintable() else ""


def _rfc9440(certificate: x509.Certificate, der: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"Client-Cert", b":%b:" % base64.b64encode(der)),
        (b"X-Forwarded-Client-Cert-Subject", _text(certificate.subject)),
        (b"X-Forwarded-Client-Cert-Issuer", _text(certificate.issuer)),
        (b"X-Forwarded-Client-Cert-Serial", b"%X" % certificate.serial_number),
        (b"X-Forwarded-Client-Cert-Sha256", hashlib.sha256(der).hexdigest().encode()),
    ]


def _ssl_client(certificate: x509.Certificate, der: bytes) -> list[tuple[bytes, bytes]]:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    common = names[-1].value if names else ""  # the most specific one
    return [
        (b"X-SSL-Client-Verify", b"SUCCESS"),
        (b"X-SSL-Client-DN", _text(certificate.subject)),
        (b"X-SSL-Client-CN", _escaped(common if isinstance(common, str) else "")),
        (b"X-SSL-Client-Issuer-DN", _text(certificate.issuer)),
        (b"X-SSL-Client-Serial", b"%X" % certificate.serial_number),
        (b"X-SSL-Client-Not-After", certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ").encode()),
        (b"X-SSL-Client-SHA1", hashlib.sha1(der).hexdigest().encode()),  # noqa: S324 - a name that servers know it by
        (b"X-SSL-Client-SHA256", hashlib.sha256(der).hexdigest().encode()),
    ]


_TOLD: Final[Mapping[CertificateFields, Callable[[x509.Certificate, bytes], list[tuple[bytes, bytes]]]]] = {
    CertificateFields.OFF: lambda *_: [],
    CertificateFields.RFC9440: _rfc9440,
    CertificateFields.SSL_CLIENT: _ssl_client,
}


def _text(name: x509.Name) -> bytes:
    """As RFC 4514 writes it."""
    return _escaped(name.rfc4514_string())


def _escaped(text: str) -> bytes:
    """RFC 4514 §2.4: any byte of the UTF-8 may be written as a backslash and two hexadecimal digits."""
    data = text.encode("utf-8", "backslashreplace")
    return b"".join(bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%02X" % byte for byte in data)
