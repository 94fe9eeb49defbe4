"""HPACK both ways, held to the hpack library's."""

from __future__ import annotations

import hpack as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hpack import ENTRY_BYTES, TABLE_BYTES, Decoder, HpackError, Pair, encode

MOST = 1 << 20
TEXT = st.one_of(st.sampled_from([b"", b"/", b"GET", b"a=1; b=2", b"x" * 200, b"y" * 4096]), st.binary(max_size=300))
NAMES = st.sampled_from([b":method", b":path", b":authority", b"cookie", b"accept", b"x-a", b"x-b", b"user-agent"])
LISTS = st.lists(st.tuples(NAMES, TEXT), min_size=1, max_size=12)


def plain(fields: object) -> list[Pair]:
    return [(bytes(name), bytes(value)) for name, value in fields]  # type: ignore[attr-defined]


@given(st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from([None, 0, 100, 2048, 4096])), max_size=12))
def test_blocks_of_another_encoder_mean_the_same(blocks: list[tuple[list[Pair], bool, int | None]]) -> None:
    encoder, decoder = reference.Encoder(), Decoder()
    for fields, packed, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=packed)
        assert decoder.decode(block, MOST) == fields
        again = encoder.encode(fields, huffman=packed)
        assert decoder.decode(again, MOST) == fields
        assert decoder.decode(encoder.encode(fields, huffman=packed), MOST) == fields


@given(LISTS)
def test_our_blocks_mean_the_same_to_another_decoder(fields: list[Pair]) -> None:
    decoder = reference.Decoder(max_header_list_size=MOST)
    block = encode(fields)
    assert plain(decoder.decode(block, raw=True)) == fields
    assert not decoder.header_table.dynamic_entries, "our blocks leave the table alone"


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_mean_what_they_mean_to_another_decoder(blocks: list[bytes]) -> None:
    """But for what the RFC lets either refuse: the other one does not bound integers."""
    ours, theirs = Decoder(), reference.Decoder(max_header_list_size=MOST)
    for block in blocks:
        try:
            fields = ours.decode(block, MOST)
        except HpackError:
            with_error = True
        else:
            with_error = False
        try:
            expected = plain(theirs.decode(block, raw=True))
        except reference.HPACKError:
            assert with_error, block
            return
        if with_error:
            return
        assert fields == expected


def test_the_rfcs_own_examples() -> None:
    """RFC 7541 C.4: requests with Huffman's code on one connection; C.6.1: an answer with a small table."""
    decoder = Decoder()
    first = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), MOST) == first
    assert decoder.decode(bytes.fromhex("828684be5886a8eb10649cbf"), MOST) == [*first, (b"cache-control", b"no-cache")]
    third = [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"),
        (b":authority", b"www.example.com"), (b"custom-key", b"custom-value"),
    ]  # fmt: skip
    assert decoder.decode(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"), MOST) == third


def test_a_block_that_is_known_means_what_it_did_until_the_table_changes() -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex("400161 0131".replace(" ", "")), MOST) == [(b"a", b"1")]
    assert decoder.decode(b"\xbe", MOST) == [(b"a", b"1")]
    assert decoder.decode(b"\xbe", MOST) == [(b"a", b"1")]
    assert decoder.decode(bytes.fromhex("4001620132"), MOST) == [(b"b", b"2")]
    assert decoder.decode(b"\xbe", MOST) == [(b"b", b"2")]
    assert decoder.decode(b"\x20\xbf"[:1] + b"\x82", MOST) == [(b":method", b"GET")]
    with pytest.raises(HpackError, match="no entry has the number 62"):
        decoder.decode(b"\xbe", MOST)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "no entry has the number 0"),
        (b"\xbe", "no entry has the number 62"),
        (b"\xff\xff\xff\xff\xff\x7f", "more than four bytes"),
        (b"\xff", "ends within an integer"),
        (b"\x40", "ends before a string"),
        (b"\x40\x05abc", "ends within a string"),
        (b"\x40\x01a", "ends before a string"),
        (b"\x00\x81\x00\x00", "padding"),
        (b"\x00\x84\xff\xff\xff\xff\x00", "end-of-string"),
        (b"\x00\x82\x1f\xff\x00", "padding"),
        (b"\x3f\xe2\x1f", "a table of 4097 bytes"),
        (b"\x82\x20", "in the midst"),
    ],
)
def test_what_no_table_makes_sense_of_is_refused(block: bytes, why: str) -> None:
    with pytest.raises(HpackError, match=why):
        Decoder().decode(block, MOST)


def test_a_bomb_is_no_list_and_the_table_survives() -> None:
    """A block of 16 KiB that would be 64 MiB of fields."""
    decoder = Decoder()
    value = b"v" * (TABLE_BYTES - ENTRY_BYTES - 1)
    kept = encode([(b"k", value)]).replace(b"\x00", b"\x40", 1)
    assert decoder.decode(kept, MOST) == [(b"k", value)]
    assert decoder.decode(b"\xbe" * 16_384, 65_536) is None
    assert decoder.decode(b"\xbe" * 16_384, 65_536) is None
    assert decoder.decode(b"\xbe", 65_536) == [(b"k", value)]


def test_fields_count_as_the_rfc_says() -> None:
    block = encode([(b"a", b"1"), (b"b", b"2")])
    assert Decoder().decode(block, 2 * (2 + ENTRY_BYTES)) == [(b"a", b"1"), (b"b", b"2")]
    assert Decoder().decode(block, 2 * (2 + ENTRY_BYTES) - 1) is None


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16_382, 16_383, 16_384, 70_000])
def test_long_strings(length: int) -> None:
    fields = [(b"n" * length or b"n", b"v" * length)]
    assert plain(reference.Decoder(max_header_list_size=MOST).decode(encode(fields), raw=True)) == fields
    assert Decoder().decode(encode(fields), MOST) == fields
