"""Which scripts of other origins may ask and read: CORS, for servers that need not know of it. Pure.

The Fetch standard, §3.2. A browser that has to ask first sends a preflight: OPTIONS with Origin and
Access-Control-Request-Method. It is answered here: 204 with what is allowed, or 403 with what is not, for people; to
browsers both that and a missing field mean no. Any other request goes on, and its answer says whether the script that
asked may read it. Servers' own words on the matter are taken out, so that one place decides.

An allowed origin is repeated, never `*` together with credentials; the answer then depends on who asks, and says so
(Vary). Origins are compared byte by byte: browsers write scheme and host in lower case, and anything else is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from core import model
from proxy.message import Asked, Fields

ANY: Final = "*"
PREFLIGHT_VARY: Final = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
_ASKED_METHOD: Final = b"access-control-request-method"
_ASKED_HEADERS: Final = b"access-control-request-headers"
# What answers to requests other than preflights say; of preflights nothing comes from servers.
OURS: Final = frozenset(
    (b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers",
     b"access-control-allow-methods", b"access-control-allow-headers", b"access-control-max-age")
)  # fmt: skip
_SIMPLE_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST"))  # Fetch §2.2.1: allowed whatever is said
# Names of a label and more, each of which could be a host's.
_BELOW: Final = rb"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\."


def is_preflight(asked: Asked) -> bool:
    """Whether a browser asks if it may ask."""
    return asked.method == b"OPTIONS" and bool(asked.values(b"origin")) and bool(asked.values(_ASKED_METHOD))


class Cors:
    """One policy."""

    __slots__ = ("_any", "_credentials", "_exact", "_exposed", "_granted", "_headers", "_methods", "_patterns")

    def __init__(self, cors: model.Cors) -> None:
        self._any = ANY in cors.origins
        self._exact = frozenset(each.lower().encode("ascii") for each in cors.origins if "*" not in each)
        self._patterns = [_pattern(each) for each in cors.origins if "*." in each]
        self._credentials = b"Access-Control-Allow-Credentials: true\r\n" if cors.credentials else b""
        self._methods = frozenset(each.encode("ascii") for each in cors.methods) | _SIMPLE_METHODS
        self._headers = (
            None if ANY in cors.headers else frozenset(each.lower().encode("ascii") for each in cors.headers)
        )
        exposed = ", ".join(cors.exposed_headers).encode("ascii")
        self._exposed = b"Access-Control-Expose-Headers: %b\r\n" % exposed if exposed else b""
        self._granted = b"Access-Control-Allow-Methods: %b\r\nAccess-Control-Max-Age: %d\r\n" % (
            ", ".join(cors.methods).encode("ascii"), cors.max_age_s,
        )  # fmt: skip

    def allows(self, asked: Fields) -> bytes:
        """The origin that asks, as the answer names it; empty where it may not read, or is none or several."""
        values = asked.values(b"origin")
        if len(values) != 1:
            return b""
        origin = values[0]
        if self._any:
            return origin if self._credentials else b"*"
        if origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns):
            return origin
        return b""

    def preflight(self, asked: Asked) -> bytes | None:
        """The lines of the answer to a preflight that grants what is asked for; None where that is not allowed."""
        origin, methods = self.allows(asked), asked.values(_ASKED_METHOD)
        if not origin or len(methods) != 1 or methods[0] not in self._methods:
            return None
        wanted = list(_names(asked.values(_ASKED_HEADERS)))
        if self._headers is not None and not self._headers.issuperset(wanted):
            return None
        named = b"Access-Control-Allow-Headers: %b\r\n" % b", ".join(wanted) if wanted else b""
        return b"Access-Control-Allow-Origin: %b\r\n%b%b%b%b" % (
            origin, self._credentials, self._granted, named, PREFLIGHT_VARY,
        )  # fmt: skip

    def lines(self, asked: Fields, answer: Fields | None = None) -> bytes:
        """What an answer says in place of OURS; None: one of our own."""
        origin = self.allows(asked)
        lines = (
            b"Access-Control-Allow-Origin: %b\r\n%b%b" % (origin, self._credentials, self._exposed) if origin else b""
        )
        if not self._any or self._credentials:
            lines += _vary(answer)
        return lines


def _pattern(origin: str) -> re.Pattern[bytes]:
    scheme, _, rest = origin.lower().encode("ascii").partition(b"*.")
    return re.compile(re.escape(scheme) + _BELOW + re.escape(rest))


def _names(values: Iterable[bytes]) -> list[bytes]:
    """Field names in lists, in lower case, without repetition."""
    found = (each.strip().lower() for value in values for each in value.split(b","))
    return list(dict.fromkeys(each for each in found if each))


def _vary(answer: Fields | None) -> bytes:
    """The line by which caches keep answers to several origins apart, unless it is said already."""
    said = _names(answer.values(b"vary")) if answer is not None else []
    return b"" if b"origin" in said or b"*" in said else b"Vary: Origin\r\n"
