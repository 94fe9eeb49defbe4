"""What a handshake answers by itself. Whole handshakes are in test_tls.py."""

from __future__ import annotations

from proxy.tls_handshake import PLAIN_HTTP_REPLY


def test_the_answer_to_plain_http_is_whole() -> None:
    head, _, body = PLAIN_HTTP_REPLY.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
