"""What is done about answers, by listeners and rules: that what is given has an effect."""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.answers import PAGE_VARIABLES, PAGES_MOST
from core.errors import Path, Problem
from core.model import Compression, ErrorPage, Listener, Maintenance, Rule
from core.reader import did_you_mean, in_words, show

_VARIABLE = re.compile(r"\$\{([^{}\n]{0,40})\}")


def of_listener(listener: Listener, path: Path) -> Iterator[Problem]:
    """Every problem of a listener's."""
    if listener.compression is not None:
        where = (*path, "compression")
        if not listener.compression.codings:
            yield Problem((*where, "codings"), "no coding, so that nothing is compressed", "remove compression")
        else:
            yield from _compression(listener.compression, where)
    yield from _pages(listener.error_pages, (*path, "error_pages"))
    yield from _maintenance(listener.maintenance, (*path, "maintenance"))


def of_rule(rule: Rule, listener: Listener | None, path: Path) -> Iterator[Problem]:
    """Every problem of a rule's."""
    if rule.compression is not None:
        where = (*path, "compression")
        if rule.compression.codings:
            yield from _compression(rule.compression, where)
        elif listener is not None and listener.compression is None:
            why = f"no coding, which turns compression off, and it is not on at {listener.name}"
            yield Problem((*where, "codings"), why, "remove compression")
    yield from _pages(rule.error_pages, (*path, "error_pages"))
    yield from _maintenance(rule.maintenance, (*path, "maintenance"))


def _pages(pages: tuple[ErrorPage, ...], path: Path) -> Iterator[Problem]:
    if len(pages) > PAGES_MOST:
        yield Problem(path, f"{len(pages)} of them; at most {PAGES_MOST} are kept", "remove some")
    seen: set[tuple[str, str]] = set()
    for index, page in enumerate(pages):
        where, kind = (*path, index), page.content_type.partition(";")[0].strip().lower()
        if (page.status, kind) in seen:
            yield Problem(where, f"a page of {kind} for {page.status} is in the list already", "remove one")
        seen.add((page.status, kind))
        if page.body and page.body_file:
            yield Problem((*where, "body_file"), "body and body_file exclude each other", "give one of them")
        elif not page.body and not page.body_file:
            yield Problem(where, "a page without anything on it", "give body or body_file")
        yield from template_problems(page.body, (*where, "body"))


def _maintenance(maintenance: Maintenance | None, path: Path) -> Iterator[Problem]:
    if maintenance is None:
        return
    if maintenance.body and maintenance.body_file:
        yield Problem((*path, "body_file"), "body and body_file exclude each other", "give one of them")
    yield from template_problems(maintenance.body, (*path, "body"))
    for index, header in enumerate(maintenance.headers):
        if header.name.lower() == "cookie":
            yield Problem(
                (*path, "headers", index, "name"), "Cookie has an attribute of its own", "give cookies instead"
            )


def template_problems(text: str, where: Path) -> Iterator[Problem]:
    """Of what stands for something in a page."""
    for name in dict.fromkeys(_VARIABLE.findall(text)):
        if name not in PAGE_VARIABLES:
            known = in_words([f"${{{each}}}" for each in PAGE_VARIABLES], "and")
            why = f"${{{show(name)[1:-1]}}} stands for nothing"
            yield Problem(where, why, did_you_mean(name, PAGE_VARIABLES) or f"known are {known}")


def _compression(compression: Compression, path: Path) -> Iterator[Problem]:
    for name in ("codings", "types"):
        values: tuple[str, ...] = getattr(compression, name)
        if not values:
            yield Problem((*path, name), f"{name} is empty, so that nothing is compressed", "give some, or remove it")
        for index, value in enumerate(values):
            if value in values[:index]:
                yield Problem((*path, name, index), f"{value} is in the list already", "remove one")
