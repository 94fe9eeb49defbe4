"""Redirect maps, arranged for look-up: where a request for an old place is sent.

A table is an index into the text that the configuration holds anyway: numbers of four bytes, found by the hash of FROM
(open addressing, linear probing, half empty). A dictionary would take 25 MB more for 100,000 entries, in every worker
(docs/decisions/0196). What a request finds is what `core.redirects.lead` finds; tests hold the two together.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from typing import Final

from core.model import RedirectMap
from core.redirects import Entry
from proxy.actions import Changes, Sent
from proxy.conditions import Conditions, Told
from proxy.demands import Demands
from proxy.message import Asked
from proxy.names import host_name

TURN: Final = 1000  # entries: a millisecond or less
_NOT_FOUND: Final = -1


class Table:
    """One map. It has to be filled before it is asked."""

    __slots__ = ("_hosts", "_index", "_mask", "_queries", "_text", "made_of")

    def __init__(self, made_of: RedirectMap) -> None:
        self.made_of = made_of
        self._text = made_of.entries
        lines = self._text.count("\n") + 1
        self._mask = (1 << (2 * lines).bit_length()) - 1
        self._index = array("I", bytes(4 * (self._mask + 1)))
        self._hosts = self._queries = False

    @classmethod
    def of(cls, made_of: RedirectMap) -> Table:
        """At once."""
        table = cls(made_of)
        for _ in table.fill():
            pass
        return table

    def fill(self) -> Generator[None]:
        """Reads the map, in turns of TURN entries."""
        text, index, mask = self._text, self._index, self._mask
        at, number = 0, 0
        while at < len(text):
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            words = text[at:end].split(None, 1)
            if words and not words[0].startswith("#"):
                source = words[0]
                slot = hash(source) & mask
                while index[slot]:
                    slot = (slot + 1) & mask
                index[slot] = text.index(source, at) + 1
                self._hosts = self._hosts or source[0] != "/"
                self._queries = self._queries or "?" in source
                number += 1
                if number % TURN == 0:
                    yield
            at = end + 1

    @property
    def size_bytes(self) -> int:
        """Besides the text."""
        return self._index.itemsize * len(self._index)

    def find(self, host: bytes, target: bytes) -> int:
        """Where in the text the entry for a request begins; negative: there is none. `host` is a checked Host value,
        `target` in normal form."""
        path, mark, _ = (whole := target.decode("latin-1")).partition("?")
        if self._hosts and host:
            name = host_name(host)
            if mark and self._queries and (found := self._at(name + whole)) >= 0:
                return found
            if (found := self._at(name + path)) >= 0:
                return found
        if mark and self._queries and (found := self._at(whole)) >= 0:
            return found
        return self._at(path)

    def _at(self, key: str) -> int:
        text, index, mask = self._text, self._index, self._mask
        slot = hash(key) & mask
        while place := index[slot]:
            if text.startswith(key, place - 1) and text[place - 1 + len(key)] in " \t":
                return place - 1
            slot = (slot + 1) & mask
        return _NOT_FOUND

    def entry(self, at: int) -> Entry:
        """The one that begins there."""
        text = self._text
        end = text.find("\n", at)
        source, to, *status = text[at : len(text) if end < 0 else end].split()
        return Entry(text.count("\n", 0, at) + 1, source, to, int(status[0]) if status else 0)


class InMap:
    """The conditions of a rule with a map: what it asks besides, and that the map has the request."""

    __slots__ = ("_rest", "_table")

    def __init__(self, table: Table, rest: Conditions | None) -> None:
        self._table, self._rest = table, rest

    def told_by(self) -> tuple[Told, frozenset[bytes], bool] | None:
        """See `Conditions`."""
        found = self._rest.told_by() if self._rest is not None else None
        return found and (found[0], found[1], False)

    def hold(self, head: Asked, target: bytes) -> bool:
        """Whether a request fulfils them all."""
        if self._rest is not None and not self._rest.hold(head, target):
            return False
        return self._table.find(head.host, target) >= 0


class Mapped:
    """What a rule with a map does: `sent` says where a request goes that fulfils its conditions."""

    __slots__ = ("_demands", "_lines", "_rule", "_table")

    def __init__(self, table: Table, rule: str, changes: Changes | None, demands: Demands | None = None) -> None:
        self._table, self._rule, self._demands = table, rule, demands
        self._lines = changes.lines if changes else b""

    def sent(self, asked: Asked, target: bytes) -> Sent:
        """Where it goes."""
        made_of, table = self._table.made_of, self._table
        _, source, to, status = table.entry(table.find(asked.host, target))
        query = target.partition(b"?")[2]
        if not made_of.keep_query or "?" in source:
            query = b""
        return Sent(to.encode("ascii"), query, status or made_of.status, self._lines, self._rule, self._demands)
