"""Why TLS handshakes fail, in words that an operator can count by; OpenSSL's reasons on their way to them.

Each failed handshake has one reason, the first thing that went wrong. A client that leaves half way, an alert and a
protocol that is not TLS are everyday on the Internet; KEYSERVER and NO_CERTIFICATE are ours to mend.
"""

from __future__ import annotations

import ssl
from enum import StrEnum


class Failure(StrEnum):
    """Why a handshake failed; the label of its counter."""

    TIMEOUT = "timeout"
    REFUSED = "refused"  # too many in flight, and all of the oldest wait for the key server
    REFUSED_CLIENT = "refused_client"  # too many of this client
    CROWDED_OUT = "crowded_out"  # the oldest of too many
    KEYSERVER = "keyserver"  # no signature, or one that is none
    NO_CERTIFICATE = "no_certificate"  # the listener has none that works
    CLOSED = "closed"  # by the client, half way
    PLAIN_HTTP = "plain_http"
    NOT_TLS = "not_tls"
    VERSION = "version"  # the client's newest is older than TLS 1.2
    NO_OVERLAP = "no_overlap"  # no cipher, group or signature algorithm in common
    CLIENT_CERTIFICATE = "client_certificate"  # the client's is missing, revoked, or of no authority of the listener
    NO_PROTOCOL = "no_protocol"  # an ACME CA's, and the listener has no issuer
    ACME = "acme"  # an ACME CA's that could not be led to the issuer
    ALERT = "alert"  # sent by the client
    OTHER = "other"


_REASONS = {
    "HTTP_REQUEST": Failure.PLAIN_HTTP,
    "HTTPS_PROXY_REQUEST": Failure.PLAIN_HTTP,
    "WRONG_VERSION_NUMBER": Failure.NOT_TLS,
    "UNKNOWN_PROTOCOL": Failure.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": Failure.NOT_TLS,
    "UNEXPECTED_MESSAGE": Failure.NOT_TLS,
    "UNSUPPORTED_PROTOCOL": Failure.VERSION,
    "VERSION_TOO_LOW": Failure.VERSION,
    "NO_SHARED_CIPHER": Failure.NO_OVERLAP,
    "NO_SUITABLE_KEY_SHARE": Failure.NO_OVERLAP,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": Failure.NO_OVERLAP,
    "NO_SHARED_SIGNATURE_ALGORITHMS": Failure.NO_OVERLAP,
    "NO_SHARED_GROUPS": Failure.NO_OVERLAP,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Failure.CLIENT_CERTIFICATE,
    "CERTIFICATE_VERIFY_FAILED": Failure.CLIENT_CERTIFICATE,
}


def failure_of(error: Exception) -> Failure:
    """The reason of an error that `do_handshake` raised."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLEOFError):
        return Failure.CLOSED
    if "_ALERT_" in reason:
        return Failure.ALERT
    return _REASONS.get(reason, Failure.OTHER)


def error_text(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
