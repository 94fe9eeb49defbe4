"""The nodes' API, on a port of its own under mutual TLS: who a node is comes from its certificate, never from a body.

GET /v1/node/config?after=VERSION[&tag=TAG][&wait=SECONDS] answers with {"version", "tag", "config"} as soon as the
current version is another than `after` (not only a newer one: a restored control plane may have gone back), and 204
after at most 25 s. Whoever gives the tag that came with its version may get "changes" (core/delta.py) in place of
"config". An l7 node gets "cookie_secret" too, in hexadecimal digits. 503 where our storage is away and we know of
nothing newer: another control node may.
POST /v1/node/metering takes a delivery (core/usage.py) and answers with {"applied", "now"}: the number of the last one
of its epoch that has been counted, and what time it is.
POST /v1/node/report takes {"version", "rejected": null | {"version", "why"}, "report": {…}}.
GET /v1/node/orders?after=REVISION[&wait=SECONDS] answers likewise with what is wanted besides (control/orders.py).
GET /v1/node/questions[?wait=SECONDS] answers with {"questions": [{"id", "kind", "arguments", "timeout_s"}]} as soon as
something is asked of the node, and 204 after at most 25 s. POST /v1/node/answer takes {"id", "answer"} or
{"id", "error"} (control/questions.py).
POST /v1/node/renew takes {"request": PEM} and answers {"certificate": PEM}.

Machines that have no certificate yet are let in while an invitation is open, and no further than this:
GET /v1/ca gives the CA's certificate, whose fingerprint the newcomer knows. POST /v1/join takes {"token", "name",
"request"} and answers {"role", "name", "certificate"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from aiohttp import web

from certs.authority import AuthorityError
from control import membership, reported
from control.distribution import Distribution, made_of
from control.membership import MembershipError
from control.metering_keep import BusyError
from control.node.identity import IdentityError, generation_of, peer_of
from control.node.questions import ANSWER_LIMIT_BYTES
from control.problem import problem
from control.service import ControlPlane
from control.signing import SIGNING, Signing
from control.store import StoreUnavailableError
from core.usage import Delivery

log = logging.getLogger(__name__)

ROLES = frozenset({"l4", "l7", "keyserver"})
FOLLOWERS = frozenset({"l4", "l7"})  # who gets the configuration
LONGEST_WAIT_S = 25.0
REPORT_LIMIT_BYTES = 1 << 24  # 250 bytes of counters and health for each of 64,000 servers
STRANGERS_LIMIT_BYTES = 16_384
STRANGERS_BODY_S = 15.0
STRANGERS = frozenset({"/v1/ca", "/v1/join"})
PLANE = web.AppKey("plane", ControlPlane)
DISTRIBUTION = web.AppKey("distribution", Distribution)
PEER = web.RequestKey("peer", tuple[str, str, int])  # role, name, generation
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Links:
    """The connections of nodes that are open."""

    def __init__(self) -> None:
        self.open: WeakKeyDictionary[asyncio.Transport, tuple[str, str, int]] = WeakKeyDictionary()


LINKS = web.AppKey("links", Links)


def application(plane: ControlPlane, signing: Signing | None = None) -> web.Application:
    """The node API; to be served with `Identity.server_context(ROLES, …)` only. Without `signing`, nobody can join."""
    app = web.Application(client_max_size=REPORT_LIMIT_BYTES, middlewares=[explained, known])
    app[PLANE] = plane
    app[DISTRIBUTION] = Distribution()
    app[SIGNING] = signing or Signing(None)
    app[LINKS] = Links()
    app.add_routes(
        [
            web.get("/v1/node/config", get_config),
            web.post("/v1/node/report", post_report),
            web.post("/v1/node/metering", post_metering),
            web.get("/v1/node/orders", get_orders),
            web.get("/v1/node/questions", get_questions),
            web.post("/v1/node/answer", post_answer),
            web.post("/v1/node/renew", post_renew),
            web.get("/v1/ca", get_ca),
            web.post("/v1/join", post_join),
        ]
    )
    plane.orders.changed = lambda: cut_off(app)
    return app


def cut_off(app: web.Application) -> None:
    """Cut the links of those who are refused from now on."""
    for transport, peer in list(app[LINKS].open.items()):
        if not transport.is_closing() and (why := app[PLANE].orders.why_not(*peer)):
            log.warning("link cut: %s", why)
            transport.abort()


# --- middlewares, outermost first


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (MembershipError, AuthorityError) as error:
        log.warning("%s of %s refused: %s", request.path, request.get(PEER, request.remote), error)
        return problem(getattr(error, "status", 422), str(error))
    except StoreUnavailableError as error:
        return problem(503, str(error), headers={"Retry-After": "1"})


@web.middleware
async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who asks: a node that is not refused, or a stranger who wants to join and nothing else."""
    assert request.transport is not None
    tls = request.transport.get_extra_info("ssl_object")
    try:
        role, name = peer_of(tls)
    except IdentityError:
        if request.path not in STRANGERS:
            return problem(401, "who has no certificate of the cluster may only join it: `paifang join`")
        return await handler(request)
    generation = generation_of(tls)
    if why := request.app[PLANE].orders.why_not(role, name, generation):
        response = problem(403, why)
        response.force_close()  # it may have joined anew: the next connection tells
        return response
    request[PEER] = request.app[LINKS].open[request.transport] = (role, name, generation)
    return await handler(request)


# --- the configuration and reports


