"""Draining nodes: they take nothing new until they are told to serve again (control/drains.py)."""

from __future__ import annotations

import time
from dataclasses import asdict

from aiohttp import web

from control import drains
from control.api_nodes import OBJECT, explained_refusals
from control.drains import Drain
from control.handling import CALLER, PLANE
from control.membership import MembershipError
from control.roles import ApiRole
from control.routes import Answer, Route, text
from control.service import ControlPlane

ROLES = ("l4", "l7")


async def get_drains(request: web.Request) -> web.Response:
    return web.json_response({"drains": [asdict(each) for each in request.app[PLANE].orders.state.drains]})


@explained_refusals
async def put_drain(request: web.Request) -> web.Response:
    plane = request.app[PLANE]
    role, name = _node(plane, text(request, "name"))
    drain = await drains.begin(plane.store, Drain(role, name, time.time(), CALLER.get().name))
    await plane.orders.refresh()
    return web.json_response(asdict(drain))


@explained_refusals
async def delete_drain(request: web.Request) -> web.Response:
    plane, name = request.app[PLANE], text(request, "name")
    found = [each for each in plane.orders.state.drains if each.name == name]  # also of a node that is gone
    if not found:
        raise MembershipError(f"the node {name} does not drain by anybody's word", 404)
    for each in found:
        await drains.end(plane.store, each)
    await plane.orders.refresh()
    return web.Response(status=204)


def _node(plane: ControlPlane, name: str) -> tuple[str, str]:
    """Role and name of an l4 or l7 node that is listed or reports. Raises MembershipError."""
    known = [(each.role, each.name) for each in plane.status() if each.role in ROLES]
    found = [each for each in known if each[1] == name]
    if not found:
        there = ", ".join(sorted(each for _, each in known)) or "none"
        raise MembershipError(f"there is no l4 or l7 node {name!r}; there are {there}", 404)
    if len(found) > 1:
        raise MembershipError(f"there are several nodes {name!r}: {', '.join('/'.join(each) for each in found)}")
    return found[0]


ROUTES = (
    Route(
        "GET", "/v1/drains", get_drains, ApiRole.READ, "Nodes that drain by an operator's word", tag="nodes",
        answers={200: Answer("the nodes, since when, and by whom", OBJECT)},
    ),
    Route(
        "PUT", "/v1/drains/{name}", put_drain, ApiRole.OPERATE, "Have a node take nothing new", tag="nodes",
        answers={200: Answer("the drain", OBJECT)}, problems=(404, 409),
    ),
    Route(
        "DELETE", "/v1/drains/{name}", delete_drain, ApiRole.OPERATE, "Have a node serve again", tag="nodes",
        answers={204: Answer("it serves again")}, problems=(404,),
    ),
)  # fmt: skip
