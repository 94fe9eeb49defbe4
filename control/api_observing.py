"""What the cluster does: topology with its traffic, charts, events."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from aiohttp import web

from control import series
from control.handling import PLANE
from control.happenings import EventKind
from control.observing import OBSERVER
from control.questions import QuestionError
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, number, text, texts
from control.talkers import By, Tier, together
from control.topology import LISTED
from core.fields import NAME, Pattern, Range

LISTED_MOST = 1000
EVENTS = 100
ASK_S = 5.0
NODES_MOST = 64  # that are asked
TIME_MOST = 1 << 40
DEFAULT_S = 3600
_NAME = f"(?:{NAME.regex})"
OF = rf"total|listeners/{_NAME}|nodes/l[47]/{_NAME}|groups/(?:server|availability)_groups/{_NAME}"
FRESH = {"Cache-Control": "no-store"}


async def get_topology(request: web.Request) -> web.Response:
    instance = text(request, "instance")
    if instance and instance not in request.app[PLANE].current.model.instances:
        raise web.HTTPNotFound(text=f"there is no instance {instance!r}")
    document = request.app[OBSERVER].topology(instance, number(request, "limit"))
    return web.json_response(document, headers=FRESH)


async def get_series(request: web.Request) -> web.Response:
    observer, of, now = request.app[OBSERVER], text(request, "of"), time.time()
    end, start = asked(request)["to"], asked(request)["from"]
    end_s = float(end) if isinstance(end, int) else now
    start_s = float(start) if isinstance(start, int) else max(0.0, end_s - DEFAULT_S)
    if start_s >= end_s:
        raise web.HTTPBadRequest(text="from is earlier than to")
    wanted = series.Asked.of(start_s, end_s, number(request, "step"), now)
    found = await asyncio.to_thread(observer.chart, of, wanted)
    if found is None and not _exists(request, of):
        raise web.HTTPNotFound(text=f"there is no {of}")
    document = {
        "of": of, "start": wanted.start, "step_s": wanted.step, "kept": found is not None,
        "series": found if found is not None else series.answer(wanted, (), 0, 0),
        "dropped": dict(observer.charts.dropped),
    }  # fmt: skip
    return web.json_response(document, headers=FRESH)


def _exists(request: web.Request, of: str) -> bool:
    """Whether the configuration or a report has it: it may have come just now, or be one too many."""
    plane = request.app[PLANE]
    kind, _, name = of.partition("/")
    if kind == "nodes":
        return any(f"{each.role}/{each.name}" == name for each in plane.status())
    if kind == "groups":
        kind, _, name = name.partition("/")
    return of == series.TOTAL or name in getattr(plane.current.model, kind)


async def get_events(request: web.Request) -> web.Response:
    """In order; `next` is what `after` gets for those that come after them."""
    history, limit = request.app[OBSERVER].history, number(request, "limit")
    after, before = asked(request)["after"], asked(request)["before"]
    found = await asyncio.to_thread(
        lambda: history.events(
            after=after if isinstance(after, int) else None,
            before=before if isinstance(before, int) else None,
            limit=limit,
            kinds=texts(request, "kind"),
        )
    )
    last = found[-1].id if found else after if isinstance(after, int) else await asyncio.to_thread(history.last_event)
    return web.json_response({"events": [each.document() for each in found], "next": last}, headers=FRESH)


async def get_talkers(request: web.Request) -> web.Response:
    """Asks the nodes, which begin to count with the first question."""
    tier, by = Tier(text(request, "tier")), By(text(request, "by"))
    if tier is Tier.L7 and by is By.FLOW:
        raise web.HTTPBadRequest(text="flows are known at l4; give by=client or by=server")
    questions = request.app[PLANE].questions
    nodes = [(tier.value, name) for name in questions.nodes(tier.value)[:NODES_MOST]]
    answers = await questions.ask_all(nodes, "talkers", {"by": by.value}, ASK_S)
    silent = {name: str(each) for (_, name), each in answers.items() if isinstance(each, QuestionError)}
    found = together(by, number(request, "limit"), list(answers.values()))
    document = {"tier": tier.value, "by": by.value, "nodes": len(nodes), **found, "silent": silent}
    return web.json_response(document, headers=FRESH)


INSTANCE = Parameter("instance", Annotated[str, NAME], "the listeners and groups of this instance alone", "")
LIMIT = Parameter("limit", Annotated[int, Range(1, LISTED_MOST)], "of each list, and of each group's servers", LISTED)
TIME = Annotated[int, Range(0, TIME_MOST)]
OBJECT = Parameter(
    "of", Annotated[str, Pattern(OF, "total, listeners/NAME, nodes/ROLE/NAME or groups/KIND/NAME")], "of what", "total"
)
STEPS = Parameter("step", Annotated[int, Range(1, 86_400, "s")], "no shorter than so many seconds", series.STEP_S)
FROM = Parameter("from", TIME, "Unix time; an hour before `to` by default")
TO = Parameter("to", TIME, "Unix time; now by default")
EVENT_ID = Annotated[int, Range(0, (1 << 63) - 1)]
AFTER = Parameter("after", EVENT_ID, "those after this one; by default the last ones")
BEFORE = Parameter("before", EVENT_ID, "those before this one")
COUNT = Parameter("limit", Annotated[int, Range(1, 1000)], "so many at most", EVENTS)
KIND = Parameter("kind", EventKind, "of this kind; several: all of these", many=True)
TIER = Parameter("tier", Tier, "where they are counted", Tier.L4)
BY = Parameter("by", By, "clients, servers or, of l4, flows", By.CLIENT)
TALKERS = Parameter("limit", Annotated[int, Range(1, 200)], "so many at most", 20)
ROUTES = (
    Route(
        "GET", "/v1/topology", get_topology, ApiRole.READ, "The cluster, and what passes through it now",
        (INSTANCE, LIMIT), answers={200: Answer("the picture", Schema({"$ref": "Topology"}))}, problems=(404,),
        tag="state", description="Rates are those of the last seconds (`window_s`). What a tier does not count is "
        "null. Of servers at most 2,000 are told, those that are down first; the numbers of all stand beside.",
    ),
    Route(
        "GET", "/v1/series", get_series, ApiRole.READ, "What passed in the last hours and days",
        (OBJECT, FROM, TO, STEPS), answers={200: Answer("the columns", Schema({"$ref": "Series"}))}, problems=(404,),
        tag="state", description="Slots of 10 s are kept for an hour, of 60 s for a day, of 600 s for 14 days; the "
        "answer has the finest that reach back to `from`. Null: not counted there, or not known.",
    ),
    Route(
        "GET", "/v1/events", get_events, ApiRole.READ, "What has happened", (AFTER, BEFORE, COUNT, KIND),
        answers={200: Answer("the events, in order", Schema({"$ref": "Events"}))}, tag="state",
        description="The last 10,000 are kept, by each control node those that it has seen.",
    ),
    Route(
        "GET", "/v1/talkers", get_talkers, ApiRole.OPERATE, "Who sends most", (TIER, BY, TALKERS),
        answers={200: Answer("those who do, the most first", Schema({"$ref": "Talkers"}))}, tag="state",
        description="Nodes begin to count with the first question and end 30 s after the last; until they know "
        "something `ready` is false. Clients' addresses are personal data: hence the role.",
    ),
)  # fmt: skip
