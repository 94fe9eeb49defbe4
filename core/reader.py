"""Reads plain data (what TOML and JSON parse to) into the objects of the model, by the types of their fields.

Nothing here knows a particular object. A field's annotation says what it may hold; `read` turns a value into that or
notes a `Problem`, and goes on, so that one reading finds every fault. `expected` says in words what an annotation
allows: error messages and the reference page share it.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Final, get_args, get_origin, get_type_hints

from core.endpoints import UNIX
from core.errors import Path, Problem
from core.fields import HOST_NAME, Address, Pairs, Pattern, Range, Ref


class _Invalid:
    """The type of `INVALID`, which stands for a value that has a problem noted against it."""


INVALID: Final = _Invalid()
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # JSON can say them, UTF-8 cannot


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object: its type with the constraints, and its default, MISSING where it is required."""

    name: str
    annotation: object
    default: object

    @property
    def required(self) -> bool:
        return self.default is MISSING


_fields: Final[dict[type, tuple[Field, ...]]] = {}  # resolving annotations is slow, and every object needs them


def fields(cls: type) -> tuple[Field, ...]:
    """The fields of a dataclass of the model, in order, with their annotations resolved."""
    if cls not in _fields:
        hints = get_type_hints(cls, include_extras=True)
        _fields[cls] = tuple(Field(f.name, hints[f.name], f.default) for f in dataclasses.fields(cls))
    return _fields[cls]


@cache
def split(annotation: object) -> tuple[object, tuple[object, ...]]:
    """An annotation's bare type and its constraints: Annotated[int, Range(1, 9)] → int, (Range(1, 9),)."""
    if get_origin(annotation) is Annotated:
        bare, *constraints = get_args(annotation)
        return bare, tuple(constraints)
    return annotation, ()


@cache
def optional(annotation: object) -> object | None:
    """The X of `X | None`, else None."""
    if isinstance(annotation, UnionType):
        present = [member for member in get_args(annotation) if member is not NoneType]
        return present[0] if len(present) == 1 else None
    return None


def read(annotation: object, value: object, path: Path, problems: list[Problem]) -> object:
    """`value` as `annotation` wants it, or `INVALID` after noting why not."""
    bare, constraints = split(annotation)
    inner = optional(bare)
    if inner is not None:
        return None if value is False else read(inner, value, path, problems)
    for constraint in constraints:
        if isinstance(constraint, Pairs):
            return _read_pairs(constraint, value, path, problems)
    if get_origin(bare) is tuple:
        return _read_tuple(get_args(bare)[0], value, path, problems)
    if isinstance(bare, type) and is_dataclass(bare):
        return read_object(bare, value, path, problems)
    fault = _scalar_fault(bare, constraints, value)
    if fault is not None:
        problems.append(Problem(path, *fault))
        return INVALID
    if (
        isinstance(value, str)
        and ":" in value
        and not value.startswith(UNIX)
        and any(isinstance(each, Address) for each in constraints)
    ):
        return _canonical(value)
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return bare(str(value))
    return float(value) if bare is float and isinstance(value, int) else value


def _read_tuple(item: object, value: object, path: Path, problems: list[Problem]) -> object:
    if not isinstance(value, list):
        problems.append(Problem(path, f"{show(value)} is not a list", f"give a list of {plural(item)}"))
        return INVALID
    items = tuple(read(item, element, (*path, index), problems) for index, element in enumerate(value))
    return INVALID if any(element is INVALID for element in items) else items


def _read_pairs(pairs: Pairs, value: object, path: Path, problems: list[Problem]) -> object:
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"{show(value)} is not a table", f"give {_pairs_expected(pairs)}"))
        return INVALID
    before = len(problems)
    if len(value) > pairs.most:
        problems.append(Problem(path, f"{len(value)} of them; at most {pairs.most} are kept", "remove some"))
    for key, element in value.items():
        fault = _scalar_fault(str, (pairs.key,), key) or _scalar_fault(str, (pairs.value,), element)
        if fault is not None:
            problems.append(Problem((*path, key), *fault))
    return INVALID if len(problems) > before else tuple(sorted(value.items()))


def read_object(cls: type, value: object, path: Path, problems: list[Problem], also: Iterable[str] = ()) -> object:
    """An object of `cls` from a table. `also` names keys beyond the fields, for "did you mean"; they are not read."""
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"{show(value)} is not a table", f"give a table of {_names(cls)}"))
        return INVALID
    known = _by_name(cls)
    found: dict[str, object] = {}
    for key, element in value.items():
        if key in known:
            found[key] = read(known[key].annotation, element, (*path, key), problems)
        else:
            problems.append(unknown_key(key, (*path, key), [*known, *also]))
    for field in _required(cls):
        if field.name not in value:
            problems.append(Problem(path, f"{field.name} is missing", f"give {expected(field.annotation)}"))
            found[field.name] = INVALID
    return INVALID if any(element is INVALID for element in found.values()) else cls(**found)


