"""Headers of the PROXY protocol, both versions: read, written, and refused with the byte that is wrong."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.proxy_protocol import (
    LINE_BYTES,
    LOCAL,
    MOST_BYTES,
    SIGNATURE,
    Header,
    Malformed,
    Tls,
    begins,
    crc32c,
    read,
    write,
)

HERE, THERE = ("203.0.113.9", 51000), ("192.0.2.10", 443)
HERE6, THERE6 = ("2001:db8::9", 51000), ("2001:db8::10", 443)
FOUR = bytes((203, 0, 113, 9, 192, 0, 2, 10)) + struct.pack("!HH", 51000, 443)


def block(what: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((what, family)) + struct.pack("!H", len(rest) if length is None else length) + rest


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(header: bytes, at: int) -> bytes:
    return header[:at] + struct.pack("!I", crc32c(header)) + header[at + 4 :]


LINES = {
    b"PROXY TCP4 203.0.113.9 192.0.2.10 51000 443\r\n": Header(1, HERE, THERE),
    b"PROXY TCP6 2001:db8::9 2001:DB8:0::10 51000 443\r\n": Header(1, HERE6, THERE6),
    b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:c000:20a 0 65535\r\n": Header(1, (HERE[0], 0), (THERE[0], 65535)),
    b"PROXY UNKNOWN\r\n": Header(1),
    b"PROXY UNKNOWN ffff:f::ffff whatever 65535 99999\r\n": Header(1),
}
BLOCKS = {
    "local": (block(0x20, 0x00, b""), LOCAL),
    "local with addresses": (block(0x20, 0x11, FOUR), LOCAL),
    "local with what is nothing": (block(0x20, 0xFF, b"xyz"), LOCAL),
    "tcp4": (block(0x21, 0x11, FOUR), Header(2, HERE, THERE)),
    "udp4": (block(0x21, 0x12, FOUR), Header(2, HERE, THERE)),
    "tcp6": (
        block(0x21, 0x21, IPv6Address(HERE6[0]).packed + IPv6Address(THERE6[0]).packed + FOUR[8:]),
        Header(2, HERE6, THERE6),
    ),
    "mapped": (
        block(0x21, 0x21, b"".join(bytes(10) + b"\xff\xff" + FOUR[at : at + 4] for at in (0, 4)) + FOUR[8:]),
        Header(2, HERE, THERE),
    ),
    "unix": (block(0x21, 0x31, bytes(216) + tlv(2, b"a.test")), Header(2, authority="a.test")),
    "unspecified": (block(0x21, 0x00, b"12345"), LOCAL),
    "no protocol": (block(0x21, 0x10, b"12345"), LOCAL),
    "tlvs": (
        block(0x21, 0x11, FOUR + tlv(1, b"h2") + tlv(4, b"\0\0") + tlv(4, b"") + tlv(0xEA, b"\1vpce") + tlv(5, b"id")),
        Header(2, HERE, THERE, b"h2", "", b"id"),
    ),
    "tls": (
        block(0x21, 0x11, FOUR + tlv(
            0x20, b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"me") + tlv(0x25, b"x"))),
        Header(2, HERE, THERE, tls=Tls("TLSv1.3", "", True, True, "me")),
    ),
    "a certificate that is unsound": (
        block(0x21, 0x11, FOUR + tlv(0x20, b"\x03\0\0\0\x12" + tlv(0x23, b"AES"))),
        Header(2, HERE, THERE, tls=Tls("", "AES", True, False)),
    ),
    "no tls": (block(0x21, 0x11, FOUR + tlv(0x20, b"\0\0\0\0\1")), Header(2, HERE, THERE)),
    "checksum": (
        with_checksum(block(0x21, 0x11, FOUR + tlv(3, bytes(4)) + tlv(2, b"a.test")), 31),
        Header(2, HERE, THERE, authority="a.test"),
    ),
    "as long as it may be": (
        block(0x21, 0x11, FOUR + tlv(0xE0, bytes(MOST_BYTES - 16 - len(FOUR) - 3))), Header(2, HERE, THERE)
    ),
}  # fmt: skip
WRONG = {
    b"GET / HTTP/1.1\r\n": 0,
    b"\x16\x03\x01": 0,
    b"PRIVMSG": 2,
    b"PROXY\r\n": 5,
    b"proxy TCP4": 0,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 51000 443\n": 43,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 51000 443\rX\r\n": 46,
    b"PROXY UNKNOWN \0\r\n": 16,
    b"PROXY UNKNOWNX\r\n": 6,
    b"PROXY TCP5 203.0.113.9 192.0.2.10 51000 443\r\n": 6,
    b"PROXY TCP4  203.0.113.9 192.0.2.10 51000 443\r\n": 6,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 51000 443 \r\n": 6,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 51000\r\n": 6,
    b"PROXY TCP4 203.0.113.09 192.0.2.10 51000 443\r\n": 11,
    b"PROXY TCP4 203.0.113 192.0.2.10 51000 443\r\n": 11,
    b"PROXY TCP4 2001:db8::9 2001:db8::10 51000 443\r\n": 11,
    b"PROXY TCP6 203.0.113.9 192.0.2.10 51000 443\r\n": 11,
    b"PROXY TCP6 fe80::1%1 fe80::2 51000 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 051000 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 65536 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 +1 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 -1 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10 1_0 443\r\n": 11,
    b"PROXY TCP4 203.0.113.9 192.0.2.10  443\r\n": 11,
    b"PROXY UNKNOWN ".ljust(LINE_BYTES, b"x"): LINE_BYTES,
    b"PROXY UNKNOWN ".ljust(LINE_BYTES - 1, b"x") + b"\r\n": LINE_BYTES,
    SIGNATURE[:5] + b"x": 5,
    block(0x11, 0x11, FOUR): 12,
    block(0x31, 0x11, FOUR): 12,
    block(0x22, 0x11, FOUR): 12,
    block(0x21, 0x41, FOUR): 13,
    block(0x21, 0x13, FOUR): 13,
    block(0x21, 0x11, FOUR[:-1]): 14,
    block(0x21, 0x21, bytes(35)): 14,
    block(0x21, 0x31, bytes(215)): 14,
    block(0x21, 0x11, b"", MOST_BYTES - 15): 14,
    block(0x20, 0x00, b"", 65535): 14,
    block(0x21, 0x11, FOUR + b"\1"): 28,
    block(0x21, 0x11, FOUR + b"\1\0"): 28,
    block(0x21, 0x11, FOUR + b"\1\0\1"): 31,
    block(0x21, 0x11, FOUR + tlv(4, b"x") + b"\1\xff\xff"): 35,
    block(0x21, 0x11, FOUR + tlv(1, b"a") + tlv(1, b"b")): 35,
    block(0x21, 0x11, FOUR + tlv(2, b"\xff")): 28,
    block(0x21, 0x11, FOUR + tlv(2, b"a\r\nb")): 28,
    block(0x21, 0x11, FOUR + tlv(2, b"a" * 256)): 31,
    block(0x21, 0x11, FOUR + tlv(3, b"abc")): 31,
    block(0x21, 0x11, FOUR + tlv(3, b"abcd")): 31,
    block(0x21, 0x11, FOUR + tlv(5, bytes(129))): 31,
    block(0x21, 0x11, FOUR + tlv(0x20, bytes(4))): 31,
    block(0x21, 0x11, FOUR + tlv(0x20, b"\1\0\0\0\0\x21\0\x05abcd")): 39,
}


@pytest.mark.parametrize("line", LINES, ids=[str(number) for number in range(len(LINES))])
def test_lines(line: bytes) -> None:
    assert read(line) == (LINES[line], len(line))
    assert read(line + b"GET / HTTP/1.1\r\n") == (LINES[line], len(line))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    data, header = BLOCKS[name]
    assert read(data) == (header, len(data))
    assert read(data + b"\x16\x03\x01") == (header, len(data))


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_wrong(number: int) -> None:
    data, offset = [*WRONG.items()][number]
    with pytest.raises(Malformed) as caught:
        read(data)
    assert caught.value.offset == offset
    assert str(caught.value).endswith(f", at byte {offset}")


@pytest.mark.parametrize("data", [*LINES, *(data for data, _ in BLOCKS.values())], ids=lambda data: str(len(data)))
def test_byte_by_byte(data: bytes) -> None:
    """It asks for more until the last byte is there, whatever comes first."""
    assert [read(data[:at]) for at in range(len(data))] == [None] * len(data)
    assert [begins(data[:at]) for at in range(6)] == [None] * 6
    assert begins(data) is True


@pytest.mark.parametrize("data", [b"GET /", b"PROPFIND", b"PROXY\r", b"\r\n\r\nGET", b"\x16\x03\x01", b"x"])
def test_what_begins_otherwise(data: bytes) -> None:
    assert begins(data) is False


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every catalogue
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("at", [0, 12, 20, 31, 34, 40])
def test_a_checksum_covers_every_byte(at: int) -> None:
    data = bytearray(BLOCKS["checksum"][0])
    data[at] ^= 0x40
    with pytest.raises(Malformed):
        read(bytes(data))


@pytest.mark.parametrize(
    ("header", "written"),
    [
        (Header(1, HERE, THERE), b"PROXY TCP4 203.0.113.9 192.0.2.10 51000 443\r\n"),
        (Header(1, HERE6, THERE6), b"PROXY TCP6 2001:db8::9 2001:db8::10 51000 443\r\n"),
        (Header(1), b"PROXY UNKNOWN\r\n"),
        (Header(1, HERE), b"PROXY UNKNOWN\r\n"),
        (LOCAL, SIGNATURE + b"\x20\0\0\0"),
        (Header(2, HERE, THERE), BLOCKS["tcp4"][0]),
        (Header(2, HERE6, THERE6), BLOCKS["tcp6"][0]),
        (Header(2, HERE6, THERE, tls=Tls()), block(
            0x21, 0x21, IPv6Address(HERE6[0]).packed + bytes(10) + b"\xff\xff" + FOUR[4:] + tlv(0x20, b"\1\0\0\0\1"))),
    ],
    ids=["line4", "line6", "unknown", "half", "local", "block4", "block6", "both"],
)  # fmt: skip
def test_written(header: Header, written: bytes) -> None:
    assert write(header) == written


def test_addresses_of_both_versions_in_a_line() -> None:
    line = write(Header(1, HERE, THERE6))
    assert line.startswith(b"PROXY TCP6 ::ffff:")
    assert read(line) == (Header(1, HERE, THERE6), len(line))


_ports = st.integers(0, 65535)
_fours = st.tuples(st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n))), _ports)
_sixes = st.tuples(st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda a: a.ipv4_mapped is None).map(str), _ports)
_texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF).filter(str.isprintable), max_size=60)
_tls = st.builds(
    lambda version, cipher, name, shown, sound: Tls(version, cipher, shown, shown and sound, name),
    _texts, _texts, _texts, st.booleans(), st.booleans(),
)  # fmt: skip
_headers = st.one_of(
    st.builds(Header, st.just(1), _fours, _fours),
    st.builds(Header, st.just(1), _sixes, _fours),
    st.just(Header(1)),
    st.just(LOCAL),
    st.builds(Header, st.just(2), _fours | _sixes, _fours | _sixes, st.binary(max_size=40), _texts,
              st.binary(max_size=128), st.none() | _tls),
)  # fmt: skip


@given(_headers, st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_what_is_written_can_be_read(header: Header, rest: bytes) -> None:
    data = write(header)
    assert len(data) <= (LINE_BYTES if header.version == 1 else MOST_BYTES)
    assert read(data + rest) == (header, len(data))
    assert read(data[:-1]) is None


def outcome(data: bytes) -> None:
    """Only what is documented, and nothing that was not sent."""
    try:
        found = read(data)
    except Malformed as error:
        assert 0 <= error.offset <= len(data)  # noqa: PT017
        return
    if found is None:
        assert len(data) < MOST_BYTES
        return
    header, size = found
    assert size <= len(data)
    assert read(data[:size]) == found
    for end in (header.source, header.destination):
        assert end is None or (str(ip_address(end[0])) == end[0] and 0 <= end[1] < 65536)
    again = write(header)
    assert read(again) == (header, len(again)) or header.source is None


def fuzz(seed: int, count: int) -> None:
    """Headers with bytes changed, cut out, doubled, and lengths that lie."""
    choice = random.Random(seed)
    seeds = [*LINES, *(data for data, _ in BLOCKS.values()), *WRONG]
    for _ in range(count):
        data = bytearray(choice.choice(seeds))
        for _ in range(choice.randrange(1, 5)):
            at = choice.randrange(len(data) or 1)
            kind = choice.randrange(4)
            if kind == 0 and data:
                data[at % len(data)] = choice.randrange(256)
            elif kind == 1:
                del data[at : at + choice.randrange(1, 9)]
            elif kind == 2:
                data[at:at] = data[at : at + choice.randrange(1, 40)]
            elif len(data) > 16:
                data[14:16] = struct.pack("!H", choice.choice((0, 1, len(data) - 16, len(data), 4080, 4081, 65535)))
        outcome(bytes(data))


def test_mutations() -> None:
    fuzz(7, 4000)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
def test_many_mutations(seed: int) -> None:
    fuzz(seed, 2_000_000)
