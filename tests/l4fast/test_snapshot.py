"""Frames of a snapshot, both ways, and what is no snapshot."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast import snapshot
from l4fast.snapshot import (
    FRAME_MOST,
    NODES_MOST,
    Ask,
    Begin,
    Block,
    End,
    Frames,
    Kind,
    SnapshotError,
    Taking,
    pack_ask,
    pack_begin,
    pack_block,
    pack_end,
    pack_ended,
    pack_refused,
    refusal,
)
from l4fast.sync_ends import Ended
from l4fast.sync_records import Layout

LAYOUTS = {4: Layout(2, 3, 1, 1, 77), 6: Layout(4, 5, 1, 1, 77)}
BLOCK = Block(6, 4, 5, b"keykeykkvaluevalue", 2)
ENDED = Ended(4, b"kk", 1, 1000)
WHOLE = [
    pack_begin(5, 6, 7, [5, 8]), pack_block(6, b"keykeykk", b"valuevalue", 2), *pack_ended(ENDED),
    pack_block(4, b"kk", b"vvv", 1), pack_end(3),
]  # fmt: skip
WANTED = [BLOCK, ENDED, Block(4, 2, 3, b"kkvvv", 1)]


def test_bytes() -> None:
    assert (
        pack_ask(Ask(77, (1, 2))).hex(" ", 1) == "00 00 00 12 01 50 46 53 4e 01 02 00 00 00 4d 00 00 00 01 00 00 00 02"
    )
    assert pack_begin(1, 2, 3, [1]).hex() == "0000001c02" + f"{1:016x}{2:016x}{3:08x}{1:016x}"
    assert pack_block(4, b"kk", b"vvv", 1) == bytes.fromhex("0000000d03 04020300 00000001") + b"kkvvv"
    assert pack_end(9) == bytes.fromhex("0000000805") + bytes(7) + b"\t"
    assert pack_refused("no") == bytes.fromhex("0000000206") + b"no"
    assert list(pack_ended(ENDED)) == [bytes.fromhex("0000000e04 04020000 00000001 000003e8") + b"kk"]


def test_the_document_lists_the_frames() -> None:
    text = Path(snapshot.__file__).with_name("sync.md").read_text()
    part = text[text.index("## Snapshots") : text.index("## Versions")]
    listed = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", part, re.M)
    assert listed == [(str(kind.value), kind.name) for kind in Kind]
    assert f"{FRAME_MOST:,} bytes" in part


def test_frames_both_ways() -> None:
    assert Frames().receive_data(b"".join([pack_ask(Ask(77, (1, 2))), *WHOLE])) == [
        Ask(77, (1, 2)), Begin(5, 6, 7, (5, 8)), *WANTED, End(3),
    ]  # fmt: skip
    many = Frames().receive_data(pack_begin(5, 6, 7, range(2 * NODES_MOST)))
    assert many == [Begin(5, 6, 7, tuple(range(NODES_MOST)))]


def test_many_ends_are_several_frames() -> None:
    count = FRAME_MOST // 4 + 5
    keys = b"".join(struct.pack("!I", n) for n in range(count))
    frames = [frame for data in pack_ended(Ended(6, keys, count, 1)) for frame in Frames().receive_data(data)]
    assert len(frames) == 2
    assert b"".join(frame.keys for frame in frames if isinstance(frame, Ended)) == keys


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_do_not_matter(data: st.DataObject) -> None:
    stream = b"".join(WHOLE)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    taking, wanted = Taking(5, LAYOUTS), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        wanted += taking.receive_data(stream[begin:end])
    assert (wanted, taking.whole, taking.records) == (WANTED, True, 3)
    assert taking.begin == Begin(5, 6, 7, (5, 8))


def test_every_cut_is_not_whole() -> None:
    stream = b"".join(WHOLE)
    for size in range(len(stream)):
        taking = Taking(5, LAYOUTS)
        taking.receive_data(stream[:size])
        assert not taking.whole


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([WHOLE[1]], "Block out of its turn"),
        ([pack_end(0)], "End out of its turn"),
        ([WHOLE[0], WHOLE[0]], "Begin out of its turn"),
        ([WHOLE[0], pack_ask(Ask(77, ()))], "Ask out of its turn"),
        ([pack_begin(6, 6, 7, [])], "of node 0000000000000006 instead of 0000000000000005"),
        ([WHOLE[0], WHOLE[1], pack_end(3)], "2 records came, 3 were sent"),
        ([*WHOLE, pack_end(3)], "more after its end"),
        ([*WHOLE, b"\0\0\0\0\5"], "kind 5 of 0 bytes"),
        ([WHOLE[0], pack_block(4, b"kkk", b"vvv", 1)], "another layout"),
        ([WHOLE[0], pack_block(4, b"kk", b"vv", 1)], "another layout"),
        ([WHOLE[0], pack_block(5, b"kk", b"vvv", 1)], "another layout"),
        ([WHOLE[0], *pack_ended(Ended(4, b"kkk", 1, 0))], "another layout"),
        ([WHOLE[0], b"\0\0\0\x0d\3\4\2\3\0\0\0\0\2kkvvv"], "2 records in 13 bytes"),
        ([WHOLE[0], b"\0\0\0\x08\3\4\2\3\0\0\0\0\0"], "0 records"),
        ([WHOLE[0], b"\0\0\0\x0e\4\4\2\0\0\0\0\0\2\0\0\0\0kk"], "2 ends in 14 bytes"),
        ([b"\0\0\0\x01\2x"], "kind 2 of 1 bytes"),
        ([b"\0\0\0\x00\7"], "kind 7"),
        ([b"\0\x10\0\1\3"], "a frame of 1048577 bytes"),
        ([pack_refused("busy")], "it refuses: busy"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "a frame of 1213486160 bytes"),
    ],
)
def test_no_snapshot(parts: list[bytes], why: str) -> None:
    *before, wrong = parts
    taking = Taking(5, LAYOUTS)
    taking.receive_data(b"".join(before))
    with pytest.raises(SnapshotError, match=re.escape(why)):
        taking.receive_data(wrong)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((4, b"XXXX"), "not a request"),
        ((8, b"\2"), "version 2, this node speaks 1"),
        ((9, b"\3"), "3 clusters in 18"),
    ],
)  # fmt: skip
def test_no_request(change: tuple[int, bytes], why: str) -> None:
    at, data = change
    ask = pack_ask(Ask(77, (1, 2)))
    at += 1 if at else 0
    with pytest.raises(SnapshotError, match=why):
        Frames().receive_data(ask[:at] + data + ask[at + len(data) :])


def test_who_gets_one() -> None:
    assert refusal(Ask(77, (1, 2)), LAYOUTS, {2, 3}) == ""
    assert refusal(Ask(77, (1,)), LAYOUTS, {2, 3}) == "another cluster key"
    assert refusal(Ask(77, ()), LAYOUTS, {2, 3}) == "another cluster key"
    assert "another release" in refusal(Ask(78, (2,)), LAYOUTS, {2, 3})


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=300, deadline=None)
def test_only_snapshot_errors_escape(data: bytes, begun: bool) -> None:
    taking = Taking(5, LAYOUTS)
    if begun:
        taking.receive_data(WHOLE[0])
    try:
        taking.receive_data(data)
    except SnapshotError:
        return
    assert not taking.whole
