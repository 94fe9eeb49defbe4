"""OCSP for one certificate: what to ask of whom, and whether an answer may be stapled. Pure. RFC 6960, RFC 7633.

An answer may be stapled when it is about this very certificate, says that it is good, is in force, and is signed by the
issuer or by whom the issuer has named for that (RFC 6960 section 4.2.2.2). All else is an `OcspError` whose text says
why: clients would refuse it, or worse, some would and some would not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

# RFC 6960 section 2.4: without nextUpdate there may be news at any time. Such an answer is taken for this long.
WITHOUT_NEXT_UPDATE = timedelta(hours=1)
CLOCKS_DIFFER = timedelta(minutes=5)
MAX_ANSWER_BYTES = 1 << 15  # with the certificate of who signed it, two or three KiB are usual
MAX_URL = 2000

_ALGORITHMS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class OcspError(Exception):
    """An answer that may not be stapled, or a certificate that cannot be asked about. The text says why."""


class RevokedError(OcspError):
    """The issuer has revoked the certificate; answers of before are of no use any more."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A certificate to be asked about, its issuer's, and where. Compared and kept by the leaf alone."""

    leaf: x509.Certificate
    issuer: x509.Certificate
    url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that may be stapled while `begins` ≤ now < `ends`."""

    der: bytes
    begins: datetime
    ends: datetime


def responder(leaf: x509.Certificate) -> str:
    """The http URL of its responder; empty if it names none."""
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return ""
    for each in access:
        place = each.access_location.value
        if each.access_method == AuthorityInformationAccessOID.OCSP and str(place).lower().startswith("http://"):
            return str(place)[:MAX_URL]
    return ""


def must_staple(leaf: x509.Certificate) -> bool:
    """Whether clients are told to insist on a stapled answer (RFC 7633)."""
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    return x509.TLSFeatureType.status_request in features


def subject(pem: str) -> Subject | None:
    """What to ask for the leaf of a sound chain; None where it names no responder.

    Raises OcspError where its issuer's certificate is not in the chain.
    """
    chain = x509.load_pem_x509_certificates(pem.encode())
    url = responder(chain[0])
    if not url:
        return None
    if len(chain) < 2:
        raise OcspError("its issuer's certificate is not in the chain, and without it none can be asked about it")
    return Subject(chain[0], chain[1], url)


def request(of: Subject) -> bytes:
    """The request in DER. SHA-1 names the certificate, as all responders know it; nothing relies on its strength."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(of.leaf, of.issuer, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def judge(der: bytes, of: Subject, now: datetime) -> Answer:
    """The answer, if it may be stapled at `now` (with time zone). Raises OcspError."""
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OcspError(f"the responder says {response.response_status.name.lower().replace('_', ' ')}")
        single = next((each for each in response.responses if _is_about(each, of)), None)
        if single is None:
            raise OcspError("the answer is about another certificate")
        _check_signature(response, of.issuer, now)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise OcspError(f"the answer cannot be read: {str(error)[:200]}") from None
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        raise RevokedError(f"the certificate was revoked on {single.revocation_time_utc:%Y-%m-%d}: replace it")
    if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise OcspError("the responder does not know the certificate")
    begins = single.this_update_utc
    ends = single.next_update_utc or begins + WITHOUT_NEXT_UPDATE
    if begins > now + CLOCKS_DIFFER:
        raise OcspError(f"the answer is of {begins:%Y-%m-%d %H:%M} UTC, which is yet to come")
    if ends <= now:
        raise OcspError(f"the answer was good until {ends:%Y-%m-%d %H:%M} UTC")
    return Answer(der, begins, ends)


def renewal(answer: Answer) -> datetime:
    """When to ask for the next one: after half of its life, so that the responder may be away for the other half."""
    return answer.begins + (answer.ends - answer.begins) / 2


def _is_about(single: ocsp.OCSPSingleResponse, of: Subject) -> bool:
    name = hashes.Hash(single.hash_algorithm)
    name.update(of.issuer.subject.public_bytes())
    return (
        single.serial_number == of.leaf.serial_number
        and single.issuer_name_hash == name.finalize()
        and single.issuer_key_hash == _key_hash(of.issuer, single.hash_algorithm)
    )


def _key_hash(certificate: x509.Certificate, algorithm: hashes.HashAlgorithm) -> bytes:
    """Of the key's bit string alone, without the algorithm around it (RFC 6960 section 4.1.1)."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        bits = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        raise OcspError("the issuer's key is neither ECDSA, RSA nor Ed25519")
    digest = hashes.Hash(algorithm)
    digest.update(bits)
    return digest.finalize()


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> None:
    """Raises OcspError unless the issuer signed it, or one whom it named for that."""
    if _signed_by(response, issuer):
        return
    for signer in response.certificates:
        if _signed_by(response, signer):
            _check_delegate(signer, issuer, now)
            return
    raise OcspError("the answer is signed neither by the issuer nor by one whom it named for that")


def _check_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: datetime) -> None:
    try:
        signer.verify_directly_issued_by(issuer)
        usages = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise OcspError("the answer is signed by one whom the issuer has not named for that")
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        raise OcspError("the answer is signed by one whose own certificate is not valid now")


def _signed_by(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    signature, content = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        elif not isinstance(algorithm, _ALGORITHMS):
            return False
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def chain_digest(pem: str) -> bytes:
    """What a chain's text is remembered by."""
    return hashlib.sha256(pem.encode()).digest()
