"""What happens to a request: its host, path and conditions against a listener's rules.

`core.rules` defines which rule is the one. Here the rules are arranged so that their number does not matter: a
dictionary of domains, in each a tree of path segments, at each place the few rules that differ in their conditions.
All places that a request is for are looked at, at most one for each label of its host and segment of its path, and the
rule that comes first in the order wins. A `url` matches whole path segments: `/api` is `/api` and all below it, not
`/apis`. Nothing matches: the listener's own backend service.

A path has one normal form, by which it is both routed and forwarded, so that no server sees another path than the rules
did (docs/decisions/0020). Percent-encoded unreserved characters are decoded once, other escapes get upper-case digits,
dot segments are removed. What servers read in different ways is refused: NUL, `\\`, malformed escapes, paths that climb
above the root, and dot segments that only show after `%2F` or `%5C` are decoded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from core.model import Rule
from core.resolve import Guard
from core.rules import domains_of, fields_of, ordered
from proxy.actions import Changes, Decision, Forward, Redirect, Reply, Rewrite
from proxy.answering import Answering
from proxy.conditions import Conditions, Told, path_pattern, values_of
from proxy.demands import Demands
from proxy.errors import Code, Refused
from proxy.message import Asked
from proxy.names import host_name
from proxy.redirect_map import InMap, Mapped, Table
from proxy.split import Split, split_of
from proxy.sticky import Sticky

_ESCAPE = re.compile(rb"%(..?)?", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SEPARATOR = re.compile(rb"/|%2F|%5C")
_NONE: Final = 1 << 62  # the rank of what comes after all rules
NAME_CHARACTERS: Final = 253  # RFC 1035 §2.3.4: longer ones are nobody's, and would have a label for each byte
INDEXED: Final = 8  # so many rules in one place are asked one by one
HOSTS: Final = 16_384  # Host values whose domains are remembered
HOST_BYTES: Final = 264
_OPEN: Final = (Split, Mapped)  # what depends on more of a request than that a rule matches
_NO_STICKIES: Final[Mapping[str, Sticky]] = MappingProxyType({})


def normal_target(target: bytes) -> bytes:
    """The normal form of a target in origin form; `*` stays. Queries are never touched. Raises Refused."""
    path, mark, query = target.partition(b"?")
    if b"%" not in path and b"/." not in path and b"\\" not in path:
        return target
    return _normal_path(path) + mark + query


def _normal_path(path: bytes) -> bytes:
    if b"\\" in path:
        raise Refused(Code.PATH, path.index(b"\\"))
    path = _ESCAPE.sub(_unescape, path)
    if any(part in (b".", b"..") for part in _SEPARATOR.split(path)) and (b"%2F" in path or b"%5C" in path):
        raise Refused(Code.PATH)
    kept: list[bytes] = []
    parts = path.split(b"/")[1:]
    for part in parts:
        if part == b"..":
            if not kept:
                raise Refused(Code.PATH)
            kept.pop()
        elif part != b".":
            kept.append(part)
    if parts[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match[1] or b""
    if not _HEX.fullmatch(digits):
        raise Refused(Code.PATH, match.start())
    value = int(digits, 16)
    if value == 0:
        raise Refused(Code.PATH, match.start())
    return bytes((value,)) if value in _UNRESERVED else b"%" + digits.upper()


class _Entry(NamedTuple):
    """A rule in the place of its path. `rank` is its place in the order of all rules of the listener."""

    rank: int
    conditions: Conditions | InMap | None
    action: Decision | Split | Mapped


class _Index:
    """Many rules in one place, by what tells them apart: the value of a field, of a parameter, of a cookie, a method.

    A rule that lists no values has to be asked in any case.
    """

    __slots__ = ("_others", "_told")

    def __init__(self, entries: list[_Entry]) -> None:
        others: list[_Entry] = []
        by: dict[Told, dict[bytes, list[_Entry]]] = {}
        for entry in entries:
            found = entry.conditions.told_by() if entry.conditions is not None else None
            if found is None:
                others.append(entry)
                continue
            told, values, alone = found
            entry = entry._replace(conditions=None) if alone else entry
            for value in values:
                by.setdefault(told, {}).setdefault(value, []).append(entry)
        self._others = tuple(others)
        self._told = {told: {value: tuple(some) for value, some in values.items()} for told, values in by.items()}

    def candidates(self, asked: Asked, target: bytes) -> Sequence[_Entry]:
        """Those of the rules that a request may fulfil, in their order."""
        found, parts = self._others, int(bool(self._others))
        for told, entries in self._told.items():
            for value in values_of(told, asked, target):
                some = entries.get(value)
                if some is not None:
                    found, parts = found + some if parts else some, parts + 1
        return sorted(found, key=_rank) if parts > 1 else found


def _rank(entry: _Entry) -> int:
    return entry.rank


_Place = list[_Entry] | _Index


class _Node:
    """A segment of the rules' urls: the rules for paths that end here or go on, and for those that go on."""

    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.here: _Place = []
        self.below: _Place = []


