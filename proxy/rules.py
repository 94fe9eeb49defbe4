"""Which backend service a request goes to: host and path against a listener's rules.

The most specific rule wins: exact domain, then the longest wildcard, then any; within it the longest `url`. A `url`
matches whole path segments: `/api` is `/api` and all below it, not `/apis`. Nothing matches: the listener's own backend
service.

A path has one normal form, by which it is both routed and forwarded, so that no server sees another path than the rules
did (docs/decisions/0020). Percent-encoded unreserved characters are decoded once, other escapes get upper-case digits,
dot segments are removed. What servers read in different ways is refused: NUL, `\\`, malformed escapes, paths that climb
above the root, and dot segments that only show after `%2F` or `%5C` are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from core.model import Rule
from proxy.errors import Code, Refused

_ESCAPE = re.compile(rb"%(..?)?", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SEPARATOR = re.compile(rb"/|%2F|%5C")


def normal_target(target: bytes) -> bytes:
    """The normal form of a target in origin form; `*` stays. Queries are never touched. Raises Refused."""
    path, mark, query = target.partition(b"?")
    if b"%" not in path and b"/." not in path and b"\\" not in path:
        return target
    return _normal_path(path) + mark + query


def _normal_path(path: bytes) -> bytes:
    if b"\\" in path:
        raise Refused(Code.PATH, path.index(b"\\"))
    path = _ESCAPE.sub(_unescape, path)
    if any(part in (b".", b"..") for part in _SEPARATOR.split(path)) and (b"%2F" in path or b"%5C" in path):
        raise Refused(Code.PATH)
    kept: list[bytes] = []
    parts = path.split(b"/")[1:]
    for part in parts:
        if part == b"..":
            if not kept:
                raise Refused(Code.PATH)
            kept.pop()
        elif part != b".":
            kept.append(part)
    if parts[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match[1] or b""
    if not _HEX.fullmatch(digits):
        raise Refused(Code.PATH, match.start())
    value = int(digits, 16)
    if value == 0:
        raise Refused(Code.PATH, match.start())
    return bytes((value,)) if value in _UNRESERVED else b"%" + digits.upper()


def host_name(host: bytes) -> str:
    """The name in a Host value: lower case, without port and trailing dot."""
    text = host.decode("ascii").lower()
    name = text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name.removesuffix(".")


class Router:
    """The rules of one listener, arranged for look-up: a few dictionary reads, whatever their number."""

    def __init__(self, rules: Iterable[Rule], default: str, https_port: int = 0) -> None:
        """`https_port`: where requests without a backend service are redirected to, by https; 0: nowhere."""
        self.https_port = https_port
        self._default = default
        domains: dict[str, list[tuple[str, str]]] = {}
        for rule in rules:
            url = normal_target(rule.url.encode("ascii")).decode("ascii")
            domains.setdefault(rule.domain.lower(), []).append((url, rule.backend_service))
        # Longest first. `sorted` is stable: of two equal rules, the first in the configuration wins.
        self._domains = {name: sorted(urls, key=lambda pair: -len(pair[0])) for name, urls in domains.items()}

    def route(self, host: bytes, target: bytes) -> str:
        """The backend service for a request with a normal target; "" when there is none."""
        if not self._domains:
            return self._default
        path = "/" if target == b"*" else target.partition(b"?")[0].decode("ascii")
        for domain in _domains_of(host_name(host)):
            for url, service in self._domains.get(domain, ()):
                if below(path, url):
                    return service
        return self._default


def below(path: str, url: str) -> bool:
    """Whether `path` is `url` or lies below it, by whole segments."""
    return path.startswith(url) and (len(path) == len(url) or url.endswith("/") or path[len(url)] == "/")


def _domains_of(name: str) -> Iterable[str]:
    """The keys under which rules for `name` may stand, the most specific first."""
    if name:
        yield name
    rest = name.partition(".")[2]
    while rest:
        yield "*." + rest
        rest = rest.partition(".")[2]
    yield ""
