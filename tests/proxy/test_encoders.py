"""Encoders: what a client decodes is what was given, however it was cut; what is flushed can be decoded at once."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import Coding, Compression
from proxy import encoders
from proxy.encoders import Encoder, encoder
from tests.proxy.decoding import decoded

LEVELS = [(Coding.GZIP, 1), (Coding.GZIP, 6), (Coding.BR, 0), (Coding.BR, 6), (Coding.ZSTD, 1), (Coding.ZSTD, 9)]
PIECES = st.lists(st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"ab" * 5000, os.urandom(0)])), max_size=8)


@given(st.sampled_from(LEVELS), PIECES, st.booleans(), st.sets(st.integers(0, 8)), st.booleans())
def test_what_was_given_comes_out(
    way: tuple[Coding, int], pieces: list[bytes], prompt: bool, flushed: set[int], in_the_end: bool
) -> None:
    """`in_the_end`: the end comes with the last piece, and not behind it."""
    made, out, given_so_far = Encoder(*way, prompt=prompt), b"", b""
    rest, last = (pieces[:-1], pieces[-1]) if in_the_end and pieces else (pieces, b"")
    for number, piece in enumerate(rest):
        out += made.encode(piece, ended=False)
        given_so_far += piece
        if number in flushed:
            out += made.flush()
        if number in flushed or prompt:
            assert not made.holds
            assert decoded(way[0], out, whole=False) == given_so_far
    out += made.encode(last, ended=True)
    assert decoded(way[0], out) == given_so_far + last
    assert (made.bytes_in, made.bytes_out, made.holds) == (len(given_so_far + last), len(out), False)


def test_nothing_to_flush_is_nothing() -> None:
    made = Encoder(Coding.GZIP, 1)
    assert made.flush() == b""
    assert made.encode(b"x", ended=False) != b""  # the header
    assert made.flush() != b""
    assert made.flush() == b""  # and not an empty block for each time


@pytest.mark.parametrize("coding", list(Coding))
def test_levels_are_what_is_asked_for(coding: Coding) -> None:
    """Levels make a difference."""
    text = b"".join(
        b"%d: the quick brown fox of %d jumps over %d\n" % (n, n * 7919 % 1000, n % 17) for n in range(9000)
    )
    name = {Coding.GZIP: "gzip_level", Coding.BR: "brotli_level", Coding.ZSTD: "zstd_level"}[coding]
    sizes = []
    for level in (1, 6):
        made = encoder(coding, replace(Compression(), **{name: level}))
        assert made is not None
        half = made.encode(text[:70_000], ended=False) + made.encode(text[70_000:], ended=True)
        assert decoded(coding, half) == text
        sizes.append(len(half))
    assert sizes[1] != sizes[0]


def test_so_many_are_at_work_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "ENCODERS_MOST", len(encoders._at_work) + 2)
    first, second = (encoder(Coding.GZIP, Compression()) for _ in range(2))
    assert first is not None
    assert second is not None
    assert encoder(Coding.GZIP, Compression()) is None
    del first
    assert encoder(Coding.GZIP, Compression()) is not None
