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

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import Path, Problem
from core.model import Kind
from core.reader import show

DEFAULT_INSTANCE = "default"
KEYS = ("servers", "domains")


@dataclass(frozen=True, slots=True)
class Expansion:
    """A document with every shorthand expanded. `origins` maps the path of what was made to what it was made from."""

    tables: dict[str, list[object]]
    origins: dict[Path, Path] = field(default_factory=dict)

    def origin(self, path: Path) -> Path:
        """Where in the user's document the value at `path` comes from."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return path

    def add(self, kind: Kind, table: dict[str, object], origin: Path) -> Path:
        """Appends an object that stands nowhere in the document and gives its path."""
        tables = self.tables.setdefault(kind.value, [])
        tables.append(table)
        path = (kind.value, len(tables) - 1)
        self.origins[path] = origin
        return path

    def has(self, kind: Kind, name: object) -> bool:
        tables = self.tables.get(kind.value, [])
        return any(isinstance(table, Mapping) and table.get("name") == name for table in tables)


def expand(tables: Mapping[str, list[object]], problems: list[Problem]) -> Expansion:
    """The document without shorthand. `tables` is left as it is."""
    result = Expansion({kind: list(items) for kind, items in tables.items()})
    listeners = result.tables.get(Kind.LISTENERS.value, [])
    for index, table in enumerate(listeners):
        if isinstance(table, Mapping):
            listeners[index] = _expand_listener(table, (Kind.LISTENERS.value, index), result, problems)
    return result


def _expand_listener(
    table: Mapping[str, object], path: Path, result: Expansion, problems: list[Problem]
) -> dict[str, object]:
    listener = {key: value for key, value in table.items() if key not in KEYS}
    if "name" not in listener and isinstance(table.get("protocol"), str) and isinstance(table.get("port"), int):
        listener = {"name": f"{table['protocol']}-{table['port']}"} | listener
    if "instance" not in listener:
        listener["instance"] = DEFAULT_INSTANCE
        if not result.has(Kind.INSTANCES, DEFAULT_INSTANCE):
            result.add(Kind.INSTANCES, {"name": DEFAULT_INSTANCE}, path)
    name = listener.get("name")
    if not isinstance(name, str):
        return listener  # its missing or wrong name is reported; objects named after it would only repeat that
    if "servers" in table and _free(
        table, "servers", "backend_service", (Kind.BACKEND_SERVICES, Kind.SERVER_GROUPS), path, result, problems
    ):
        listener["backend_service"] = name
        _add_servers(name, table, path, result, problems)
    if "domains" in table and _free(table, "domains", "certificates", (Kind.CERTIFICATES,), path, result, problems):
        listener["certificates"] = [name]
        made = result.add(Kind.CERTIFICATES, {"name": name, "domains": table["domains"]}, (*path, "domains"))
        if isinstance(table["domains"], list):
            for index in range(len(table["domains"])):
                result.origins[*made, "domains", index] = (*path, "domains", index)
    return listener


def _free(
    table: Mapping[str, object], short: str, long: str, kinds: tuple[Kind, ...], path: Path, result: Expansion,
    problems: list[Problem],
) -> bool:  # fmt: skip
    """Whether the shorthand `short` may be expanded: `long` is not given too, and its objects' names are free."""
    if long in table:
        problems.append(Problem((*path, short), f"{short} and {long} exclude each other", "give one of them"))
        return False
    name = table.get("name", f"{table.get('protocol')}-{table.get('port')}")
    for kind in kinds:
        if result.has(kind, name):
            plural = kind.value.replace("_", " ")
            why = f"{short} would make {show(name)} one of the {plural}, and there is one of that name"
            problems.append(Problem((*path, short), why, f"give {long} = {show(name)} instead, or rename one"))
            return False
    return True


def _add_servers(
    name: str, table: Mapping[str, object], path: Path, result: Expansion, problems: list[Problem]
) -> None:
    protocol = table.get("protocol")
    service: dict[str, object] = {
        "name": name,
        "protocol": protocol if protocol in ("tcp", "udp") else "http",
        "server_group": name,
    }
    result.add(Kind.BACKEND_SERVICES, service, (*path, "servers"))
    written = table["servers"]
    servers: list[object] = []
    group = result.add(Kind.SERVER_GROUPS, {"name": name, "servers": servers}, (*path, "servers"))
    if not isinstance(written, list):
        problems.append(Problem((*path, "servers"), f"{show(written)} is not a list", 'give ["ADDRESS:PORT", …]'))
        return
    for index, text in enumerate(written):
        place = (*path, "servers", index)
        address, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
            problems.append(
                Problem(place, f"{show(text)} is not an address and port", "give a string such as '127.0.0.1:8000'")
            )
            continue
        result.origins[*group, "servers", len(servers)] = place
        servers.append({"address": address, "port": int(port)})
