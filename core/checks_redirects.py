"""Redirect maps: that each line can be read, that no entry stands twice, and that none leads round in a circle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.errors import Path, Problem
from core.model import Kind, Model
from core.reader import in_words
from core.redirects import STATUSES, faults

Places = Mapping[tuple[Kind, str], Path]


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of redirect maps, but those in files, which are told where these are read."""
    for each in model.redirect_maps.values():
        path = places[Kind.REDIRECT_MAPS, each.name]
        if each.status not in STATUSES:
            why = f"{each.status} redirects no request"
            yield Problem((*path, "status"), why, f"give {in_words([str(status) for status in STATUSES], 'or')}")
        if each.entries and each.entries_file:
            yield Problem((*path, "entries"), "entries and entries_file exclude each other", "give one of them")
        for line, why, remedy in faults(each.entries):
            yield Problem((*path, "entries"), f"line {line}: {why}" if line else why, remedy)