class _Paths:
    """The rules for one domain. `least` is the smallest rank among them."""

    __slots__ = ("_depth", "_exact", "_root", "least")

    def __init__(self) -> None:
        self.least = _NONE
        self._exact: dict[bytes, _Place] = {}
        self._root = _Node()
        self._depth = 0

    def add(self, rule: Rule, entry: _Entry) -> None:
        """To be called in the order of ranks."""
        self.least = min(self.least, entry.rank)
        entries = self._place(rule)
        assert isinstance(entries, list)
        # What comes after a rule without conditions in the same place is never reached.
        if not entries or entries[-1].conditions is not None:
            entries.append(entry)

    def close(self) -> None:
        """After the last rule: places with many rules are indexed."""
        self._exact = {path: _indexed(entries) for path, entries in self._exact.items()}
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            node.here, node.below = _indexed(node.here), _indexed(node.below)
            nodes += node.children.values()

    def _place(self, rule: Rule) -> _Place:
        if rule.path:
            return self._exact.setdefault(rule.path.encode("ascii"), [])
        url = rule.url.encode("ascii")
        node = self._root
        if url == b"/":
            return node.below
        segments = url.removesuffix(b"/").split(b"/")[1:]
        self._depth = max(self._depth, len(segments))
        for segment in segments:
            node = node.children.setdefault(segment, _Node())
        return node.below if url.endswith(b"/") else node.here

    def at(self, path: bytes) -> list[_Place]:
        """The rules that a path is for, the most specific place first."""
        node = self._root
        found: list[_Place] = [node.below] if node.below else []
        if node.children:
            segments = path.split(b"/", self._depth + 1)  # no further than the rules go, however long the path is
            last = len(segments) - 1
            for index in range(1, len(segments)):
                child = node.children.get(segments[index])
                if child is None:
                    break
                node = child
                if node.here:
                    found.append(node.here)
                if node.below and index < last:
                    found.append(node.below)
        exact = self._exact.get(path)
        if exact is not None:
            found.append(exact)
        found.reverse()
        return found


def _indexed(entries: _Place) -> _Place:
    return _Index(entries) if isinstance(entries, list) and len(entries) > INDEXED else entries


