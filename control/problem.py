"""Errors of the API as `application/problem+json` (RFC 9457), each with all that is wrong and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable

from aiohttp import web

from core.errors import ConfigError

TITLES = {
    400: "Bad request", 401: "Not authorised", 403: "Forbidden", 404: "Not found", 405: "Method not allowed",
    408: "Too slow", 409: "Conflict", 412: "Another change came in between", 413: "Too large",
    415: "Unsupported media type", 421: "Not this host", 422: "The configuration is not valid",
    429: "Too many requests", 500: "Internal error", 503: "Not now",
}  # fmt: skip


def problem(
    status: int, detail: str, errors: Iterable[ConfigError] = (), headers: dict[str, str] | None = None, **more: object
) -> web.Response:
    """A problem document; `errors` become its `errors`, `more` further members, but for None."""
    document: dict[str, object] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    document |= {name: value for name, value in more.items() if value is not None}
    listed = [
        {
            "object": error.object_path,
            "line": error.line,
            "why": error.why,
            "suggestion": error.suggestion,
            "text": str(error),
        }
        for error in errors
    ]
    if listed:
        document["errors"] = listed
    return web.Response(
        status=status, text=json.dumps(document), content_type="application/problem+json", headers=headers
    )
