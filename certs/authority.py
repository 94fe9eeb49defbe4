"""The cluster's own certificate authority: identities for its nodes, and leaves for development.

A CA directory (0700) holds `ca.pem` and `ca-key.pem` (0600), ECDSA P-256. It comes into being whole, by one rename, so
that a crash leaves no half of it, and it is never overwritten: a new key would cut every node off from the cluster.

Node identities say who a process is by the URI `paifang://node/<role>/<name>`. Development leaves carry no such URI and
may not be used for client authentication, so none of them passes for a node although the same CA signs both.
Certificates follow RFC 5280 and the CA/Browser Forum's Baseline Requirements where those apply to a private CA.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.node.files import write_atomic
from control.node.identity import BACKDATED_S
from core.fields import DOMAIN, NAME

ROLES = ("l4", "l7", "keyserver", "control")
CA_CERTIFICATE, CA_KEY = "ca.pem", "ca-key.pem"
CA_LIFETIME = timedelta(days=3650)
NODE_LIFETIME = timedelta(days=825)  # the longest that common TLS stacks accept from a private CA
LEAF_LIFETIME = timedelta(days=90)  # as Let's Encrypt: short enough that renewal is not forgotten
BACKDATED = timedelta(seconds=BACKDATED_S)  # for clocks that are behind ours
MAX_COMMON_NAME = 64  # RFC 5280, ub-common-name

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class AuthorityError(Exception):
    """A CA or an identity that cannot be made or used; the text names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What `Identity.load` reads: PEM texts of ca.pem, cert.pem and key.pem."""

    ca: bytes
    certificate: bytes
    key: bytes

    def write(self, directory: Path) -> None:
        """Write the three files, readable by their owner only. Raises AuthorityError where another CA's identity is."""
        ca = directory / "ca.pem"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if ca.exists() and ca.read_bytes() != self.ca:
                raise AuthorityError(
                    f"{directory}: holds an identity from another CA; remove it or give another directory"
                )
            for name, data in (("key.pem", self.key), ("cert.pem", self.certificate), ("ca.pem", self.ca)):
                write_atomic(directory / name, data)
        except OSError as error:
            remedy = "give a directory that this user may write to"
            raise AuthorityError(f"{error.filename or directory}: {error.strerror}; {remedy}") from None


