"""Whether a certificate chain may be served: every reason why not, in words that say what to do.

`inspect` looks at what a TLS client would: the leaf comes first, each certificate is signed by the next, which may do
so, and none is missing that clients lack; all are valid at `now`, the leaf names hosts and is meant for servers, no key
or signature is weak, and its private key is held. It does not ask whether the root is trusted: that is the client's
business. RFC 5280, RFC 8446 section 4.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from certs.authority import PublicKey, key_id
from certs.report import NO_KEY, ChainReport

MAX_CERTIFICATES = 10  # OpenSSL's default verification depth is 100; a chain as long as this is a mistake
MIN_RSA_BITS = 2048  # CA/Browser Forum Baseline Requirements 6.1.5
STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
LEAF_CURVES = (ec.SECP256R1, ec.SECP384R1)
UNREADABLE = (  # what `cryptography` raises for bytes that are no certificate
    ValueError,
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

Extension = TypeVar("Extension", bound=x509.ExtensionType)


def inspect(pem: str, now: datetime, holds: Callable[[bytes], bool] = lambda key_id: True) -> ChainReport:
    """What is to be said of a PEM chain at `now` (with time zone); `holds` tells whether a private key is here."""
    if "PRIVATE KEY-----" in pem:
        return _unreadable("holds a private key: a chain is public, keys belong on the key server only")
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
        for certificate in chain:
            _ = certificate.subject, certificate.issuer, certificate.extensions  # parsed when first asked for
    except UNREADABLE as error:
        return _unreadable(f"not a chain of PEM certificates: {str(error)[:200]}")
    if len(chain) > MAX_CERTIFICATES:
        return _unreadable(f"{len(chain)} certificates; {MAX_CERTIFICATES} are allowed")
    leaf = chain[0]
    identifier = _key_id(leaf)
    place = next((place for place, certificate in enumerate(chain, 1) if not _is_ca(certificate)), 1)
    if place > 1:
        problems = [f"the leaf is certificate {place}: it has to come first"]
    else:
        problems = [*_order(chain), *_lengths(chain), *_complete(chain), *_leaf(leaf)]
    for place, certificate in enumerate(chain, 1):
        problems += [f"certificate {place} ({_title(certificate)}) {why}" for why in _each(certificate, now)]
    if identifier != NO_KEY and not holds(identifier):
        problems.append(f"the key server holds no private key for it (key id {identifier.hex()})")
    not_after = min(int(certificate.not_valid_after_utc.timestamp()) for certificate in chain)
    return ChainReport(identifier, _names(leaf), not_after, tuple(problems))


def _unreadable(problem: str) -> ChainReport:
    return ChainReport(NO_KEY, (), 0, (problem,))


def _title(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:100] or "no subject"


def _key_id(certificate: x509.Certificate) -> bytes:
    try:
        public_key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return NO_KEY
    return key_id(public_key) if isinstance(public_key, PublicKey) else NO_KEY


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def _order(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """After each certificate its issuer (RFC 5246 section 7.4.2, which many clients insist on)."""
    for place, (certificate, issuer) in enumerate(pairwise(chain), 1):
        if not _is_ca(issuer):
            yield f"certificate {place + 1} ({_title(issuer)}) is no CA and cannot have signed certificate {place}"
            continue
        usage = _extension(issuer, x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            yield f"certificate {place + 1} ({_title(issuer)}) may not sign certificates (key usage lacks keyCertSign)"
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            yield (
                f"certificate {place} is signed by {certificate.issuer.rfc4514_string()[:100]}, "
                f"not by certificate {place + 1} ({_title(issuer)})"
            )


def _lengths(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """How many CAs a CA lets stand below it; those that signed themselves do not count (RFC 5280 section 6.1.4)."""
    below = 0
    for place, issuer in enumerate(chain[1:], 2):
        constraints = _extension(issuer, x509.BasicConstraints)
        allowed = None if constraints is None else constraints.path_length
        if allowed is not None and below > allowed:
            yield f"certificate {place} ({_title(issuer)}) allows {allowed} CAs below it, and there are {below}"
        below += issuer.issuer != issuer.subject


def _complete(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """Whether clients, which have roots only, can get from the leaf to one.

    A root may be left out, and nothing in a certificate says whether its issuer is one. But a leaf that says where its
    issuer's certificate is to be had comes from a CA that expects its clients to lack it, as public CAs do, which
    never sign leaves by their roots. A private CA that does both may append its root.
    """
    leaf = chain[0]
    access = _extension(leaf, x509.AuthorityInformationAccess)
    if len(chain) > 1 or access is None or leaf.issuer == leaf.subject:
        return
    places = [
        each.access_location.value for each in access if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    ]
    if places:
        yield (
            f"the certificate of its issuer, {leaf.issuer.rfc4514_string()[:100]}, is missing: "
            f"append it; it is to be had from {str(places[0])[:200]}"
        )


def _leaf(leaf: x509.Certificate) -> Iterator[str]:
    if not _names(leaf):
        yield "the leaf names no host (subjectAltName); clients ignore its common name"
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    if usages is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & {
        *usages
    }:
        yield "the leaf is not meant for servers (extended key usage)"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        yield "the leaf may not sign handshakes (key usage lacks digitalSignature)"


def _each(certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    if now < certificate.not_valid_before_utc:
        yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if now > certificate.not_valid_after_utc:
        yield f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    yield from _weak_key(certificate)
    if certificate.issuer != certificate.subject:  # nobody relies on a root's signature of itself
        yield from _weak_signature(certificate)


def _weak_key(certificate: x509.Certificate) -> Iterator[str]:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        yield "has a key of an unknown type"
        return
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            yield f"has an RSA key of {key.key_size} bits; {MIN_RSA_BITS} are the least"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not _is_ca(certificate) and not isinstance(key.curve, LEAF_CURVES):
            yield f"has a key on curve {key.curve.name}; P-256 and P-384 are served"
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        yield "has a key that is neither ECDSA, RSA nor Ed25519"


def _weak_signature(certificate: x509.Certificate) -> Iterator[str]:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        yield "is signed with an unknown algorithm"
        return
    if algorithm is not None and not isinstance(algorithm, STRONG_HASHES):  # None: Ed25519 and Ed448
        yield f"is signed with {algorithm.name.upper()}, which is weak"


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
