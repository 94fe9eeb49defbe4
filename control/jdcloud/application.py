"""JD Cloud's load balancer API, on an address of its own.

A request is read whole, its signature found to be right, the action looked up and its fields read, all before anything
is done. A change is made as one of the users' API is. There is no guard by `Host` as the users' API has it: what a page
in a browser sends is signed by nobody.

The log has the token's name, the action, the status and the time, never a field, head or body.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from control import protection
from control.audit import Changed, result_of
from control.cloud.changing import KeyInsideError, made
from control.cloud.entrance import Claim, Entrance, Reason, RefusedError
from control.cloud.site import Site
from control.edit import EditError
from control.gate import HEADERS
from control.jdcloud import forms, signature
from control.jdcloud.actions import ACTIONS, route
from control.jdcloud.call import Action, Answer, Call
from control.jdcloud.errors import JdError, conflict, invalid, unauthenticated
from control.jdcloud.signature import Request, Signed
from control.service import ControlPlane
from control.store import StoreError
from control.token_record import Token
from core.errors import ConfigErrors

log = logging.getLogger(__name__)

BODY_BYTES = 1 << 17
BODY_S = 10.0
ERRORS_SHOWN = 5
GATEWAY: Mapping[Reason, tuple[int, str]] = {
    Reason.TOO_MANY_OF_ADDRESS: (429, "QUOTA_EXCEEDED"),
    Reason.TOO_MANY_OF_KEY: (429, "QUOTA_EXCEEDED"),
    Reason.TOO_MANY_WRONG: (429, "QUOTA_EXCEEDED"),
    Reason.BUSY: (503, "UNAVAILABLE"),
    Reason.OUT_OF_TIME: (401, "UNAUTHENTICATED"),
    Reason.UNKNOWN_KEY: (401, "UNAUTHENTICATED"),
    Reason.ENDED_KEY: (401, "UNAUTHENTICATED"),
    Reason.WRONG_SIGNATURE: (401, "UNAUTHENTICATED"),
    Reason.USED_NONCE: (401, "UNAUTHENTICATED"),
    Reason.LACKS_ROLE: (403, "PERMISSION_DENIED"),
}


@dataclass(slots=True)
class _Told:
    """What the logs are told of a request. `audit_status` is what the users' API would have answered."""

    token: Token | None = None
    action: str = "-"
    why: str = ""
    claimed: str = ""
    change: Changed | None = None
    audit_status: int = 200
    wait_s: float = 0.0
    reads: bool = True


class Endpoint:
    """The API of one control plane. `clock` is Unix time in seconds."""

    def __init__(
        self, plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
    ) -> None:
        self._plane, self._entrance, self._site, self._clock = plane, entrance, site, clock

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        started, told, identity = time.monotonic(), _Told(), str(uuid.uuid4())
        status, document = 200, dict[str, object](requestId=identity)
        try:
            document["result"] = await self._answer(request, told)
        except Exception as error:  # the only place that knows which error is which code
            refused = _translated(error, told)
            status = refused.code
            document["error"] = {"code": refused.code, "status": refused.status, "message": refused.message}
        await self._note(request, told)
        elapsed_ms = (time.monotonic() - started) * 1000
        name = "-" if told.token is None else told.token.name
        log.info("%s %s %d %.1f ms %s", name, told.action, status, elapsed_ms, identity)
        headers = {
            **HEADERS, "Server": "paifang", "x-jdcloud-request-id": identity,
            "Content-Type": "application/json; charset=utf-8",
        }  # fmt: skip
        if told.wait_s:
            headers["Retry-After"] = str(math.ceil(told.wait_s))
        return web.Response(status=status, body=json.dumps(document, ensure_ascii=False).encode(), headers=headers)

    async def _answer(self, request: web.Request, told: _Told) -> Answer:
        sent = await self._read(request)
        signed = signature.read(sent)
        told.reads = request.method == "GET"
        # What changes something is known again by what was signed: SDKs do not sign their nonce.
        nonce = signed.nonce if told.reads else f"signature {signed.signature}"
        claim = Claim(signed.key_id, signed.signed_at, nonce, signed.signed_with)
        told.token = token = await self._entrance.identify(claim, request.remote or "")
        async with self._entrance.placed(token):
            action, named = self._routed(sent, signed)
            told.action = action.name
            if action.cannot:
                raise JdError(400, "UNIMPLEMENTED", f"{action.name} is not supported here: {action.cannot}.")
            if not token.role.may(action.role):
                text = f"the token {token.name!r} has the role {token.role.value}; this needs {action.role.value}"
                raise RefusedError(Reason.LACKS_ROLE, text, claimed=token.id)
            call = Call(
                forms.read(action.fields, _fields(sent, signed, named)), self._site, self._clock(),
                secrets.token_bytes(16), self._plane.status(),
            )  # fmt: skip
            if action.look is not None:
                return action.look(call, self._plane.current.model)
            assert action.change is not None
            await self._entrance.keep_nonce(token, claim)
            told.change, answer = await made(self._plane, partial(action.change, call), token.name, action.name)
            return answer

    async def _read(self, request: web.Request) -> Request:
        async with self._entrance.admitted(request.remote or ""):
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                raise JdError(408, "DEADLINE_EXCEEDED", f"The body was not here within {BODY_S:g} s.") from None
        # What SDKs sign is what they send: aiohttp's own reading of the path would make other text of it.
        path, _, query = request.raw_path.partition("?")
        headers = [
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers
        ]
        return Request(request.method, path, query, headers, body)

    def _routed(self, sent: Request, signed: Signed) -> tuple[Action, Mapping[str, str]]:
        """Raises JdError."""
        found = route(sent.method, sent.path)
        if found is None:
            raise JdError(404, "NOT_FOUND", f"There is no action at {sent.method} {sent.path[:200]}.")
        action, region, named = found
        if region != self._site.region:
            raise JdError(404, "NOT_FOUND", f"Region {region[:60]!r} not found: the only one is {self._site.region}.")
        if signed.scope[1:3] != (region, signature.SERVICE):
            raise unauthenticated(f"The credential's scope is that of {'/'.join(signed.scope[1:3])}.")
        return action, {"regionId": region, **named}

    async def _note(self, request: web.Request, told: _Told) -> None:
        """Changes, and refusals of whatever, are told to the audit log."""
        action = ACTIONS.get(told.action)
        refused = result_of(told.audit_status) == "refused"
        if not refused and (action is None or action.change is None):
            return
        await self._entrance.tell(
            told.token, request.remote or "", request.method, f"/jdcloud/{told.action}", told.audit_status,
            why=told.why, claimed=told.claimed, change=told.change,
        )  # fmt: skip


