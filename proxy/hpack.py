"""HPACK (RFC 7541): a client's header blocks to fields, and our fields to blocks.

A decoder belongs to a connection, since blocks refer to a table that earlier ones have filled. Clients repeat
themselves: the same block comes again for as long as the table has not changed since, and means the same, so that its
fields are kept for the next time.

What we send never enters the client's table: a block is then the same for every connection, and whoever makes one may
keep it. Names of the static table are sent as its numbers; values are sent as they are, without Huffman's code, which
would save a fifth of the bytes and cost as much time as all the rest.

The two tables of the RFC, static and Huffman's, are those of the hpack library; tests hold both ways to its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

Pair = tuple[bytes, bytes]

TABLE_BYTES: Final = 4096  # SETTINGS_HEADER_TABLE_SIZE, which we leave as it is
EMPTIED: Final = b"\x20"  # begins a block of somebody whose table is empty from now on (§6.3)
ENTRY_BYTES: Final = 32  # what an entry, and a field of a list, counts beyond its name and value
_REMEMBERED: Final = 64  # blocks
_STATIC: Final[tuple[Pair, ...]] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_FIRST_DYNAMIC: Final = len(_STATIC) + 1


class HpackError(Exception):
    """A block that no table can make sense of: COMPRESSION_ERROR (RFC 9113 §4.3)."""


class Decoder:
    """The blocks of one connection, in their order."""

    __slots__ = ("_known", "_limit", "_size", "_table")

    def __init__(self) -> None:
        self._table: deque[Pair] = deque()  # the youngest first
        self._size = 0
        self._limit = TABLE_BYTES
        self._known: dict[bytes, list[Pair]] = {}  # what blocks mean as long as the table stays as it is

    def decode(self, block: bytes, most_bytes: int) -> list[Pair] | None:
        """The fields of a block; None if they are more than `most_bytes` (RFC 9113 §6.5.2), which the table survives.

        Raises HpackError. To be called once for each block: it may change the table.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        fields, changed = self._decode(block, most_bytes)
        if changed:
            self._known.clear()
        elif fields is not None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = fields
        return fields

    def _decode(self, block: bytes, most_bytes: int) -> tuple[list[Pair] | None, bool]:
        fields: list[Pair] = []
        changed = False
        at, end, left = 0, len(block), most_bytes
        while at < end:
            first = block[at]
            if first & 0x80:  # an entry (§6.1)
                number = first & 0x7F
                at += 1
                if number == 0x7F:
                    number, at = _integer(block, at, 0x7F)
                pair = self._entry(number)
            elif first & 0xE0 == 0x20:  # the table's size (§6.3)
                if fields or left < most_bytes:
                    raise HpackError("the table's size changes in the midst of a block")
                number, at = (first & 0x1F, at + 1) if first & 0x1F < 0x1F else _integer(block, at + 1, 0x1F)
                if number > TABLE_BYTES:
                    raise HpackError(f"a table of {number} bytes")
                self._resize(number)
                changed = True
                continue
            else:  # a literal; §6.2.1: kept; §6.2.2 and §6.2.3: not
                keeps = first & 0x40
                mask = 0x3F if keeps else 0x0F
                number = first & mask
                at += 1
                if number == mask:
                    number, at = _integer(block, at, mask)
                if number:
                    name = self._entry(number)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                pair = (name, value)
                if keeps:
                    self._add(pair)
                    changed = True
            left -= len(pair[0]) + len(pair[1]) + ENTRY_BYTES
            if left >= 0:
                fields.append(pair)
        return (fields if left >= 0 else None), changed

    def _entry(self, number: int) -> Pair:
        if 0 < number < _FIRST_DYNAMIC:
            return _STATIC[number - 1]
        try:
            if number:
                return self._table[number - _FIRST_DYNAMIC]
        except IndexError:
            pass
        raise HpackError(f"no entry has the number {number}")

    def _add(self, pair: Pair) -> None:
        size = len(pair[0]) + len(pair[1]) + ENTRY_BYTES
        self._table.appendleft(pair)
        self._size += size
        self._evict()

    def _resize(self, limit: int) -> None:
        self._limit = limit
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """What an integer that did not fit its prefix is, and where it ends (§5.1)."""
    shift = 0
    try:
        while True:
            byte = block[at]
            at += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 21:  # 256 MiB are more than any block
                raise HpackError("an integer of more than four bytes")
    except IndexError:
        raise HpackError("the block ends within an integer") from None
    return value, at


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string, and where it ends (§5.2)."""
    try:
        first = block[at]
    except IndexError:
        raise HpackError("the block ends before a string") from None
    at += 1
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("the block ends within a string")
    text = block[at:end]
    return (_unpacked(text) if first & 0x80 else text), end


# -- Huffman's code (§5.2, Appendix B), a byte at a time


def _tree() -> list[list[int]]:
    """Nodes with two children each: a node's index, or -1 less than the symbol's negative; 0, the root, is no child."""
    nodes = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for shift in range(length - 1, -1, -1):
            bit = code >> shift & 1
            if not shift:
                nodes[node][bit] = ~symbol
            elif not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = node = len(nodes) - 1
            else:
                node = nodes[node][bit]
    return nodes


_NODES: Final = _tree()
_EOS: Final = 256
# (state << 8 | byte) → the state after it and the symbols that end in it; filled as texts need them, 65,792 at most.
_steps: Final[dict[int, tuple[int, bytes]]] = {}


def _paddings() -> frozenset[int]:
    """States in which a text may end: at a symbol's end, or within at most seven ones."""
    found, node = {0}, 0
    for _ in range(7):
        node = _NODES[node][1]
        found.add(node)
    return frozenset(found)


_ENDS: Final = _paddings()


def _step(key: int) -> tuple[int, bytes]:
    """One byte from a state."""
    node, byte = key >> 8, key & 0xFF
    symbols = bytearray()
    for shift in range(7, -1, -1):
        child = _NODES[node][byte >> shift & 1]
        if child < 0:
            if ~child == _EOS:
                raise HpackError("the end-of-string symbol stands in a string")
            symbols.append(~child)
            node = 0
        else:
            node = child
    step = _steps[key] = node, bytes(symbols)
    return step


def _unpacked(text: bytes) -> bytes:
    state = 0
    parts = []
    steps = _steps
    for byte in text:
        key = state << 8 | byte
        state, symbols = steps.get(key) or _step(key)
        parts.append(symbols)
    if state not in _ENDS:
        raise HpackError("a string's padding is no beginning of the end-of-string symbol")
    return b"".join(parts)


# -- ours

_NUMBERS: Final[dict[bytes, int]] = {name: number for number, (name, _) in reversed([*enumerate(_STATIC, 1)])}
_WHOLE: Final[dict[Pair, bytes]] = {pair: bytes((0x80 | number,)) for number, pair in enumerate(_STATIC, 1)}


def encode(fields: Iterable[Pair]) -> bytes:
    """A block that leaves the table as it is. Names are in lower case."""
    parts = []
    for pair in fields:
        whole = _WHOLE.get(pair)
        if whole is not None:
            parts.append(whole)
            continue
        name, value = pair
        number = _NUMBERS.get(name)
        if number is None:
            parts.append(b"\x00%b%b" % (_length(len(name)), name))
        else:
            parts.append(bytes((number,)) if number < 0x0F else bytes((0x0F, number - 0x0F)))
        parts.append(_length(len(value)) + value)
    return b"".join(parts)


def _length(length: int) -> bytes:
    """A string's length, of a string that is not packed."""
    if length < 0x7F:
        return bytes((length,))
    parts, length = [0x7F], length - 0x7F
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*parts, length))
