"""What the cluster is doing: health of the control plane, nodes, certificates, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from aiohttp import web

from certs import inventory
from certs.chain import inspect
from control import exporter, groups, membership
from control.handling import ETAG, PLANE, json_of, status_document, versioned
from control.node import metrics
from control.observing import OBSERVER
from control.roles import ApiRole
from control.routes import Answer, Route, Schema
from control.service import ControlPlane


async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "version": request.app[PLANE].current.version})


async def get_status(request: web.Request) -> web.Response:
    plane = request.app[PLANE]
    nodes = [status_document(status) for status in plane.status()]
    ending = await asyncio.to_thread(inventory.warnings, plane.current.model, datetime.now(UTC))
    away = plane.store.away()
    identities = membership.warnings(plane.orders.state.members, time.time())
    lost = [f"the storage is away: {away}"] if away else []
    current = plane.current
    remarks = await asyncio.to_thread(lambda: current.remarks)
    warnings = [*lost, *ending.values(), *_not_got(plane), *identities, *remarks]
    found = groups.document(plane.current.model, [status.facts for status in plane.status()])
    document = {"version": plane.current.version, "nodes": nodes, "warnings": warnings, "groups": found}
    return web.json_response(document)


def _not_got(plane: ControlPlane) -> list[str]:
    """What the issuer of certificates could not get, and why."""
    texts = {name: told.get("text") for name, told in plane.issuance.items() if isinstance(told, dict)}
    return [f"certificate {name!r}: {text}" for name, text in texts.items() if str(text).startswith("failed: ")]


async def get_inventory(request: web.Request) -> web.Response:
    """Every certificate: what stands in it, who uses it, and what keeps it from being served, here or on a node."""
    plane = request.app[PLANE]
    current, issuance = plane.current, plane.issuance
    reported = inventory.reported([status.facts for status in plane.status()])

    def look(now: datetime) -> list[Mapping[str, object]]:
        found: list[Mapping[str, object]] = []
        for entry in inventory.entries(current.model, now):
            chain = current.model.certificates[entry.name].chain
            problems = inspect(chain, now).problems if chain else ("there is no chain yet",)
            document = inventory.document(entry, (*problems, *reported.get(entry.name, ())))
            found.append({**document, "issuance": issuance.get(entry.name)})
        return found

    return versioned(current.version, {"certificates": await asyncio.to_thread(look, datetime.now(UTC))})


async def post_issuance(request: web.Request) -> web.Response:
    """What the issuer of certificates says of them; 409 while another is at work: two would use up the CA's limits."""
    body = await json_of(request)
    issuer = body.get("issuer") if isinstance(body, dict) else None
    told = body.get("certificates") if isinstance(body, dict) else None
    if not isinstance(issuer, str) or not issuer or not isinstance(told, dict):
        raise web.HTTPBadRequest(text='give {"issuer": "NAME", "certificates": {"NAME": {}}}')
    plane = request.app[PLANE]
    kept = {name: each for name, each in told.items() if name in plane.current.model.certificates}
    if other := plane.issuing(issuer, kept):
        raise web.HTTPConflict(text=f"the issuer {other!r} is at work; one in a cluster is enough")
    return web.Response(status=204)


async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus' text; its scraper gives the token as any other client."""
    plane = request.app[PLANE]
    certificates = await asyncio.to_thread(inventory.entries, plane.current.model, datetime.now(UTC))
    observer = request.app[OBSERVER]
    told = exporter.families(
        plane.current.version, plane.status(), certificates, observer.charts.dropped, observer.history.failures
    )
    return web.Response(body=b"".join(metrics.render(told)), headers={"Content-Type": metrics.CONTENT_TYPE})


def _answer(what: str, component: str) -> Mapping[int, Answer]:
    return {200: Answer(what, Schema({"$ref": component}))}


ROUTES = (
    Route(
        "GET", "/v1/healthz", healthz, None, "Whether the control plane serves", tag="state",
        answers=_answer("it does", "Health"),
    ),
    Route(
        "GET", "/v1/status", get_status, ApiRole.READ, "Which node runs what, and why not", tag="state",
        answers=_answer("the nodes, and what will go wrong soon", "Status"),
    ),
    Route(
        "GET", "/v1/inventory", get_inventory, ApiRole.READ, "The certificates that are served", tag="state",
        answers={200: Answer("each with names, issuer, key, end, users and problems", Schema({"$ref": "Inventory"}),
                             (ETAG,))},
    ),
    Route(
        "POST", "/v1/issuance", post_issuance, ApiRole.ADMIN, "What the issuer of certificates does", tag="state",
        body=Schema({"$ref": "Issuance"}), answers={204: Answer("kept")}, problems=(409, 413), audited=False,
    ),
    Route(
        "GET", "/v1/metrics", get_metrics, ApiRole.READ, "Prometheus' text", tag="state",
        answers={200: Answer("the metrics", Schema({"type": "string"}, "text/plain"))},
    ),
)  # fmt: skip
