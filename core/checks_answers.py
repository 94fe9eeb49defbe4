"""What is done about answers, by listeners and rules: that what is given has an effect."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import Path, Problem
from core.model import Compression, Listener, Rule


def of_listener(listener: Listener, path: Path) -> Iterator[Problem]:
    """Every problem of a listener's."""
    if listener.compression is not None:
        where = (*path, "compression")
        if not listener.compression.codings:
            yield Problem((*where, "codings"), "no coding, so that nothing is compressed", "remove compression")
        else:
            yield from _compression(listener.compression, where)


def of_rule(rule: Rule, listener: Listener | None, path: Path) -> Iterator[Problem]:
    """Every problem of a rule's."""
    if rule.compression is not None:
        where = (*path, "compression")
        if rule.compression.codings:
            yield from _compression(rule.compression, where)
        elif listener is not None and listener.compression is None:
            why = f"no coding, which turns compression off, and it is not on at {listener.name}"
            yield Problem((*where, "codings"), why, "remove compression")


def _compression(compression: Compression, path: Path) -> Iterator[Problem]:
    for name in ("codings", "types"):
        values: tuple[str, ...] = getattr(compression, name)
        if not values:
            yield Problem((*path, name), f"{name} is empty, so that nothing is compressed", "give some, or remove it")
        for index, value in enumerate(values):
            if value in values[:index]:
                yield Problem((*path, name, index), f"{value} is in the list already", "remove one")
