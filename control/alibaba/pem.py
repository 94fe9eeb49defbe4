"""What certificates say of themselves, as the API tells it. Pure."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from core.model import Certificate

TIME = "%Y-%m-%dT%H:%M:%SZ"


def first(pem: str) -> x509.Certificate | None:
    """The first certificate of a chain; None where there is none."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())[0]
    except (ValueError, IndexError):
        return None


def names_of(certificate: Certificate) -> tuple[str, ...]:
    """The host names that a certificate is for."""
    leaf = first(certificate.chain)
    if leaf is None:
        return tuple(each.lower() for each in certificate.domains)
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(each.lower() for each in found.get_values_for_type(x509.DNSName))


def covers(certificate: Certificate, domain: str) -> bool:
    """Whether a certificate is for this name, which may itself be a wildcard."""
    above = "*." + domain.partition(".")[2]
    return bool({domain, above} & set(names_of(certificate)))


def told(leaf: x509.Certificate) -> dict[str, object]:
    """Name, fingerprint and end of a certificate."""
    common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    end: datetime = leaf.not_valid_after_utc
    digest = leaf.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - the API has it; nothing is trusted by it
    return {
        "CommonName": str(common[0].value) if common else "",
        "Fingerprint": ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)),
        "ExpireTime": end.strftime(TIME), "ExpireTimeStamp": int(end.timestamp() * 1000),
    }  # fmt: skip
