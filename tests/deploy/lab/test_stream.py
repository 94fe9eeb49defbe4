import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.lab import stream
from deploy.lab.stream import BLOCK_BYTES, Get, Put, StreamError


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"GET 100 7 0\n", Get(100, 7, 0)),
        (b"GET 0 0 5000\r\n", Get(0, 0, 5000)),
        (b"PUT 12\n", Put(12)),
    ],
)
def test_requests(line: bytes, request_: object) -> None:
    assert stream.parse(line) == request_


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"GET\n", b"GET 1 2\n", b"GET -1 2 3\n", b"GET 1 2 3 4\n", b"PUT x\n", b"PUT 99999999999\n",
     b"PUT " + b"1" * 200, b"POST 1\n", b"GET 1 +2 3\n", "PUT ²\n".encode("latin-1")],
)  # fmt: skip
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(StreamError):
        stream.parse(line)


@given(st.binary(max_size=300))
def test_only_the_documented_exception_escapes(line: bytes) -> None:
    with contextlib.suppress(StreamError):
        stream.parse(line)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_the_data_has_the_size_and_the_digest(size: int) -> None:
    data = b"".join(stream.blocks(size, 42))
    assert len(data) == size
    assert hashlib.sha256(data).hexdigest() == stream.digest(size, 42)


def test_blocks_and_seeds_differ() -> None:
    first, second = stream.blocks(2 * BLOCK_BYTES, 1)
    assert first != second
    assert stream.digest(BLOCK_BYTES, 1) != stream.digest(BLOCK_BYTES, 2)
