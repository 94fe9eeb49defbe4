"""What a client would rather have: Accept-Encoding and Accept (RFC 9110 §12.5). Pure.

A member of a list that is malformed counts as not there. Verdicts about a field's very bytes are remembered: clients
repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from core.answers import Coding

LIST_BYTES: Final = 512  # longer lists are nobody's, and not worth their time
_QUALITY: Final = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_ALIASES: Final = {b"x-gzip": b"gzip"}  # RFC 9110 §8.4.1.3
_HTML: Final = (b"text/html", b"application/xhtml+xml")


def coding_for(fields: Sequence[bytes], ours: tuple[Coding, ...]) -> Coding | None:
    """Which of our codings, in our order, a client gets whose Accept-Encoding fields these are; None: none.

    The one with the highest quality; among equals ours first. One that a client likes less than no coding at all is
    none. A client that does not say what it decodes is not tried on, though it could be (§12.5.3).
    """
    return _coding(b",".join(fields), ours) if fields else None


@lru_cache(maxsize=512)
def _coding(listed: bytes, ours: tuple[Coding, ...]) -> Coding | None:
    told: dict[bytes, float] = {}
    for name, quality in _members(listed):
        told.setdefault(_ALIASES.get(name, name), quality)
    any_other = told.get(b"*", 0.0)
    plain = told.get(b"identity", 0.0)
    best, found = 0.0, None
    for coding in ours:
        quality = told.get(coding.encode("ascii"), any_other)
        if quality > best and quality >= plain:
            best, found = quality, coding
    return found


def likes_html(fields: Sequence[bytes]) -> bool | None:
    """Whether a client with these Accept fields would rather read HTML, as browsers do, than anything else that we
    have; None: it does not read HTML at all. Who does not name it, or says nothing, reads it and does not ask for it.
    """
    return _likes_html(b",".join(fields)) if fields else False


@lru_cache(maxsize=512)
def _likes_html(listed: bytes) -> bool | None:
    told: dict[bytes, float] = {}
    for name, quality in _members(listed):
        told[name] = max(quality, told.get(name, 0.0))
    named = [told[name] for name in _HTML if name in told]
    if named and max(named) > 0:
        return max(named) >= told.get(b"application/json", 0.0)
    any_kind = max(told.get(b"text/*", 0.0), told.get(b"*/*", 0.0))
    return False if not told or (any_kind > 0 and not named) else None


def _members(listed: bytes) -> Iterator[tuple[bytes, float]]:
    """Names in lower case, with their qualities."""
    if len(listed) > LIST_BYTES:
        return
    for member in listed.split(b","):
        name, *parameters = (part.strip(b" \t") for part in member.split(b";"))
        if not name:
            continue
        quality = b"1"
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip(b" \t").lower() == b"q":
                quality = value.strip(b" \t")
        if _QUALITY.fullmatch(quality):
            yield name.lower(), float(quality)
