"""Who a process of the cluster is, and how it knows its peers: mutual TLS 1.3 under the cluster's own CA.

A directory holds `ca.pem`, `cert.pem` and `key.pem`, as `paifang certs issue` writes them. The certificate's URI name
`paifang://node/<role>/<name>` says who its bearer is. Host names are not checked, since nodes are reached by addresses
that change: what counts is that the CA signed the certificate, and which role it names. `client_context(role)` and
`server_context(roles)` check the role inside the handshake, so that no byte is exchanged with a peer of another role.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import cast

from cryptography import x509

ROLES = frozenset({"l4", "l7", "keyserver", "control"})
_URI = re.compile(r"paifang://node/([a-z0-9]+)/([A-Za-z0-9][A-Za-z0-9._-]{0,79})")
_REMEDY = "`paifang certs issue CADIR --role ROLE --name NAME --out {directory}` makes an identity"


class IdentityError(Exception):
    """An identity that cannot be used, ours or a peer's."""


class Identity:
    """The certificate, key and CA of one process. Made by `load`."""

    def __init__(self, directory: Path, role: str, name: str) -> None:
        self.directory = directory
        self.role = role
        self.name = name

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Read and check DIR/{ca,cert,key}.pem. Raises IdentityError, which names the file and the remedy."""
        remedy = _REMEDY.format(directory=directory)
        for file in ("ca.pem", "cert.pem", "key.pem"):
            try:
                (directory / file).read_bytes()
            except OSError as error:
                raise IdentityError(f"{directory / file}: {error.strerror}; {remedy}") from None
        if (directory / "key.pem").stat().st_mode & 0o007:
            raise IdentityError(f"{directory / 'key.pem'}: every user of this machine may read it; chmod 600 it")
        try:
            certificate = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes())
            uris = _uris(certificate)
        except ValueError as error:
            raise IdentityError(f"{directory / 'cert.pem'}: not a certificate ({error}); {remedy}") from None
        try:
            identity = cls(directory, *_role_and_name(uris))
            identity._context(ssl.PROTOCOL_TLS_CLIENT)
        except IdentityError as error:
            raise IdentityError(f"{directory / 'cert.pem'}: {error}; {remedy}") from None
        except ssl.SSLError as error:
            raise IdentityError(f"{directory}: key.pem, cert.pem and ca.pem do not fit: {error}; {remedy}") from None
        return identity

    def client_context(self, role: str | None = None) -> ssl.SSLContext:
        """For connections that we open with asyncio; with `role`, the handshake fails unless the peer has it."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        if role is not None:
            _require(context, {role})
        return context

    def server_context(self, roles: Collection[str] | None = None) -> ssl.SSLContext:
        """For connections that we accept with asyncio; a client certificate is required, of one of `roles` if given."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        if roles is not None:
            _require(context, roles)
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.directory / "ca.pem")
        context.load_cert_chain(self.directory / "cert.pem", self.directory / "key.pem")
        return context


def peer_of(ssl_object: ssl.SSLObject) -> tuple[str, str]:
    """Role and name of the peer, whose certificate the handshake has verified. Raises IdentityError."""
    certificate = ssl_object.getpeercert()
    if not certificate:
        raise IdentityError("the peer has shown no certificate")
    names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    return _role_and_name([value for kind, value in names if kind == "URI"])


def _require(context: ssl.SSLContext, roles: Collection[str]) -> None:
    """Make the context's handshakes fail for peers of other roles, before application data flows."""

    class RoleCheckedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                role, name = peer_of(self)
            except IdentityError as error:
                raise ssl.SSLCertVerificationError(str(error)) from None
            if role not in roles:
                wanted = " or ".join(sorted(roles))
                raise ssl.SSLCertVerificationError(f"the peer {name} is of role {role}, not {wanted}")

    context.sslobject_class = RoleCheckedObject


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _role_and_name(uris: list[str]) -> tuple[str, str]:
    """The one identity among the URI names; a certificate that names several nodes names none."""
    matches = [match for uri in uris if (match := _URI.fullmatch(uri))]
    if len(matches) != 1 or matches[0][1] not in ROLES:
        raise IdentityError("the certificate does not name one node (URI paifang://node/<role>/<name>)")
    return matches[0][1], matches[0][2]
