"""What a line of the access log looks like: its format, fields of one's own choice, and how many are written.

JSON escapes whatever a client may choose. `combined` is Apache's format of that name, which log readers know: what
stands in quotes there has quotes, backslashes and all that is not printable ASCII as `\\xHH`, so that no client can end
a quote, or a line. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.actions import Way
from proxy.message import Fields

VALUE_BYTES: Final = 256  # of a field; what is beyond is left out
FIELDS_MOST: Final = 16
# Whoever has these can pass for the client: they do not belong into a file that many read.
SECRETS: Final = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2: token
_UNQUOTED: Final = re.compile(r"[^ !#-\[\]-~]")


class Format(StrEnum):
    JSON = "json"
    COMBINED = "combined"


class Where(StrEnum):
    REQUEST = "request"
    RESPONSE = "response"
    COOKIE = "cookie"
    RULE = "rule"
    SERVICE = "service"
    GRPC_STATUS = "grpc_status"  # trailers have it, or we made it


OURS: Final = frozenset((Where.RULE, Where.SERVICE, Where.GRPC_STATUS))  # told by us, not by a message: without a name


@dataclass(frozen=True, slots=True)
class LogField:
    """A field of the request or of the server's answer, in lower case, or a cookie of the request, or one of ours."""

    where: Where
    name: str

    @classmethod
    def parse(cls, text: str) -> LogField:
        """WHERE:NAME, or one of ours. Raises ValueError with the remedy."""
        if text in OURS:
            return cls(Where(text), "")
        where, _, name = text.partition(":")
        if where in OURS or where not in [*Where] or not _NAME.fullmatch(name):
            raise ValueError(
                f"{text!r}: give request:NAME, response:NAME, cookie:NAME, rule, service or grpc_status, as "
                "request:User-Agent"
            )
        if where != Where.COOKIE:
            name = name.lower()
            if name in SECRETS:
                raise ValueError(f"{text!r} holds secrets, which do not belong into a log; cookie:NAME is one cookie")
        return cls(Where(where), name)

    def __str__(self) -> str:
        return f"{self.where}:{self.name}" if self.name else str(self.where)

    def value(self, request: Fields, answer: Fields | None, way: Way, grpc_status: int | None = None) -> str:
        """What stands there, cut to VALUE_BYTES; empty where it is not there."""
        if self.where in OURS:
            if self.where is Where.GRPC_STATUS:
                return "" if grpc_status is None else str(grpc_status)
            return way.rule if self.where is Where.RULE else way.service
        if self.where is Where.COOKIE:
            found = _cookie(request, self.name.encode())
        else:
            fields = request if self.where is Where.REQUEST else answer
            found = b", ".join(fields.values(self.name.encode())) if fields is not None else b""
        return found[:VALUE_BYTES].decode("latin-1")


def _cookie(request: Fields, name: bytes) -> bytes:
    for value in request.values(b"cookie"):
        for pair in value.split(b";"):
            key, mark, content = pair.strip().partition(b"=")
            if mark and key == name:
                return content
    return b""


REFERER: Final = LogField(Where.REQUEST, "referer")
USER_AGENT: Final = LogField(Where.REQUEST, "user-agent")


@dataclass(frozen=True, slots=True)
class LogShape:
    """`own` are the administrator's fields, `share` is of the lines without an error, 0 to 1."""

    format: Format = Format.JSON
    own: tuple[LogField, ...] = ()
    share: float = 1.0

    @classmethod
    def parse(cls, format: str, own: Sequence[str], share: float) -> LogShape:
        """Raises ValueError with the remedy."""
        fields = tuple(dict.fromkeys(LogField.parse(each) for each in own))
        if len(fields) > FIELDS_MOST:
            raise ValueError(f"{len(fields)} own fields of the access log: {FIELDS_MOST} are the most")
        if not 0 <= share <= 1:
            raise ValueError(f"{share:g} is no share of lines; give 0 to 1")
        return cls(Format(format), fields, share)

    @property
    def wanted(self) -> tuple[LogField, ...]:
        """The fields whose values a line needs, those of its format first."""
        return (REFERER, USER_AGENT, *self.own) if self.format is Format.COMBINED else self.own


PLAIN: Final = LogShape()


def quoted(text: str) -> str:
    """For `combined`: in quotes, which nothing in it ends; "-" for nothing."""
    return f'"{_UNQUOTED.sub(_escape, text)}"' if text else '"-"'


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("latin-1", "replace"))
