"""What the cluster does: topology with its traffic."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web

from control.handling import PLANE
from control.observing import OBSERVER
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, number, text
from control.topology import LISTED
from core.fields import NAME, Range

LISTED_MOST = 1000


async def get_topology(request: web.Request) -> web.Response:
    instance = text(request, "instance")
    if instance and instance not in request.app[PLANE].current.model.instances:
        raise web.HTTPNotFound(text=f"there is no instance {instance!r}")
    document = request.app[OBSERVER].topology(instance, number(request, "limit"))
    return web.json_response(document, headers={"Cache-Control": "no-store"})


INSTANCE = Parameter("instance", Annotated[str, NAME], "the listeners and groups of this instance alone", "")
LIMIT = Parameter(
    "limit", Annotated[int, Range(1, LISTED_MOST)], "of each list, and of the servers of each group", LISTED
)
ROUTES = (
    Route(
        "GET", "/v1/topology", get_topology, ApiRole.READ, "The cluster, and what passes through it now",
        (INSTANCE, LIMIT), answers={200: Answer("the picture", Schema({"$ref": "Topology"}))}, problems=(404,),
        tag="state", description="Rates are those of the last seconds (`window_s`). What a tier does not count is "
        "null. Of servers at most 2,000 are told, those that are down first; the numbers of all stand beside.",
    ),
)  # fmt: skip
