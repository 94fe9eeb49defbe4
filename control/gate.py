"""What comes before the handlers of the users' API, and what is kept of it: limits, the token, security headers, audit.

Middlewares, in the order in which `control.api` has them:

    audited    what was asked for and what became of it
    bounded    whether the Host is ours; how often this address asks
    (`control.guard.authorised`, which asks `identify` whose the token is)
    placed     how often this token asks, how much at a time, and how long its body may take

Handlers tell the audit log what they changed by `control.audit.note`. Answers have no CORS headers: pages of other
origins cannot read them.
"""

from __future__ import annotations

import asyncio
import math

from aiohttp import web

from control.access import ACCESS
from control.audit import Told, notes_of, result_of
from control.handling import CALLER, Caller
from control.limits import Full, source_of
from control.observing import OBSERVER
from control.problem import problem
from control.routes import Handler, asked, route_of
from control.tokens import Refused

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# The API answers with JSON and text; what a browser makes of it otherwise is not to run or be framed.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


async def hardened(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer the headers that it has not got itself."""
    response.headers["Server"] = "paifang"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def audited(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Writes the entry before the answer goes out."""
    response = await handler(request)
    if not _is_worth_it(request, response.status):
        return response
    caller, notes = CALLER.get(), notes_of(request)
    if response.status == 401 and "Authorization" in request.headers:
        request.app[OBSERVER].signed_in_badly(request.remote or "")
    token = caller.token
    await request.app[ACCESS].audit.tell(
        Told(
            who=caller.name, token=notes.claimed if token is None else token.id,
            role="" if token is None else token.role.value, source=request.remote or "", method=request.method,
            path=request.path, status=response.status, comment=request.query.get("comment", ""),
            why=notes.why, change=notes.change, objects=notes.objects,
        )
    )  # fmt: skip
    return response


def _is_worth_it(request: web.Request, status: int) -> bool:
    """Refusals of whatever; of the rest what may change something, but no dry run."""
    if result_of(status) == "refused":
        return True
    route = route_of(request)
    if request.method in SAFE or route is None or _is_dry_run(request):
        return False
    return route.audited or bool(notes_of(request).objects)


def _is_dry_run(request: web.Request) -> bool:
    try:
        return asked(request).get("dry_run") is True
    except KeyError:  # refused before its parameters were read
        return False


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """421 for another's name, 429 for too many."""
    access = request.app[ACCESS]
    if not access.host_is_ours(request.headers.get("Host", "")):
        notes_of(request).why = "the Host header names another machine"
        detail = "the Host header is not this machine's: ask localhost, or start it with --api-host NAME"
        return problem(421, detail)
    if wait_s := access.of_addresses.take(source_of(request.remote), access.clock()):
        notes_of(request).why = "too many requests of this address"
        return _too_many("too many requests come from your address", wait_s)
    return await handler(request)


async def identify(request: web.Request) -> Caller | web.Response:
    """Whose token the request has, or what to answer where it has none that is good."""
    access = request.app[ACCESS]
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        notes_of(request).why = "no token"
        return problem(401, "give a token: Authorization: Bearer …", headers={"WWW-Authenticate": "Bearer"})
    found = await access.tokens.find(text.strip())
    if not isinstance(found, Refused):
        access.used(found, request.remote or "")
        return Caller(found.name, found.role, found)
    notes = notes_of(request)
    notes.why, notes.claimed = f"the token is {found.why.value}", found.id
    if wait_s := access.of_failures.take(source_of(request.remote), access.clock()):
        return _too_many(f"{found.text}; and too many wrong ones come from your address", wait_s)
    return problem(401, found.text, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


async def is_still_good(request: web.Request) -> bool:
    """Whether the token of a request that goes on for long may still be used."""
    _, _, text = request.headers.get("Authorization", "").partition(" ")
    return not isinstance(await request.app[ACCESS].tokens.find(text.strip()), Refused)


def forbidden(request: web.Request, why: str) -> web.Response:
    """The answer to a token that may not."""
    notes_of(request).why = why
    return problem(403, why)


@web.middleware
async def placed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve the request in a place that it has, with its body read."""
    access, token, route = request.app[ACCESS], CALLER.get().token, route_of(request)
    if token is None:
        return await handler(request)
    if wait_s := access.of_tokens.take(token.id, access.clock()):
        notes_of(request).why = "too many requests of this token"
        return _too_many(f"too many requests with the token {token.name!r}", wait_s)
    try:
        with access.places.taken(token.id):
            if request.method in SAFE or not request.can_read_body or route is None or route.body is None:
                return await handler(request)
            async with access.bodies:
                try:
                    async with asyncio.timeout(access.limits.body_s):
                        await request.read()
                except TimeoutError:
                    return problem(408, f"the body was not here within {access.limits.body_s:g} s")
                return await handler(request)
    except Full as full:
        if full.alone:
            return _too_many(f"{access.limits.places_each} requests with the token {token.name!r} are under way", 1)
        return problem(503, f"{access.limits.places} requests are under way", headers={"Retry-After": "1"})


def _too_many(what: str, wait_s: float) -> web.Response:
    seconds = math.ceil(wait_s)
    return problem(429, f"{what}; try again in {seconds} s", headers={"Retry-After": str(seconds)})