@cache
def _by_name(cls: type) -> Mapping[str, Field]:
    return {field.name: field for field in fields(cls)}


@cache
def _required(cls: type) -> tuple[Field, ...]:
    return tuple(field for field in fields(cls) if field.required)


def unknown_key(key: str, path: Path, known: Iterable[str]) -> Problem:
    """The problem of a key that nothing reads."""
    return Problem(path, "unknown key", did_you_mean(key, known) or f"known are {', '.join(known)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion of the nearest known word, or the empty string."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[near[0]]}?" if near else ""


def _scalar_fault(bare: object, constraints: tuple[object, ...], value: object) -> tuple[str, str] | None:
    """What is wrong with a scalar, and what would be right; None if nothing is."""
    if not _has_type(bare, value):
        return f"{show(value)} is not {_TYPE_NAMES.get(bare, 'a string')}", _remedy(bare, constraints)
    if isinstance(value, str):
        return _text_fault(bare, constraints, value)
    for constraint in constraints:
        if isinstance(constraint, Range) and not constraint.low <= value <= constraint.high:  # type: ignore[operator]
            return f"{show(value)} is out of range", _remedy(bare, constraints)
    return None


def _remedy(bare: object, constraints: tuple[object, ...]) -> str:
    return f"give {_scalar_expected(bare, constraints)}"


def _text_fault(bare: object, constraints: tuple[object, ...], value: str) -> tuple[str, str] | None:
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        choices = [member.value for member in bare]
        if value in choices:
            return None
        near = did_you_mean(value, choices)
        return f"{show(value)} is not known", f"{near} {_remedy(bare, constraints)}".lstrip()
    if _SURROGATE.search(value):
        return f"{show(value)} is not valid Unicode", "leave out the lone surrogate"
    for constraint in constraints:
        if isinstance(constraint, Pattern) and not re.fullmatch(constraint.regex, value):
            return f"{show(value)} does not fit", _ascii_form(constraint, value) or _remedy(bare, constraints)
        if isinstance(constraint, Address):
            why, suggestion = _address_fault(constraint, value)
            return (why, suggestion or _remedy(bare, constraints)) if why else None
    return None


def _ascii_form(constraint: Pattern, value: str) -> str:
    """The remedy for a host name in another alphabet: as clients send it (RFC 3492); empty for anything else."""
    if value.isascii() or HOST_NAME not in constraint.regex:
        return ""
    labels = unicodedata.normalize("NFC", value.lower()).split(".")
    name = ".".join(each if each.isascii() else "xn--" + each.encode("punycode").decode() for each in labels)
    return f"give {name}" if re.fullmatch(constraint.regex, name) else ""


def _address_fault(constraint: Address, value: str) -> tuple[str, str]:
    """What is wrong with an address, and a remedy where there is a better one than what any address needs."""
    if constraint.network and _is_plain_network(value):
        return "", ""
    if constraint.unix and value.startswith(UNIX):
        path = value.removeprefix(UNIX)
        if not _SOCKET_PATH.fullmatch(path) or len(path.encode()) > SOCKET_PATH_BYTES:
            why = f"{show(value)} is not the path of a socket"
            return why, f"give unix: and an absolute path of at most {SOCKET_PATH_BYTES} bytes"
        return "", ""
    try:
        address = ipaddress.ip_interface(value) if constraint.network else ipaddress.ip_address(value)
    except ValueError:
        return f"{show(value)} is not an IP {'network' if constraint.network else 'address'}", ""
    if address.version not in constraint.versions:
        return f"{show(value)} is of IPv{address.version}", ""
    if isinstance(address, ipaddress.IPv6Address) and (why := _unusable(address)):
        return f"{show(value)} {why}", _give_ipv4(address)
    if isinstance(address, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        if address.ip != address.network.network_address:
            return f"{show(value)} has bits set beyond its prefix", f"give {address.network}"
        if not value.partition("/")[2].isdigit() and "/" in value:
            return f"{show(value)} has a mask and not the length of its prefix", f"give {address.network}"
    elif address.is_multicast or address.is_unspecified or address == ipaddress.IPv4Address(0xFFFFFFFF):
        return f"{show(value)} is not the address of one machine", ""
    return "", ""


def _unusable(address: ipaddress.IPv6Address) -> str:
    """Why an IPv6 address, or a network by its first, can stand nowhere in a configuration; empty if it can."""
    if address.scope_id is not None:
        return "has a zone, which means something on one machine only"
    if address.ipv4_mapped is not None:
        return "is an IPv4 address in the form of IPv6, which no packet carries"
    if not isinstance(address, ipaddress.IPv6Interface) and address.is_link_local:
        return "is link-local: it means something on one link only"
    return ""


def _give_ipv4(address: ipaddress.IPv6Address) -> str:
    """The remedy for an IPv4 address in the form of IPv6; empty for any other."""
    if address.ipv4_mapped is None:
        return ""
    spare = address.network.prefixlen - 96 if isinstance(address, ipaddress.IPv6Interface) else 32
    return f"give {address.ipv4_mapped}" + (f"/{spare}" if 0 <= spare < 32 else "")


def _canonical(value: str) -> str:
    """A sound IPv6 address or network as RFC 5952 writes it: equal ones are equal strings then."""
    address, slash, length = value.partition("/")
    return f"{ipaddress.IPv6Address(address)}{slash}{int(length) if slash else ''}"


SOCKET_PATH_BYTES: Final = 107  # linux/un.h: 108 with the NUL
_SOCKET_PATH: Final = re.compile(r"/[^\0-\x1f\x7f]*[^/\0-\x1f\x7f]")
_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN_NETWORK_V6: Final = re.compile(r"([0-9A-Fa-f:]{2,39})(?:/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?")
_PLAIN_NETWORK: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}(?:/(3[0-2]|[12]?[0-9]))?")


