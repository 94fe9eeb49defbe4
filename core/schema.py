"""What a field may hold, as JSON Schema (2020-12, the dialect of OpenAPI 3.1), from the definitions that validate.

Each class of the model is a component under its name, its docstring and `core.meanings` the descriptions. What JSON
Schema cannot say stays with the reader and the checks across objects: a reference has to lead somewhere, an address has
to be that of one machine. Patterns are such as mean the same to Python's `re` and to ECMA 262, whose `$` is the end.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any, Final, get_args, get_origin

from core.fields import Address, Pairs, Pattern, Range, Ref
from core.meanings import MEANINGS
from core.model import CLASSES, Listener
from core.reader import expected, fields, optional, split

Json = dict[str, Any]

COMPONENTS: Final = "#/components/schemas/"
NAMED_BY_PATH: Final = "name"  # a body may leave it to the path
# A listener's short form (`core.shorthand`), which stands for objects of its name, and what it need not say then.
SHORT: Final[Mapping[str, Json]] = {
    "servers": {
        "type": "array",
        "items": {"type": "string"},
        "description": "short for a backend service and a server group of the listener's name: `192.0.2.1:80`",
    },
    "domains": {
        "type": "array",
        "items": {"type": "string"},
        "description": "short for a certificate of the listener's name",
    },
}
SHORT_DEFAULTS: Final = frozenset({"instance"})
_ANY_TEXT: Final = re.compile(r"\[\\s\\S\]\{0,(\d+)\}")


def schema(annotation: object, components: Json) -> Json:
    """The schema of what `annotation` allows; the classes that it needs are added to `components`."""
    if isinstance(annotation, Mapping):
        linked: Json = _linked(annotation)
        return linked
    bare, constraints = split(annotation)
    pairs = next((each for each in constraints if isinstance(each, Pairs)), None)
    if pairs is not None:
        key, value = (_scalar(str, (each,)) for each in (pairs.key, pairs.value))
        return {"type": "object", "propertyNames": key, "additionalProperties": value, "maxProperties": pairs.most}
    inner = optional(bare)
    if inner is not None:
        return {"anyOf": [schema(inner, components), {"const": False}]}
    if get_origin(bare) is tuple:
        return {"type": "array", "items": schema(get_args(bare)[0], components)}
    if isinstance(bare, type) and (is_dataclass(bare) or issubclass(bare, StrEnum)):
        if bare.__name__ not in components:
            components[bare.__name__] = {}  # a class may have itself inside
            components[bare.__name__] = _object(bare, components) if is_dataclass(bare) else _choice(bare)
        return {"$ref": COMPONENTS + bare.__name__}
    return _scalar(bare, constraints)


def reference(name: str) -> Json:
    """The schema of the component `name`."""
    return {"$ref": COMPONENTS + name}


def _linked(form: Any) -> Any:
    """A schema that is written by hand; `{"$ref": "Name"}` is short for the component of that name."""
    if isinstance(form, Mapping):
        short = isinstance(form.get("$ref"), str) and not form["$ref"].startswith("#")
        return {key: COMPONENTS + value if key == "$ref" and short else _linked(value) for key, value in form.items()}
    return [_linked(each) for each in form] if isinstance(form, list | tuple) else form


def _object(cls: type, components: Json) -> Json:
    meanings = MEANINGS.get(cls, {})
    properties: Json = {}
    for field in fields(cls):
        made = schema(field.annotation, components)
        if meaning := meanings.get(field.name):
            made["description"] = f"{meaning}: {expected(field.annotation)}" if "$ref" not in made else meaning
        if not field.required and field.default != "":  # which is for none
            made["default"] = {} if made.get("type") == "object" else _plain(field.default)
        properties[field.name] = made
    required = {field.name for field in fields(cls) if field.required}
    if cls in CLASSES.values():
        required.discard(NAMED_BY_PATH)
    if cls is Listener:
        properties |= SHORT
        required -= SHORT_DEFAULTS
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = sorted(required)
    if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):  # what dataclasses make of none
        made["description"] = inspect.cleandoc(cls.__doc__)
    return made


def _choice(cls: type[StrEnum]) -> Json:
    made: Json = {"type": "string", "enum": [member.value for member in cls]}
    if cls.__doc__ and cls.__doc__ != StrEnum.__doc__:
        made["description"] = inspect.cleandoc(cls.__doc__)
    return made


def _scalar(bare: object, constraints: tuple[object, ...]) -> Json:
    made: Json = {"type": {bool: "boolean", int: "integer", float: "number"}.get(bare, "string")}  # type: ignore[call-overload]
    for constraint in constraints:
        match constraint:
            case Range(low, high):
                made |= {"minimum": _number(low), "maximum": _number(high)}
            case Pattern(regex):
                any_text = _ANY_TEXT.fullmatch(regex)
                made |= {"maxLength": int(any_text[1])} if any_text else {"pattern": f"^(?:{regex})$"}
            case Address():
                made |= _address(constraint)
            case Ref(kind):
                made["x-paifang-kind"] = kind.value
    return made


def _address(constraint: Address) -> Json:
    if constraint.network:
        return {"pattern": "^[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?$", "maxLength": 49}
    forms: list[Json] = [{"format": f"ipv{version}"} for version in constraint.versions]
    if constraint.unix:
        forms.append({"pattern": "^unix:/"})
    return {"anyOf": forms} if len(forms) > 1 else forms[0]


def _number(bound: float) -> float | int:
    return int(bound) if bound == int(bound) else bound


def _plain(value: object) -> object:
    """A default as JSON has it."""
    if value is None:
        return False
    if isinstance(value, StrEnum):
        return value.value
    if is_dataclass(value):
        return {}  # its own defaults
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
