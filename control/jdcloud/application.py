"""JD Cloud's load balancer API, on an address of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import ClassVar

from aiohttp import web

from control.cloud import application as cloud
from control.cloud.action import Answer
from control.cloud.application import Cause, Endpoint, Told
from control.cloud.entrance import Claim, Entrance, Reason, RefusedError
from control.cloud.errors import CloudError
from control.cloud.signing import Request
from control.cloud.site import Site
from control.jdcloud import forms, signature
from control.jdcloud.actions import route
from control.jdcloud.call import Action, Call
from control.jdcloud.errors import JdError, invalid, unauthenticated
from control.jdcloud.signature import Signed
from control.service import ControlPlane

NOWHERE = "jdcloud-api"  # what SDKs sign for as the region where an action has none


class Jd(Endpoint[Call]):
    """The API of one control plane."""

    name = "jdcloud"
    words: ClassVar[Mapping[Reason | Cause, tuple[int, str]]] = {
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
        Cause.SLOW: (408, "DEADLINE_EXCEEDED"),
        Cause.LONG: (413, "INVALID_ARGUMENT"),
        Cause.INVALID: (400, "INVALID_ARGUMENT"),
        Cause.PROTECTED: (400, "FAILED_PRECONDITION"),
        Cause.KEY_INSIDE: (400, "FAILED_PRECONDITION"),
        Cause.CONFLICT: (400, "FAILED_PRECONDITION"),
        Cause.NO_STORE: (503, "UNAVAILABLE"),
        Cause.FAILED: (500, "INTERNAL"),
    }

    def shown(
        self, request: web.Request, outcome: Answer | CloudError, told: Told[Call], identity: str
    ) -> web.Response:
        status, document = 200, dict[str, object](requestId=identity)
        if isinstance(outcome, CloudError):
            status = outcome.http
            document["error"] = {"code": status, "status": outcome.word, "message": outcome.message}
        else:
            document["result"] = outcome
        headers = {"x-jdcloud-request-id": identity, "Content-Type": "application/json; charset=utf-8"}
        return web.Response(status=status, body=json.dumps(document, ensure_ascii=False).encode(), headers=headers)

    async def answer(self, request: web.Request, told: Told[Call]) -> Answer:
        sent = await self.read(request)
        signed = signature.read(sent)
        reads = request.method == "GET"
        # What changes something is known again by what was signed: SDKs do not sign their nonce.
        nonce = signed.nonce if reads else f"signature {signed.signature}"
        claim = Claim(signed.key_id, signed.signed_at, nonce, signed.signed_with)
        try:
            told.token = token = await self._entrance.identify(claim, request.remote or "")
            async with self._entrance.placed(token):
                told.action, named = action, _ = self._routed(sent, signed)
                if action.cannot:
                    raise JdError(400, "UNIMPLEMENTED", f"{action.name} is not supported here: {action.cannot}.")
                self.permit(action, token)
                call = self.call(forms.read(action.fields, _fields(sent, signed, named)))
                return await self.do(action, call, claim, told)
        except RefusedError as error:
            if error.reason is Reason.USED_NONCE and not reads:
                told.message = "This request has been served already; sign it again in another second."
            raise

    def _routed(self, sent: Request, signed: Signed) -> tuple[Action, Mapping[str, str]]:
        """The action, and what the path names. Raises JdError."""
        found = route(sent.method, sent.path)
        if found is None:
            raise JdError(404, "NOT_FOUND", f"There is no action at {sent.method} {sent.path[:200]}.")
        action, region, named = found
        if region is not None and region != self._site.region:
            raise JdError(404, "NOT_FOUND", f"Region {region[:60]!r} not found: the only one is {self._site.region}.")
        if signed.scope[1] not in (region or NOWHERE, self._site.region) or signed.scope[2] != action.service:
            raise unauthenticated(f"The credential's scope is that of {'/'.join(signed.scope[1:3])}.")
        return action, {"regionId": self._site.region, **named}


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
    return {name: value for name, value in {**given, **named}.items() if name != "regionId"}


def application(
    plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
) -> web.Application:
    """The API as an aiohttp application."""
    return cloud.application(Jd(plane, entrance, site, clock))