class Router:
    """The rules of one listener, arranged for look-up: a few dictionary reads, whatever their number.

    `made_of` are the arguments that it was made with.
    """

    def __init__(
        self, rules: Sequence[Rule], default: str, https_port: int = 0, stickies: Mapping[str, Sticky] = _NO_STICKIES,
        demands: Demands | None = None, guards: Sequence[tuple[str, Guard]] = (), tables: tuple[Table, ...] = (),
        answering: Answering | None = None,
    ) -> None:  # fmt: skip
        """`https_port`: where requests that no rule matches are redirected to, by https; 0: nowhere.

        `stickies`: of backend services whose clients stay with their servers, as it stands at the time of a request.
        `demands`: what the listener asks of each request; `guards`: the access lists of rules, by name;
        `tables`: of the redirect maps that rules name; `answering`: what the listener does about answers.
        """
        self.stickies = stickies
        self.made_of = (rules, default, https_port, demands, guards, tables, answering)
        maps = {table.made_of.name: table for table in tables}
        self.demands, self.answering = demands, answering
        lists = dict(guards)
        self._default: Decision = Forward(default, demands=demands, answering=answering) if default else None
        if not default and https_port:
            self._default = Redirect.to_https(https_port, demands)
        self._domains: dict[bytes, _Paths] = {}
        for rank, rule in enumerate(ordered(rules)):
            paths = self._domains.setdefault(rule.domain.lower().encode("ascii"), _Paths())
            its = Demands.of(rule, demands, lists.get(rule.name)), Answering.of(rule, answering)
            paths.add(rule, _entry(rank, rule, maps, *its))
        for paths in self._domains.values():
            paths.close()
        self._hosts: dict[bytes, tuple[_Paths, ...]] = {}  # what was found for a Host value
        # Names of fields that rules tell requests apart by, in lower case; the one with the most values first.
        asked = Counter(name.lower().encode("ascii") for rule in rules for name in fields_of(rule))
        self.varied = tuple(name for name, _ in asked.most_common())

    def route(self, asked: Asked, target: bytes, client: bytes = b"") -> Decision:
        """What is to happen to a request whose target is in normal form; None: nothing does. `client`: its address.

        To be asked once for each request: it may have taken somebody's turn.
        """
        if not self._domains:
            return self._default
        host = asked.host
        domains = self._hosts.get(host)
        if domains is None:
            domains = self._domains_of(host)
        best: Decision | Split | Mapped = self._default
        rank = _NONE
        path = b""
        for paths in domains:
            if paths.least >= rank:
                continue
            path = path or (b"/" if target == b"*" else target.partition(b"?")[0])
            for entries in paths.at(path):
                for entry in entries if isinstance(entries, list) else entries.candidates(asked, target):
                    if rank is not _NONE and entry.rank >= rank:  # a number that is in no cache
                        break
                    if entry.conditions is None or entry.conditions.hold(asked, target):
                        rank, best = entry.rank, entry.action
                        break
        if isinstance(best, _OPEN):
            return best.sent(asked, target) if isinstance(best, Mapped) else self._part(best, asked, target, client)
        return best

    def _part(self, split: Split, asked: Asked, target: bytes, client: bytes) -> Forward:
        """What the request claims; else where the client has its server, if it has one; else by the weights."""
        if (claimed := split.claimed(asked)) is not None:
            return claimed
        theirs = [
            forward
            for forward in split.forwards
            if (sticky := self.stickies.get(forward.service)) is not None and sticky.stay(asked).server is not None
        ]
        return split.next_of(theirs) if theirs else split.weighed(asked, target, client)

    def _domains_of(self, host: bytes) -> tuple[_Paths, ...]:
        name = host_name(host)
        keys = domains_of(name) if len(name) <= NAME_CHARACTERS else ("",)
        found = tuple(paths for key in keys if (paths := self._domains.get(key.encode("ascii"))) is not None)
        if len(host) <= HOST_BYTES:
            if len(self._hosts) >= HOSTS:
                self._hosts.clear()
            self._hosts[host] = found
        return found


def _entry(
    rank: int, rule: Rule, maps: Mapping[str, Table], demands: Demands | None, answering: Answering | None
) -> _Entry:
    conditions = Conditions.of(rule)
    if not rule.redirect_map:
        return _Entry(rank, conditions, _action(rule, demands, answering))
    table = maps[rule.redirect_map]
    return _Entry(rank, InMap(table, conditions), Mapped(table, rule.name, Changes.of(rule.response_headers), demands))


def _action(rule: Rule, demands: Demands | None, answering: Answering | None) -> Decision | Split:
    url = "" if rule.path else rule.url
    response, pattern = Changes.of(rule.response_headers), path_pattern(rule)
    if rule.redirect is not None:
        return Redirect(rule.redirect, url, rule.redirect.status, response, pattern, rule.name, demands)
    if rule.fixed_reply is not None:
        return Reply(rule.fixed_reply, response, rule.name, demands)
    rewrite = Rewrite(rule.rewrite, url, pattern) if rule.rewrite else None
    rest = rewrite, Changes.of(rule.request_headers), response, rule.name, demands, answering, rule.shed_first
    if rule.split:
        return split_of([Forward(share.backend_service, *rest) for share in rule.split], rule.split, rule.split_by)
    return Forward(rule.backend_service, *rest)
