"""What would happen to a packet or request by the configuration that runs, or by a version; and what does happen to a
live one, by asking the nodes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from aiohttp import web

from control.explaining import Asked, Secrets, explain_flow, explain_request, reports, resolved
from control.handling import PLANE, VERSION_LIMIT
from control.live import live
from control.questions import QuestionError
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, text, texts
from control.service import ControlPlane
from core.endpoints import endpoint
from core.explain import ExplainError
from core.fields import Pattern, Range

ASK_S = 3.0
AT_A_TIME = 2  # processes that explain requests
TURNS = web.AppKey("explain_turns", asyncio.Semaphore)
HEADERS_LIMIT = 128
Text = Annotated[str, Pattern(r"[^\r\n]{0,16384}", "one line of at most 16384 characters")]
Transport = Annotated[str, Pattern(r"tcp|udp", "tcp or udp")]


async def get_explain(request: web.Request) -> web.Response:
    plane = request.app[PLANE]
    wanted = Asked(
        text(request, "url"), text(request, "method"), texts(request, "header"), asked(request)["sni"],  # type: ignore[arg-type]
        text(request, "protocol"), text(request, "from"), text(request, "to"),
    )  # fmt: skip
    if bool(wanted.url) is bool(wanted.protocol) or len(wanted.headers) > HEADERS_LIMIT:
        raise web.HTTPBadRequest(text=f"give url, or protocol with from and to; and {HEADERS_LIMIT} headers at most")
    version, turns = asked(request)["version"], request.app[TURNS]
    nodes = plane.status()
    model = plane.current.model if not isinstance(version, int) else (await plane.store.get(version))[1]
    model = resolved(model, nodes)
    current = not isinstance(version, int) or version == plane.current.version
    told = reports(nodes if current else ())
    secrets = Secrets(None, plane.cookie_secret if current else b"")
    try:
        ends = wanted.ends()
        if wanted.url:
            found = await explain_request(model, wanted, told, secrets, turns)
            if current and (said := await _ask_which(plane, found, ends[0], model)):
                found = await explain_request(model, wanted, told, Secrets(None, secrets.cookie_secret, said), turns)
        else:
            found = explain_flow(model, wanted, told, secrets)
            if current and (said := await _ask_which(plane, found, ends[0], model)):
                found = explain_flow(model, wanted, told, Secrets(None, said=said))
    except ExplainError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return web.json_response({"version": plane.current.version if current else version, **found})


async def _ask_which(
    plane: ControlPlane, found: dict[str, Any], client: tuple[str, int] | None, model: Any
) -> tuple[str, str] | None:
    """Which server the hash says, by a node, which has the seed; and which node. None: none is asked, or answers."""
    listener = model.listeners.get(found.get("listener", ""))
    if client is None or not client[1] or listener is None or (found.get("server") and not found.get("url")):
        return None
    if not found.get("hashed", True) or found.get("l7_node"):
        return None
    vip = found.get("vip", "")
    vip = vip if not found.get("url") else endpoint(vip, listener.port)
    arguments = {"protocol": found.get("protocol", "tcp"), "client": endpoint(*client), "vip": vip}
    for name in plane.questions.nodes("l4")[:2] if vip else ():
        try:
            answer = await plane.questions.ask("l4", name, "chosen", arguments, ASK_S)
        except QuestionError:
            continue
        if isinstance(answer, dict) and answer.get("server"):
            return str(answer["server"]), name
    return None


async def get_live(request: web.Request) -> web.Response:
    plane = request.app[PLANE]
    number = text(request, "request_id")
    wanted = Asked(protocol=text(request, "protocol"), client=text(request, "from"), to=text(request, "to"))
    if bool(number) is bool(wanted.protocol):
        raise web.HTTPBadRequest(text="give request_id, or protocol with from and to")
    try:
        if number:
            found = await live(plane.questions, request_id=number)
        else:
            client, vip = wanted.ends()
            if client is None or not client[1] or not vip[1]:
                raise ExplainError("give both ends, CLIENT:PORT and VIP:PORT")
            found = await live(plane.questions, wanted.protocol, client, vip)
    except ExplainError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return web.json_response(found)


FROM = Parameter("from", Text, "the client, ADDRESS or ADDRESS:PORT", "")
PROTOCOL = Parameter("protocol", Transport, "of a flow, tcp or udp", "")
EXPLAINED = Schema({"type": "object", "properties": {"outcome": {"type": "string"}, "steps": {"type": "array"}}})
ROUTES = (
    Route(
        "GET", "/v1/explain", get_explain, ApiRole.READ, "What would happen to a request, or to a flow", tag="state",
        query=(
            Parameter("url", Text, "of a request", ""), Parameter("method", Text, "of a request", "GET"),
            Parameter("header", Text, "a line of a request's head, NAME: VALUE", many=True),
            Parameter("sni", Text, "the name that the client gives in its handshake; by default the URL's host"),
            PROTOCOL, FROM, Parameter("to", Text, "the VIP; of a flow with its port", ""),
            Parameter("version", Annotated[int, Range(1, VERSION_LIMIT)], "by this version, not by the current one"),
        ),
        answers={200: Answer("the steps, each with the object that decides, and the outcome", EXPLAINED)},
        problems=(404,),
    ),
    Route(
        "GET", "/v1/explain/live", get_live, ApiRole.OPERATE, "What does happen to a connection, or did to a request",
        tag="state",
        query=(
            PROTOCOL, FROM, Parameter("to", Text, "the VIP with its port", ""),
            Parameter("request_id", Annotated[str, Pattern(r"|[A-Za-z0-9._~+/=:@-]{1,128}", "a request id")],
                      "that of an access log", ""),
        ),
        answers={200: Answer("what each node knows of it", Schema({"type": "object"}))},
    ),
)  # fmt: skip
