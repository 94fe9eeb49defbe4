"""TLS towards servers, for whoever talks to them: the proxy and its health checks."""

from __future__ import annotations

import ssl
import tempfile
from functools import lru_cache

from core.resolve import UpstreamTls


@lru_cache(maxsize=4096)
def context(settings: UpstreamTls) -> ssl.SSLContext:
    """A context for clients. TLS 1.2 at least; without a bundle, the machine's own authorities are trusted.

    Raises ssl.SSLError or ValueError for a bundle or list that cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["h2" if settings.h2 else "http/1.1"])
    if not settings.verify:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        return made
    made.hostname_checks_common_name = False  # RFC 9525 §2: names stand in subjectAltName
    if settings.bundle:
        made.load_verify_locations(cadata=settings.bundle)
        made.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # each is trusted, self-signed or not
    else:
        made.load_default_certs()
    if settings.crl:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # OpenSSL reads lists from files only
            file.write(settings.crl)
            file.flush()
            made.load_verify_locations(cafile=file.name)
        made.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return made


def why(error: ssl.SSLError) -> str:
    """One line about a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    return f"no TLS with the server: {(error.reason or str(error)).replace('_', ' ').lower()}"
