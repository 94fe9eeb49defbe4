"""A configuration's text ⇄ the model.

Reading goes in four steps, each noting every fault it finds: the text is parsed (`core.syntax`); shorthand is expanded
(`core.shorthand`); tables become objects by the types of their fields (`core.ordinary`; `core.reader` where anything is
unusual), less what only other load balancers have (`core.foreign`); rules across objects are checked (`core.checks`).
Faults are then given their lines (`core.lines`), which is paid for only when there are any.

The document is, in TOML and in JSON alike, a table of lists: [[listeners]] … is {"listeners": [{…}]}. Writing leaves
out what has its default, and read(write(model)) is the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from core import acme, affected, checks, foreign, shorthand
from core.acme import Acme
from core.errors import ConfigError, ConfigErrors, Path, Problem
from core.fields import Pairs
from core.lines import Lines, scan
from core.model import CLASSES, BackendProtocol, CheckType, HealthCheck, Kind, Model, Object
from core.ordinary import ordinary
from core.reader import INVALID, did_you_mean, fields, read_object, show, split
from core.syntax import Format, parse


@dataclass(frozen=True, slots=True)
class File:
    """What a file has: a model, and what is for `paifang up` alone."""

    model: Model
    acme: Acme | None = None


def load(text: str, *, path: str, format: Format, is_file: bool = True) -> Model:
    """The model that `text` describes. `path` names the file in messages. Raises ConfigErrors with all faults found."""
    return load_file(text, path=path, format=format, is_file=is_file).model


def load_file(text: str, *, path: str, format: Format, is_file: bool = True) -> File:
    """All that `text` describes. Raises ConfigErrors with all faults found; also of what is for files alone."""
    repeated: list[str] = []
    document = parse(text, path=path, format=format, repeated=repeated)
    return load_parsed(document, repeated, text, path=path, format=format, is_file=is_file)


def load_parsed(
    document: object, repeated: list[str], text: str, *, path: str, format: Format, is_file: bool = True
) -> File:
    """As `load_file`, of what `core.syntax.parse` made of `text`."""
    problems: list[Problem] = []
    reading = _read(document, problems, is_file=is_file)
    if not problems and not repeated:
        return File(reading.model, reading.acme)
    lines = scan(text, format)
    errors = _errors(problems, reading, path, lines)
    errors += [
        ConfigError(path, line, reading.object_path(place), "the key is given twice", "keep one of them")
        for place, line in lines.repeated
    ]
    raise ConfigErrors(sorted(errors, key=lambda error: error.line))


def from_dict(data: object, *, path: str = "request") -> Model:
    """The model of a document that is parsed already (a request's body). Raises ConfigErrors, their lines 0."""
    problems: list[Problem] = []
    reading = _read(data, problems, is_file=False)
    if problems:
        raise ConfigErrors(_errors(problems, reading, path, Lines()))
    return reading.model


def read_tables(data: Mapping[str, object]) -> Model:
    """The objects of a document that `to_dict` wrote of a model that has been checked, or of a part of one.

    Nothing is checked across objects. Raises ValueError where one cannot be read.
    """
    problems: list[Problem] = []
    objects: dict[str, dict[str, Any]] = {kind.value: {} for kind in Kind}
    for key, tables in data.items():
        if key not in objects or not isinstance(tables, list):
            raise ValueError(f"{show(key)}: not a kind with a list of tables")
        kind, places = Kind(key), dict[tuple[Kind, str], Path]()
        for index, table in enumerate(tables):
            _read_one(kind, table, (key, index), objects[key], places, problems)
    if problems:
        raise ValueError("; ".join(f"{problem.path}: {problem.why}" for problem in problems[:3]))
    return Model(**objects)


def revised(model: Model, tables: Mapping[tuple[Kind, str], Mapping[str, object] | None]) -> Model | None:
    """`model` with some objects read anew from their tables, or left out (None), in their places; new ones come last.

    What `from_dict` makes of the whole document, at the cost of what has changed: `model` is sound, and only what the
    change may be at odds with is checked (`core.affected`). None where the whole has to be asked: there is a problem,
    for which it has the words, or a listener's short form, which makes other objects.
    """
    problems: list[Problem] = []
    objects: dict[str, dict[str, Any]] = {
        kind.value: dict(model.of(kind)) for kind in dict.fromkeys(k for k, _ in tables)
    }
    for (kind, name), table in tables.items():
        if table is None:
            objects[kind.value].pop(name, None)
            continue
        if table.get("name") != name or (kind is Kind.LISTENERS and shorthand.is_short(table)):
            return None
        read_here: dict[str, Any] = {}
        _read_one(kind, table, (kind.value, 0), read_here, {}, problems)
        objects[kind.value] |= read_here
    if problems:
        return None
    after = replace(model, **objects)
    places = _Names(after)
    return None if any(True for _ in checks.check(affected.part(model, after, tables), places)) else after


class _Names(Mapping[tuple[Kind, str], Path]):
    """The objects of a model as places, where nobody reads which they are."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getitem__(self, key: tuple[Kind, str]) -> Path:
        if key not in self:
            raise KeyError(key)
        return key[0].value, key[1]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self._model.of(key[0])

    def __iter__(self) -> Iterator[tuple[Kind, str]]:
        return ((kind, name) for kind in Kind for name in self._model.of(kind))

    def __len__(self) -> int:
        return sum(len(self._model.of(kind)) for kind in Kind)


def to_dict(model: Model) -> dict[str, list[dict[str, object]]]:
    """The document of a model, for JSON: kinds without objects and fields at their defaults are left out."""
    document: dict[str, list[dict[str, object]]] = {}
    for kind in Kind:
        objects = model.of(kind)
        if objects:
            document[kind.value] = [to_table(item) for item in objects.values()]
    return document


def to_toml(model: Model) -> str:
    """The document of a model as TOML."""
    parts = []
    for kind, tables in to_dict(model).items():
        for table in tables:
            body = "".join(f"{key} = {_toml_value(value)}\n" for key, value in table.items())
            parts.append(f"[[{kind}]]\n{body}")
    return "\n".join(parts)


# --- reading


@dataclass(slots=True)
class _Reading:
    """What came of a document: the objects that could be read, and how to speak of the places of the others."""

    model: Model = field(default_factory=Model)
    acme: Acme | None = None
    expansion: shorthand.Expansion = field(default_factory=shorthand.Expansion)

    def object_path(self, path: Path) -> str:
        """A path as messages show it: listeners.web.servers[0]; objects go by name where they have one."""
        parts = list(path)
        text = _key(parts[0]) if parts else ""
        if len(parts) > 1 and isinstance(parts[1], int):
            tables = self.expansion.tables.get(text, [])
            table = tables[parts[1]] if parts[1] < len(tables) else None
            name = table.get("name") if isinstance(table, Mapping) else None
            named = isinstance(name, str) and name != str(parts[1])  # what cannot be named is called by its number
            text += f".{_key(str(name))}" if named else f"[{parts[1]}]"
            parts = parts[1:]
        for part in parts[1:]:
            text += f"[{part}]" if isinstance(part, int) else f".{_key(part)}"
        return text


def _key(key: str | int) -> str:
    """A key as a path shows it: quoted where it is not a plain word."""
    return str(key) if re.fullmatch(r"[A-Za-z0-9._-]{1,80}", str(key)) else show(key)


def _read(document: object, problems: list[Problem], *, is_file: bool) -> _Reading:
    reading = _Reading()
    if not isinstance(document, Mapping):
        problems.append(Problem((), f"{show(document)} is not a table", f"give a table of {', '.join(Kind)}"))
        return reading
    tables: dict[str, list[object]] = {}
    known = [*Kind, acme.TABLE] if is_file else [*Kind]
    for key, value in document.items():
        if key == acme.TABLE:
            reading.acme = _read_acme(value, problems, is_file)
        elif key not in known:
            problems.append(Problem((key,), "unknown key", did_you_mean(key, known) or f"known are {', '.join(known)}"))
        elif not isinstance(value, list):
            problems.append(
                Problem((key,), f"{show(value)} is not a list of tables", f"write [[{key}]], twice bracketed")
            )
        else:
            tables[key] = value
    reading.expansion = shorthand.expand(tables, problems)
    objects: dict[str, dict[str, Any]] = {kind.value: {} for kind in Kind}
    places: dict[tuple[Kind, str], Path] = {}
    for kind in Kind:
        for index, table in enumerate(reading.expansion.tables.get(kind.value, [])):
            _read_one(kind, table, (kind.value, index), objects[kind.value], places, problems)
    reading.model = Model(**objects)
    problems += checks.check(reading.model, places)
    if reading.acme is not None:
        problems += acme.check(reading.acme, reading.model, places)
    return reading


def _read_acme(value: object, problems: list[Problem], is_file: bool) -> Acme | None:
    path: Path = (acme.TABLE,)
    if not is_file:
        remedy = "remove it; in a cluster, `paifang keyserver acme` has options for it"
        problems.append(Problem(path, "is for the file of `paifang up` alone", remedy))
        return None
    if isinstance(value, list):
        problems.append(Problem(path, "is one table", f"write [{acme.TABLE}], once bracketed"))
        return None
    found = read_object(Acme, value, path, problems)
    return found if isinstance(found, Acme) else None


def _read_one(
    kind: Kind, table: object, path: Path, objects: dict[str, Any], places: dict[tuple[Kind, str], Path],
    problems: list[Problem],
) -> None:  # fmt: skip
    whole = _with_defaults(kind, table)
    item: object = ordinary(CLASSES[kind], whole)
    if item is None:
        also = shorthand.KEYS if kind is Kind.LISTENERS else ()
        item = read_object(CLASSES[kind], foreign.without(kind, whole, path, problems), path, problems, also)
    name = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str):
        return
    if (kind, name) in places:
        problems.append(
            Problem(
                (*path, "name"), f"another of the {kind.value.replace('_', ' ')} is named {show(name)}", "rename one"
            )
        )
        return
    places[kind, name] = path
    if item is not INVALID:
        objects[name] = item


def _with_defaults(kind: Kind, table: object) -> object:
    """A table with the one default that depends on another field: a udp service is checked by udp."""
    if kind is Kind.BACKEND_SERVICES and isinstance(table, Mapping) and table.get("protocol") == "udp":
        check = table.get("health_check", {})
        if isinstance(check, Mapping):
            return {**table, "health_check": {"type": "udp", **check}}
    return table


def _errors(problems: list[Problem], reading: _Reading, path: str, lines: Lines) -> list[ConfigError]:
    errors = []
    for problem in dict.fromkeys(problems):
        place = reading.expansion.origin(problem.path)
        object_path = reading.object_path(place)
        errors.append(ConfigError(path, lines.line(place), object_path, problem.why, problem.suggestion))
    return errors


# --- writing


def to_table(item: Object) -> dict[str, object]:
    """An object as it stands in a document."""
    table = _dump_fields(item)
    if getattr(item, "protocol", None) is BackendProtocol.UDP:
        table.pop("health_check", None)
        check = item.health_check  # type: ignore[union-attr]
        if check is None:
            table["health_check"] = False
        elif check != HealthCheck(type=CheckType.UDP):
            table["health_check"] = {"type": check.type.value, **_dump_fields(check)}
    return table


def _dump_fields(item: Any) -> dict[str, object]:
    table: dict[str, object] = {}
    for name, required, default, pairs in _dumped(type(item)):  # type: ignore[arg-type]
        value = getattr(item, name)
        if required or value != default:
            table[name] = dict(value) if pairs else _dump_value(value)
    return table


@cache
def _dumped(cls: type) -> tuple[tuple[str, bool, object, bool], ...]:
    """(name, whether required, default, whether it is a table of strings) of each field."""
    return tuple(
        (each.name, each.required, each.default, any(isinstance(mark, Pairs) for mark in split(each.annotation)[1]))
        for each in fields(cls)
    )


def _dump_value(value: object) -> object:
    if value is None:
        return False
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_dump_value(element) for element in value]
    return _dump_fields(value) if is_dataclass(value) else value


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, list):
        items = [_toml_value(element) for element in value]
        if value and isinstance(value[0], Mapping):
            return "[\n" + "".join(f"  {item},\n" for item in items) + "]"
        return f"[{', '.join(items)}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(element)}" for key, element in value.items()) + " }"
    raise TypeError(f"{type(value).__name__} has no form in TOML")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_string(key)


def _toml_string(text: str) -> str:
    """A basic string; one of several lines (a PEM chain) is written as it reads."""
    escaped = [json.dumps(line, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f") for line in text.split("\n")]
    return f'"{escaped[0]}"' if len(escaped) == 1 else '"""\n' + "\n".join(escaped) + '"""'
