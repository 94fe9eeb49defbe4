"""What of a request is hashed."""

from __future__ import annotations

import pytest

from proxy.head import read_request
from proxy.keys import key_of

REQUEST = (
    b"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\nX-User: one\r\nx-user: two\r\n"
    b"Cookie: a=1; id=seven\r\nCookie: id=eight\r\n\r\n"
)  # fmt: skip


@pytest.mark.parametrize(
    ("hash_key", "value"),
    [
        ("path", b"/a/b"),
        ("header:X-USER", b"one,two"),
        ("header:X-None", b""),
        ("cookie:id", b"seven"),
        ("cookie:ID", b""),
    ],
)
def test_keys(hash_key: str, value: bytes) -> None:
    head, key = read_request(REQUEST), key_of(hash_key)
    assert head is not None
    assert key is not None
    assert key(head, head.target) == value


def test_the_source_is_no_part_of_the_request() -> None:
    assert key_of("source") is None