def _wait_s(request: web.Request) -> float:
    """Raises ValueError."""
    wait_s = float(request.query.get("wait", LONGEST_WAIT_S))
    if math.isnan(wait_s):  # it is neither early nor late, and would put the event loop's timers out of order
        raise ValueError("not a number")
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)


async def get_config(request: web.Request) -> web.Response:
    role, _, _ = request[PEER]
    if role not in FOLLOWERS:
        return problem(403, f"a node of role {role} has no configuration from here")
    try:
        after, wait_s = int(request.query.get("after", "0")), _wait_s(request)
    except ValueError:
        return problem(400, "after and wait are numbers")
    try:
        current = await request.app[PLANE].newer_than(after, wait_s, made_of(request.query.get("tag", "")))
    except StoreUnavailableError as error:
        return problem(503, str(error))
    if current is None:
        return web.Response(status=204)
    besides = {"cookie_secret": request.app[PLANE].cookie_secret.hex()} if role == "l7" else {}
    body = request.app[DISTRIBUTION].answer(current, request.query.get("tag", ""), besides)
    return web.Response(body=body, content_type="application/json")


async def post_report(request: web.Request) -> web.Response:
    role, name, _ = request[PEER]
    try:
        said = reported.read(await request.read())
    except ValueError as error:
        log.warning("%s %s sends a report that is none: %s", role, name, error)
        return problem(400, f'a report is {{"version": N, "rejected": null, "report": {{}}}}: {error}')
    request.app[PLANE].report(role, name, said.version, said.rejected, said.facts)
    return web.Response(status=204)


async def post_metering(request: web.Request) -> web.Response:
    """Counts what a node has counted, once, however often it is sent."""
    role, name, _ = request[PEER]
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


# --- questions


async def get_questions(request: web.Request) -> web.Response:
    role, name, _ = request[PEER]
    try:
        wait_s = _wait_s(request)
    except ValueError:
        return problem(400, "wait is a number")

    def alive() -> bool:
        return request.transport is not None and not request.transport.is_closing()

    asked = await request.app[PLANE].questions.poll(role, name, wait_s, alive)
    return web.json_response({"questions": asked}) if asked else web.Response(status=204)


async def post_answer(request: web.Request) -> web.Response:
    """204 also for one that comes too late: the node has done its part."""
    role, name, _ = request[PEER]
    body = await request.read()
    if len(body) > ANSWER_LIMIT_BYTES:
        return problem(413, f"an answer may have {ANSWER_LIMIT_BYTES} bytes")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return problem(400, "the body is not JSON")
    if not isinstance(answer, dict) or not {"answer", "error"} & answer.keys():
        return problem(400, 'an answer is {"id", "answer"} or {"id", "error"}')
    if not request.app[PLANE].questions.answered(role, name, answer):
        log.info("%s %s answers what nobody asks, or not any more", role, name)
    return web.Response(status=204)


# --- membership


async def get_orders(request: web.Request) -> web.Response:
    role, name, _ = request[PEER]
    try:
        wait_s = _wait_s(request)
    except ValueError:
        return problem(400, "wait is a number")
    orders = request.app[PLANE].orders
    if not await orders.other_than(request.query.get("after", ""), wait_s):
        return web.Response(status=204)
    return web.json_response(orders.for_node(role, name))


async def post_renew(request: web.Request) -> web.Response:
    role, name, generation = request[PEER]
    pem = _text(await _document(request), "request")
    certificate, ends = request.app[SIGNING].certify(pem, role, name, generation)
    await membership.certified(request.app[PLANE].store, role, name, generation, time.time(), ends)
    await request.app[PLANE].orders.refresh()
    log.info("identity of %s %s renewed", role, name)
    return web.json_response({"certificate": certificate})


async def get_ca(request: web.Request) -> web.Response:
    return web.Response(text=request.app[SIGNING].ca_pem, content_type="application/x-pem-file")


async def post_join(request: web.Request) -> web.Response:
    document = await _document(request)
    token, name, pem = (_text(document, each) for each in ("token", "name", "request"))
    plane, signing = request.app[PLANE], request.app[SIGNING]
    member = await membership.join(plane.store, token, name, signing.key_of(pem), time.time())
    certificate, ends = signing.certify(pem, member.role, member.name, member.generation)
    await membership.certified(plane.store, member.role, member.name, member.generation, time.time(), ends)
    await plane.orders.refresh()
    log.info("%s %s has joined from %s by the invitation of %s", member.role, member.name, request.remote, member.by)
    return web.json_response({"role": member.role, "name": member.name, "certificate": certificate})


async def _document(request: web.Request) -> dict[str, object]:
    """Raises MembershipError."""
    body = b""
    try:
        async with asyncio.timeout(STRANGERS_BODY_S):
            while not request.content.at_eof() and len(body) <= STRANGERS_LIMIT_BYTES:
                body += await request.content.read(STRANGERS_LIMIT_BYTES + 1 - len(body))
    except TimeoutError:
        raise MembershipError(f"the body was not here within {STRANGERS_BODY_S:g} s", 408) from None
    if len(body) > STRANGERS_LIMIT_BYTES:
        raise MembershipError(f"a request may have {STRANGERS_LIMIT_BYTES} bytes", 413)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise MembershipError("the body is not JSON", 400) from None
    if not isinstance(document, dict):
        raise MembershipError("the body is a JSON object", 400)
    return document


def _text(document: dict[str, object], name: str) -> str:
    """Raises MembershipError."""
    value = document.get(name, "")
    if not isinstance(value, str) or not value.isascii():  # JSON can say half a character, which nothing encodes
        raise MembershipError(f"{name} is a string of ASCII", 400)
    return value
