"""What a datagram tells of sessions, by the text of l4fast/sync.md and not by the program's structures."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

END = {4: struct.Struct("!4sHBB"), 6: struct.Struct("!16sHBB")}
RECORD = {4: struct.Struct("!4sIIHHBBBB"), 6: struct.Struct("!16sIIHHBBBB")}
BODY, ENDS = 1380, 64
ANSWER, FULLNAT = 5, 3

Page = tuple[bytes, int, int]  # the body, how many records and ends it has
Address = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Told:
    """One record. Of ANSWER the fields describe the session, as in the datagram. `source`: in fullnat alone."""

    client: Address
    vip: Address
    real: Address
    protocol: int
    mode: int
    state: int
    last_s: int
    packets: int = 3
    bytes: int = 0
    source: Address | None = None


def of_entry(key: Any, value: Any) -> Told:
    """What is told of an entry of the table `sessions`."""
    here = Told(
        (bytes(key.client), socket.ntohs(key.client_port)), (bytes(key.vip), socket.ntohs(key.vip_port)),
        (bytes(value.real), socket.ntohs(value.real_port)), key.protocol, value.mode, value.state, value.last_s,
        value.packets, value.bytes,
        (bytes(value.source), socket.ntohs(value.source_port)) if value.mode == FULLNAT else None,
    )  # fmt: skip
    if value.state != ANSWER:
        return here
    source = bytes(value.source), socket.ntohs(value.source_port)
    return replace(here, client=here.real, real=here.client, vip=source, source=here.vip)


def pages(version: int, records: Sequence[Told]) -> Iterator[Page]:
    """Datagrams' bodies, one after another; each is of one second."""
    for second, of_second in groupby(records, lambda told: told.last_s):
        ends: list[bytes] = []
        packed: list[bytes] = []
        for told in of_second:
            mine = _ends(version, told)
            size = 4 + END[version].size * len({*ends, *mine}) + RECORD[version].size * (len(packed) + 1)
            if size > BODY or len({*ends, *mine}) > ENDS:
                yield _page(second, ends, packed)
                ends, packed = [], []
            ends += [end for end in dict.fromkeys(mine) if end not in ends]
            address, port = told.client
            packed.append(RECORD[version].pack(
                address, told.packets, told.bytes & 0xFFFFFFFF, told.bytes >> 32 & 0xFFFF, port,
                *map(ends.index, mine), told.state,
            ))  # fmt: skip
        yield _page(second, ends, packed)


def _ends(version: int, told: Told) -> tuple[bytes, bytes, bytes]:
    """Of VIP, real and source."""
    vip, real = END[version].pack(*told.vip, told.protocol, told.mode), END[version].pack(*told.real, 0, 0)
    return vip, real, END[version].pack(*told.source, 0, 0) if told.source else real


def _page(last_s: int, ends: Sequence[bytes], records: Sequence[bytes]) -> Page:
    return b"".join((struct.pack("!I", last_s), *ends, *records)), len(records), len(ends)


def parsed(version: int, page: Page) -> list[Told]:
    """Raises IndexError for a place where no end is."""
    body, count, ends = page
    records_at = 4 + ends * END[version].size
    assert len(body) == records_at + count * RECORD[version].size <= BODY
    assert ends <= ENDS
    (last_s,) = struct.unpack_from("!I", body)
    of_places = list(END[version].iter_unpack(body[4:records_at]))
    told = []
    for client, packets, low, high, port, *places, state in RECORD[version].iter_unpack(body[records_at:]):
        vip, real, source = (of_places[place] for place in places)
        fullnat = vip[3] == FULLNAT
        told.append(Told(
            (client, port), vip[:2], real[:2], vip[2], vip[3], state, last_s, packets, low | high << 32,
            source[:2] if fullnat else None,
        ))  # fmt: skip
    return told
