"""A bad network between a control node and etcd: answers that are lost, requests that do not arrive, silence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

import aiohttp
from aiohttp import web


class Way(Enum):
    THROUGH = auto()
    ANSWER_LOST = auto()  # etcd has done it
    REQUEST_LOST = auto()
    SILENT = auto()  # taken, and nothing comes back


class Front:
    """Stands before an etcd member. `ways` is taken from its end, one a transaction; then, and for all else, `way`."""

    def __init__(self, member: str, http: aiohttp.ClientSession) -> None:
        self.url = ""
        self.way = Way.THROUGH
        self.ways: list[Way] = []
        self.calls: list[tuple[str, object]] = []
        self.watches = 0  # that have begun
        self.kept_back = 0  # events
        self.lost_parts = 0  # of the next watch: so many requests from its end
        self._member, self._http = member, http
        self.silence = asyncio.Event()  # ends it

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.calls.append((request.path, json.loads(body) if request.path != "/v3/watch" else None))
        way = self.ways.pop() if self.ways and request.path == "/v3/kv/txn" else self.way
        if way is Way.SILENT:
            await self.silence.wait()
        if way in (Way.REQUEST_LOST, Way.SILENT):
            return self._lost(request)
        if request.path == "/v3/watch":
            return await self._pass_watch(request, body)
        async with self._http.post(self._member + request.path, data=body) as answer:
            data = await answer.read()
        if way is Way.ANSWER_LOST:
            return self._lost(request)
        return web.Response(status=answer.status, body=data)

    def _lost(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _pass_watch(self, request: web.Request, body: bytes) -> web.StreamResponse:
        lines, self.lost_parts = body.split(b"\n"), -self.lost_parts
        body = b"\n".join(lines[: self.lost_parts or None])
        self.lost_parts = 0
        response = web.StreamResponse()
        await response.prepare(request)
        async with self._http.post(f"{self._member}/v3/watch", data=body) as answer:
            async for line in answer.content:  # one message a line; a chunk may be less
                if self.way is Way.THROUGH:
                    await response.write(line)
                    self.watches += line.count(b'"created":true')
                else:
                    self.kept_back += line.count(b'"kv":')
        return response


@asynccontextmanager
async def front(member: str) -> AsyncIterator[Front]:
    async with aiohttp.ClientSession() as http:
        one = Front(member, http)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", one.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield one
        finally:
            one.silence.set()
            await runner.cleanup()
