"""Redirect maps: a text with an entry on each line, FROM TO and, where it is not the map's own, a STATUS. Pure.

    /old                      /new
    shop.example/sale         https://shop.example/spring     302
    /index.php?id=17          /articles/17#top
    # a comment

FROM is a whole path in its one normal form, of any host or behind one, with the whole query where that counts. TO is a
path of the same host, or a URL. A text, because 100,000 objects would take many times its memory wherever they are.

`lead` defines what a request finds, one entry at most, the most specific first; `proxy.redirect_map` has to find the
same. Everything is asked of the whole map: `faults` tells what cannot be, `chains` what leads on from one entry to the
next.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from core.fields import HOST_NAME
from core.paths import fault

ENTRIES_MOST: Final = 100_000
STATUSES: Final = (301, 302, 303, 307, 308)
TOLD: Final = 20  # faults, or chains, of one map
CHECKED: Final = 8  # maps whose faults are remembered: most changes are about something else

_LABEL: Final = r"[a-z0-9_]{1,30}(?:-[a-z0-9_]{1,30})?"
_ORDINARY: Final = re.compile(  # what most lines are; any other is looked at more closely
    rf"(?!\S*(?:/\.|%))(?:{_LABEL}(?:\.{_LABEL}){{0,3}})?"
    r"/[^\s?#\\]*(?:\?[^\s#]+)?[ \t]+"
    r"(?:/[^\s\\]*|https?://[A-Za-z0-9._-]+(?::[0-9]{1,5})?(?:[/?#][^\s\\]*)?)(?:[ \t]+30[12378])?[ \t]*"
)
_HOST: Final = re.compile(HOST_NAME)
_URL: Final = re.compile(r"https?://[A-Za-z0-9._-]+(?::[0-9]{1,5})?(?:[/?#]\S*)?")
_UNPRINTABLE: Final = re.compile(r"[^\t\n\r -~]")


class Entry(NamedTuple):
    """A line of a map. `status` 0: the map's own."""

    line: int
    source: str
    to: str
    status: int = 0


class Fault(NamedTuple):
    """What is wrong with a line, from 1; 0: with the whole."""

    line: int
    why: str
    remedy: str


