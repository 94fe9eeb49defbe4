"""From certificate chains to SSL contexts, and from the name that a client asks for to one of them.

A context holds at most one certificate of each key type; OpenSSL picks by what the client can verify. So a name that is
covered by an ECDSA and an RSA certificate gets one context with both.

For a name, the certificates that carry it exactly come first, then those with the wildcard one label up (RFC 6125
§6.4.3), in the order of the listener's list; the first of each key type is taken. A name that none covers, and a client
that gives none, get the listener's first certificate, together with the first of each other key type that shares a name
with it.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID

from core.model import Certificate
from proxy.keyless import reference_pem
from proxy.tls_profile import DEFAULT, Profile, new_context, text_file

KEY_TYPES = (
    (ec.EllipticCurvePublicKey, "EC"),
    (rsa.RSAPublicKey, "RSA"),
    (ed25519.Ed25519PublicKey, "ED25519"),
)


class CertificateError(Exception):
    """A chain that cannot be served. The text says why."""


class TlsObject(ssl.SSLObject):
    """A server's side of a connection, with the name that the client asked for ("" without)."""

    sni = ""
    unserved = False  # no certificate was there to choose


@dataclass(frozen=True, slots=True)
class Credential:
    """A chain and the reference to its key. `names` are lower case, `leaf` is in DER.

    responder: whether it names an OCSP responder. must_staple: clients insist on its answer (RFC 7633).
    """

    name: str
    chain: str
    key_type: str
    key_id: bytes
    reference: str
    names: tuple[str, ...]
    leaf: bytes = b""
    responder: bool = False
    must_staple: bool = False


def read(certificate: Certificate) -> Credential:
    """Takes a chain apart, leaf first. Raises CertificateError."""
    if "PRIVATE KEY" in certificate.chain:
        raise CertificateError("it holds a private key, which belongs in the key server alone: remove and replace it")
    try:
        leaf = x509.load_pem_x509_certificates(certificate.chain.encode())[0]
        public = leaf.public_key()
    except ValueError as error:
        raise CertificateError(f"it is no chain of PEM certificates: {error}") from None
    key_type = next((name for kind, name in KEY_TYPES if isinstance(public, kind)), None)
    if key_type is None:
        raise CertificateError(f"keys of type {type(public).__name__.strip('_')} are not served: use ECDSA or RSA")
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_id = hashlib.sha256(spki).digest()
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        dns = ()
    return Credential(
        certificate.name,
        certificate.chain,
        key_type,
        key_id,
        reference_pem(key_id, spki),
        dns,
        leaf.public_bytes(Encoding.DER),
        _names_a_responder(leaf),
        _must_staple(leaf),
    )


def _names_a_responder(leaf: x509.Certificate) -> bool:
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(each.access_method == AuthorityInformationAccessOID.OCSP for each in access)


def _must_staple(leaf: x509.Certificate) -> bool:
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    return x509.TLSFeatureType.status_request in features


def base_context(profile: Profile = DEFAULT) -> ssl.SSLContext:
    """A context without a certificate, whose connections are `TlsObject`s. Raises CertificateError."""
    try:
        context = new_context(profile)
    except ssl.SSLError as error:
        raise CertificateError(f"OpenSSL does not take its authorities: {error.reason or error}") from None
    context.sslobject_class = TlsObject
    return context


def make_context(credentials: Iterable[Credential], profile: Profile = DEFAULT) -> ssl.SSLContext:
    """A context for credentials of different key types. Raises CertificateError."""
    context = base_context(profile)
    for credential in credentials:
        try:
            with text_file(credential.chain) as chain, text_file(credential.reference) as reference:
                context.load_cert_chain(chain, reference)
        except ssl.SSLError as error:
            raise CertificateError(f"OpenSSL does not take it: {error.reason or error}") from None
    return context


Group = tuple[Credential, ...]
Made = TypeVar("Made")  # a context, or what stands for one


class Contexts(Generic[Made]):
    """The contexts of one listener, by name. Immutable; a new configuration makes a new one."""

    def __init__(self, credentials: Sequence[Credential], make: Callable[[Group], Made]) -> None:
        """`make` gives the context of a group, the same one for the same group. What it raises passes through."""
        carriers: dict[str, list[Credential]] = {}
        for credential in credentials:
            for name in credential.names:
                carriers.setdefault(name, []).append(credential)
        self._default = make(_default_group(credentials)) if credentials else None
        self._by_name = {name: make(_group(name, carriers)) for name in carriers}

    def find(self, sni: str) -> Made | None:
        """The context for a name, the default one, or None if there is no certificate at all."""
        name = sni.lower().removesuffix(".")
        found = self._by_name.get(name)
        if found is None and name:
            found = self._by_name.get(_wildcard(name))
        return found or self._default


def _wildcard(name: str) -> str:
    return "*." + name.partition(".")[2]


def _default_group(credentials: Sequence[Credential]) -> Group:
    names = set(credentials[0].names)
    related = (credential for credential in credentials[1:] if names.intersection(credential.names))
    return _one_of_each_type([credentials[0], *related])


def _group(name: str, carriers: Mapping[str, Sequence[Credential]]) -> Group:
    wider = () if name.startswith("*.") else carriers.get(_wildcard(name), ())
    return _one_of_each_type([*carriers[name], *wider])


def _one_of_each_type(credentials: Iterable[Credential]) -> Group:
    chosen: dict[str, Credential] = {}
    for credential in credentials:
        chosen.setdefault(credential.key_type, credential)
    return tuple(chosen.values())
