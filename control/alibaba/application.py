"""Alibaba Cloud's SLB API, version 2014-05-15, at the path / of an address of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import ClassVar

from aiohttp import web

from control.alibaba import signature
from control.alibaba.actions import ACTIONS, VERSION
from control.alibaba.call import Action, Answer, Call, Site
from control.alibaba.errors import SlbError
from control.alibaba.parameters import read
from control.alibaba.rendering import rendered
from control.alibaba.signature import Signed
from control.cloud import application as cloud
from control.cloud.application import Cause, Endpoint, Told
from control.cloud.entrance import Claim, Entrance, Reason, RefusedError
from control.cloud.errors import CloudError
from control.service import ControlPlane

LINE_BYTES = 1 << 17  # SDKs of version 1.0 put all parameters into the query, certificates too


class Slb(Endpoint[Call]):
    """The API of one control plane."""

    name = "alibaba"
    words: ClassVar[Mapping[Reason | Cause, tuple[int, str]]] = {
        Reason.TOO_MANY_OF_ADDRESS: (400, "Throttling"),
        Reason.TOO_MANY_OF_KEY: (400, "Throttling.User"),
        Reason.TOO_MANY_WRONG: (400, "Throttling"),
        Reason.BUSY: (503, "ServiceUnavailable"),
        Reason.OUT_OF_TIME: (400, "InvalidTimeStamp.Expired"),
        Reason.UNKNOWN_KEY: (404, "InvalidAccessKeyId.NotFound"),
        Reason.ENDED_KEY: (403, "InvalidAccessKeyId.Inactive"),
        Reason.WRONG_SIGNATURE: (400, "SignatureDoesNotMatch"),
        Reason.USED_NONCE: (400, "SignatureNonceUsed"),
        Reason.LACKS_ROLE: (403, "Forbidden.RAM"),
        Cause.SLOW: (408, "RequestTimeout"),
        Cause.LONG: (413, "RequestTooLarge"),
        Cause.INVALID: (400, "InvalidParameter"),
        Cause.PROTECTED: (400, "OperationDenied"),
        Cause.KEY_INSIDE: (400, "OperationDenied"),
        Cause.CONFLICT: (409, "OperationConflict"),
        Cause.NO_STORE: (503, "ServiceUnavailable"),
        Cause.FAILED: (500, "InternalError"),
    }

    def shown(
        self, request: web.Request, outcome: Answer | CloudError, told: Told[Call], identity: str
    ) -> web.Response:
        identity, document = identity.upper(), dict[str, object]()
        if isinstance(outcome, CloudError):
            status, root = outcome.http, "Error"
            document = {
                "RequestId": identity, "HostId": request.headers.get("Host", "")[:255], "Code": outcome.word,
                "Message": outcome.message,
            }  # fmt: skip
        else:
            status, root, document = 200, f"{told.name}Response", {"RequestId": identity, **outcome}
        text, media_type = rendered(root, document, told.form)
        headers = {"x-acs-request-id": identity, "Content-Type": media_type}
        return web.Response(status=status, body=text.encode(), headers=headers)

    async def answer(self, request: web.Request, told: Told[Call]) -> Answer:
        default = "JSON" if "Authorization" in request.headers else "XML"
        told.form = signature.format_of(request.raw_path.partition("?")[2], default)
        signed = signature.read(await self.read(request))
        told.form = signed.format
        claim = Claim(signed.key_id, signed.signed_at, signed.nonce, signed.signed_with)
        try:
            told.token = token = await self._entrance.identify(claim, request.remote or "")
        except RefusedError as error:
            if error.reason is Reason.WRONG_SIGNATURE:
                told.message = _with_the_text(signed)
            raise
        async with self._entrance.placed(token):
            told.action = action = _action(signed)
            self.permit(action, token)
            parameters = dict(signed.parameters)
            region = parameters.pop("RegionId", "")
            if region and region != self._site.region:
                raise SlbError("InvalidRegionId.NotFound", 404, f"The only region is {self._site.region}.")
            given = read(action.parameters, parameters)
            client_token = given.text("ClientToken")
            call = self.call(given, f"{token.id} {client_token}".encode() if client_token else b"")
            answer = await self.do(action, call, claim, told, dry_run=given.on("DryRun"))
            if given.on("DryRun"):
                raise SlbError("DryRunOperation", 400, "The request would have succeeded; DryRun is set.")
            return answer


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


def _with_the_text(signed: Signed) -> str:
    """What a wrong signature should have been of, as the API has it; SDKs of version 1.0 compare it."""
    shown = "" if "PrivateKey" in signed.parameters else signed.to_sign
    return f"Specified signature is not matched with our calculation. server string to sign is:{shown}"


def application(
    plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
) -> web.Application:
    """The API as an aiohttp application."""
    return cloud.application(Slb(plane, entrance, site, clock))
