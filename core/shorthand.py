"""The short form of a listener, which makes the usual objects of itself.

    [[listeners]]                          [[listeners]] name = "http-8000"  instance = "default"  protocol = "http"
    protocol = "http"                                    port = 8000  backend_service = "http-8000"
    port = 8000                   →        [[backend_services]] name = "http-8000"  protocol = "http"  server_group = …
    servers = ["127.0.0.1:9000"]           [[server_groups]] name = "http-8000"  servers = [{ address = …, port = … }]
                                           [[instances]] name = "default"

`servers` makes a backend service and a server group of the listener's name, `domains` (https without `certificates`) a
certificate of its name; a listener without `instance` belongs to the instance "default", which is made unless it is
given; one without `name` is named after its protocol and port. The expansion works on plain data, before validation,
and remembers where what it makes comes from, so that messages point at what the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from core.endpoints import UNIX, split
from core.errors import Path, Problem
from core.model import Kind, Protocol
from core.reader import show

DEFAULT_INSTANCE = "default"
_BARE_IPV6: Final = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")


@dataclass(slots=True)
class Expansion:
    """A document being expanded. `origins` maps the path of what was made to the path of what it was made from."""

    tables: dict[str, list[object]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    origins: dict[Path, Path] = field(default_factory=dict)

    def origin(self, path: Path) -> Path:
        """Where in the user's document the value at `path` comes from."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return path

    def add(self, kind: Kind, table: dict[str, object], origin: Path) -> Path:
        """Appends an object that stands nowhere in the document, and gives its path."""
        tables = self.tables.setdefault(kind.value, [])
        tables.append(table)
        path = (kind.value, len(tables) - 1)
        self.origins[path] = origin
        return path

    def note(self, path: Path, why: str, suggestion: str) -> None:
        self.problems.append(Problem(path, why, suggestion))


def expand(tables: Mapping[str, list[object]], problems: list[Problem]) -> Expansion:
    """The document without shorthand. `tables` is left as it is."""
    expansion = Expansion({kind: list(items) for kind, items in tables.items()}, problems)
    listeners = expansion.tables.get(Kind.LISTENERS.value, [])
    given = tables.get(Kind.LISTENERS.value, [])
    for index, table in enumerate(given):
        if isinstance(table, Mapping):
            listeners[index] = _listener(table, (Kind.LISTENERS.value, index), expansion)
    instances = [table for table in tables.get(Kind.INSTANCES.value, []) if isinstance(table, Mapping)]
    homeless = [index for index, table in enumerate(given) if isinstance(table, Mapping) and "instance" not in table]
    if homeless and all(instance.get("name") != DEFAULT_INSTANCE for instance in instances):
        expansion.add(Kind.INSTANCES, {"name": DEFAULT_INSTANCE}, (Kind.LISTENERS.value, homeless[0]))
    return expansion


def _listener(table: Mapping[str, object], path: Path, expansion: Expansion) -> dict[str, object]:
    listener = {key: value for key, value in table.items() if key not in KEYS}
    protocol, port = table.get("protocol"), table.get("port")
    if "name" not in listener:
        sound = protocol in list(Protocol) and type(port) is int and 0 < port < 65536  # not True, which is an int
        # What makes the name unsound is an error by itself; that the name is missing would only confuse.
        listener = {"name": f"{protocol}-{port}" if sound else str(path[1])} | listener
    listener.setdefault("instance", DEFAULT_INSTANCE)
    name = listener.get("name")
    if not isinstance(name, str):
        return listener  # its name is reported as wrong; objects named after it would only repeat that
    for short, long, make in SHORTHANDS:
        if short in table and long in table:
            expansion.note((*path, short), f"{short} and {long} exclude each other", "give one of them")
        elif short in table:
            listener[long] = [name] if long == "certificates" else name
            make(name, table, (*path, short), expansion)
    return listener


def _make_certificate(name: str, table: Mapping[str, object], path: Path, expansion: Expansion) -> None:
    domains = table["domains"]
    made = expansion.add(Kind.CERTIFICATES, {"name": name, "domains": domains}, path)
    for index in range(len(domains) if isinstance(domains, list) else 0):
        expansion.origins[*made, "domains", index] = (*path, index)


def _make_backend(name: str, table: Mapping[str, object], path: Path, expansion: Expansion) -> None:
    protocol = table.get("protocol")
    spoken = protocol if protocol in ("tcp", "udp") else "http"
    expansion.add(Kind.BACKEND_SERVICES, {"name": name, "protocol": spoken, "server_group": name}, path)
    servers: list[object] = []
    group = expansion.add(Kind.SERVER_GROUPS, {"name": name, "servers": servers}, path)
    written = table["servers"]
    if not isinstance(written, list):
        expansion.note(path, f"{show(written)} is not a list", 'give ["ADDRESS:PORT", …]')
        return
    for index, text in enumerate(written):
        found = split(text) if isinstance(text, str) else None
        if isinstance(text, str) and text.startswith(UNIX):
            expansion.origins[*group, "servers", len(servers)] = (*path, index)
            servers.append({"address": text})
            continue
        if found is None:
            why = f"{show(text)} is not an address and port"
            bare = isinstance(text, str) and _BARE_IPV6.fullmatch(text)
            expansion.note((*path, index), why, f"give a string such as '{'[::1]' if bare else '127.0.0.1'}:8000'")
            continue
        expansion.origins[*group, "servers", len(servers)] = (*path, index)
        servers.append({"address": found[0], "port": found[1]})


# Each key of shorthand, the key that it stands for, and what makes that key's object.
SHORTHANDS: Final = (
    ("servers", "backend_service", _make_backend),
    ("domains", "certificates", _make_certificate),
)
KEYS: Final = tuple(short for short, *_ in SHORTHANDS)


def is_short(listener: Mapping[str, object]) -> bool:
    """Whether a listener's table makes, or needs, objects that stand nowhere in it."""
    return "instance" not in listener or any(key in listener for key in KEYS)
