from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast import sync_codec
from l4fast.sync_codec import (
    HEADER_SIZE,
    MAX_BODY,
    MAX_DATAGRAM,
    MAX_RANGES,
    TAG_SIZE,
    DatagramError,
    Fault,
    Header,
    Hello,
    Resend,
    Sealer,
    Type,
    keys_per_datagram,
    open_body,
    pack_hello,
    pack_resend,
    parse_header,
    parse_hello,
    parse_resend,
)
from l4fast.sync_keys import ClusterKey

SECRET = bytes(range(32))
KEY = ClusterKey(SECRET)
HEADER = Header(Type.SESSIONS, KEY.id, 2, 3, 4, 5, 6, ip=6, count=2, size=3, ends=4, layout=7)
BODY = b"last" + b"ends" * 5 + b"aaabbb"


def sealer(key: ClusterKey = KEY, boot: int = 3, salt: int = 4) -> Sealer:
    return Sealer(key, node=2, boot=boot, salt=salt)


def opened(datagram: bytes, key: ClusterKey = KEY) -> tuple[Header, bytes]:
    header = parse_header(datagram)
    return header, open_body(key.cipher(header.node, header.boot, header.salt), header, datagram)


def sessions(by: Sealer | None = None) -> bytes:
    """Two records of three bytes, and four ends of five."""
    return (by or sealer()).seal(Type.SESSIONS, BODY, 6, ip=6, count=2, size=3, ends=4, layout=7)


def test_header_bytes() -> None:
    assert HEADER.pack() == bytes.fromhex(
        "5046 04 01" + f"{KEY.id:08x}" + "0000000000000002 0000000000000003 0000000000000004"
        "0000000000000005 0000000000000006 06 02 03 04 00000007"
    )  # fmt: skip
    assert parse_header(HEADER.pack() + bytes(4 + 4 * 5 + 6 + TAG_SIZE)) == HEADER


def test_the_document_draws_the_header() -> None:
    text = Path(sync_codec.__file__).with_name("sync.md").read_text()
    header_part = text[: text.index("## Sealing")]
    rows = [(int(a), int(b), c) for a, b, c in re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", header_part, re.M)]
    sizes = [struct.calcsize("!" + code) for code in re.findall(r"\d*[a-zA-Z]", sync_codec._HEADER.format[1:])]
    names = ["magic", "version", *Header._fields]
    assert rows == [(sum(sizes[:i]), size, name) for i, (size, name) in enumerate(zip(sizes, names, strict=True))]
    assert f"Header: {HEADER_SIZE} bytes" in text
    # The ruler: each box is as wide as the field, two columns a bit, and its row starts at the offset on the right.
    boxes, offset = [], 0
    for line in header_part.splitlines():
        if match := re.fullmatch(r"\|([^-]*)\|   ?([ \d]*)", line):
            cells = [cell for cell in match[1].split("|") if cell.strip() and "sealed" not in cell]
            offset = int(match[2]) if match[2].strip() else offset
            for cell in cells:
                if cell.strip() in names:
                    boxes.append((offset, cell.strip()))
                    offset += (len(cell) + 1) // 16
    assert boxes == [(offset, name) for offset, _, name in rows]


def test_the_document_lists_types_and_faults() -> None:
    text = Path(sync_codec.__file__).with_name("sync.md").read_text()
    types = text[text.index("## Types") : text.index("## Receiving")]
    listed = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", types, re.M)
    assert listed == [(str(type_.value), type_.name) for type_ in Type]
    assert all(f"`{fault.value}`" in text for fault in Fault)
    assert "72 to 1,452" in text
    assert HEADER_SIZE + TAG_SIZE == 72
    assert MAX_DATAGRAM == 1452 == 1500 - 40 - 8


def test_seal_and_open() -> None:
    assert opened(sessions()) == (HEADER._replace(sequence=1), BODY)


def test_every_changed_bit_is_noticed() -> None:
    datagram = sessions()
    for bit in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DatagramError):
            opened(bytes(changed))


