"""What a rule does with a request: forward it, send the client elsewhere, or answer it here.

`Router.route` decides once for each request; what it gives was made with the configuration, so that the plain case
costs nothing here. What is filled in from a request (`${path}` and the like) is checked and in normal form, without a
character that could end a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from core import model
from proxy.answering import Answering
from proxy.changes import Changes as Changes
from proxy.changes import joined as joined
from proxy.demands import Demands
from proxy.names import host_name

_VARIABLE: Final = re.compile(rb"\$\{(\w+)\}")
_PORTS: Final = {b"http": 80, b"https": 443}


class Way(NamedTuple):
    """What became of a request, by name: the rule that decided, the backend service; "" for none."""

    rule: str = ""
    service: str = ""


NO_WAY: Final = Way()


class Template:
    """Text with `${…}` in it."""

    __slots__ = ("_literal", "_parts")

    def __init__(self, text: str) -> None:
        # Literals and names of variables by turns, a literal first and last.
        self._parts = _VARIABLE.split(text.encode("ascii"))
        self._literal = self._parts[0] if len(self._parts) == 1 else None

    def fill(self, values: Mapping[bytes, bytes]) -> bytes:
        if self._literal is not None:
            return self._literal
        return b"".join(values[part] if index % 2 else part for index, part in enumerate(self._parts))


def values_of(host: bytes, target: bytes, url: str, pattern: re.Pattern[bytes] | None = None) -> dict[bytes, bytes]:
    """What the variables stand for, for a request that a rule for `url` and `pattern` matched.

    `host` is a checked Host value.
    """
    path, _, query = (b"/" if target == b"*" else target).partition(b"?")
    rest = path[len(url.rstrip("/")) :] if url else b""
    values = {b"host": host_name(host).encode("ascii"), b"path": path, b"rest": rest, b"query": query}
    if pattern is not None and (match := pattern.fullmatch(path)) is not None:
        values |= {b"%d" % number: text for number, text in enumerate(match.groups(), 1)}
    return values


def with_query(path: bytes, query: bytes) -> bytes:
    return (path or b"/") + b"?" + query if query else path or b"/"


class Rewrite:
    """What the server is asked for instead."""

    __slots__ = ("_host", "_path", "_pattern", "_query", "_url")

    def __init__(self, rewrite: model.Rewrite, url: str, pattern: re.Pattern[bytes] | None = None) -> None:
        self._url, self._pattern = url, pattern
        self._host = None if rewrite.host == "${host}" else Template(rewrite.host)
        self._path, self._query = Template(rewrite.path), Template(rewrite.query)

    def apply(self, host: bytes, target: bytes) -> tuple[bytes, bytes]:
        """Host and target for the server, the target not yet in normal form. An OPTIONS of `*` keeps its target."""
        values = values_of(host, target, self._url, self._pattern)
        if target != b"*":
            target = with_query(self._path.fill(values), self._query.fill(values))
        return host if self._host is None else self._host.fill(values), target


@dataclass(frozen=True, slots=True)
class Forward:
    """To a backend service. Where the others are None, what is forwarded is what came."""

    service: str
    rewrite: Rewrite | None = None
    request: Changes | None = None
    response: Changes | None = None
    rule: str = ""
    demands: Demands | None = None  # None: nothing more is asked of the request
    answering: Answering | None = None  # None: nothing is done about its answer
    sheddable: bool = False  # see core/line.py
    way: Way = field(init=False, compare=False)
    plain: bool = field(init=False)  # requests and answers pass as they are

    def __post_init__(self) -> None:
        plain = self.rewrite is None and self.request is None and self.response is None
        object.__setattr__(self, "plain", plain)
        object.__setattr__(self, "way", Way(self.rule, self.service))


class Redirect:
    """Elsewhere. `status` 0: 301, or 308 for clients whose method would be changed by it (RFC 9110 §15.4.2)."""

    __slots__ = (
        "_host", "_path", "_pattern", "_port", "_protocol", "_query", "_status", "_stays", "_url",
        "demands", "lines", "rule",
    )  # fmt: skip

    def __init__(
        self, redirect: model.Redirect, url: str, status: int = 0, changes: Changes | None = None,
        pattern: re.Pattern[bytes] | None = None, rule: str = "", demands: Demands | None = None,
    ) -> None:  # fmt: skip
        self.rule, self.demands = rule, demands
        self.lines = changes.lines if changes else b""
        self._status = status
        self._url, self._pattern = url, pattern
        self._protocol = redirect.protocol.encode("ascii")
        self._port = redirect.port
        self._stays = redirect.host == "${host}" and not redirect.port
        self._host, self._path, self._query = map(Template, (redirect.host, redirect.path, redirect.query))

    @classmethod
    def to_https(cls, port: int, demands: Demands | None = None) -> Redirect:
        """To the same resource over https."""
        return cls(model.Redirect(protocol="https", port=port), "/", demands=demands)

    def status(self, method: bytes) -> int:
        return self._status or (301 if method in (b"GET", b"HEAD") else 308)

    def location(self, scheme: bytes, host: bytes, target: bytes) -> bytes:
        """`host` is a checked Host value, `target` in normal form.

        Always with a host: a path alone may begin with `//`, which would lead to another one.
        """
        values = values_of(host, target, self._url, self._pattern)
        protocol = self._protocol or scheme
        if self._stays and protocol == scheme:
            authority = host
        else:
            port = self._port or _PORTS[protocol]
            authority = self._host.fill(values) + (b"" if port == _PORTS[protocol] else b":%d" % port)
        return b"%b://%b%b" % (protocol, authority, with_query(self._path.fill(values), self._query.fill(values)))


class Sent:
    """Elsewhere, as a redirect map says: to a path of the same host, or a URL. `query` is added to what that has."""

    __slots__ = ("_query", "_status", "_to", "demands", "lines", "rule")

    def __init__(
        self, to: bytes, query: bytes, status: int, lines: bytes = b"", rule: str = "", demands: Demands | None = None
    ) -> None:
        self._to, self._query, self._status = to, query, status
        self.lines, self.rule, self.demands = lines, rule, demands

    def status(self, _: bytes) -> int:
        return self._status

    def location(self, scheme: bytes, host: bytes, _: bytes) -> bytes:
        """`host` is a checked Host value."""
        to, mark, fragment = self._to.partition(b"#")
        if self._query:
            to += (b"&" if b"?" in to else b"?") + self._query
        return (b"%b://%b%b" % (scheme, host, to) if to.startswith(b"/") else to) + mark + fragment


class Reply:
    """An answer of ours: what stands after its status line and before the fields that each answer has."""

    __slots__ = ("body", "demands", "lines", "rule", "status")

    def __init__(
        self, reply: model.FixedReply, changes: Changes | None = None, rule: str = "", demands: Demands | None = None
    ) -> None:
        self.rule, self.demands = rule, demands
        self.status = reply.status
        self.body = reply.body.encode("utf-8")
        self.lines = changes.lines if changes else b""
        if self.body:
            self.lines += b"Content-Type: %b\r\n" % reply.content_type.encode("ascii")
        if reply.status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6
            self.lines += b"Content-Length: %d\r\n" % len(self.body)

    @classmethod
    def of(cls, status: int, lines: bytes, body: bytes = b"") -> Reply:
        """An answer that was made for one request. `lines` say nothing of the length."""
        made = cls(model.FixedReply(status))
        made.body = body
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            lines += b"Content-Length: %d\r\n" % len(body)
        made.lines = lines
        return made


Decision = Forward | Redirect | Sent | Reply | None  # None: nowhere
