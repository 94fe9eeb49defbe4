"""Whom a verified client certificate names, as lines for the server's eyes. Pure.

    Client-Cert                        the whole certificate (RFC 9440)
    X-Forwarded-Client-Cert-Subject    its subject, as RFC 4514 writes names
    X-Forwarded-Client-Cert-Issuer     its issuer
    X-Forwarded-Client-Cert-Serial     its serial number, hexadecimal
    X-Forwarded-Client-Cert-Sha256     the hash of its DER, hexadecimal

Names are what an authority was talked into signing: whatever is not printable ASCII is written as RFC 4514 escapes it
(`\\0D\\0A`), so that no name can begin a line of its own.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Final

from cryptography import x509

# Servers refuse heads of more than 8 to 64 KiB, and this one goes with every request.
MOST_BYTES: Final = 4096
PREFIX: Final = b"x-forwarded-client-cert"
FIELDS: Final = frozenset((b"client-cert", b"client-cert-chain"))


class UnusableIdentity(Exception):
    """A certificate that OpenSSL has verified and that we do not pass on. The text says why."""


def is_ours(lower: bytes) -> bool:
    """Whether a field of this name says who the client is."""
    return lower in FIELDS or lower.startswith(PREFIX)


def lines(der: bytes, now: datetime) -> bytes:
    """The lines for a certificate that OpenSSL has verified, now or when its session began. Raises UnusableIdentity."""
    if len(der) > MOST_BYTES:
        raise UnusableIdentity(f"it has {len(der)} bytes; {MOST_BYTES} are allowed")
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject, issuer = _text(certificate.subject), _text(certificate.issuer)
    except ValueError as error:
        raise UnusableIdentity(f"it cannot be read: {error}") from None
    if certificate.not_valid_after_utc < now:
        raise UnusableIdentity("it has expired since its session began")
    return (
        b"Client-Cert: :%b:\r\n"
        b"X-Forwarded-Client-Cert-Subject: %b\r\n"
        b"X-Forwarded-Client-Cert-Issuer: %b\r\n"
        b"X-Forwarded-Client-Cert-Serial: %X\r\n"
        b"X-Forwarded-Client-Cert-Sha256: %b\r\n"
    ) % (
        base64.b64encode(der),
        subject,
        issuer,
        certificate.serial_number,
        hashlib.sha256(der).hexdigest().encode(),
    )


def _text(name: x509.Name) -> bytes:
    """RFC 4514 §2.4: any byte of the UTF-8 may be written as a backslash and two hexadecimal digits."""
    text = name.rfc4514_string().encode("utf-8", "backslashreplace")
    return b"".join(bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%02X" % byte for byte in text)
