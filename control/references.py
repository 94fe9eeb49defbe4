"""Who refers to whom in a configuration, read from the `Ref` marks of the model. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Annotated, get_args, get_origin, get_type_hints

from core.fields import Ref
from core.model import CLASSES, Kind, Model, Object


def referrers(model: Model, kind: Kind, name: str) -> tuple[tuple[Kind, str], ...]:
    """The objects that name the object `name` of `kind`, in the order of the kinds."""
    return tuple(
        (other_kind, other.name)
        for other_kind in Kind
        for other in model.of(other_kind).values()
        if (kind, name) in references(other_kind, other)
    )


# What serves nobody until another object names it.
MEANT_FOR_OTHERS = (
    Kind.CERTIFICATES, Kind.CA_CERTIFICATES, Kind.SERVER_GROUPS, Kind.AVAILABILITY_GROUPS, Kind.BACKEND_SERVICES,
    Kind.AUTHENTICATIONS, Kind.ACCESS_LISTS, Kind.REDIRECT_MAPS, Kind.INSTANCES,
)  # fmt: skip


def unused(model: Model) -> Iterator[tuple[Kind, str]]:
    """The objects that are meant for others and that none names, in the order of the kinds."""
    named = {target for kind in Kind for item in model.of(kind).values() for target in references(kind, item)}
    yield from ((kind, name) for kind in MEANT_FOR_OTHERS for name in model.of(kind) if (kind, name) not in named)


def references(kind: Kind, value: Object) -> set[tuple[Kind, str]]:
    """What an object of `kind` names."""
    found = set()
    for field, inner, target in _reference_fields(kind):
        held = getattr(value, field)
        for each in held if isinstance(held, tuple) else (held,):
            found.add((target, getattr(each, inner) if inner else each))
    return found


@cache
def _reference_fields(kind: Kind) -> tuple[tuple[str, str, Kind], ...]:
    return tuple(_of(CLASSES[kind]))


def _of(cls: type) -> Iterator[tuple[str, str, Kind]]:
    """(field, field within its tables, kind referred to) for each `Ref`, alone, in a tuple or in a tuple's tables."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
            if isinstance(hint, type) and dataclasses.is_dataclass(hint):
                yield from ((field.name, inner, target) for inner, _, target in _of(hint))
        if get_origin(hint) is Annotated:
            yield from ((field.name, "", Kind(mark.kind)) for mark in get_args(hint)[1:] if isinstance(mark, Ref))