def _fields(sent: Request, signed: Signed, named: Mapping[str, str]) -> Mapping[str, object]:
    """What a request gives: what its path names, which a body may say again, and the rest. Raises JdError."""
    if sent.method in ("GET", "DELETE"):
        if sent.body:
            raise invalid("body", f"{sent.method} has none")
        given = forms.nested(signed.query)
    else:
        if signed.query:
            raise invalid("query", f"{sent.method} has none")
        given = forms.body(sent.body)
    for name, value in named.items():
        if given.get(name) not in (None, value):
            raise invalid(name, "the path says another")
    return {**{name: value for name, value in given.items() if name != "regionId"}, **_without_region(named)}


def _without_region(named: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in named.items() if name != "regionId"}


def _translated(error: Exception, told: _Told) -> JdError:
    match error:
        case JdError():
            if told.audit_status < 400:
                told.audit_status = error.code
            return error
        case RefusedError():
            told.why, told.claimed, told.audit_status = str(error), error.claimed, error.reason.status
            told.wait_s = error.wait_s
            code, status = GATEWAY[error.reason]
            if error.reason is Reason.USED_NONCE and not told.reads:
                return JdError(code, status, "This request has been served already; sign it again in another second.")
            return JdError(code, status, f"{str(error)[0].upper()}{str(error)[1:]}.")
        case ConfigErrors():
            told.audit_status = 422
            shown = "; ".join(
                f"{each.object_path}: {each.why}; {each.suggestion}" for each in error.errors[:ERRORS_SHOWN]
            )
            return JdError(400, "INVALID_ARGUMENT", f"The configuration would not be valid: {shown}.")
        case KeyInsideError():
            told.audit_status = 400
            return conflict("A private key does not belong here.")
        case protection.ProtectedError() | EditError():
            told.audit_status = 409
            return conflict(f"{error}.")
        case StoreError():
            log.warning("%s: %s", told.action, error)
            told.audit_status, told.wait_s = 503, 1
            return JdError(503, "UNAVAILABLE", f"{error}.")
        case web.HTTPRequestEntityTooLarge():
            told.audit_status = 413
            return JdError(413, "INVALID_ARGUMENT", f"A body may have {BODY_BYTES} bytes.")
    log.error("%s failed", told.action, exc_info=error)
    told.audit_status = 500
    return JdError(500, "INTERNAL", "The control plane's log says more.")


def application(
    plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
) -> web.Application:
    """The API as an aiohttp application."""
    app = web.Application(client_max_size=BODY_BYTES)
    endpoint = Endpoint(plane, entrance, site, clock)
    app.router.add_route("*", "/{path:.*}", endpoint.serve)
    return app
