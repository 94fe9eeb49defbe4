"""The console's files, as the control plane serves them: a page, its style and its scripts, all from this package.

The page itself, `/console/`, is asked for anew each time (`no-cache`, and 304 by its ETag). All that it names stands
below a digest of the whole, `/console/5d41…/app.js`, and is kept by browsers for a year: modules import each other by
relative names, so that one release never mixes with another one. What an older release named is not found, and its
reader asks for the page again.

No token is needed: the files hold nothing that is not in the release. What they show, they ask of the API with the
token of whoever has signed in, and the policy below lets them speak to nobody else. See docs/decisions/0145 and 0146.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web

from control.problem import problem
from control.routes import Handler

PLACE = "/console/"
PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
DIGEST_CHARACTERS = 16
# No script, style or address but ours; no text that becomes HTML (Trusted Types, where browsers have them); no frames.
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
    "Vary": "Accept-Encoding",
}
FOR_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the console; `etag` with its quotes."""

    content_type: str
    body: bytes
    compressed: bytes
    etag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> File:
        """With its compressed form, which is always the same one."""
        tag = f'"{hashlib.sha256(body).hexdigest()[:DIGEST_CHARACTERS]}"'
        return cls(TYPES[Path(name).suffix], body, gzip.compress(body, 9, mtime=0), tag)


@dataclass(frozen=True, slots=True)
class Files:
    """All files: the page, and the others by name, below their digest."""

    index: File
    digest: str
    others: Mapping[str, File]


@cache
def files() -> Files:
    """What the package holds, read once."""
    others = {path.name: File.of(path.name, path.read_bytes()) for path in sorted(PAGE.iterdir()) if path.name != INDEX}
    whole = "".join(f"{name} {file.etag}\n" for name, file in others.items())
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGEST_CHARACTERS]
    text = "".join(_placed((PAGE / INDEX).read_text(), digest, others))
    return Files(File.of(INDEX, text.encode()), digest, others)


def _placed(text: str, digest: str, others: Mapping[str, File]) -> Iterator[str]:
    """The page's text with `@/` as the digest, and every module named, so that they are fetched at once."""
    before, mark, after = text.partition("<!-- modules -->")
    assert mark, "the page says where its modules are named"
    yield before.replace("@/", f"{digest}/")
    yield "\n".join(
        f'<link rel="modulepreload" href="{digest}/{name}">' for name in others if name.endswith(".js")
    )  # fmt: skip
    yield after.replace("@/", f"{digest}/")


@web.middleware
async def console(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve what is the console's, and hand on the rest."""
    if request.path in ("/", PLACE[:-1]):
        return _redirected(request)
    if not request.path.startswith(PLACE):
        return await handler(request)
    if request.method not in ("GET", "HEAD"):
        return problem(405, f"{request.method} is not for the console", headers={"Allow": "GET,HEAD"})
    served, rest = files(), request.path.removeprefix(PLACE)
    if not rest:
        return _answer(request, served.index, "no-cache")
    digest, _, name = rest.partition("/")
    file = served.others.get(name) if digest == served.digest else None
    return problem(404, "the console has no such file; load it again") if file is None else _answer(
        request, file, FOR_A_YEAR
    )  # fmt: skip


def _redirected(request: web.Request) -> web.Response:
    """By a relative name, which holds behind a reverse proxy too."""
    if request.method not in ("GET", "HEAD"):
        return problem(405, f"{request.method} is not for the console", headers={"Allow": "GET,HEAD"})
    return web.Response(status=302, headers={"Location": "console/", "Cache-Control": "no-cache"})


def _answer(request: web.Request, file: File, caching: str) -> web.Response:
    headers = {**HEADERS, "ETag": file.etag, "Cache-Control": caching}
    tags = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if tags & {file.etag, "*"}:
        return web.Response(status=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("Accept-Encoding", "").lower():
        body, headers["Content-Encoding"] = file.compressed, "gzip"
    return web.Response(body=body, headers={**headers, "Content-Type": file.content_type})
