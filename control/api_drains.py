"""What drains by an operator's word: nodes, and servers of a group (control/drains.py)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

from aiohttp import web

from control import drains
from control.api_nodes import OBJECT, explained_refusals
from control.drains import Drain
from control.handling import CALLER, PLANE, body_of
from control.membership import MembershipError
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, text
from control.service import ControlPlane
from core.endpoints import endpoint, split
from core.fields import Pattern, Range
from core.model import Kind

ENDPOINT = Annotated[str, Pattern(r"[0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", "ADDRESS:PORT")]
SERVER = Parameter("server", ENDPOINT, "address and port of a server")


@dataclass(frozen=True, slots=True)
class Draining:
    """How long it may take, for those who wait for it; 0: no time is given."""

    timeout_s: Annotated[int, Range(0, 86_400, "s")] = 0


def drain_document(drain: Drain) -> dict[str, object]:
    """A drain as JSON: `node` is ROLE/NAME, `server` GROUP/ADDRESS:PORT."""
    what = {"server": f"{drain.group}/{endpoint(drain.address, drain.port)}"} if drain.group else {}
    node = {} if drain.group else {"node": f"{drain.role}/{drain.name}"}
    return {**what, **node, "since": drain.since, "by": drain.by, "timeout_s": drain.timeout_s}


async def get_drains(request: web.Request) -> web.Response:
    return web.json_response({"drains": [drain_document(each) for each in request.app[PLANE].orders.state.drains]})


@explained_refusals
async def put_node_drain(request: web.Request) -> web.Response:
    body = await body_of(request, Draining) if request.can_read_body else Draining()
    role, name = _node(request.app[PLANE], text(request, "name"))
    return await _begin(request, Drain(time.time(), CALLER.get().name, body.timeout_s, role, name))


@explained_refusals
async def delete_node_drain(request: web.Request) -> web.Response:
    plane, name = request.app[PLANE], text(request, "name")
    for each in plane.orders.state.drains:  # also of a node that is in the configuration no more
        if not each.group and each.name == name:
            return await _end(request, each)
    raise MembershipError(f"the node {name} does not drain by anybody's word", 404)


@explained_refusals
async def put_server_drain(request: web.Request) -> web.Response:
    body = await body_of(request, Draining) if request.can_read_body else Draining()
    return await _begin(request, _server(request, body.timeout_s, must_exist=True))


@explained_refusals
async def delete_server_drain(request: web.Request) -> web.Response:
    return await _end(request, _server(request, 0, must_exist=False))


async def _begin(request: web.Request, drain: Drain) -> web.Response:
    plane = request.app[PLANE]
    await drains.begin(plane.store, drain)
    await plane.orders.refresh()
    return web.json_response(drain_document(drain))


async def _end(request: web.Request, drain: Drain) -> web.Response:
    plane = request.app[PLANE]
    if not await drains.end(plane.store, drain):
        raise MembershipError(f"{drain.group}/{endpoint(drain.address, drain.port)} does not drain", 404)
    await plane.orders.refresh()
    return web.Response(status=204)


def _node(plane: ControlPlane, name: str) -> tuple[str, str]:
    """Role and name of an l4 or l7 node that is listed or reports. Raises MembershipError."""
    found = [(each.role, each.name) for each in plane.status() if each.name == name and each.role in ("l4", "l7")]
    if not found:
        known = ", ".join(sorted(each.name for each in plane.status() if each.role in ("l4", "l7"))) or "none"
        raise MembershipError(f"there is no l4 or l7 node {name!r}; there are {known}", 404)
    if len(found) > 1:
        raise MembershipError(f"there are several nodes {name!r}: {', '.join('/'.join(each) for each in found)}", 409)
    return found[0]


def _server(request: web.Request, timeout_s: float, *, must_exist: bool) -> Drain:
    """Raises MembershipError."""
    model, group, at = request.app[PLANE].current.model, text(request, "group"), text(request, "server")
    address, port = split(at) or ("", 0)
    drain = Drain(time.time(), CALLER.get().name, timeout_s, group=group, address=address, port=port)
    if not must_exist:
        return drain
    listed = model.server_groups.get(group)
    spread = model.availability_groups.get(group)
    if listed is None and spread is None:
        raise MembershipError(f"there is no group {group!r}; `paifang get {Kind.SERVER_GROUPS}` lists them", 404)
    servers = (listed.servers if listed else ()) + (spread.members if spread else ())
    if spread is None or not spread.dns:  # what DNS knows is known to the nodes alone
        known = [endpoint(each.address, each.port) for each in servers]
        if at not in known:
            raise MembershipError(f"{group} has no server {at}; it has {', '.join(known[:8]) or 'none'}", 404)
    return drain


ROUTES = (
    Route(
        "GET", "/v1/drains", get_drains, ApiRole.READ, "What drains by an operator's word", tag="nodes",
        answers={200: Answer("nodes and servers", OBJECT)},
    ),
    Route(
        "PUT", "/v1/drains/nodes/{name}", put_node_drain, ApiRole.OPERATE, "Have a node take nothing new",
        body=Schema(Draining), tag="nodes", answers={200: Answer("the drain", OBJECT)}, problems=(404, 409, 422),
    ),
    Route(
        "DELETE", "/v1/drains/nodes/{name}", delete_node_drain, ApiRole.OPERATE, "Have a node serve again",
        tag="nodes", answers={204: Answer("it serves again")}, problems=(404,),
    ),
    Route(
        "PUT", "/v1/drains/servers/{group}/{server}", put_server_drain, ApiRole.OPERATE,
        "Have a server of a group get nothing new", body=Schema(Draining), tag="nodes", parts=(SERVER,),
        answers={200: Answer("the drain", OBJECT)}, problems=(404, 422),
    ),
    Route(
        "DELETE", "/v1/drains/servers/{group}/{server}", delete_server_drain, ApiRole.OPERATE,
        "Have a server serve again", tag="nodes", parts=(SERVER,), answers={204: Answer("it serves again")},
        problems=(404,),
    ),
)  # fmt: skip
