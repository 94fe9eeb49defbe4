"""Why handshakes fail, from what OpenSSL raises. Whole handshakes are in test_tls.py."""

from __future__ import annotations

import ssl

import pytest

from proxy.tls_failures import Failure, failure_of


def error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    made = kind(1, f"[SSL: {reason}]")
    made.reason = reason
    return made


@pytest.mark.parametrize(
    ("raised", "failure"),
    [
        (error("HTTP_REQUEST"), Failure.PLAIN_HTTP),
        (error("WRONG_VERSION_NUMBER"), Failure.NOT_TLS),
        (error("UNSUPPORTED_PROTOCOL"), Failure.VERSION),
        (error("NO_SHARED_CIPHER"), Failure.NO_OVERLAP),
        (error("TLSV1_ALERT_UNKNOWN_CA"), Failure.ALERT),
        (error("SSLV3_ALERT_BAD_CERTIFICATE"), Failure.ALERT),
        (error("UNEXPECTED_EOF_WHILE_READING", ssl.SSLEOFError), Failure.CLOSED),
        (error("INTERNAL_ERROR"), Failure.OTHER),
        (error(""), Failure.OTHER),
        (ValueError("not OpenSSL's"), Failure.OTHER),
    ],
)
def test_errors_have_a_reason(raised, failure) -> None:
    assert failure_of(raised) is failure
