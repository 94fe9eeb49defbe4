"""Members of an availability group in a file on the nodes: `members`, a list of tables as in the configuration.

    [[members]]
    address = "10.0.0.31"
    port = 80
    zone = "a"

Pure: `read` gets the text.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.checks import repeated_servers
from core.errors import ConfigError, ConfigErrors, Path, Problem
from core.lines import scan
from core.model import Server
from core.reader import read_object, show, unknown_key
from core.syntax import Format, parse

MEMBERS = "members"
MEMBERS_LIMIT = 4096


def read(text: str, *, path: str, format: Format) -> tuple[Server, ...]:
    """The members. `path` names the file in messages. Raises ConfigErrors with all faults found."""
    repeated: list[str] = []
    document = parse(text, path=path, format=format, repeated=repeated)
    problems: list[Problem] = []
    members = _members(document, problems)
    lines = scan(text, format)
    problems += [Problem(place, "the key is given twice", "keep one of them") for place, _ in lines.repeated]
    errors = [ConfigError(path, lines.line(at.path), _shown(at.path), at.why, at.suggestion) for at in problems]
    if errors:
        raise ConfigErrors(sorted(errors, key=lambda error: error.line))
    return members


def _members(document: object, problems: list[Problem]) -> tuple[Server, ...]:
    if not isinstance(document, Mapping):
        problems.append(Problem((), "this is not a table", f"give a table with {MEMBERS}"))  # it may be anything
        return ()
    problems += [unknown_key(key, (key,), [MEMBERS]) for key in document if key != MEMBERS]
    tables = document.get(MEMBERS)
    if not isinstance(tables, list):
        why = f"{MEMBERS} is missing" if tables is None else f"{show(tables)} is not a list of tables"
        remedy = f"write [[{MEMBERS}]], twice bracketed; for none {MEMBERS} = []"
        problems.append(Problem((MEMBERS,), why, remedy))
        return ()
    if len(tables) > MEMBERS_LIMIT:
        why = f"{len(tables)} members; at most {MEMBERS_LIMIT} are kept"
        problems.append(Problem((MEMBERS,), why, "make two groups"))
        return ()
    found = [read_object(Server, table, (MEMBERS, index), problems) for index, table in enumerate(tables)]
    servers = tuple(each for each in found if isinstance(each, Server))
    if not problems:
        problems += repeated_servers(servers, (MEMBERS,))
    return servers


def _shown(path: Path) -> str:
    """members[0].port"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
