"""The nodes' API, on a port of its own under mutual TLS: who a node is comes from its certificate, never from a body.

GET /v1/node/config?after=VERSION[&tag=TAG][&wait=SECONDS] answers with {"version", "tag", "config"} as soon as the
current version is another than `after` (not only a newer one: a restored control plane may have gone back), and 204
after at most 25 s. Whoever gives the tag that came with its version may get "changes" (core/delta.py) in place of
"config". An l7 node gets "cookie_secret" too, in hexadecimal digits. 503 where our storage is away and we know of
nothing newer: another control node may.
POST /v1/node/metering takes a delivery (core/usage.py) and answers with {"applied", "now"}: the number of the last one
of its epoch that has been counted, and what time it is.
POST /v1/node/report takes {"version", "rejected": null | {"version", "why"}, "report": {…}}.
"""

from __future__ import annotations

import json
import logging

from aiohttp import web

from control.distribution import Distribution
from control.metering_keep import BusyError
from control.node.identity import peer_of
from control.problem import problem
from control.service import ControlPlane
from control.store import StoreUnavailableError
from core.usage import Delivery

log = logging.getLogger(__name__)

ROLES = frozenset({"l4", "l7"})
LONGEST_WAIT_S = 25.0
REPORT_LIMIT_BYTES = 1 << 24  # 250 bytes of counters and health for each of 64,000 servers
WHY_LIMIT = 2000
PLANE = web.AppKey("plane", ControlPlane)
DISTRIBUTION = web.AppKey("distribution", Distribution)


def application(plane: ControlPlane) -> web.Application:
    """The node API; to be served with `Identity.server_context(ROLES)` only."""
    app = web.Application(client_max_size=REPORT_LIMIT_BYTES)
    app[PLANE] = plane
    app[DISTRIBUTION] = Distribution()
    app.add_routes(
        [
            web.get("/v1/node/config", get_config),
            web.post("/v1/node/report", post_report),
            web.post("/v1/node/metering", post_metering),
        ]
    )
    return app


async def get_config(request: web.Request) -> web.Response:
    try:
        after = int(request.query.get("after", "0"))
        wait_s = min(max(float(request.query.get("wait", LONGEST_WAIT_S)), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return problem(400, "after and wait are numbers")
    try:
        current = await request.app[PLANE].newer_than(after, wait_s)
    except StoreUnavailableError as error:
        return problem(503, str(error))
    if current is None:
        return web.Response(status=204)
    assert request.transport is not None
    role, _ = peer_of(request.transport.get_extra_info("ssl_object"))
    besides = {"cookie_secret": request.app[PLANE].cookie_secret.hex()} if role == "l7" else {}
    body = request.app[DISTRIBUTION].answer(current, request.query.get("tag", ""), besides)
    return web.Response(body=body, content_type="application/json")


async def post_report(request: web.Request) -> web.Response:
    assert request.transport is not None
    role, name = peer_of(request.transport.get_extra_info("ssl_object"))
    try:
        document = json.loads(await request.read())
        version, facts, rejected = document["version"], document["report"], document.get("rejected")
        refusal = None if rejected is None else (int(rejected["version"]), str(rejected["why"])[:WHY_LIMIT])
        if not isinstance(version, int) or not isinstance(facts, dict):
            raise TypeError("wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s %s sends a report that is none: %r", role, name, error)
        return problem(400, 'a report is {"version": N, "rejected": null, "report": {}}')
    request.app[PLANE].report(role, name, version, refusal, facts)
    return web.Response(status=204)


async def post_metering(request: web.Request) -> web.Response:
    """Counts what a node has counted, once, however often it is sent."""
    assert request.transport is not None
    role, name = peer_of(request.transport.get_extra_info("ssl_object"))
    keep = request.app[PLANE].metering
    try:
        delivery = Delivery.of(json.loads(await request.read()))
    except (ValueError, RecursionError) as error:
        log.warning("%s %s sends a delivery of metering that is none: %s", role, name, error)
        return problem(400, str(error))
    try:
        applied = await keep.take(role, name, delivery)
    except (BusyError, StoreUnavailableError) as error:
        return problem(503, str(error))
    return web.json_response({"applied": applied, "now": keep.now()})
