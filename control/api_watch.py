"""`GET /v1/watch`: what changes, as server-sent events, for as long as the reader listens.

Each reader has a task of its own, which looks at what has changed since it last sent something and writes that; while
the reader takes nothing, nothing more is made. One that takes nothing for STALL_S is let go.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from itertools import takewhile
from typing import Annotated

from aiohttp import web

from control.changes import change_document
from control.gate import is_still_good
from control.handling import PLANE, VERSION_LIMIT
from control.observing import OBSERVER
from control.problem import problem
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, texts
from control.service import ControlPlane
from control.store import NoSuchVersionError
from control.watching import HEARTBEAT, RESET, Event, Picture, Topic, beginning, differences, picture
from core.errors import ConfigErrors
from core.fields import Range
from core.plan import plan

READERS_LIMIT = 32  # half of the places that a token has at a time (control.access)
TICK_S = 0.5  # how often nodes and servers are looked at; versions are told at once
HEARTBEAT_S = 15.0  # proxies close what is silent for 60 s, as a rule
STALL_S = 30.0
REPLAY_LIMIT = 100  # versions; who is further behind reads the configuration anew
CHUNK_BYTES = 1 << 16


class Watch:
    """What all readers share: how many there are, and one picture of the nodes a tick."""

    def __init__(self, plane: ControlPlane) -> None:
        self.readers = 0
        self._plane = plane
        self._seen = Picture()
        self._looked_at = float("-inf")

    def look(self) -> Picture:
        """The picture; the very same object as long as nothing has changed."""
        now = time.monotonic()
        if now - self._looked_at >= TICK_S:
            seen = picture(self._plane.status())
            self._seen = self._seen if seen == self._seen else seen
            self._looked_at = now
        return self._seen


WATCH = web.AppKey("watch", Watch)


async def get_watch(request: web.Request) -> web.StreamResponse:
    watch = request.app[WATCH]
    after = _last_event(request)
    if watch.readers >= READERS_LIMIT:
        detail = f"{READERS_LIMIT} are watching already; end one, or ask for /v1/status now and then"
        return problem(503, detail, headers={"Retry-After": "60"})
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    watch.readers += 1
    try:
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        await _Reader(request, response, after).serve()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    finally:
        watch.readers -= 1
    return response


def _last_event(request: web.Request) -> int | None:
    """The version to go on from. Raises HTTPBadRequest."""
    given, after = request.headers.get("Last-Event-ID"), asked(request)["after"]
    if given is None:
        return after if isinstance(after, int) else None
    if not (given.isascii() and given.isdigit() and len(given) < 20 and int(given) <= VERSION_LIMIT):
        raise web.HTTPBadRequest(text="Last-Event-ID is the id of an event: a version")
    return int(given)


class _Reader:
    """One who watches. `sent` is the version that the reader knows, None before the first event."""

    def __init__(self, request: web.Request, response: web.StreamResponse, after: int | None) -> None:
        self._request, self._response = request, response
        self._plane, self._watch = request.app[PLANE], request.app[WATCH]
        self._topics = frozenset(texts(request, "only")) or frozenset(Topic)
        self._sent = after if Topic.VERSION in self._topics else None
        self._seen: Picture | None = None
        self._recent = request.app[OBSERVER].recent
        self._told = self._recent[-1].id if self._recent else 0  # the last of the events
        self._wrote_at = self._admitted_at = time.monotonic()

    async def serve(self) -> None:
        """Until the reader goes, its token is withdrawn or the control plane ends."""
        while not self._plane.closed and not self._gone():
            if Topic.VERSION in self._topics:
                await self._send(await self._versions())
            await self._send(self._differences())
            await self._send(self._events())
            if time.monotonic() - self._wrote_at >= HEARTBEAT_S:
                await self._write(HEARTBEAT)
            if time.monotonic() - self._admitted_at >= HEARTBEAT_S:
                if not await is_still_good(self._request):
                    return
                self._admitted_at = time.monotonic()
            await self._plane.newer_than(self._plane.current.version if self._sent is None else self._sent, TICK_S)

    def _gone(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def _versions(self) -> list[Event]:
        """The versions that came after the last one that the reader knows."""
        current = self._plane.current.version
        sent, self._sent = self._sent, current
        if sent == current:
            return []
        if sent is None or not 0 < current - sent <= REPLAY_LIMIT:
            return [Event(RESET, {"version": current}, current)]
        store = self._plane.store
        try:
            _, before = await store.get(sent)
            found = []
            for version in range(sent + 1, current + 1):
                entry, model = await store.get(version)
                changes = [change_document(each) for each in plan(before, model)]
                found.append(Event(Topic.VERSION, {**dataclasses.asdict(entry), "changes": changes}, version))
                before = model
        except (NoSuchVersionError, ConfigErrors):  # forgotten, or of a release that allowed more
            return [Event(RESET, {"version": current}, current)]
        return found

    def _differences(self) -> Iterable[Event]:
        before, self._seen = self._seen, self._watch.look()
        if self._seen is before:
            return ()
        told = beginning(self._seen) if before is None else differences(before, self._seen)
        return [event for event in told if event.name in self._topics]

    def _events(self) -> Iterable[Event]:
        """What has happened since the last look; who reads slowly misses what is in memory no more."""
        if Topic.EVENT not in self._topics:
            return ()
        new = list(takewhile(lambda each: each.id > self._told, reversed(self._recent)))[::-1]
        self._told = new[-1].id if new else self._told
        return [Event(Topic.EVENT, each.document()) for each in new]

    async def _send(self, events: Iterable[Event]) -> None:
        chunk = bytearray()
        for event in events:
            chunk += event.encode()
            if len(chunk) >= CHUNK_BYTES:
                await self._write(bytes(chunk))
                chunk.clear()
        if chunk:
            await self._write(bytes(chunk))

    async def _write(self, chunk: bytes) -> None:
        async with asyncio.timeout(STALL_S):
            await self._response.write(chunk)
        self._wrote_at = time.monotonic()


ONLY = Parameter("only", Topic, "what is told of; several: all of these; by default everything", many=True)
AFTER = Parameter("after", Annotated[int, Range(0, VERSION_LIMIT)], "as Last-Event-ID, for those who cannot set it")
LAST = Parameter("Last-Event-ID", str, "the last version that is known: those after it come first")
ROUTES = (
    Route(
        "GET", "/v1/watch", get_watch, ApiRole.READ, "What changes, as server-sent events", (ONLY, AFTER),
        answers={200: Answer("the events", Schema({"type": "string"}, "text/event-stream"))}, headers=(LAST,),
        problems=(503,), tag="state",
        description="`reset`: {version}, read the configuration; `version`: {version, created, author, comment, "
        "changes}, whose id is the version; `node`: {role, name, step, version, problems, listed}; `server`: {role, "
        "node, service, server, healthy, why}; `event`: as in /v1/events, from now on. First come all nodes and the "
        "servers that are not healthy.",
    ),
)  # fmt: skip
