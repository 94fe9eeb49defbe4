"""A cloud's API on an address of its own: what all of them do with a request, whatever words they have for it.

A request is read whole, its signature found to be right, the action looked up and its fields read, all before anything
is done. A change is made as one of the users' API is: from the current version, checked as a whole, stored as a version
with its author, in the audit log. There is no guard by `Host` as the users' API has it: what a page in a browser sends
is signed by nobody.

The log has the token's name, the action, the status and the time, never a field, head or body.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import ClassVar, Generic

from aiohttp import web

from control.audit import Changed, result_of
from control.cloud.action import Action, Answer, C, Call, G
from control.cloud.changing import KeyInsideError, made
from control.cloud.entrance import Claim, Entrance, Reason, RefusedError
from control.cloud.errors import CloudError
from control.cloud.signing import Request
from control.cloud.site import Site
from control.edit import EditError
from control.gate import HEADERS
from control.protection import ProtectedError
from control.service import ControlPlane
from control.store import StoreError
from control.token_record import Token
from core.errors import ConfigErrors

log = logging.getLogger(__name__)

BODY_BYTES = 1 << 17
BODY_S = 10.0
ERRORS_SHOWN = 5


class Cause(Enum):
    """Why a request that was let in fails; each with the status that the audit log has."""

    SLOW = ("the body was slow", 408)
    LONG = ("the body is too long", 413)
    INVALID = ("the configuration would not be valid", 422)
    PROTECTED = ("an object is protected", 409)
    KEY_INSIDE = ("an object holds a private key", 400)
    CONFLICT = ("the configuration is another by now", 409)
    NO_STORE = ("the storage cannot be reached", 503)
    FAILED = ("an error of ours", 500)

    @property
    def status(self) -> int:
        return self.value[1]


class SlowError(Exception):
    """The body was not here in time."""


@dataclass(slots=True)
class Told(Generic[C]):
    """What the logs are told of a request. `audit_status` is what the users' API would have answered; `message` is
    for the client, where it is told something else than the audit log; `form` how it wants to be answered.
    """

    token: Token | None = None
    action: Action[C] | None = None
    why: str = ""
    claimed: str = ""
    change: Changed | None = None
    audit_status: int = 200
    wait_s: float = 0.0
    message: str = ""
    form: str = ""

    @property
    def name(self) -> str:
        """The action's."""
        return "-" if self.action is None else self.action.name