def test_every_wrong_length_is_noticed() -> None:
    datagram = sessions()
    for size in range(len(datagram)):
        if size in (56 + 4 + 6 + 16, *(56 + 4 + 4 * end + 6 + 16 for end in range(1, 5))):
            continue  # ends of another size, or none: what the layout is there for
        with pytest.raises(DatagramError) as caught:
            parse_header(datagram[:size])
        assert caught.value.fault is Fault.MALFORMED
    for extra in (datagram + b"x", datagram + bytes(MAX_DATAGRAM)):
        with pytest.raises(DatagramError, match="malformed"):
            parse_header(extra)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({0: 0}, Fault.MALFORMED),
        ({2: 1}, Fault.VERSION),
        ({3: 9}, Fault.MALFORMED),  # a type without records that claims some
        ({3: 4, 49: 10}, Fault.MALFORMED),  # keys with ends
        ({3: 9, 49: 0, 50: 0, 51: 0}, Fault.MALFORMED),  # or has sessions of an IP version
        ({49: 0}, Fault.MALFORMED),
        ({49: 0, 50: 0, 51: 26}, Fault.MALFORMED),
        ({50: 0}, Fault.MALFORMED),
        ({51: 0}, Fault.MALFORMED),
        ({51: 3}, Fault.MALFORMED),
        ({49: 14}, Fault.MALFORMED),  # of more than there is
        ({2: 3}, Fault.VERSION),  # the one before
    ],
)
def test_header_rules(change: dict[int, int], fault: Fault) -> None:
    datagram = sessions()
    wrong = bytearray(datagram)
    for at, value in change.items():
        wrong[at] = value
    with pytest.raises(DatagramError) as caught:
        parse_header(bytes(wrong))
    assert caught.value.fault is fault


def test_no_key_and_nonce_twice() -> None:
    """Equal bodies look different in every life, under every sequence number, and under every key."""
    one, other_boot, other_salt = sealer(), sealer(boot=9), sealer(salt=9)
    other_key = sealer(ClusterKey(bytes(32)))
    bodies = [
        s.seal(Type.HELLO, bytes(64), 6)[HEADER_SIZE:-TAG_SIZE] for s in (one, one, other_boot, other_salt, other_key)
    ]
    assert len(set(bodies)) == len(bodies)
    one.rekey(ClusterKey(bytes(32)))
    again = one.seal(Type.HELLO, bytes(64), 6)
    assert parse_header(again).sequence == 3
    assert opened(again, ClusterKey(bytes(32)))[1] == bytes(64)


def test_hello_and_resend() -> None:
    hello = Hello("l4-1", 7, 8, 9, 10, 11)
    assert parse_hello(pack_hello(hello)) == hello
    assert pack_hello(Hello("a", 1, 2, 3, 4, 5)) == bytes.fromhex("00000001 00000002 00000003 00000004 0005") + b"a"
    assert parse_hello(pack_hello(Hello("", 2**32 + 7, 2**32 + 8))) == Hello("", 7, 8), "counters wrap"
    many = Resend(1, 2, tuple((n, n + 1) for n in range(MAX_RANGES)))
    assert parse_resend(pack_resend(many)) == many
    assert len(pack_resend(many)) <= MAX_BODY
    assert pack_resend(Resend(1, 2, ((3, 4),))) == b"".join(n.to_bytes(8, "big") for n in (1, 2, 3, 4))
    for wrong in (b"", bytes(17), bytes(18 + 81)):
        with pytest.raises(DatagramError):
            parse_hello(wrong)
    for wrong in (
        b"",
        bytes(16),
        bytes(31),
        bytes(33),
        bytes(16 * MAX_RANGES + 32),
        pack_resend(Resend(1, 2, ((4, 3),))),
    ):
        with pytest.raises(DatagramError):
            parse_resend(wrong)


def test_ends_are_keys_alone() -> None:
    count = keys_per_datagram(16) + 2
    keys = bytes(i % 251 for i in range(16 * count))
    datagrams = sealer().ended(4, keys, count, 7, 6)
    headers = [parse_header(each) for each in datagrams]
    assert [(h.type, h.ip, h.count, h.size, h.ends) for h in headers] == [
        (Type.ENDED, 4, 86, 16, 0), (Type.ENDED, 4, 2, 16, 0),
    ]  # fmt: skip
    assert b"".join(opened(each)[1] for each in datagrams) == keys
    wrong = headers[1]._replace(size=12, ends=4)
    with pytest.raises(DatagramError, match="keys with ends"):
        parse_header(wrong.pack() + datagrams[1][HEADER_SIZE:])


@given(st.binary(max_size=MAX_DATAGRAM + 9) | st.binary(max_size=120).map(lambda tail: HEADER.pack() + tail))
@settings(max_examples=400, deadline=None)
def test_only_datagram_errors_escape(data: bytes) -> None:
    with pytest.raises(DatagramError):
        opened(data)
    for parse in (parse_hello, parse_resend):
        try:
            parse(data)
        except DatagramError:
            continue


@given(st.integers(1, 8), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_round_trip(count: int, ends: int, size: int, end_size: int, data: st.DataObject) -> None:
    length = 4 + count * size + ends * end_size
    body = data.draw(st.binary(min_size=length, max_size=length))
    datagram = sealer().seal(Type.SESSIONS, body, 6, ip=6, count=count, size=size, ends=ends, layout=7)
    header, again = opened(datagram)
    assert (header.count, header.size, header.ends, again) == (count, size, ends, body)


def test_body_limit() -> None:
    assert keys_per_datagram(1) == 255
    assert keys_per_datagram(16) * 16 <= MAX_BODY < (keys_per_datagram(16) + 1) * 16
