"""Bodies: framing, re-chunking at every cut, and what is refused."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.body import (
    LAST_CHUNK,
    LINE_BYTES,
    TRAILER_BYTES,
    BodyReader,
    ChunkedReader,
    LengthReader,
    chunk,
    reader,
)
from proxy.errors import Code, Refused
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE


def feed(body: BodyReader, *parts: bytes) -> tuple[bytes, bytes]:
    """All payload and all that followed the body."""
    payload, rest = b"", b""
    for part in parts:
        if body.done:
            rest += part
        else:
            got, after = body.receive(part)
            payload, rest = payload + got, rest + after
    return payload, rest


BODY = b'5;ext=1\r\nhello\r\n0A ; q = "a\\" b"\r\n, world!!!\r\n000\r\nX-Trailer: t\r\n\r\n'


def test_chunked_whole() -> None:
    body = ChunkedReader()
    assert feed(body, BODY + b"GET ") == (b"hello, world!!!", b"GET ")
    assert body.done


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_chunked_in_pieces(size: int) -> None:
    body = ChunkedReader()
    data = BODY + b"next"
    assert feed(body, *(data[i : i + size] for i in range(0, len(data), size))) == (b"hello, world!!!", b"next")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_rechunking_never_changes_the_payload(payloads: list[bytes], rest: bytes, data: st.DataObject) -> None:
    wire = b"".join(map(chunk, payloads)) + LAST_CHUNK + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    parts = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    body = ChunkedReader()
    assert feed(body, *parts) == (b"".join(payloads), rest)
    assert body.done


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\r\n", Code.CHUNK_SIZE),
        (b"g\r\n", Code.CHUNK_SIZE),
        (b"-5\r\nhello", Code.CHUNK_SIZE),
        (b"+5\r\nhello", Code.CHUNK_SIZE),
        (b" 5\r\nhello", Code.CHUNK_SIZE),
        (b"0x5\r\nhello", Code.CHUNK_EXTENSION),
        (b"5_0\r\n", Code.CHUNK_EXTENSION),
        (b"1" * 16 + b"\r\n", Code.CHUNK_SIZE),
        (b"5 \r\nhello", Code.CHUNK_EXTENSION),
        (b"5;\r\nhello", Code.CHUNK_EXTENSION),
        (b"5;;\r\nhello", Code.CHUNK_EXTENSION),
        (b"5;a=\r\nhello", Code.CHUNK_EXTENSION),
        (b"5;a\0\r\nhello", Code.CHUNK_EXTENSION),
        (b"5;a\rb\r\nhello", Code.CHUNK_EXTENSION),
        (b'5;a="b\r\nhello', Code.CHUNK_EXTENSION),
        (b"5;" + b"a" * LINE_BYTES + b"\r\n", Code.CHUNK_EXTENSION),
        (b"5" * (LINE_BYTES + 1), Code.CHUNK_EXTENSION),
        (b"5\nhello", Code.BARE_LF),
        (b"\n", Code.BARE_LF),
        (b"5\r\nhello5\r\n", Code.CHUNK_END),
        (b"5\r\nhelloX\n", Code.CHUNK_END),
        (b"5\r\nhello\rX", Code.CHUNK_END),
        (b"0\r\nX\r\n\r\n", Code.TRAILER),
        (b"0\r\n X: y\r\n\r\n", Code.TRAILER),
        (b"0\r\nX : y\r\n\r\n", Code.TRAILER),
        (b"0\r\nX: \0\r\n\r\n", Code.TRAILER),
        (b"0\r\nX: y\n\r\n", Code.BARE_LF),
        (b"0\r\nX: " + b"y" * TRAILER_BYTES, Code.TRAILER),
        (b"0\r\n" + b"X: y\r\n" * (TRAILER_BYTES // 6 + 1), Code.TRAILER),
    ],
)
def test_hostile_chunks_are_refused(data: bytes, code: Code) -> None:
    """RFC 9112 §7.1, in one piece and byte by byte, and the offset points into the message."""
    with pytest.raises(Refused) as caught:
        feed(ChunkedReader(), data)
    assert caught.value.code is code
    with pytest.raises(Refused) as again:
        feed(ChunkedReader(), *(data[i : i + 1] for i in range(len(data))))
    assert again.value.code is code
    assert caught.value.offset <= len(data)
    assert again.value.offset <= len(data)


def test_extensions_are_bounded_over_the_whole_body() -> None:
    with pytest.raises(Refused) as caught:
        feed(ChunkedReader(), (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 17)
    assert caught.value.code is Code.CHUNK_EXTENSION


def test_offsets_count_from_the_start_of_the_body() -> None:
    for parts in ((b"5\r\nhello\r\nzz\r\n",), (b"5\r\nhel", b"lo\r", b"\nz", b"z\r\n")):
        with pytest.raises(Refused) as caught:
            feed(ChunkedReader(), *parts)
        assert (caught.value.code, caught.value.offset) == (Code.CHUNK_SIZE, 10)


@given(st.lists(st.sampled_from([b"5", b"\r\n", b"\n", b";", b"a", b"=", b'"', b"0", b"hello", b"\r", b"\0", b":"])))
@settings(max_examples=500, deadline=None)
def test_only_documented_outcomes(parts: list[bytes]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        body = ChunkedReader()
        try:
            return *feed(body, *pieces), body.done
        except Refused as refused:
            return refused.code, refused.offset

    assert outcome([b"".join(parts)]) == outcome(parts)


def by_h11(data: bytes) -> tuple[bytes, bytes] | None:
    """Payload and rest of a chunked body as h11 reads it; None if it is refused or unfinished."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    connection.receive_data(data)
    payload = b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
            payload += event.data
    except h11.RemoteProtocolError:
        return None
    return payload, connection.trailing_data[0]


