"""Message heads cut into what their senders repeat and what varies: the tools of the fast lane (proxy/lane.py).

* `key`: the head without the values of some fields. It is what is repeated, and remembered by its exact bytes.
* `cut`: these values, in their order.
* A form: the lines that go on, with a place for each of these values that does, and one for what a rule adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.message import Block

_VISIBLE: Final = bytes(range(0x20, 0x7F))
# Stands for the lines that a rule adds while a form is made.
CHANGES: Final = b"~the~lines~that~a~rule~adds~\r\n"

# Name of a field → which one of that name, which of the values that were cut out.
Cuts = Mapping[bytes, tuple[int, int]]


def starts(*names: bytes) -> tuple[bytes, ...]:
    """How fields of these names begin."""
    return tuple(b"\r\n%b: " % name for name in names)


@dataclass(frozen=True, slots=True)
class Form:
    """Lines that are changed: `lines` has places for those of the values that are `kept`, and then for the changes."""

    lines: bytes
    kept: tuple[int, ...]

    def filled(self, cut: list[bytes], *more: bytes) -> bytes | None:
        return self.lines % (*[cut[index] for index in self.kept], *more) if self.lines else None


NO_FORM: Final = Form(b"", ())


def values_of(name: bytes, block: Block, cuts: Cuts, cut: list[bytes]) -> list[bytes]:
    """As `Block.values`, of a head whose `block` was read from its key."""
    values = block.values(name)
    if name in cuts:
        at, index = cuts[name]
        values[at] = cut[index]
    return values


def cut_out(data: bytes, start: int, end: int, names: tuple[bytes, ...]) -> tuple[bytes, list[bytes]] | None:
    """data[start:end] less the values of the first field of each name, and these in their order.

    None: a value has to be looked at by others. The places of the cuts follow from the result alone.
    """
    cuts: list[int] = []
    for name in names:
        at = data.find(name, start, end)
        if at >= 0:
            cuts.append(at + len(name))
    pieces: list[bytes] = []
    values: list[bytes] = []
    if not cuts:
        return data[start:end], values
    cuts.sort()
    for at in cuts:
        stop = data.find(b"\r\n", at, end)
        stop = stop if stop >= 0 else end
        pieces.append(data[start:at])
        value = data[at:stop]
        if value.strip(b" ") != value:
            return None
        values.append(value)
        start = stop
    pieces.append(data[start:end])
    if b"".join(values).translate(None, _VISIBLE):
        return None
    return b"".join(pieces), values


def places_in(lines: bytes, names: Iterable[bytes], key: bytes) -> bytes | None:
    """`lines` as a template with a place for each value that was cut out of `key`; None where one does not pass."""
    places, lines = [], b"\r\n" + lines
    for name in names:
        if name in key:
            at = lines.find(name) + len(name)
            if at < len(name) or lines[at : at + 2] != b"\r\n":
                return None
            places.append(at)
    pieces, start = [], 0
    for at in sorted(places):
        pieces.append(lines[start:at].replace(b"%", b"%%"))
        start = at
    pieces.append(lines[start:].replace(b"%", b"%%"))
    return b"%b".join(pieces)[2:]


def order_of(key: bytes, names: Iterable[bytes]) -> list[bytes]:
    """The names whose values were cut out of `key`, in the order of these values."""
    return sorted((name for name in names if name in key), key=key.index)


def where_cut(key: bytes, order: list[bytes], *probes: bytes) -> Cuts:
    """Where the values stand that were cut out of `key`, those of `probes` behind the others."""
    lines = key.split(b"\r\n")[1:]
    names = [line.partition(b":")[0].lower() for line in lines]
    starts = [name[2:] for name in order]
    ends = [next((at for at, line in enumerate(lines) if line.startswith(start)), -1) for start in starts]
    ends += [next((at for at, line in enumerate(lines) if line.endswith(probe)), -1) for probe in probes]
    return {names[at]: (names[:at].count(names[at]), index) for index, at in enumerate(ends)}
