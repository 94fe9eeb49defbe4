"""The reference page of the configuration, written from the model itself: docs/configuration.md.

What the page says of a field is what the reader checks and what an error message would say. The prose around the
tables is here and in `core.meanings`. `python -m core.reference > docs/configuration.md` writes it; a test compares.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import is_dataclass
from enum import StrEnum
from typing import get_args, get_origin

from core.acme import Acme
from core.checks import CHECK_OPTIONS, HTTP_OPTIONS
from core.checks_listeners import OPTIONS
from core.fields import Ref
from core.meanings import ACME_RULES, INNER, MEANINGS, RULES
from core.model import CLASSES, BackendService, Ejection, HealthCheck, Kind, Listener
from core.reader import Field, expected, fields, in_words, optional, split

INTRODUCTION = """\
# Configuration

A configuration is a TOML or JSON document of lists of objects. In TOML each object is a `[[kind]]` table; in JSON the
document is `{"kind": [{…}, …]}`. Objects refer to each other by name. Whatever the document leaves out has its
default; whatever it has and nothing reads is an error. `paifang check FILE` reads a configuration and says everything
that is wrong with it, each with its line and a remedy.

An IP address is of IPv4 or IPv6. An IPv6 address may be written in any form; it is kept and shown in the canonical one
of RFC 5952. Link-local addresses, and IPv4 addresses in the form of IPv6 (`::ffff:…`), are refused. Before a port an
IPv6 address stands in brackets: `"[2001:db8::31]:25"`.

The smallest useful document, a proxy on port 8000 before two servers:

```toml
[[listeners]]
protocol = "http"
port = 8000
servers = ["127.0.0.1:9000", "127.0.0.1:9001"]
```

This is short for:

```toml
[[server_groups]]
name = "http-8000"
servers = [
  { address = "127.0.0.1", port = 9000 },
  { address = "127.0.0.1", port = 9001 },
]

[[backend_services]]
name = "http-8000"
protocol = "http"
server_group = "http-8000"

[[instances]]
name = "default"

[[listeners]]
name = "http-8000"
instance = "default"
protocol = "http"
port = 8000
backend_service = "http-8000"
```

A listener without `name` is named after its protocol and port, one without `instance` belongs to the instance
`default`, which is made if it is not given. `servers = ["ADDRESS:PORT", …]` stands for `backend_service` and makes a
backend service and a server group of the listener's name; `domains = ["HOST", …]` stands for `certificates` and makes
a certificate of its name, issued by the cluster's own CA.

Real servers, load-balanced on layer 4, with a health check of their own:

```toml
[[server_groups]]
name = "mail"
servers = [
  { address = "10.0.0.31", port = 25 },
  { address = "10.0.0.32", port = 25, weight = 50 },
]

[[backend_services]]
name = "mail"
protocol = "tcp"
server_group = "mail"
scheduler = "maglev"
health_check = { type = "tcp", interval_s = 5, timeout_s = 2 }

[[instances]]
name = "fast"
type = "nlb"
vips = ["192.0.2.25"]

[[listeners]]
name = "smtp"
instance = "fast"
protocol = "tcp"
port = 25
backend_service = "mail"
mode = "dr"
```
"""


def page() -> str:
    """The whole page, as Markdown."""
    acme = f"## acme\n\n{_prose(Acme)}\n\n{ACME_RULES}\n\n{_table(Acme)}\n"
    return "\n".join([INTRODUCTION, *(_section(kind) for kind in Kind), acme])


def _section(kind: Kind) -> str:
    cls = CLASSES[kind]
    parts = [f"## {kind.value}\n", _prose(cls), f"\n{RULES[kind]}\n", _table(cls)]
    for inner, owner in INNER.items():
        if owner is kind:
            parts += [f"\n### {_words(inner)}\n", _prose(inner), "", _table(inner)]
    return "\n".join(parts) + "\n"


def _prose(cls: type) -> str:
    """The class's docstring; a class that has none says by its name what it is."""
    text = cls.__doc__ or ""
    return "A named list of servers." if text.startswith(f"{cls.__name__}(") else inspect.cleandoc(text)


def _table(cls: type) -> str:
    rows = ["| attribute | meaning | value | default |", "| --- | --- | --- | --- |"]
    for field in fields(cls):
        value = value_of(cls, field.name, field.annotation)
        rows.append(f"| `{field.name}` | {MEANINGS[cls][field.name]} | {value} | {default_of(field)} |")
    return "\n".join(rows)


def value_of(cls: type, name: str, annotation: object) -> str:
    """What an attribute may hold, as Markdown."""
    bare, _ = split(annotation)
    item = get_args(bare)[0] if get_origin(bare) is tuple else optional(bare) or annotation
    inner, constraints = split(item)
    text = expected(annotation)
    if isinstance(inner, type) and is_dataclass(inner):
        link = f"[{_words(inner)}](#{_words(inner).replace(' ', '-')})"
        article = "an" if _words(inner)[0] in "aeiou" else "a"
        text = f"{article} {link}, or `false` for none"
        if get_origin(bare) is tuple:
            text = f"a list of tables, each {article} {link}"
    elif any(isinstance(constraint, Ref) for constraint in constraints):
        kind = next(constraint.kind for constraint in constraints if isinstance(constraint, Ref))
        link = f"[{kind.value}](#{kind.value})"
        text = f"a list of names of {link}" if get_origin(bare) is tuple else f"the name of one of the {link}"
    elif isinstance(inner, type) and issubclass(inner, StrEnum):
        text = in_words([f"`{member.value}`" for member in inner], "or")
    only = ""
    if cls is Listener and name in OPTIONS:
        only = f"; {in_words(OPTIONS[name], 'and')} only"
    if cls is BackendService and name in HTTP_OPTIONS:
        only = "; http, h2 and h2c only"
    if cls is HealthCheck and name in CHECK_OPTIONS:
        only = f"; {CHECK_OPTIONS[name]} only"
    return text.replace("|", "\\|") + only


def default_of(field: Field) -> str:
    """What an attribute is where it is not given, as Markdown."""
    return "required" if field.required else _default(field.default)


def _default(value: object) -> str:
    if isinstance(value, StrEnum):
        return f"`{value.value}`"
    if isinstance(value, HealthCheck):
        return "by tcp; udp services: by udp"
    if isinstance(value, Ejection):
        return "with its defaults"
    if value in ("", (), None):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, int | float) else f"`{value}`"


def _words(cls: type) -> str:
    """ServerGroup → server group."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", cls.__name__).lower()


if __name__ == "__main__":
    print(page(), end="")
