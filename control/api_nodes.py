"""Nodes as members of the cluster: invitations to join, identities and their end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated

from aiohttp import web

from control import membership
from control.audit import note
from control.handling import CALLER, PLANE, body_of
from control.membership import Invitation, Member, MembershipError, invitation_id
from control.problem import problem
from control.roles import ApiRole
from control.routes import Answer, Handler, Parameter, Route, Schema, text
from control.signing import SIGNING, Signing
from core.fields import Pattern, Range

ENDPOINT = Annotated[str, Pattern(r"[0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", "ADDRESS:PORT")]
ROLE = Parameter("role", Annotated[str, Pattern(r"l4|l7|keyserver|control", "l4, l7, keyserver or control")], "role")
CALLED = Parameter("id", Annotated[str, Pattern(r"[0-9a-f]{12}", "twelve hexadecimal digits")], "of an invitation")
SERVER = Parameter("server", ENDPOINT, "address and port of a server")
OBJECT = Schema({"type": "object"})


@dataclass(frozen=True, slots=True)
class Invite:
    """Who may join. `name` may have `*`, so that the node chooses within it."""

    role: str
    name: str
    ttl_s: Annotated[int, Range(*membership.TTL_S, "s")] = 3600


def explained_refusals(handler: Handler) -> Handler:
    """Refusals as problem documents."""

    async def explained(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except MembershipError as error:
            return problem(error.status, str(error))

    return explained


# --- joining


@explained_refusals
async def post_join(request: web.Request) -> web.Response:
    wanted, plane, signing = await body_of(request, Invite), request.app[PLANE], _signing(request)
    print_ = signing.fingerprint
    now = time.time()
    called, token, made = await membership.invite(
        plane.store, wanted.role, wanted.name, wanted.ttl_s, CALLER.get().name, now
    )
    note(request, f"joins/{called}")
    await plane.orders.refresh()
    told = {**invitation_document(called, made, now), "token": token, "ca_fingerprint": print_}
    return web.json_response({**told, "nodes_address": signing.address}, status=201)


def _signing(request: web.Request) -> Signing:
    return request.app.get(SIGNING) or Signing(None)


def invitation_document(called: str, each: Invitation, now: float) -> dict[str, object]:
    """An invitation as JSON, without what its token could be guessed by."""
    state = "used" if each.key else "expired" if now >= each.expires else "open"
    return {
        "id": called, "role": each.role, "name": each.name, "state": state, "created": each.created,
        "expires": each.expires, "by": each.by, "node": each.node, "used": each.used or None,
    }  # fmt: skip


async def get_joins(request: web.Request) -> web.Response:
    now = time.time()
    found = await membership.invitations(request.app[PLANE].store)
    listed = sorted(found, key=lambda pair: pair[1].created)
    return web.json_response({"joins": [invitation_document(invitation_id(key), each, now) for key, each in listed]})


@explained_refusals
async def delete_join(request: web.Request) -> web.Response:
    await membership.cancel(request.app[PLANE].store, text(request, "id"))
    await request.app[PLANE].orders.refresh()
    return web.Response(status=204)


def member_document(member: Member, now: float) -> dict[str, object]:
    """A member as JSON."""
    state = "revoked" if member.revoked else "expired" if member.ends and member.ends < now else "member"
    document = asdict(member)
    return {**document, "state": state, "joined": member.joined or None, "revoked": member.revoked or None}


async def get_members(request: web.Request) -> web.Response:
    now = time.time()
    found = await membership.members(request.app[PLANE].store)
    return web.json_response({"members": [member_document(member, now) for member in found]})


@explained_refusals
async def post_revoke(request: web.Request) -> web.Response:
    plane, now = request.app[PLANE], time.time()
    member = await membership.revoke(plane.store, text(request, "role"), text(request, "name"), CALLER.get().name, now)
    note(request, f"members/{member.role}/{member.name}")
    await plane.orders.refresh()
    return web.json_response(member_document(member, now))


ROUTES = (
    Route(
        "POST", "/v1/joins", post_join, ApiRole.ADMIN, "Invite a node to join", body=Schema(Invite), tag="nodes",
        answers={201: Answer("the invitation, its token (told this once), and what the new machine needs", OBJECT)},
        problems=(409, 422, 503),
    ),
    Route(
        "GET", "/v1/joins", get_joins, ApiRole.ADMIN, "Invitations to join", tag="nodes",
        answers={200: Answer("open ones, used ones, and those that expired of late", OBJECT)},
    ),
    Route(
        "DELETE", "/v1/joins/{id}", delete_join, ApiRole.ADMIN, "Take an invitation back", tag="nodes",
        answers={204: Answer("taken back")}, parts=(CALLED,), problems=(404,),
    ),
    Route(
        "GET", "/v1/members", get_members, ApiRole.READ, "Who has joined, been renewed or revoked", tag="nodes",
        answers={200: Answer("members with the end of their certificates", OBJECT)},
    ),
    Route(
        "POST", "/v1/members/{role}/{name}/revoke", post_revoke, ApiRole.ADMIN, "Refuse a node from now on",
        tag="nodes", answers={200: Answer("the member", OBJECT)}, parts=(ROLE,), problems=(422, 503),
    ),
)  # fmt: skip
