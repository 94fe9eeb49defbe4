"""Session records between nodes: what a datagram or a snapshot holds, and what both sides must agree on.

The records themselves are the data plane's, byte for byte (bpf/sync.h writes them, bpf/merge.h reads them): here are
only their numbers and sizes. A node whose layout differs is another release; its records are refused as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from l4fast.sync_codec import SECOND_SIZE


class Records(NamedTuple):
    """Session records of one IP version to merge: a second, `ends` ends and `count` records."""

    ip: int
    body: bytes
    count: int  # type: ignore[assignment]  # a tuple's own `count` is nobody's here
    ends: int
    delay_us: int
    shift_s: int = 0  # of this node's clock, ahead of the sender's


@dataclass(frozen=True, slots=True)
class Layout:
    """What both sides must agree on to exchange records of one IP version: the sizes of a session's key and value, and
    of an end and a record in a datagram; a checksum over names and offsets of both versions' fields."""

    key_size: int
    value_size: int
    end_size: int
    told_size: int
    checksum: int

    def body_size(self, count: int, ends: int) -> int:
        """Of so many records and ends."""
        return SECOND_SIZE + ends * self.end_size + count * self.told_size
