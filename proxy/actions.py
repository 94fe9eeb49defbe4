"""What a rule does with a request: forward it, send the client elsewhere, or answer it here.

`Router.route` decides once for each request; what it gives was made with the configuration, so that the plain case
costs nothing here. What is filled in from a request (`${path}` and the like) is checked and in normal form, without a
character that could end a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from core import model
from proxy.names import host_name

_VARIABLE: Final = re.compile(rb"\$\{(\w+)\}")
_PORTS: Final = {b"http": 80, b"https": 443}


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


def values_of(host: bytes, target: bytes, url: str) -> dict[bytes, bytes]:
    """What the variables stand for, for a request that a rule for `url` matched. `host` is a checked Host value."""
    path, _, query = (b"/" if target == b"*" else target).partition(b"?")
    rest = path[len(url.rstrip("/")) :] if url else b""
    return {b"host": host_name(host).encode("ascii"), b"path": path, b"rest": rest, b"query": query}


def with_query(path: bytes, query: bytes) -> bytes:
    return (path or b"/") + b"?" + query if query else path or b"/"


@dataclass(frozen=True, slots=True)
class Forward:
    """To a backend service."""

    service: str


class Redirect:
    """Elsewhere. `status` 0: 301, or 308 for clients whose method would be changed by it (RFC 9110 §15.4.2)."""

    __slots__ = ("_host", "_path", "_port", "_protocol", "_query", "_status", "_stays", "_url")

    def __init__(self, redirect: model.Redirect, url: str, status: int = 0) -> None:
        self._status = status
        self._url = url
        self._protocol = redirect.protocol.encode("ascii")
        self._port = redirect.port
        self._stays = redirect.host == "${host}" and not redirect.port
        self._host, self._path, self._query = map(Template, (redirect.host, redirect.path, redirect.query))

    @classmethod
    def to_https(cls, port: int) -> Redirect:
        """To the same resource over https."""
        return cls(model.Redirect(protocol="https", port=port), "/")

    def status(self, method: bytes) -> int:
        return self._status or (301 if method in (b"GET", b"HEAD") else 308)

    def location(self, scheme: bytes, host: bytes, target: bytes) -> bytes:
        """`host` is a checked Host value, `target` in normal form.

        Always with a host: a path alone may begin with `//`, which would lead to another one.
        """
        values = values_of(host, target, self._url)
        protocol = self._protocol or scheme
        if self._stays and protocol == scheme:
            authority = host
        else:
            port = self._port or _PORTS[protocol]
            authority = self._host.fill(values) + (b"" if port == _PORTS[protocol] else b":%d" % port)
        return b"%b://%b%b" % (protocol, authority, with_query(self._path.fill(values), self._query.fill(values)))


class Reply:
    """An answer of ours: what stands after its status line and before the fields that each answer has."""

    __slots__ = ("body", "lines", "status")

    def __init__(self, reply: model.FixedReply) -> None:
        self.status = reply.status
        self.body = reply.body.encode("utf-8")
        self.lines = b""
        if self.body:
            self.lines = b"Content-Type: %b\r\n" % reply.content_type.encode("ascii")
        if reply.status != HTTPStatus.NO_CONTENT:  # RFC 9110 §8.6
            self.lines += b"Content-Length: %d\r\n" % len(self.body)


Decision = Forward | Redirect | Reply | None  # None: nowhere
