"""Fields that tell browsers to be careful with an answer, in two sets; docs/response-headers.md says why each is there.

A server that says one of them itself is left alone: it knows its pages; so is a rule that sets or removes one. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from core.model import SecurityHeaders
from proxy.message import Fields

_CONTENT: Final = {b"X-Content-Type-Options": b"nosniff"}
PRESETS: Final[Mapping[SecurityHeaders, Mapping[bytes, bytes]]] = MappingProxyType(
    {
        SecurityHeaders.OFF: {},
        SecurityHeaders.BASIC: {
            **_CONTENT,
            b"Referrer-Policy": b"strict-origin-when-cross-origin",
            b"X-Frame-Options": b"SAMEORIGIN",
            b"Content-Security-Policy": b"frame-ancestors 'self'",
        },
        SecurityHeaders.STRICT: {
            **_CONTENT,
            b"Referrer-Policy": b"no-referrer",
            b"X-Frame-Options": b"DENY",
            b"Content-Security-Policy": b"frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
            b"Permissions-Policy": b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
            b"Cross-Origin-Opener-Policy": b"same-origin",
            b"Cross-Origin-Resource-Policy": b"same-origin",
        },
    }
)


class Preset:
    """One of the sets, but for the fields of some names (lower case), which a rule sets or removes."""

    __slots__ = ("_lines",)

    def __init__(self, name: SecurityHeaders, but: Collection[bytes] = ()) -> None:
        lines = [(each.lower(), b"%b: %b\r\n" % (each, value)) for each, value in PRESETS[name].items()]
        self._lines = tuple(each for each in lines if each[0] not in but)

    def lines(self, answer: Fields | None = None) -> bytes:
        """What is added to an answer; None: to one of our own."""
        if answer is None:
            return b"".join(line for _, line in self._lines)
        return b"".join(line for name, line in self._lines if not answer.values(name))
