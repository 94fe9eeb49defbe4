"""Who refers to whom in a configuration, read from the `Ref` marks of the model. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Annotated, get_args, get_origin, get_type_hints

from core.model import CLASSES, Kind, Model, Object, Ref


def referrers(model: Model, kind: Kind, name: str) -> tuple[tuple[Kind, str], ...]:
    """The objects that name the object `name` of `kind`, in the order of the kinds."""
    return tuple(
        (other_kind, other.name)
        for other_kind in Kind
        for other in model.of(other_kind).values()
        if (kind, name) in set(_references(other_kind, other))
    )


def _references(kind: Kind, value: Object) -> Iterator[tuple[Kind, str]]:
    for field, target in _reference_fields(kind):
        held = getattr(value, field)
        for name in held if isinstance(held, tuple) else (held,):
            yield target, name


@cache
def _reference_fields(kind: Kind) -> tuple[tuple[str, Kind], ...]:
    """(field, kind referred to) for each field of type `Ref` or tuple of `Ref`."""
    hints = get_type_hints(CLASSES[kind], include_extras=True)
    found = []
    for field in dataclasses.fields(CLASSES[kind]):
        hint = hints[field.name]
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        if get_origin(hint) is Annotated:
            found += [(field.name, Kind(mark.kind)) for mark in get_args(hint)[1:] if isinstance(mark, Ref)]
    return tuple(found)
