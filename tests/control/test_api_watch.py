"""Watching through the REST API: what comes when, resuming, and ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse

from control import api_watch
from control.tokens import set_token
from tests.control.api_user import User

WAIT_S = 30


class Stream:
    """An answer's events, one by one."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, Any]:
        """An event's name and data, its id put to it; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(WAIT_S):
            async for line in self.response.content:
                if line == b"\n":
                    break
                name, _, value = line.decode().rstrip("\n").partition(": ")
                fields[name] = value
        if "event" not in fields:
            return fields.get("", "end"), None
        data = json.loads(fields["data"])
        return fields["event"], data | ({"id": int(fields["id"])} if "id" in fields else {})


@asynccontextmanager
async def watching(user: User, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    sent = {"Authorization": f"Bearer {user.token}", **{name.replace("_", "-"): each for name, each in headers.items()}}
    async with user.client.get(f"/v1/watch{query}", headers=sent) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield Stream(response)


async def test_versions_come_as_they_are_made(user: User) -> None:
    async with watching(user) as stream:
        assert await stream.next() == ("reset", {"version": 0, "id": 0})
        await user.ask("PUT", "/v1/instances/i?comment=first", {})
        name, data = await stream.next()
        assert (name, data["id"], data["version"], data["author"], data["comment"]) == ("version", 1, 1, "ann", "first")
        assert [(each["op"], each["name"]) for each in data["changes"]] == [("create", "i")]
        await user.ask("DELETE", "/v1/instances/i")
        assert [each["op"] for each in (await stream.next())[1]["changes"]] == ["delete"]


async def test_who_was_away_goes_on_where_it_was(user: User) -> None:
    for name in "abc":
        await user.ask("PUT", f"/v1/instances/{name}", {})
    for query, headers in (("", {"Last_Event_ID": "1"}), ("?after=1", {}), ("?after=0", {"Last_Event_ID": "1"})):
        async with watching(user, query, **headers) as stream:
            found = [await stream.next() for _ in range(2)]
            assert [(data["id"], data["changes"][0]["name"]) for _, data in found] == [(2, "b"), (3, "c")]


@pytest.mark.parametrize("known", [99, 0])
async def test_who_cannot_be_told_what_was_missed_begins_anew(
    user: User, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is not there yet, as after a restored backup, or one too far behind."""
    monkeypatch.setattr(api_watch, "REPLAY_LIMIT", 1)
    for name in "ab":
        await user.ask("PUT", f"/v1/instances/{name}", {})
    async with watching(user, f"?after={known}") as stream:
        assert await stream.next() == ("reset", {"version": 2, "id": 2})


async def test_nodes_and_servers_come_as_they_change(user: User) -> None:
    down = {"service": "b", "server": "192.0.2.1:80", "healthy": False, "why": "refused"}
    user.plane.report("l7", "one", 0, None, {"health": [down]})
    async with watching(user, "?only=node&only=server") as stream:
        assert (await stream.next())[1]["step"] == "in step"
        name, data = await stream.next()
        assert (name, data) == ("server", {"role": "l7", "node": "one", **down})
        user.plane.report("l7", "one", 0, None, {"health": [{**down, "healthy": True, "why": ""}]})
        assert (await stream.next())[1]["healthy"] is True
        await user.ask("PUT", "/v1/instances/i", {})
        name, data = await stream.next()
        assert (name, data["name"], data["step"]) == ("node", "one", "lagging"), "no version: it is not asked for"


async def test_heartbeats_and_a_token_that_is_withdrawn(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_watch, "HEARTBEAT_S", 0.0)
    async with watching(user, "?only=node") as stream:
        assert await stream.next() == ("still here", None)
        await set_token(user.plane.store, "ann")
        while (found := await stream.next())[0] != "end":
            assert found == ("still here", None)


async def test_the_end_of_the_control_plane_ends_it(user: User) -> None:
    async with watching(user) as stream:
        await stream.next()
        await user.plane.close()
        assert await stream.next() == ("end", None)


async def test_there_is_room_for_so_many(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_watch, "READERS_LIMIT", 1)
    async with watching(user) as stream:
        await stream.next()
        problem = await user.ask("GET", "/v1/watch", status=503)
        assert "1 are watching already" in problem["detail"]
    async with asyncio.timeout(WAIT_S):
        while user.readers():
            await asyncio.sleep(0.01)
    async with watching(user) as stream:
        assert (await stream.next())[0] == "reset"


async def test_a_reader_that_takes_nothing_is_let_go(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_watch, "STALL_S", 0.2)
    big = [{"service": "b", "server": f"192.0.2.1:{n}", "healthy": False, "why": "w" * 1000} for n in range(20_000)]
    user.plane.report("l7", "one", 0, None, {"health": big})
    async with watching(user):
        async with asyncio.timeout(WAIT_S):
            while not user.readers():
                await asyncio.sleep(0.01)
            while user.readers():
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("query", "header"), [("?only=all", "1"), ("", "x"), ("", "-1"), ("?after=x", "1")])
async def test_what_cannot_be_watched(user: User, query: str, header: str) -> None:
    await user.ask("GET", f"/v1/watch{query}", status=400, Last_Event_ID=header)


async def test_a_look_at_the_head_alone_ends(user: User) -> None:
    async with user.client.head("/v1/watch", headers={"Authorization": f"Bearer {user.token}"}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
    assert not user.readers()
