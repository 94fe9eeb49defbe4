"""Redirect maps of a configuration file made ready for the control plane: the lines of their files in their place.

What is wrong with a line is said of the file that it stands in. Entries that lead to other entries are notes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from control.prepare_text import text_of
from core.errors import ConfigError
from core.model import Kind, Model, RedirectMap
from core.redirects import chains, faults, of_file

FILE_LIMIT_BYTES = 12 << 20  # the longest text that the model takes


class Source(Protocol):
    """What `control.prepare.Document` is to this."""

    @property
    def file(self) -> Path: ...

    @property
    def model(self) -> Model: ...

    def error(self, kind: Kind, name: str, field: str, why: str, remedy: str = "") -> ConfigError: ...


def inline(document: Source, errors: list[ConfigError]) -> tuple[dict[str, RedirectMap], tuple[ConfigError, ...]]:
    """The file's redirect maps with their entries as text, and notes; adds what is wrong with their files."""
    made: dict[str, RedirectMap] = {}
    notes: list[ConfigError] = []
    for name, given in document.model.redirect_maps.items():
        text, place = given.entries, f"redirect_maps.{name}"
        if given.entries_file:
            path = document.file.parent / given.entries_file
            text, why = _read(path)
            if why:
                remedy = "give a file of lines FROM TO, or CSV"
                errors.append(document.error(Kind.REDIRECT_MAPS, name, "entries_file", why, remedy))
            found = faults(text)
            errors += [ConfigError(str(path), each.line, place, each.why, each.remedy) for each in found]
            notes += [ConfigError(str(path), line, place, told) for line, told in (chains(text) if not found else ())]
        else:
            for line, told in chains(text):
                told = f"line {line}: {told}" if line else told
                notes.append(document.error(Kind.REDIRECT_MAPS, name, "entries", told))
        made[name] = replace(given, entries=text, entries_file="")
    return made, tuple(notes)


def _read(path: Path) -> tuple[str, str]:
    """The entries of a file, and why it cannot be read."""
    text, why = text_of(path, FILE_LIMIT_BYTES)
    return ("", why) if why else (of_file(text, is_csv=path.suffix.lower() == ".csv"), "")
