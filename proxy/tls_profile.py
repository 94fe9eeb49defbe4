"""What a listener offers and demands in TLS handshakes: a policy's name as OpenSSL's settings.

    policy                    TLS 1.2 suites                            TLS 1.3   who chooses the suite
    tls_1_2                   ECDHE with GCM, ChaCha20 or CBC           no        we: GCM and ChaCha20 go before CBC
    tls_1_2_strict            ECDHE with GCM or ChaCha20                no        the client
    tls_1_2_strict_with_1_3   ECDHE with GCM or ChaCha20                yes       the client
    tls_1_3                   none                                      yes       the client

Where every suite is strong the client chooses: it knows whether it has AES in hardware. RSA key exchange is in none of
them, since the key server does not decrypt, nor are TLS 1.0 and 1.1, since it signs nothing with MD5 or SHA-1
(docs/decisions/0043). No policy renegotiates or compresses.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from core.model import CaCertificate, ClientCertificate, Listener, TlsPolicy
from proxy.tls_native import NativeUnavailable, libssl, ssl_ctx

# RFC 9325 §4.2: forward secrecy and AEAD only. TLS 1.3 has nothing else, and its own list.
STRICT: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
WITH_CBC: Final = f"{STRICT}:ECDHE+AES:!AESCCM"
ALPN: Final = ("http/1.1",)
HTTP2: Final = "h2"  # RFC 9113 §3.2
# As in Mozilla's intermediate configuration: every client has one of them. P-384 costs most (1,800 a second on a core,
# where P-256 does 29,000 and X25519 38,000) and is there for those whom their rules bind to it.
GROUPS: Final = b"X25519:P-256:P-384"
SET_GROUPS_LIST: Final = 92  # SSL_CTRL_SET_GROUPS_LIST, openssl/ssl.h


@dataclass(frozen=True, slots=True)
class _Settings:
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion
    ciphers: str
    client_chooses: bool = True


_V1_2, _V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
_SETTINGS: Final[Mapping[TlsPolicy, _Settings]] = {
    TlsPolicy.TLS_1_2: _Settings(_V1_2, _V1_2, WITH_CBC, client_chooses=False),
    TlsPolicy.TLS_1_2_STRICT: _Settings(_V1_2, _V1_2, STRICT),
    TlsPolicy.TLS_1_2_STRICT_WITH_1_3: _Settings(_V1_2, _V1_3, STRICT),
    TlsPolicy.TLS_1_3: _Settings(_V1_3, _V1_3, STRICT),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What the contexts of a listener have in common. Two listeners with equal profiles may share contexts."""

    policy: TlsPolicy = TlsPolicy.TLS_1_2_STRICT_WITH_1_3
    authorities: str = ""  # PEM; empty: clients are not asked for certificates
    revoked: str = ""  # PEM revocation lists of theirs; empty: none are looked into
    required: bool = True  # a client without a certificate is refused
    http2: bool = False  # is offered

    @classmethod
    def of(cls, listener: Listener, authorities: CaCertificate | None = None) -> Profile:
        if authorities is None:
            return cls(listener.tls_policy, http2=listener.http2)
        required = listener.client_certificate is ClientCertificate.REQUIRED
        return cls(listener.tls_policy, authorities.bundle, authorities.crl, required, listener.http2)

    def admits_as(self, other: Profile) -> bool:
        """Whether both admit the same clients."""
        mine, others = (
            (each.authorities, each.revoked, each.required) if each.authorities else () for each in (self, other)
        )
        return mine == others


DEFAULT: Final = Profile()


def new_context(profile: Profile = DEFAULT) -> ssl.SSLContext:
    """A server context without a certificate. Raises ssl.SSLError where authorities or their lists are none.

    One ticket: nginx and OpenSSL give two, for clients that open connections in pairs, at the price of another record.
    """
    settings = _SETTINGS[profile.policy]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = settings.minimum, settings.maximum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if settings.client_chooses:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(settings.ciphers)
    context.set_alpn_protocols((HTTP2, *ALPN) if profile.http2 else ALPN)
    context.num_tickets = 1
    _narrow_groups(context)
    if profile.authorities:
        _ask_clients(context, profile)
    return context


def _narrow_groups(context: ssl.SSLContext) -> None:
    """Where OpenSSL cannot be reached, its own list stays, which has X448 and P-521 too."""
    with suppress(NativeUnavailable):
        libssl().SSL_CTX_ctrl(ssl_ctx(context), SET_GROUPS_LIST, 0, GROUPS)


def _ask_clients(context: ssl.SSLContext, profile: Profile) -> None:
    """Has clients show a certificate of these authorities.

    Without tickets: a ticket stands for a certificate that was good once, at a listener with the same ticket keys
    (docs/decisions/0044). What is left, TLS 1.2's session ids, ends with the context.
    """
    context.verify_mode = ssl.CERT_REQUIRED if profile.required else ssl.CERT_OPTIONAL
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority needs no root above it
    with text_file(f"{profile.authorities}\n{profile.revoked}") as path:
        context.load_verify_locations(path)
        _name_authorities(context, path)
    if profile.revoked:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _name_authorities(context: ssl.SSLContext, path: str) -> None:
    """Tells clients which authorities are meant, for those that have several certificates (RFC 8446 §4.2.4)."""
    with suppress(NativeUnavailable):
        names = libssl().SSL_load_client_CA_file(path.encode())
        if names:
            libssl().SSL_CTX_set_client_CA_list(ssl_ctx(context), names)  # which owns them from now on


@contextmanager
def text_file(text: str) -> Iterator[str]:
    """A path to `text`, in memory: OpenSSL's loaders, as Python offers them, take nothing but paths."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
