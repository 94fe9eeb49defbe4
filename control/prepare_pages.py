"""Error pages of a configuration file made ready for the control plane: the text of their files in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from control.prepare_maps import Source
from control.prepare_text import text_of
from core.answers import PAGE_CHARACTERS
from core.checks_answers import template_problems
from core.errors import ConfigError
from core.model import ErrorPage, Kind, Listener, Maintenance, Model, Rule

_BYTES_MOST = 4 * PAGE_CHARACTERS  # of UTF-8
Owner = TypeVar("Owner", Listener, Rule)
Page = TypeVar("Page", ErrorPage, Maintenance)


def inline(document: Source, errors: list[ConfigError]) -> Model:
    """The model with pages in place of their files; adds what is wrong with those."""
    model = document.model
    listeners = _inlined(document, Kind.LISTENERS, model.listeners, errors)
    rules = _inlined(document, Kind.RULES, model.rules, errors)
    return replace(model, listeners=listeners, rules=rules)


def _inlined(
    document: Source, kind: Kind, owners: Mapping[str, Owner], errors: list[ConfigError]
) -> Mapping[str, Owner]:
    if not any(page.body_file for owner in owners.values() for page in pages_of(owner)):
        return owners
    return {name: _with_bodies(document, kind, owner, errors) for name, owner in owners.items()}


def _with_bodies(document: Source, kind: Kind, owner: Owner, errors: list[ConfigError]) -> Owner:
    pages = [_with_body(document, kind, owner, page, errors) for page in owner.error_pages]
    closed = owner.maintenance
    if closed is not None:
        closed = _with_body(document, kind, owner, closed, errors)
    return replace(owner, error_pages=tuple(pages), maintenance=closed)


def _with_body(document: Source, kind: Kind, owner: Owner, page: Page, errors: list[ConfigError]) -> Page:
    body, field = page.body, "error_pages" if isinstance(page, ErrorPage) else "maintenance"
    if page.body_file:
        path = document.file.parent / page.body_file
        body, why = _read(path)
        faults = [(why, "give a file of text")] if why else []
        faults += [(f"{path}: {each.why}", each.suggestion) for each in template_problems(body, ())]
        errors += [document.error(kind, owner.name, field, *each) for each in faults]
    return replace(page, body=body, body_file="")


def pages_of(owner: Listener | Rule) -> tuple[ErrorPage | Maintenance, ...]:
    """All that may name a file."""
    return (*owner.error_pages, owner.maintenance) if owner.maintenance is not None else owner.error_pages


def _read(path: Path) -> tuple[str, str]:
    """The text of a file, and why it is no page."""
    text, why = text_of(path, _BYTES_MOST)
    if why:
        return "", why
    if len(text) > PAGE_CHARACTERS:
        return "", f"{path}: is longer than {PAGE_CHARACTERS:,} characters"
    return text, "" if text else f"{path}: is empty"
