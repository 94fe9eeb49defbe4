"""Members that register themselves in availability groups, with a time to live (control/registered.py)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from aiohttp import web

from control import registered
from control.api_nodes import OBJECT, explained_refusals
from control.audit import note
from control.handling import CALLER, PLANE, body_of
from control.membership import MembershipError
from control.registered import FullError, Registration
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, text
from core.endpoints import endpoint, split
from core.fields import Pattern, Range

ENDPOINT = Annotated[str, Pattern(r"[0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", "ADDRESS:PORT")]
MEMBER = Parameter("member", ENDPOINT, "address and port of a member")
Place = Annotated[str, Pattern(r"[^\x00-\x1f\x7f]{0,80}", "text of at most 80 characters on one line")]


@dataclass(frozen=True, slots=True)
class Member:
    """What a member says of itself. It has to say it again before `ttl_s` are over."""

    weight: Annotated[int, Range(0, 100)] = 100
    zone: Place = ""
    rack: Place = ""
    ttl_s: Annotated[int, Range(5, 86_400, "s")] = 30


async def get_members(request: web.Request) -> web.Response:
    group = _group(request)
    now = time.time()
    rows = [_document(each, now) for each in request.app[PLANE].orders.state.registered if each.group == group]
    return web.json_response({"members": rows})


@explained_refusals
async def put_member(request: web.Request) -> web.Response:
    plane, group = request.app[PLANE], _group(request)
    said = await body_of(request, Member) if await request.read() else Member()
    address, port = _endpoint(request)
    now = time.time()
    member = Registration(
        group, address, port, now + said.ttl_s, said.ttl_s, CALLER.get().name, said.weight, said.zone, said.rack
    )
    known = [each for each in plane.orders.state.registered if each.expires > now]
    try:
        await registered.register(plane.store, member, known)
    except FullError as error:
        raise MembershipError(str(error), 409) from None
    if member.server not in [each.server for each in known if each.key == member.key]:  # else it is still there
        note(request, f"availability_groups/{group}", f"members/{endpoint(address, port)}")
    await plane.orders.refresh()
    return web.json_response(_document(member, now))


@explained_refusals
async def delete_member(request: web.Request) -> web.Response:
    plane, group = request.app[PLANE], _group(request)
    address, port = _endpoint(request)
    if not await registered.leave(plane.store, Registration(group, address, port, 0, 0, "").key):
        raise MembershipError(f"{group} has no registered member {endpoint(address, port)}", 404)
    await plane.orders.refresh()
    return web.Response(status=204)


def _group(request: web.Request) -> str:
    """Raises MembershipError."""
    name = text(request, "name")
    group = request.app[PLANE].current.model.availability_groups.get(name)
    if group is None:
        raise MembershipError(f"there is no availability_groups/{name}", 404)
    if not group.registered:
        raise MembershipError(f"availability_groups/{name} takes no registered members: give registered = true", 409)
    return name


def _endpoint(request: web.Request) -> tuple[str, int]:
    """Raises MembershipError."""
    at = text(request, "member")
    address, port = split(at) or ("", 0)
    try:
        parsed = ip_address(address)
    except ValueError:
        raise MembershipError(f"{at} is not the address and port of a server", 422) from None
    if not 0 < port <= 65535 or parsed.is_multicast or parsed.is_unspecified or parsed.is_link_local:
        raise MembershipError(f"{at} is not the address and port of a server", 422)
    return str(parsed), port


def _document(member: Registration, now: float) -> dict[str, object]:
    return {
        "member": endpoint(member.address, member.port), "weight": member.weight, "zone": member.zone,
        "rack": member.rack, "ttl_s": member.ttl_s, "left_s": round(max(member.expires - now, 0.0), 1), "by": member.by,
    }  # fmt: skip


_PLACE = "/v1/availability_groups/{name}/members"
ROUTES = (
    Route(
        "GET", _PLACE, explained_refusals(get_members), ApiRole.READ, "Members that have registered themselves",
        tag="availability_groups", answers={200: Answer("the members", OBJECT)}, problems=(404, 409),
    ),
    Route(
        "PUT", f"{_PLACE}/{{member}}", put_member, ApiRole.OPERATE, "Register a member, or say that it is still there",
        body=Schema(Member), tag="availability_groups", parts=(MEMBER,), problems=(404, 409, 422), audited=False,
        answers={200: Answer("the member", OBJECT)},
    ),
    Route(
        "DELETE", f"{_PLACE}/{{member}}", delete_member, ApiRole.OPERATE, "Take a registered member out",
        tag="availability_groups", parts=(MEMBER,), answers={204: Answer("it is out")}, problems=(404, 409, 422),
    ),
)  # fmt: skip