def _is_plain_network(value: str) -> bool:
    """Whether this is a sound network in the usual form: told with as little as possible, for lists of 100,000."""
    match = _PLAIN_NETWORK.fullmatch(value)
    if match is None:
        return _is_plain_network_v6(value)
    a, b, c, d, length = match.groups()
    return not (int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)) & 0xFFFFFFFF >> int(length or 32)


def _is_plain_network_v6(value: str) -> bool:
    match = _PLAIN_NETWORK_V6.fullmatch(value)
    if match is None:
        return False
    try:
        number = int(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return False
    # Below 2^48 lie the addresses in the form of IPv6, among others: those are looked at more closely.
    return number >= 1 << 48 and not number & (1 << 128 - int(match[2] or 128)) - 1


def _has_type(bare: object, value: object) -> bool:
    if bare is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if bare is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if bare is bool:
        return isinstance(value, bool)
    return isinstance(value, str)


_TYPE_NAMES: Final[Mapping[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
}


def show(value: object, limit: int = 60) -> str:
    """A value as a message quotes it: short, on one line, printable."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        text = ascii(value) if not value.isprintable() else f"'{value}'"
    elif isinstance(value, int | float):
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "the number"
    elif isinstance(value, list):
        text = "a list" if value else "an empty list"
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def expected(annotation: object) -> str:
    """What a field may hold, in words: "a whole number from 1 to 65535"."""
    bare, constraints = split(annotation)
    inner = optional(bare)
    if inner is not None:
        return f"{expected(inner)}, or false for none"
    for constraint in constraints:
        if isinstance(constraint, Pairs):
            return _pairs_expected(constraint)
    if get_origin(bare) is tuple:
        return f"a list of {plural(get_args(bare)[0])}"
    if isinstance(bare, type) and is_dataclass(bare):
        return f"a table of {_names(bare)}"
    return _scalar_expected(bare, constraints)


def _pairs_expected(pairs: Pairs) -> str:
    return f"a table of at most {pairs.most} strings, each {pairs.value.what}, under {pairs.key.what}"


def plural(annotation: object) -> str:
    """What the items of a list are: "addresses", "tables of address, port"."""
    bare, constraints = split(annotation)
    if isinstance(bare, type) and is_dataclass(bare):
        return f"tables of {_names(bare)}"
    for constraint in constraints:
        if isinstance(constraint, Ref):
            return f"names of {constraint.kind.value.replace('_', ' ')}"
        if isinstance(constraint, Address):
            return "networks such as '10.0.0.0/8' or '2001:db8::/32'" if constraint.network else "IP addresses"
    return f"strings, each {_scalar_expected(bare, constraints)}"


def _scalar_expected(bare: object, constraints: tuple[object, ...]) -> str:
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return in_words([member.value for member in bare], "or")
    for constraint in constraints:
        match constraint:
            case Range(low, high, unit):
                kind = "a whole number" if bare is int else "a number"
                return f"{kind} from {_digits(low)} to {_digits(high)}{unit and ' ' + unit}"
            case Pattern(what=what):
                return what
            case Address(network=True):
                return "a network such as 10.0.0.0/8 or 2001:db8::/32"
            case Address(unix=True):
                return "an IP address, or unix: and the path of a socket"
            case Address(versions=versions):
                return "an IP address" if len(versions) > 1 else f"an IPv{versions[0]} address"
            case Ref(kind):
                return f"the name of one of the {kind.value.replace('_', ' ')}"
    return _TYPE_NAMES[bare]


def _digits(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def in_words(words: Sequence[str], conjunction: str) -> str:
    """A list as a sentence has it: "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _names(cls: type) -> str:
    return ", ".join(field.name for field in fields(cls))
