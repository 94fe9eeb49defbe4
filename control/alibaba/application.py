"""Alibaba Cloud's SLB API, version 2014-05-15, at the path / of an address of its own.

A request is read whole, its signature found to be right, the action looked up and its parameters read, all before
anything is done. A change is made as one of the users' API is: from the current version, checked as a whole, stored as
a version with its author, in the audit log. There is no guard by `Host` as the users' API has it: what a page in a
browser sends is signed by nobody.

The log has the token's name, the action, the status and the time, never a parameter, head or body.
"""

from __future__ import annotations

import asyncio
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
from control.alibaba import signature
from control.alibaba.actions import ACTIONS, VERSION
from control.alibaba.call import Action, Answer, Call, Site
from control.alibaba.errors import SlbError, denied
from control.alibaba.parameters import read
from control.alibaba.rendering import rendered
from control.alibaba.signature import Request, Signed
from control.audit import Changed, result_of
from control.cloud.changing import KeyInsideError, made
from control.cloud.entrance import Claim, Entrance, Reason, RefusedError
from control.edit import EditError
from control.gate import HEADERS
from control.service import ControlPlane
from control.store import StoreError
from control.token_record import Token
from core.errors import ConfigErrors

log = logging.getLogger(__name__)

BODY_BYTES = 1 << 17
LINE_BYTES = 1 << 17  # SDKs of version 1.0 put all parameters into the query, certificates too
BODY_S = 10.0
ERRORS_SHOWN = 5
GATEWAY: Mapping[Reason, tuple[str, int]] = {
    Reason.TOO_MANY_OF_ADDRESS: ("Throttling", 400),
    Reason.TOO_MANY_OF_KEY: ("Throttling.User", 400),
    Reason.TOO_MANY_WRONG: ("Throttling", 400),
    Reason.BUSY: ("ServiceUnavailable", 503),
    Reason.OUT_OF_TIME: ("InvalidTimeStamp.Expired", 400),
    Reason.UNKNOWN_KEY: ("InvalidAccessKeyId.NotFound", 404),
    Reason.ENDED_KEY: ("InvalidAccessKeyId.Inactive", 403),
    Reason.WRONG_SIGNATURE: ("SignatureDoesNotMatch", 400),
    Reason.USED_NONCE: ("SignatureNonceUsed", 400),
    Reason.LACKS_ROLE: ("Forbidden.RAM", 403),
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
    format: str = "XML"
    wait_s: float = 0.0


class Endpoint:
    """The API of one control plane. `clock` is Unix time in seconds."""

    def __init__(
        self, plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
    ) -> None:
        self._plane, self._entrance, self._site, self._clock = plane, entrance, site, clock

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        started, told, identity = time.monotonic(), _Told(), str(uuid.uuid4()).upper()
        try:
            answer = await self._answer(request, told)
            status, root, document = 200, f"{told.action}Response", {"RequestId": identity, **answer}
        except Exception as error:  # the only place that knows which error is which code
            refused = _translated(error, told)
            status, root = refused.status, "Error"
            document = {
                "RequestId": identity, "HostId": request.headers.get("Host", "")[:255], "Code": refused.code,
                "Message": refused.message,
            }  # fmt: skip
        await self._note(request, told)
        elapsed_ms = (time.monotonic() - started) * 1000
        name = "-" if told.token is None else told.token.name
        log.info("%s %s %d %.1f ms %s", name, told.action, status, elapsed_ms, identity)
        text, media_type = rendered(root, document, told.format)
        headers = {**HEADERS, "Server": "paifang", "x-acs-request-id": identity, "Content-Type": media_type}
        if told.wait_s:
            headers["Retry-After"] = str(math.ceil(told.wait_s))
        return web.Response(status=status, body=text.encode(), headers=headers)

    async def _answer(self, request: web.Request, told: _Told) -> Answer:
        _, _, query = request.raw_path.partition("?")
        default = "JSON" if "Authorization" in request.headers else "XML"
        told.format = signature.format_of(query, default)
        signed = await self._read(request, query, told)
        claim = Claim(signed.key_id, signed.signed_at, signed.nonce, signed.signed_with)
        try:
            told.token = token = await self._entrance.identify(claim, request.remote or "")
        except RefusedError as error:
            if error.reason is Reason.WRONG_SIGNATURE:
                raise _wrong_signature(signed, error, told) from None
            raise
        async with self._entrance.placed(token):
            action = _action(signed)
            told.action = action.name
            if not token.role.may(action.role):
                text = f"the token {token.name!r} has the role {token.role.value}; this needs {action.role.value}"
                raise RefusedError(Reason.LACKS_ROLE, text, claimed=token.id)
            return await self._do(action, signed, claim, token, told)

    async def _read(self, request: web.Request, query: str, told: _Told) -> Signed:
        async with self._entrance.admitted(request.remote or ""):
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                raise SlbError("RequestTimeout", 408, f"The body was not here within {BODY_S:g} s.") from None
        # What SDKs sign is what they send: aiohttp's own reading of the path would make other text of it.
        path = request.raw_path.partition("?")[0]
        headers = [
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers
        ]
        signed = signature.read(Request(request.method, path, query, headers, body))
        told.format = signed.format
        return signed

    async def _do(self, action: Action, signed: Signed, claim: Claim, token: Token, told: _Told) -> Answer:
        parameters = dict(signed.parameters)
        region = parameters.pop("RegionId", "")
        if region and region != self._site.region:
            raise SlbError("InvalidRegionId.NotFound", 404, f"The only region is {self._site.region}.")
        given = read(action.parameters, parameters)
        client_token = given.text("ClientToken")
        chance = f"{token.id} {client_token}".encode() if client_token else secrets.token_bytes(16)
        call = Call(given, self._site, self._clock(), chance, self._plane.status())
        if action.look is not None:
            return action.look(call, self._plane.current.model)
        assert action.change is not None
        await self._entrance.keep_nonce(token, claim)
        return await self._change(action, call, token, told)

    async def _change(self, action: Action, call: Call, token: Token, told: _Told) -> Answer:
        assert action.change is not None
        dry_run = call.given.on("DryRun")
        change, answer = await made(self._plane, partial(action.change, call), token.name, action.name, dry_run)
        if dry_run:
            raise SlbError("DryRunOperation", 400, "The request would have succeeded; DryRun is set.")
        told.change = change
        return answer

    async def _note(self, request: web.Request, told: _Told) -> None:
        """Changes, and refusals of whatever, are told to the audit log."""
        action = ACTIONS.get(told.action)
        refused = result_of(told.audit_status) == "refused"
        if not refused and (action is None or action.change is None):
            return
        await self._entrance.tell(
            told.token, request.remote or "", request.method, f"/alibaba/{told.action}", told.audit_status,
            why=told.why, claimed=told.claimed, change=told.change,
        )  # fmt: skip


def _action(signed: Signed) -> Action:
    """Raises SlbError."""
    if signed.version != VERSION:
        raise SlbError("InvalidVersion", 400, f"Specified parameter Version is not valid: {VERSION} is.")
    action = ACTIONS.get(signed.action)
    if action is None:
        raise SlbError("InvalidAction.NotFound", 404, "Specified api is not found, please check your url and method.")
    if action.cannot:
        raise SlbError("UnsupportedOperation", 400, f"{action.name} is not supported here: {action.cannot}.")
    return action


def _wrong_signature(signed: Signed, error: RefusedError, told: _Told) -> SlbError:
    """With the text that the signature should have been of, as the API has it; SDKs of version 1.0 compare it."""
    _refused(error, told)
    code, status = GATEWAY[error.reason]
    shown = "" if "PrivateKey" in signed.parameters else signed.to_sign
    return SlbError(
        code, status, f"Specified signature is not matched with our calculation. server string to sign is:{shown}"
    )


def _refused(error: RefusedError, told: _Told) -> None:
    told.why, told.claimed, told.audit_status = str(error), error.claimed, error.reason.status
    told.wait_s = error.wait_s


def _translated(error: Exception, told: _Told) -> SlbError:
    match error:
        case SlbError():
            if told.audit_status < 400:
                told.audit_status = error.status
            return error
        case RefusedError():
            _refused(error, told)
            code, status = GATEWAY[error.reason]
            return SlbError(code, status, f"{str(error)[0].upper()}{str(error)[1:]}.")
        case ConfigErrors():
            told.audit_status = 422
            shown = "; ".join(
                f"{each.object_path}: {each.why}; {each.suggestion}" for each in error.errors[:ERRORS_SHOWN]
            )
            return SlbError("InvalidParameter", 400, f"The configuration would not be valid: {shown}.")
        case protection.ProtectedError():
            told.audit_status = 409
            return denied(f"{error}.")
        case KeyInsideError():
            told.audit_status = 400
            return denied("A private key does not belong here.")
        case EditError():
            told.audit_status = 409
            return SlbError("OperationConflict", 409, f"{error}.")
        case StoreError():
            log.warning("%s: %s", told.action, error)
            told.audit_status, told.wait_s = 503, 1
            return SlbError("ServiceUnavailable", 503, f"{error}.")
        case web.HTTPRequestEntityTooLarge():
            told.audit_status = 413
            return SlbError("RequestTooLarge", 413, f"A body may have {BODY_BYTES} bytes.")
    log.error("%s failed", told.action, exc_info=error)
    told.audit_status = 500
    return SlbError("InternalError", 500, "The control plane's log says more.")


def application(
    plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
) -> web.Application:
    """The API as an aiohttp application."""
    app = web.Application(client_max_size=BODY_BYTES)
    endpoint = Endpoint(plane, entrance, site, clock)
    app.router.add_route("*", "/{path:.*}", endpoint.serve)
    return app
