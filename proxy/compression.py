"""Which answers are compressed, and what that changes in their heads (RFC 9110 §8.4, §8.8.3, §12.5.3). Pure.

An answer is *fit* if its type, length, status and fields allow it to be compressed at all. What a fit answer looks like
depends on Accept-Encoding, and so each says so in Vary, whether it is compressed for this client or not.

Compressed, an answer is another representation: its ETag is weak (two encodings of the same are equal in meaning, not
byte for byte, and ours differ from version to version of a library), it has no ranges, and digests of what the server
sent go. A client brings the weak ETag back; If-None-Match is compared weakly (§13.1.2), so that the server's 304
holds for it, but only if it names the ETag that the client's cache has: it is weakened there too (RFC 9111 §4.3.4).

Personal answers are those that could hold a secret of one client: it sent a cookie or credentials (Authorization, a
certificate), or the answer sets a cookie. Compressed together with what an attacker has the client ask for, a secret
shows in the length (BREACH). See docs/decisions/0185-compression-and-secrets.md.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from core.answers import Coding, Compression, Personal
from proxy.changes import Changes
from proxy.headers import without
from proxy.message import Asked, Fields
from proxy.preferences import coding_for
from proxy.sticky import Stay

_NO_CONTENT: Final = frozenset((204, 205, 206, 226, 304))  # 206 and 226 are parts of something
# Digests of what the server sent (RFC 9530, RFC 3230, RFC 1864), and ranges of it.
DIGESTS: Final = frozenset((b"content-md5", b"digest", b"content-digest", b"repr-digest"))
_NOT_OF_THE_ENCODED: Final = DIGESTS | {b"accept-ranges"}
_STATIC: Final = re.compile(
    rb"text/(?:css|javascript)|application/(?:javascript|wasm|vnd\.ms-fontobject)|image/.*|font/.*"
)
_PROMPT: Final = frozenset((b"text/event-stream", b"application/x-ndjson"))
_TAG: Final = re.compile(rb'(?:W/)?"[^"]*"')
_VARY: Final = b"Vary: Accept-Encoding\r\n"
TYPES_REMEMBERED: Final = 256


class Fate(NamedTuple):
    """What becomes of an answer. `coding` None: it passes as it is. `prompt`: piece by piece as it comes.

    `why` not, in words, for `paifang explain`.
    """

    coding: Coding | None
    changes: Changes
    prompt: bool = False
    why: str = ""

    def plain(self) -> Fate:
        """The same of an answer that is not compressed after all."""
        vary = _VARY if _VARY in self.changes.lines else b""
        return Fate(None, Changes(frozenset(), vary), why="too many answers are being compressed")


class Case(NamedTuple):
    """What of a request matters here. `personal`: it came with a cookie or credentials."""

    accepts: list[bytes]
    minor: int
    personal: bool
    tags: list[bytes]  # If-None-Match
    no_transform: bool


def case_of(asked: Asked, minor: int, stay: Stay | None = None, *, certified: bool = False) -> Case:
    """`minor`: of HTTP/1; `stay`: what stickiness means for the request, since our own cookie is no secret;
    `certified`: the client has a certificate."""
    personal = certified or bool(asked.values(b"authorization"))
    if not personal:
        changed = stay.request if stay is not None else None
        personal = bool(asked.values(b"cookie") if changed is None else changed.lines)
    return Case(
        asked.values(b"accept-encoding"), minor, personal, asked.values(b"if-none-match"),
        _says(asked.values(b"cache-control"), b"no-transform"),
    )  # fmt: skip


class Compressing:
    """The compression of a listener or a rule."""

    __slots__ = ("_exact", "_fit", "_patterns", "settings")

    def __init__(self, settings: Compression) -> None:
        self.settings = settings
        names = [name.encode("ascii") for name in settings.types]
        self._exact = frozenset(name for name in names if b"*" not in name)
        self._patterns = [re.compile(re.escape(name).replace(rb"\*", rb".*")) for name in names if b"*" in name]
        self._fit: dict[bytes, bool] = {}  # of types that were seen

    def fate(self, case: Case, status: int, length: int, answer: Fields) -> Fate | None:
        """None: the answer has nothing to do with compression. `length`: of its body as the server said, or below 0."""
        if status == 304:
            return self._not_modified(case, answer)
        types = answer.values(b"content-type")
        if status < 200 or 300 <= status < 400 or status in _NO_CONTENT or len(types) != 1:
            return None
        kind = types[0].partition(b";")[0].strip(b" \t").lower()
        if not self._is_fit(kind) or 0 <= length < max(self.settings.min_bytes, 1):
            return None
        if answer.values(b"content-encoding") or answer.values(b"content-range"):
            return None
        control = answer.values(b"cache-control")
        if _says(control, b"no-transform"):
            return None
        vary = b"" if _varies(answer) else _VARY
        coding, why = self._coding(case, kind, control, answer)
        if coding is None:
            return Fate(None, Changes(frozenset(), vary), why=why)
        removed, lines = _NOT_OF_THE_ENCODED, b"Content-Encoding: %b\r\n%b" % (coding.encode("ascii"), vary)
        tags = answer.values(b"etag")
        if tags and not (len(tags) == 1 and tags[0].startswith(b"W/")):
            removed |= {b"etag"}
            lines += b"ETag: W/%b\r\n" % tags[0] if len(tags) == 1 else b""
        return Fate(coding, Changes(removed, lines), kind in _PROMPT)

    def _coding(self, case: Case, kind: bytes, control: list[bytes], answer: Fields) -> tuple[Coding | None, str]:
        if not case.minor:
            return None, "HTTP/1.0 has no way to say where it ends"
        if case.no_transform:
            return None, "the request forbids it by Cache-Control: no-transform"
        coding = coding_for(case.accepts, self.settings.codings)
        if coding is None:
            return None, "the client's Accept-Encoding names no coding that is on, or likes none better"
        if not case.personal and not answer.values(b"set-cookie"):
            return coding, ""
        how = self.settings.personal
        public = _STATIC.fullmatch(kind) is not None or _says(control, b"public")
        if how is Personal.ALWAYS or (how is Personal.STATIC and public):
            return coding, ""
        return None, f"it is personal (a cookie or credentials), and personal = {how}"

    def _not_modified(self, case: Case, answer: Fields) -> Fate | None:
        """A 304 names the ETag that the client's cache has, if that is ours: weak, where the server's is strong."""
        tags = answer.values(b"etag")
        if len(tags) != 1 or tags[0].startswith(b"W/"):
            return None
        theirs = {tag for value in case.tags for tag in _TAG.findall(value)}
        if tags[0] in theirs or b"W/" + tags[0] not in theirs:
            return None
        vary = b"" if _varies(answer) else _VARY
        return Fate(None, Changes(frozenset((b"etag",)), b"ETag: W/%b\r\n%b" % (tags[0], vary)))

    def _is_fit(self, kind: bytes) -> bool:
        fit = self._fit.get(kind)
        if fit is None:
            grpc = kind.startswith(b"application/grpc")  # which compresses its messages by itself
            fit = not grpc and (kind in self._exact or any(each.fullmatch(kind) for each in self._patterns))
            if len(self._fit) >= TYPES_REMEMBERED:
                self._fit.clear()
            self._fit[kind] = fit
        return fit


def _says(fields: list[bytes], directive: bytes) -> bool:
    """Whether one of these fields of Cache-Control has it."""
    return any(directive in value.lower() for value in fields) and directive in {
        part.partition(b"=")[0].strip(b" \t").lower() for value in fields for part in value.split(b",")
    }


def _varies(answer: Fields) -> bool:
    """Whether it says already that it depends on Accept-Encoding, or on whatever there is."""
    names = {name.strip(b" \t").lower() for value in answer.values(b"vary") for name in value.split(b",")}
    return b"accept-encoding" in names or b"*" in names


def with_fate(changes: Changes | None, fate: Fate) -> Changes:
    """What a rule changes in an answer's head, and then what its fate does, of which a rule takes nothing back."""
    ours = fate.changes
    if changes is None:
        return ours
    if b"vary" in changes.removed and _VARY not in ours.lines:
        ours = Changes(ours.removed, ours.lines + _VARY)
    if b"etag" in changes.removed and b"etag" in ours.removed:  # the rule's word counts
        ours = Changes(ours.removed, without(ours.lines, frozenset((b"etag",))))
    return Changes(changes.removed | ours.removed, changes.lines + ours.lines)
