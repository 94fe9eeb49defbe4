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
    open_body,
    pack_hello,
    pack_resend,
    parse_header,
    parse_hello,
    parse_resend,
    records_per_datagram,
)
from l4fast.sync_keys import ClusterKey

SECRET = bytes(range(32))
KEY = ClusterKey(SECRET)
HEADER = Header(Type.SESSIONS, KEY.id, 2, 3, 4, 5, 6, ip=6, count=2, key_size=3, value_size=4, layout=7)


def sealer(key: ClusterKey = KEY, boot: int = 3, salt: int = 4) -> Sealer:
    return Sealer(key, node=2, boot=boot, salt=salt)


def opened(datagram: bytes, key: ClusterKey = KEY) -> tuple[Header, bytes]:
    header = parse_header(datagram)
    return header, open_body(key.cipher(header.node, header.boot, header.salt), header, datagram)


def split_records(header: Header, body: bytes) -> tuple[bytes, bytes]:
    """Keys and values."""
    end = header.count * header.key_size
    return body[:end], body[end:]


def test_header_bytes() -> None:
    assert HEADER.pack() == bytes.fromhex(
        "5046 03 01" + f"{KEY.id:08x}" + "0000000000000002 0000000000000003 0000000000000004"
        "0000000000000005 0000000000000006 06 02 03 04 00000007"
    )  # fmt: skip
    assert parse_header(HEADER.pack() + bytes(14 + TAG_SIZE)) == HEADER


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
    (datagram,) = sealer().sessions(6, b"aaabbb", b"AAAABBBB", 2, 7, 6)
    header, body = opened(datagram)
    assert header == HEADER._replace(sequence=1)
    assert split_records(header, body) == (b"aaabbb", b"AAAABBBB")


def test_a_large_page_becomes_several_datagrams() -> None:
    count = 2 * records_per_datagram(16, 32) + 1
    keys, values = bytes(i % 251 for i in range(16 * count)), bytes(i % 241 for i in range(32 * count))
    datagrams = sealer().sessions(6, keys, values, count, 7, 6)
    parts = [split_records(*opened(datagram)) for datagram in datagrams]
    assert (b"".join(k for k, _ in parts), b"".join(v for _, v in parts)) == (keys, values)
    assert [parse_header(d).count for d in datagrams] == [28, 28, 1]
    assert [parse_header(d).sequence for d in datagrams] == [1, 2, 3]
    assert max(map(len, datagrams)) <= MAX_DATAGRAM


def test_every_changed_bit_is_noticed() -> None:
    (datagram,) = sealer().sessions(6, b"k" * 3, b"v" * 4, 1, 7, 6)
    for bit in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DatagramError):
            opened(bytes(changed))


def test_every_wrong_length_is_noticed() -> None:
    (datagram,) = sealer().sessions(6, b"k" * 3, b"v" * 4, 1, 7, 6)
    for size in range(len(datagram)):
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
        ({3: 9, 49: 0, 50: 0, 51: 0}, Fault.MALFORMED),  # or has sessions of an IP version
        ({49: 0}, Fault.MALFORMED),
    ],
)
def test_header_rules(change: dict[int, int], fault: Fault) -> None:
    (datagram,) = sealer().sessions(6, b"k" * 3, b"v" * 4, 1, 7, 6)
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
    count = records_per_datagram(16, 0) + 2
    keys = bytes(i % 251 for i in range(16 * count))
    datagrams = sealer().ended(4, keys, count, 7, 6)
    headers = [parse_header(each) for each in datagrams]
    assert [(h.type, h.ip, h.count, h.key_size, h.value_size) for h in headers] == [
        (Type.ENDED, 4, 86, 16, 0), (Type.ENDED, 4, 2, 16, 0),
    ]  # fmt: skip
    assert b"".join(split_records(*opened(each))[0] for each in datagrams) == keys
    wrong = headers[1]._replace(key_size=12, value_size=4)
    with pytest.raises(DatagramError, match="ends with values"):
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


@given(st.integers(1, 28), st.data())
@settings(max_examples=50, deadline=None)
def test_round_trip(count: int, data: st.DataObject) -> None:
    keys = data.draw(st.binary(min_size=count * 16, max_size=count * 16))
    values = data.draw(st.binary(min_size=count * 32, max_size=count * 32))
    (datagram,) = sealer().sessions(6, keys, values, count, 7, 6)
    header, body = opened(datagram)
    assert split_records(header, body) == (keys, values)


def test_body_limit() -> None:
    assert records_per_datagram(1, 1) == 255
    assert records_per_datagram(16, 32) * 48 <= MAX_BODY < (records_per_datagram(16, 32) + 1) * 48
