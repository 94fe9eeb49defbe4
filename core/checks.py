"""Rules that no field can state alone: references, clashes, and options that must fit each other.

Each check looks at one aspect of a model and yields the problems it finds. Objects that could not be read are missing
from the model, but their names are in `places`: nothing is said about what refers to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args, get_origin

from core.errors import Path, Problem
from core.model import Kind, Model, Object, Ref
from core.reader import did_you_mean, fields, show, split

Places = Mapping[tuple[Kind, str], Path]


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of a model. `places` has the path of every object, whether or not it could be read."""
    for kind in Kind:
        for name, item in model.of(kind).items():
            yield from _references(item, places[kind, name], places)


def _references(item: Object, path: Path, places: Places) -> Iterator[Problem]:
    for field in fields(type(item)):
        bare, constraints = split(field.annotation)
        value = getattr(item, field.name)
        targets = [((*path, field.name), value)]
        if get_origin(bare) is tuple:
            _, constraints = split(get_args(bare)[0])
            targets = [((*path, field.name, index), name) for index, name in enumerate(value)]
        elif value == field.default:
            continue
        for constraint in constraints:
            if isinstance(constraint, Ref):
                yield from (p for where, name in targets for p in _reference(constraint.kind, name, where, places))


def _reference(kind: Kind, name: str, path: Path, places: Places) -> Iterator[Problem]:
    if (kind, name) not in places:
        known = [other for of_kind, other in places if of_kind is kind]
        remedy = did_you_mean(name, known) or (
            f"known are {', '.join(known[:8])}" if known else f"add [[{kind.value}]]"
        )
        yield Problem(path, f"none of the {kind.value.replace('_', ' ')} is named {show(name)}", remedy)
