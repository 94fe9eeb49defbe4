"""Limits of rules and listeners: that what is given has an effect."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import Path, Problem
from core.model import Acl, Listener, RateLimit, Rule
from core.reader import show

_WHOLE = RateLimit(1)


def access_problems(owner: Listener | Rule, path: Path) -> Iterator[Problem]:
    """Whether a list and what it is for are both given."""
    if owner.acl is Acl.OFF and owner.access_list:
        why = f"acl is off, so that {show(owner.access_list)} would admit and refuse nobody"
        yield Problem((*path, "access_list"), why, 'give acl = "white" or "black", or remove it')
    if owner.acl is not Acl.OFF and not owner.access_list:
        yield Problem((*path, "acl"), f"{owner.acl} without a list", "give access_list")


def rate_problems(limits: tuple[RateLimit, ...], path: Path) -> Iterator[Problem]:
    """Every problem of a list of rate limits at a path."""
    for index, limit in enumerate(limits):
        where = (*path, index)
        if limit in limits[:index]:
            yield Problem(where, "the same limit stands in the list already", "remove one")
        for name in ("prefix", "prefix_v6"):
            if limit.key != "source" and getattr(limit, name) != getattr(_WHOLE, name):
                why = f"{name} is for the key source, and this limit has {limit.key or 'none'}"
                yield Problem((*where, name), why, "give the key source, or remove it")
        if limit.dry_run and limit.max_delay_s:
            why = "a limit that only counts delays nothing"
            yield Problem((*where, "max_delay_s"), why, "remove it, or dry_run")
