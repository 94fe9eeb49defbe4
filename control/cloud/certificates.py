"""What certificates say of themselves. Private keys never come to the control plane (decision 0158). Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from core.model import Certificate

PEM_MOST = 65_536
KEY_ELSEWHERE = (
    "private keys do not come to the control plane: put it at the key server (`paifang keyserver encrypt`, "
    "docs/key-server.md) and upload the certificate without it; this key has been sent, and is kept nowhere"
)


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


def common_name(leaf: x509.Certificate) -> str:
    """The name of its subject; empty where it has none."""
    found = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""