class Endpoint(ABC, Generic[C]):
    """The API of one control plane. `clock` is Unix time in seconds."""

    name: ClassVar[str]  # in the audit log's paths
    words: ClassVar[Mapping[Reason | Cause, tuple[int, str]]]  # the status of HTTP and the API's word for it

    def __init__(
        self, plane: ControlPlane, entrance: Entrance, site: Site, clock: Callable[[], float] = time.time
    ) -> None:
        self._plane, self._entrance, self._site, self._clock = plane, entrance, site, clock

    @abstractmethod
    async def answer(self, request: web.Request, told: Told[C]) -> Answer:
        """Serve a request. May raise anything."""

    @abstractmethod
    def shown(self, request: web.Request, outcome: Answer | CloudError, told: Told[C], identity: str) -> web.Response:
        """The answer as the API has it."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        started, told, identity = time.monotonic(), Told[C](), str(uuid.uuid4())
        try:
            outcome: Answer | CloudError = await self.answer(request, told)
        except Exception as error:  # the only place that knows which error is which word
            outcome = self._translated(error, told)
        await self._note(request, told)
        response = self.shown(request, outcome, told, identity)
        elapsed_ms = (time.monotonic() - started) * 1000
        name = "-" if told.token is None else told.token.name
        log.info("%s %s %s %d %.1f ms %s", self.name, name, told.name, response.status, elapsed_ms, identity)
        response.headers.update({**HEADERS, "Server": "paifang"})
        if told.wait_s:
            response.headers["Retry-After"] = str(math.ceil(told.wait_s))
        return response

    async def read(self, request: web.Request) -> Request:
        """The request as its client has signed it. Raises RefusedError, SlowError."""
        async with self._entrance.admitted(request.remote or ""):
            try:
                async with asyncio.timeout(BODY_S):
                    body = await request.read()
            except TimeoutError:
                raise SlowError from None
        # What SDKs sign is what they send: aiohttp's own reading of the path would make other text of it.
        path, _, query = request.raw_path.partition("?")
        headers = [
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers
        ]
        return Request(request.method, path, query, headers, body)

    def permit(self, action: Action[C], token: Token) -> None:
        """Raises RefusedError for who may not do this."""
        if not token.role.may(action.role):
            text = f"the token {token.name!r} has the role {token.role.value}; this needs {action.role.value}"
            raise RefusedError(Reason.LACKS_ROLE, text, claimed=token.id)

    def call(self, given: G, chance: bytes = b"") -> Call[G]:
        """A call; its new objects' IDs are made of `chance`, or of chance."""
        return Call(given, self._site, self._clock(), chance or secrets.token_bytes(16), self._plane.status())

    async def do(self, action: Action[C], call: C, claim: Claim, told: Told[C], *, dry_run: bool = False) -> Answer:
        """Look, or change. Raises as `entrance.keep_nonce` and `changing.made`."""
        if action.look is not None:
            return action.look(call, self._plane.current.model)
        assert action.change is not None
        assert told.token is not None
        await self._entrance.keep_nonce(told.token, claim)
        change, answer = await made(
            self._plane, partial(action.change, call), told.token.name, action.name, dry_run
        )  # fmt: skip
        told.change = None if dry_run else change
        return answer

    async def _note(self, request: web.Request, told: Told[C]) -> None:
        """Changes, and refusals of whatever, are told to the audit log."""
        changes = told.action is not None and told.action.change is not None
        if changes or result_of(told.audit_status) == "refused":
            await self._entrance.tell(
                told.token, request.remote or "", request.method, f"/{self.name}/{told.name}", told.audit_status,
                why=told.why, claimed=told.claimed, change=told.change,
            )  # fmt: skip

    def _translated(self, error: Exception, told: Told[C]) -> CloudError:
        if isinstance(error, CloudError):
            told.audit_status = error.http
            return error
        if isinstance(error, RefusedError):
            told.why, told.claimed, told.audit_status = str(error), error.claimed, error.reason.status
            told.wait_s = error.wait_s
            why: Reason | Cause = error.reason
            text = told.message or f"{str(error)[0].upper()}{str(error)[1:]}."
        else:
            why, text = _cause(error)
            told.audit_status = why.status
            if why is Cause.NO_STORE:
                log.warning("%s: %s", told.name, error)
                told.wait_s = 1
            elif why is Cause.FAILED:
                log.error("%s failed", told.name, exc_info=error)
        http, word = self.words[why]
        return CloudError(http, word, text)


def _cause(error: Exception) -> tuple[Cause, str]:
    """Why a request failed, and what its client is told."""
    match error:
        case ConfigErrors():
            shown = "; ".join(
                f"{each.object_path}: {each.why}; {each.suggestion}" for each in error.errors[:ERRORS_SHOWN]
            )
            return Cause.INVALID, f"The configuration would not be valid: {shown}."
        case ProtectedError():
            return Cause.PROTECTED, f"{error}."
        case KeyInsideError():
            return Cause.KEY_INSIDE, "A private key does not belong here."
        case EditError():
            return Cause.CONFLICT, f"{error}."
        case StoreError():
            return Cause.NO_STORE, f"{error}."
        case SlowError():
            return Cause.SLOW, f"The body was not here within {BODY_S:g} s."
        case web.HTTPRequestEntityTooLarge():
            return Cause.LONG, f"A body may have {BODY_BYTES} bytes."
    return Cause.FAILED, "The control plane's log says more."


def application(endpoint: Endpoint[C]) -> web.Application:
    """The API as an aiohttp application."""
    app = web.Application(client_max_size=BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", endpoint.serve)
    return app
