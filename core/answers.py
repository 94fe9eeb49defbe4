"""What the L7 tier does about answers: they are compressed; errors have pages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from core.fields import Pattern, Range

MEDIA_TYPE = Pattern(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9*][a-z0-9!#$&^_.+*-]{0,126}",
    "a media type in small letters, such as text/html, text/* or application/*+json",
)


CONTENT_TYPE = Pattern(r"[!-~]([ -~]{0,126}[!-~])?", "a media type such as text/html")


class Coding(StrEnum):
    """Content codings (RFC 1952, RFC 7932, RFC 8878), by the names that Accept-Encoding has for them."""

    ZSTD = "zstd"
    BR = "br"
    GZIP = "gzip"


class Personal(StrEnum):
    """What is compressed of the answers that are for one client alone: nothing, what is the same for all, or all."""

    NEVER = "never"
    STATIC = "static"
    ALWAYS = "always"


# Text, and formats that are not compressed in themselves.
TYPES = (
    "text/*", "application/json", "application/javascript", "application/xml", "application/*+json",
    "application/*+xml", "application/x-ndjson", "application/wasm", "image/svg+xml", "image/bmp",
    "image/vnd.microsoft.icon", "image/x-icon", "font/ttf", "font/otf", "application/vnd.ms-fontobject",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compression:
    """How answers are compressed for clients that say what they can decode.

    Answers to requests with cookies or credentials, and those that set cookies, are personal: compressed, their length
    tells an attacker of secrets in them (BREACH). Without codings nothing is compressed.
    """

    codings: tuple[Coding, ...] = (Coding.ZSTD, Coding.BR, Coding.GZIP)
    zstd_level: Annotated[int, Range(1, 9)] = 5
    brotli_level: Annotated[int, Range(0, 6)] = 4
    gzip_level: Annotated[int, Range(1, 6)] = 4
    min_bytes: Annotated[int, Range(0, 1_048_576, "bytes")] = 1024
    types: tuple[Annotated[str, MEDIA_TYPE], ...] = TYPES
    personal: Personal = Personal.STATIC


PAGE_CHARACTERS = 65_536
PAGE = Pattern(rf"[\s\S]{{0,{PAGE_CHARACTERS}}}", f"text of at most {PAGE_CHARACTERS} characters")
PAGES_MOST = 32  # of a listener or a rule
PAGE_VARIABLES = ("status", "reason", "error", "host", "request_id")


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """What a client gets with an error of the L7 tier, for one status or for a class of them, such as 4xx.

    In a page `${status}`, `${reason}`, `${error}`, `${host}` and `${request_id}` stand for those of the request. Where
    several are for a status, the one with the very number counts before a class, then the one that the client's Accept
    likes better. With `servers` it takes the place of servers' own answers of this status too.
    """

    status: Annotated[str, Pattern(r"[45]([0-9]{2}|xx)", "a status of 400 to 599, or 4xx or 5xx")]
    content_type: Annotated[str, CONTENT_TYPE] = "text/html; charset=utf-8"
    body: Annotated[str, PAGE] = ""
    body_file: str = ""
    servers: bool = False
