"""What stands in errors of ours: pages of the configuration, or a plain one in the form that the client reads. Pure.

A page is looked for among those of the rule, then among those of the listener; in each, those for the very status come
before those for its class. Of several the client's Accept decides between HTML and anything else. A client that reads
no HTML gets no page of HTML. Without a page, browsers get a plain one, all others a JSON object; both say the same:
what happened, and the request id to look for in the log.

What a page is filled with is escaped for what the page is, so that nothing that a client sends becomes markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from core.answers import PAGE_VARIABLES, ErrorPage
from proxy.preferences import likes_html

_VARIABLE: Final = re.compile(rf"\$\{{({'|'.join(PAGE_VARIABLES)})\}}")
_HTML: Final = ("text/html", "application/xhtml+xml")
_OBJECT: Final = b'{"status": %d, "source": "%b", "error": "%b", "detail": "%b", "request_id": "%b"}\n'
_PLAIN: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%(title)b</title></head>
<body><h1>%(title)b</h1><p>%(detail)b</p><p>Request %(request_id)b</p></body></html>
"""


class Told(NamedTuple):
    """An error as a page tells it. `error` and `detail` are as in the log."""

    status: int
    source: str
    error: str
    detail: str
    request_id: str
    host: str = ""

    @property
    def reason(self) -> str:
        """A status need not have one (RFC 9112 §4)."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _as_it_is(text: str) -> str:
    return text


class Page:
    """A page of the configuration, cut where it is filled."""

    __slots__ = ("_escape", "_parts", "html", "kind", "servers", "status")

    def __init__(self, page: ErrorPage) -> None:
        self.status, self.servers = page.status, page.servers
        self.kind = page.content_type.encode("ascii")
        kind = page.content_type.partition(";")[0].strip().lower()
        self.html = kind in _HTML
        self._escape: Callable[[str], str] = _as_it_is
        if self.html or kind.endswith(("/xml", "+xml")):
            self._escape = html.escape
        elif kind.endswith(("/json", "+json")):
            self._escape = _json
        self._parts = _VARIABLE.split(page.body)  # text and names by turns

    def filled(self, told: Told) -> bytes:
        values = {name: self._escape(str(getattr(told, name))) for name in PAGE_VARIABLES}
        return "".join(values[part] if at % 2 else part for at, part in enumerate(self._parts)).encode("utf-8")


class Pages:
    """Those of a rule and its listener; `lists` in the order in which they are asked."""

    __slots__ = ("_servers", "_steps")

    def __init__(self, lists: Sequence[Sequence[ErrorPage]]) -> None:
        self._steps = [[Page(page) for page in pages] for pages in lists]
        self._servers = {page.status for pages in self._steps for page in pages if page.servers}

    def page(self, status: int, accepts: Sequence[bytes], *, of_server: bool = False) -> Page | None:
        """`of_server`: in place of an answer of its."""
        if of_server and not {str(status), f"{status // 100}xx"} & self._servers:
            return None
        likes = likes_html(accepts)
        for fit in self._fit(status, of_server):
            readable = [page for page in fit if likes is not None or not page.html]
            if readable:
                return next((page for page in readable if page.html is bool(likes)), readable[0])
        return None

    def _fit(self, status: int, of_server: bool) -> Iterator[list[Page]]:
        for pages in self._steps:
            for name in (str(status), f"{status // 100}xx"):
                yield [page for page in pages if page.status == name and (page.servers or not of_server)]


class Form(NamedTuple):
    """In what form a client gets an error: of these pages, by what it `accepts`; the request's `host`."""

    pages: Pages | None = None
    accepts: Sequence[bytes] = ()
    host: bytes = b""


PLAIN_FORM: Final = Form()


def error_body(form: Form, told: Told) -> tuple[bytes, bytes]:
    """The media type and the text for an error of ours."""
    page = form.pages.page(told.status, form.accepts) if form.pages is not None else None
    if page is not None:
        return page.kind, page.filled(told)
    if form.accepts and likes_html(form.accepts):
        return b"text/html; charset=utf-8", _plain(told)
    return b"application/json", _OBJECT % (
        told.status, told.source.encode(), told.error.encode(), told.detail.encode(), told.request_id.encode(),
    )  # fmt: skip


def _plain(told: Told) -> bytes:
    title = f"{told.status} {told.reason}".rstrip()
    values = {"title": title, "detail": told.detail, "request_id": told.request_id}
    return _PLAIN % {key.encode(): html.escape(value).encode("utf-8") for key, value in values.items()}