CHUNKS = st.sampled_from(
    [
        b"5\r\nhello\r\n", b"0A;ext\r\n0123456789\r\n", b'1 ;a="b\\"c" ; d = e\r\nx\r\n', b"00\r\n", b"0\r\n\r\n",
        b"0\r\nT: u\r\n\r\n", b"0\r\nT: u\r\nT: v\r\n\r\nGET / HTTP/1.1\r\n", b"5", b"\r\n", b"\n", b";", b"a", b"=",
        b'"', b"hello", b"\r", b"\0", b":", b" ", b"\t", b"0x1\r\nx\r\n", b"+1\r\nx\r\n", b"1_0\r\n", b"-0\r\n\r\n",
        b"\xb2\r\n",
    ]
)  # fmt: skip


@given(st.lists(CHUNKS, max_size=8).map(lambda parts: b"".join(parts) + b"0\r\n\r\n"))
@settings(max_examples=800, deadline=None)
@example(b"5\r\nhello\r\n0\r\nT: u\r\n\r\nrest")
@example(b'0A ; q = "a\\" b"\r\n, world!!!\r\n0\r\n\r\n')
def test_what_we_accept_h11_reads_the_same(data: bytes) -> None:
    """No body means one thing to us and another to the second reader.

    It refuses the white space before an extension that RFC 9112 §7.1.1 has recipients take (BWS); we chunk anew.
    """
    body = ChunkedReader()
    try:
        payload, rest = feed(body, data)
    except Refused:
        return
    if body.done:
        theirs = by_h11(data)
        assert theirs == (payload, rest) or (theirs is None and re.search(rb"[ \t];", data))


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=30), st.integers(1, 7), st.integers(1, 80))
@settings(max_examples=200, deadline=None)
def test_taking_a_few_chunks_at_a_time_changes_nothing(payloads: list[bytes], most: int, size: int) -> None:
    wire = b"".join(map(chunk, payloads)) + LAST_CHUNK + b"rest"
    body, got, rest = ChunkedReader(most=most), b"", b""
    for start in range(0, len(wire), size):
        rest += wire[start : start + size]
        before = -1
        while not body.done and before != (before := len(rest)):
            payload, rest = body.receive(rest)
            assert len(payload) <= 9 * (most + 1)
            got += payload
    assert (got, rest, body.done) == (b"".join(payloads), b"rest", True)


def test_offsets_count_over_the_turns() -> None:
    body, rest = ChunkedReader(most=1), b"1\r\na\r\n" * 3 + b"x\r\n"
    for _ in range(3):
        _, rest = body.receive(rest)
    with pytest.raises(Refused) as caught:
        body.receive(rest)
    assert caught.value.offset == 18


def test_trailers_are_kept_where_they_are_wanted() -> None:
    for size in (1, 3, 1000):
        kept, dropped = ChunkedReader(keep_trailers=True), ChunkedReader()
        data = b"1\r\nx\r\n0\r\nA:  b \r\nC: \r\n\r\n"
        for body in (kept, dropped):
            feed(body, *(data[i : i + size] for i in range(0, len(data), size)))
        assert (kept.trailers, dropped.trailers) == (b"A:  b \r\nC: \r\n", b"")


def test_lengths() -> None:
    assert feed(LengthReader(5), b"he", b"llo wor") == (b"hello", b" wor")
    assert feed(reader(NO_BODY), b"x") == (b"", b"x")
    assert reader(0).done
    body = reader(UNTIL_CLOSE)
    assert feed(body, b"a", b"b") == (b"ab", b"")
    assert not body.done
    assert isinstance(reader(CHUNKED), ChunkedReader)
