"""TLS of the command line: whom it trusts, and what to do where that fails.

The API's certificate is always verified: by the CA that --ca or $PAIFANG_CA names, else by those that the system
trusts. A token is not sent without TLS to another machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.parse

from control.node.addresses import is_loopback

VARIABLE = "PAIFANG_CA"
PROBE_S = 3.0
# OpenSSL's X509_V_ERR_…, x509_vfy.h
_EXPIRED, _NOT_YET = 10, 9
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class CaError(Exception):
    """The CA's file cannot be used; the text has the remedy."""


def context(ca: str | None) -> ssl.SSLContext:
    """What verifies the API. `ca` is a file of certificates; None: what the environment names. Raises CaError."""
    source = "--ca" if ca else f"${VARIABLE}"
    ca = ca or os.environ.get(VARIABLE) or None
    try:
        made = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        why = "no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise CaError(f"{source} {ca}: {why}; give the ca.pem of the cluster") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def unencrypted(url: str) -> str:
    """Why a token is not sent to this URL; empty if it may be."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return ""
    return f"{url}: the token would go over the network for all to read; give https://, or a loopback address"


def fault(error: ssl.SSLError, url: str) -> str:
    """What went wrong in TLS, and what helps."""
    host = urllib.parse.urlsplit(url).hostname
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = error.reason or str(error)
        remedy = "it speaks plain HTTP: give http://HOST:PORT" if reason in _PLAIN else "is it the control plane's API?"
        return f"{reason}; {remedy}"
    code, why = error.verify_code, error.verify_message
    if code in _WRONG_NAME:
        return f"its certificate is not for {host} ({why}); ask by a name or address that stands in it"
    if code in _UNKNOWN_CA:
        remedy = f"give the cluster's ca.pem by --ca or ${VARIABLE}"
        return f"its certificate is of a CA that is not known here ({why}); {remedy}"
    if code in (_EXPIRED, _NOT_YET):
        return f"its certificate is not valid today ({why}); renew it, or set the clock right"
    return f"its certificate is not good: {why}"


def speaks_tls(url: str) -> bool:
    """Whether what has hung up on plain HTTP speaks TLS. Nothing is sent but a greeting."""
    parts = urllib.parse.urlsplit(url)
    greeting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    greeting.check_hostname, greeting.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PROBE_S) as plain,
        greeting.wrap_socket(plain),
    ):
        return True
    return False
