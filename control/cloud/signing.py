"""What the signatures of all clouds have in common: a request as it came, its parameters, its signed heads. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

FIELDS_LIMIT = 500
NONCE_LIMIT = 128
NAMES_LIMIT = 64
_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `headers` are all of them, in their order."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Sorted by name, encoded by RFC 3986 (all but letters, digits and -_.~)."""
    return "&".join(f"{quote(name, safe='~')}={quote(parameters[name], safe='~')}" for name in sorted(parameters))


def pairs(text: str, *, strict: bool) -> list[tuple[str, str]]:
    """What a query says, or a form. `strict`: each has a =. Raises ValueError, which says what is wrong."""
    if _ESCAPED.search(text):
        raise ValueError("it has a % without two hexadecimal digits")
    try:
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=strict and bool(text), errors="strict",
            max_num_fields=FIELDS_LIMIT,
        )  # fmt: skip
    except ValueError:  # UnicodeDecodeError is one
        raise ValueError(f"NAME=VALUE in UTF-8 is, at most {FIELDS_LIMIT} times") from None


def are_heads(names: Sequence[str], headers: Container[str]) -> bool:
    """Whether these are heads of the request, each once and in order."""
    return len(names) <= NAMES_LIMIT and sorted(set(names)) == names and all(each in headers for each in names)


def unix_time(text: str, form: str) -> float:
    """Raises ValueError."""
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
