"""Admission by the certificate that the listener has verified in the handshake (docs/tls.md).

The listener says whose certificates are good at all; here a rule admits some of their holders. What a certificate says
is read once, remembered, and compared as it stands: names byte by byte, without wildcards.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from core import model
from proxy.actions import Changes
from proxy.admission import Case, Refusal, Verdict
from proxy.errors import Code
from proxy.jwt_verify import encoded

READ: Final = 1024  # certificates whose contents are remembered
_NAMES: Final = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)


class Holder(NamedTuple):
    """Whom a certificate names, and which one it is."""

    common_names: frozenset[str]
    names: frozenset[str]  # alternative ones: hosts, mail addresses, URIs
    issuer: str  # as RFC 4514 writes it
    sha256: str
    user: str


@lru_cache(READ)
def holder_of(der: bytes) -> Holder | None:
    """None where it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        common = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names = _alternative(certificate)
        issuer = certificate.issuer.rfc4514_string()
    except ValueError:
        return None
    sha256 = hashlib.sha256(der).hexdigest()
    user = next(iter([*common[-1:], *names]), sha256)
    return Holder(frozenset(common), frozenset(names), issuer, sha256, encoded(user).decode("ascii"))


def _alternative(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [each.value for each in extension.value if isinstance(each, _NAMES)]


class CertificateAuth:
    """One authentication by `certificate`."""

    problem = ""

    def __init__(self, each: model.Authentication) -> None:
        assert each.certificate is not None
        terms = each.certificate
        self._common_names, self._names = frozenset(terms.common_names), frozenset(terms.names)
        self._issuers = frozenset(terms.issuers)
        self._sha256 = frozenset(each.lower() for each in terms.sha256)
        self._field = each.user_field.encode("ascii")
        self._removed = frozenset((self._field.lower(),)) if self._field else frozenset[bytes]()

    def look(self) -> None:
        """There is nothing that could be old."""

    def ask(self, case: Case) -> Verdict:
        """What becomes of a request."""
        der = case.origin.certificate
        holder = holder_of(der) if der else None
        if holder is None or not self._admits(holder):
            return Refusal(Code.FORBIDDEN)
        lines = b"%b: %b\r\n" % (self._field, holder.user.encode("ascii")) if self._field else b""
        case.identify(holder.user, Changes(self._removed, lines))
        return None

    def _admits(self, holder: Holder) -> bool:
        """Whether it has one of each list that is given."""
        return (
            (not self._common_names or not self._common_names.isdisjoint(holder.common_names))
            and (not self._names or not self._names.isdisjoint(holder.names))
            and (not self._issuers or holder.issuer in self._issuers)
            and (not self._sha256 or holder.sha256 in self._sha256)
        )