def entries(text: str) -> Iterator[Entry]:
    """Those of a text that has no faults."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield Entry(number, words[0], words[1], int(words[2]) if len(words) > 2 else 0)


def keys(host: str, path: str, query: str) -> Iterator[str]:
    """What an entry may say that is for a request, the most specific first."""
    if host and query:
        yield f"{host}{path}?{query}"
    if host:
        yield f"{host}{path}"
    if query:
        yield f"{path}?{query}"
    yield path


def lead(found: Mapping[str, Entry], host: str, path: str, query: str) -> Entry | None:
    """The entry for a request, of a map by FROM. `host` is a name in lower case, `path` in normal form."""
    return next((found[key] for key in keys(host, path, query) if key in found), None)


@lru_cache(CHECKED)
def faults(text: str) -> tuple[Fault, ...]:
    """What is wrong with a map, at most TOLD of it."""
    return tuple(_first(_faults(text)))


def _first(found: Iterator[Fault]) -> Iterator[Fault]:
    yield from (each for _, each in zip(range(TOLD), found, strict=False))


def _faults(text: str) -> Iterator[Fault]:
    if odd := _odd(text):
        yield from odd
        return
    lines: dict[str, int] = {}
    readable = True
    for number, line in enumerate(text.split("\n"), 1):
        if not _ORDINARY.fullmatch(line):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if why := _line_fault(words):
                yield Fault(number, *why)
                readable = False
                continue
        source = line.split(None, 1)[0]
        first = lines.setdefault(source, number)
        if first != number:
            yield Fault(number, f"{source} stands in line {first} already", "remove one of the two")
    if len(lines) > ENTRIES_MOST:
        yield Fault(0, f"{len(lines):,} entries; a map has at most {ENTRIES_MOST:,}", "make two maps for two rules")
    elif readable:
        yield from _loops(text)


def _odd(text: str) -> list[Fault]:
    """Characters that no request has, in lines that are no comments."""
    if not _UNPRINTABLE.search(text):
        return []
    return [
        Fault(number, f"{odd[0]!a} is no character of a path", "write it percent-encoded, as in /caf%C3%A9")
        for number, line in enumerate(text.split("\n"), 1)
        if not line.lstrip().startswith("#") and (odd := _UNPRINTABLE.search(line)) is not None
    ]


def _line_fault(words: list[str]) -> tuple[str, str] | None:
    """What is wrong with a line, and the remedy."""
    if not 2 <= len(words) <= 3:
        return f"{len(words)} words", "write FROM TO, or FROM TO STATUS"
    if len(words) == 3 and words[2] not in map(str, STATUSES):
        return f"{words[2]} redirects no request", f"give {', '.join(map(str, STATUSES[:-1]))} or {STATUSES[-1]}"
    source, to = words[:2]
    host, slash, rest = source.partition("/")
    path = (slash + rest).partition("?")[0]
    if not slash or "://" in source:
        return f"{source} is not a path", "write /PATH, or HOST/PATH without http://"
    if host and host != host.lower():
        return f"{host} is compared in lower case", f"write {host.lower()}"
    if host and not _HOST.fullmatch(host):
        return f"{host} is not a host name", "write /PATH, or HOST/PATH without a port"
    if "#" in source:
        return f"{source}: browsers keep what follows # to themselves", "leave it out"
    if source.endswith("?"):
        return f"{source}: the query is empty", "leave the ? out"
    if why := fault(path):
        return f"no request is for {source}: {why}", "write the path as it is forwarded"
    if "\\" in to or not (to.startswith("/") or _URL.fullmatch(to)):
        return f"{to} is not where a client can go", "write /PATH, or a URL that begins with http:// or https://"
    return None


def _loops(text: str) -> Iterator[Fault]:
    """Paths of one host that lead back to where they came from. URLs may lead to another scheme or port."""
    found = {each.source: each for each in entries(text) if each.to.startswith("/")}
    for circle in _circles(found):
        if len(circle) == 1:
            yield Fault(circle[0].line, f"{circle[0].source} leads to itself", "remove it")
            continue
        way = " → ".join(each.source for each in [*circle[:4], *circle[:1]])
        lines = ", ".join(str(each.line) for each in circle[1:4])
        yield Fault(circle[0].line, f"leads in a circle with line {lines}: {way}", "remove one of them")


def _circles(found: Mapping[str, Entry]) -> Iterator[list[Entry]]:
    seen: dict[str, int] = {}  # FROM → the walk that came by
    for number, start in enumerate(found.values()):
        way: list[Entry] = []
        each: Entry | None = start
        while each is not None and each.source not in seen:
            seen[each.source] = number
            way.append(each)
            each = _next(found, each)
        if each is not None and seen[each.source] == number:
            yield way[way.index(each) :]


def _next(found: Mapping[str, Entry], entry: Entry) -> Entry | None:
    """Where a client goes on to that follows an entry without a query of its own."""
    host = entry.source.partition("/")[0]
    to = entry.to.partition("#")[0]
    if not to.startswith("/"):
        to = to.partition("://")[2]
        host = to.partition("/")[0].lower()
        to = to[len(host) :] or "/"
        if host.partition(":")[2]:
            return None
        # An entry of any host need not be meant for the host that a URL names.
        return next((found[key] for key in keys(host, *_parts(to)) if key.startswith(host) and key in found), None)
    return lead(found, host, *_parts(to))


def _parts(to: str) -> tuple[str, str]:
    path, _, query = to.partition("?")
    return path, query


def chains(text: str) -> list[tuple[int, str]]:
    """Entries that lead to other entries, so that clients are sent on more than once: line and text; at most TOLD, and
    how many more. Of a map without faults."""
    found = {each.source: each for each in entries(text)}
    told: list[tuple[int, str]] = []
    more = 0
    for each in found.values():
        after = _next(found, each)
        if after is None:
            continue
        if len(told) < TOLD:
            told.append((each.line, f"{each.source} leads to {each.to}, and line {after.line} on to {after.to}"))
        else:
            more += 1
    return [*told, (0, f"and {more} more entries that lead to others")] if more else told


def changed(text: str, put: Iterable[str], remove: Iterable[str]) -> str:
    """A sound map with these lines in the place of those with the same FROM, or added, and without those of `remove`.

    Raises KeyError for what is to be removed and is not there.
    """
    lines: list[str | None] = list(text.split("\n"))
    places = {each.source: each.line - 1 for each in entries(text)}
    for source in remove:
        lines[places.pop(source)] = None
    while lines and not lines[-1]:  # what is added is not to stand behind an empty line
        lines.pop()
    for line in put:
        source = line.split(None, 1)[0]
        if source in places:
            lines[places[source]] = line
        else:
            places[source] = len(lines)
            lines.append(line)
    return "\n".join(line for line in lines if line is not None)


def of_file(text: str, *, is_csv: bool) -> str:
    """The text of a map from a file of one of the usual forms, line by line.

    Of CSV the first two columns, and a third one with a status; a first line that has no path is its header. Else words
    between blanks, as in a map of nginx (quotes and a `;` at the end are left out) or Apache's RewriteMap. A FROM that
    is a URL loses its scheme, its host is written small. What is wrong stays, for `faults` to say.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    made = [" ".join(_tidy(words)) for words in (_csv(lines) if is_csv else map(_words, lines))]
    return "\n".join(made)


def _csv(lines: list[str]) -> Iterator[list[str]]:
    for number, line in enumerate(lines):  # an entry has no line break in it
        row = next(csv.reader([line], skipinitialspace=True), [])
        row = [each.strip() for each in row]
        while row and not row[-1]:
            row.pop()
        if row[:1] and row[0].startswith("#"):
            row = []
        yield [] if number == 0 and row and "/" not in row[0] else row


def _words(line: str) -> list[str]:
    words = line.split()
    if not words or words[0].startswith("#"):
        return []
    words[-1] = words[-1].removesuffix(";")
    return [_unquoted(each) for each in words if each]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def _tidy(words: list[str]) -> list[str]:
    if not words:
        return words
    source = re.sub(r"^https?://", "", words[0], flags=re.IGNORECASE)
    host, slash, rest = source.partition("/")
    return [host.lower() + slash + rest, *words[1:]]
