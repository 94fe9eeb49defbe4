"""Tokens by the users' API: who has one, a new one, another secret for one, none any more.

A token's text is in the answer that made it, and nowhere afterwards. `/v1/token` is the token of the request, which may
be seen and rotated by whoever has it; all else needs `admin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aiohttp import web

from control.access import ACCESS
from control.audit import note
from control.cloud.access_keys import Keyring, key_id
from control.handling import CALLER, body_of
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, number, text
from control.token_record import NoSuchTokenError, Token, document
from control.tokens import GRACE_LIMIT_S
from core.fields import NAME, Pattern, Range


@dataclass(frozen=True, slots=True)
class NewToken:
    """What a token is made of; `expires` is Unix time in seconds, 0: with the token that makes it, if ever."""

    name: Annotated[str, NAME]
    role: ApiRole
    expires: Annotated[float, Range(0, 1e11)] = 0.0


KEYRING = web.AppKey("keyring", Keyring)


async def get_tokens(request: web.Request) -> web.Response:
    return web.json_response({"tokens": [document(token) for token in await request.app[ACCESS].tokens.all()]})


async def get_token(request: web.Request) -> web.Response:
    identity = text(request, "id")
    token = await request.app[ACCESS].tokens.get(identity)
    if token is None:
        raise NoSuchTokenError(identity)
    return web.json_response(document(token))


async def get_own(request: web.Request) -> web.Response:
    return web.json_response(document(_own()))


async def post_token(request: web.Request) -> web.Response:
    asked = await body_of(request, NewToken)
    token, secret = await request.app[ACCESS].tokens.create(asked.name, asked.role, _own(), asked.expires or None)
    note(request, f"tokens/{token.id}")
    return _with_secret(token, secret, 201)


async def post_rotation(request: web.Request) -> web.Response:
    return await _rotated(request, text(request, "id"))


async def post_own_rotation(request: web.Request) -> web.Response:
    return await _rotated(request, _own().id)


async def post_access_key(request: web.Request) -> web.Response:
    """Told to who has the token alone: its secret is made of the token, and gives no more than the token does."""
    token, keyring = _own(), request.app.get(KEYRING)
    if keyring is None:
        raise web.HTTPConflict(text="access keys are for APIs of clouds: start it with --alibaba or --jdcloud")
    identity = key_id(token)
    if identity is None:
        raise web.HTTPConflict(text="a token of an earlier release has no access key; make another token")
    note(request, f"tokens/{token.id}")
    found = {"access_key_id": identity, "access_key_secret": keyring.secret(token), "expires": token.expires}
    return web.json_response(found)


async def _rotated(request: web.Request, identity: str) -> web.Response:
    token, secret = await request.app[ACCESS].tokens.rotate(identity, _own(), number(request, GRACE.name))
    note(request, f"tokens/{token.id}")
    return _with_secret(token, secret, 200)


async def delete_token(request: web.Request) -> web.Response:
    token = await request.app[ACCESS].tokens.revoke(text(request, "id"))
    note(request, f"tokens/{token.id}")
    return web.json_response(document(token))


def _own() -> Token:
    token = CALLER.get().token
    assert token is not None, "the route needs a role"
    return token


def _with_secret(token: Token, secret: str, status: int) -> web.Response:
    return web.json_response({**document(token), "secret": secret}, status=status)


_TIME = {"type": ["number", "null"], "description": "Unix time in seconds"}
_FIELDS = {
    "id": {"type": "string"}, "name": {"type": "string"}, "role": {"enum": [role.value for role in ApiRole]},
    "created": _TIME, "creator": {"type": "string"}, "creator_id": {"type": "string"}, "expires": _TIME,
    "rotated": _TIME, "before_until": _TIME, "used": _TIME, "used_from": {"type": "string"},
}  # fmt: skip
TOKEN = {"type": "object", "properties": _FIELDS}
WITH_SECRET = {"type": "object", "properties": {**_FIELDS, "secret": {"type": "string"}}}
ACCESS_KEY = {
    "type": "object",
    "properties": {"access_key_id": {"type": "string"}, "access_key_secret": {"type": "string"}, "expires": _TIME},
}
TOKENS = {"type": "object", "properties": {"tokens": {"type": "array", "items": TOKEN}}}

ID = Parameter(
    "id", Annotated[str, Pattern("[0-9A-Za-z-]{10,14}", "a token's ID, as `paifang token list` shows it")], "ID"
)
GRACE = Parameter("grace_s", Annotated[int, Range(0, GRACE_LIMIT_S, "s")], "how long the secret before stays good", 0)
_ONE = {200: Answer("the token", Schema(TOKEN))}
_SECRET = Answer("the token, with the secret that is shown this once", Schema(WITH_SECRET))

ROUTES = (
    Route(
        "GET", "/v1/tokens", get_tokens, ApiRole.ADMIN, "Every token", tag="tokens",
        answers={200: Answer("the tokens, the oldest first, without their secrets", Schema(TOKENS))},
    ),
    Route(
        "POST", "/v1/tokens", post_token, ApiRole.ADMIN, "A new token", tag="tokens", problems=(409, 413, 422),
        description="It has no more rights than the token of the request: no higher role, and no later end.",
        body=Schema(NewToken, example={"name": "ci", "role": "operate"}), answers={201: _SECRET},
    ),
    Route("GET", "/v1/token", get_own, ApiRole.READ, "The token of the request", tag="tokens", answers=_ONE),
    Route(
        "POST", "/v1/token/rotation", post_own_rotation, ApiRole.READ, "Another secret for it", (GRACE,),
        tag="tokens", problems=(409,), answers={200: _SECRET},
    ),
    Route(
        "POST", "/v1/token/access-key", post_access_key, ApiRole.READ, "The access key of the token of the request",
        description="For APIs of clouds (docs/alibaba.md). It is revoked, rotated and ends with the token.",
        tag="tokens", problems=(409,), answers={200: Answer("the access key", Schema(ACCESS_KEY))},
    ),
    Route(
        "GET", "/v1/tokens/{id}", get_token, ApiRole.ADMIN, "One token", tag="tokens", parts=(ID,), problems=(404,),
        answers=_ONE,
    ),
    Route(
        "POST", "/v1/tokens/{id}/rotation", post_rotation, ApiRole.ADMIN, "Another secret for a token", (GRACE,),
        tag="tokens", parts=(ID,), problems=(404, 409), answers={200: _SECRET},
    ),
    Route(
        "DELETE", "/v1/tokens/{id}", delete_token, ApiRole.ADMIN, "Make a token good for nothing", tag="tokens",
        parts=(ID,), problems=(404, 409), answers={200: Answer("the token that was", Schema(TOKEN))},
    ),
)  # fmt: skip