class Authority:
    """A CA whose key is in hand. Made by `init` or `load`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @property
    def ca_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @classmethod
    def init(cls, directory: Path, now: datetime | None = None) -> Authority:
        """The CA of `directory`, made there if the directory is missing or empty. Raises AuthorityError."""
        fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
        try:
            if (directory / CA_CERTIFICATE).exists() or (directory / CA_KEY).exists():
                return cls.load(directory)
            directory.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir(mode=0o700)
            try:
                authority = cls._make(now or datetime.now(UTC))
                write_atomic(fresh / CA_KEY, private_pem(authority._key))
                write_atomic(fresh / CA_CERTIFICATE, authority.ca_pem)
                fresh.rename(directory)  # fails where the directory is not empty
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        except OSError as error:
            if not isinstance(error, PermissionError) and (directory / CA_CERTIFICATE).exists():
                return cls.load(directory)  # another process was faster
            remedy = "give a directory that is missing or empty, in a place that this user may write to"
            raise AuthorityError(f"{directory}: cannot make a CA here: {error.strerror}; {remedy}") from None
        return authority

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The CA of `directory`. Raises AuthorityError."""
        remedy = f"`paifang certs init {directory}` makes a CA, or restore the file from a backup"
        try:
            certificate_pem, key_pem = ((directory / name).read_bytes() for name in (CA_CERTIFICATE, CA_KEY))
            if (directory / CA_KEY).stat().st_mode & 0o077:
                raise AuthorityError(f"{directory / CA_KEY}: others may read it; chmod 600 it")
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, None)
        except OSError as error:
            raise AuthorityError(f"{error.filename}: {error.strerror}; {remedy}") from None
        except (ValueError, TypeError) as error:
            raise AuthorityError(f"{directory}: not a CA: {error}; {remedy}") from None
        if (end := certificate.not_valid_after_utc) < datetime.now(UTC):
            raise AuthorityError(f"{directory}: the CA expired on {end:%Y-%m-%d}; make a new one elsewhere")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"{directory}: {CA_KEY} is not the key of {CA_CERTIFICATE}; {remedy}")
        return cls(certificate, key)

    @classmethod
    def _make(cls, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        # A part of the name is random, so that two CAs in one browser's trust store are told apart.
        subject = _common_name(f"Paifang CA {secrets.token_hex(4)}")
        builder = _builder(subject, subject, key.public_key(), now, CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(ca=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue_node(self, role: str, name: str, ips: Sequence[str] = (), now: datetime | None = None) -> NodeIdentity:
        """An identity with a fresh key for the node `name` of `role`. Raises AuthorityError."""
        if role not in ROLES:
            raise AuthorityError(f"role {role!r}: give one of {', '.join(ROLES)}")
        if len(name) > MAX_COMMON_NAME or not re.fullmatch(NAME.regex, name):
            raise AuthorityError(f"name {name!r}: give {NAME.what.replace('80', str(MAX_COMMON_NAME))}")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._node(key.public_key(), role, name, [*map(_ip, ips)], NODE_LIFETIME, now)
        return NodeIdentity(self.ca_pem, certificate, private_pem(key))

    def certify_node(
        self, request: bytes, role: str, name: str, generation: int, lifetime: timedelta, now: datetime | None = None
    ) -> bytes:
        """PEM of an identity for the key of a certificate request, whose names count for nothing.

        `generation`: which time of joining it belongs to, see `control.node.identity`. Raises AuthorityError.
        """
        mark = [x509.UniformResourceIdentifier(f"paifang://generation/{generation}")] if generation else []
        return self._node(requested_key(request), role, name, mark, lifetime, now)

    def _node(
        self,
        public_key: PublicKey,
        role: str,
        name: str,
        more: Sequence[x509.GeneralName],
        lifetime: timedelta,
        now: datetime | None,
    ) -> bytes:
        names = [x509.UniformResourceIdentifier(f"paifang://node/{role}/{name}"), x509.DNSName(name), *more]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, public_key, names, usages, lifetime, now)

    def issue_leaf(self, public_key: PublicKey, domains: Sequence[str], now: datetime | None = None) -> bytes:
        """PEM of a development leaf for DNS names (`*.` allowed) and IP addresses. Raises AuthorityError."""
        if not domains:
            raise AuthorityError("a leaf needs at least one domain")
        names = [_host(domain) for domain in domains]
        common = next((domain for domain in domains if len(domain) <= MAX_COMMON_NAME), "Paifang development leaf")
        return self._issue(common, public_key, names, [ExtendedKeyUsageOID.SERVER_AUTH], LEAF_LIFETIME, now)

    def _issue(
        self,
        common_name: str,
        public_key: PublicKey,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        lifetime: timedelta,
        now: datetime | None,
    ) -> bytes:
        issuer = self.certificate
        builder = _builder(_common_name(common_name), issuer.subject, public_key, now or datetime.now(UTC), lifetime)
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(ca=False), True),
            (x509.ExtendedKeyUsage(usages), False),
            (x509.SubjectAlternativeName(names), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a PEM certificate request that proves to have its private half. Raises AuthorityError."""
    try:
        read = x509.load_pem_x509_csr(request)
        if not read.is_signature_valid:
            raise AuthorityError("the certificate request is not signed by its own key")
        key = read.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"not a certificate request in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthorityError("the request's key is not of the curve P-256")
    return key


def fingerprint(certificate_pem: bytes) -> str:
    """sha256:… of a PEM certificate, as `openssl x509 -fingerprint -sha256` has it. Raises ValueError."""
    return "sha256:" + x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """PKCS #8, not encrypted: for files of mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_id(public_key: PublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: how the whole cluster names a key."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _ip(text: str) -> x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        raise AuthorityError(f"{text!r} is not an IP address; give one such as 10.0.0.11") from None


def _host(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    if not re.fullmatch(DOMAIN.regex, text):
        raise AuthorityError(f"domain {text!r}: give {DOMAIN.what}, or an IP address")
    return x509.DNSName(text)
