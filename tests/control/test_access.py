"""Who may do what by the running API: each route for each role, limits, the Host, and what the audit log has of it."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from control import api
from control.access import Access, Limits
from control.audit import Audit
from control.gate import HEADERS
from control.roles import ApiRole
from control.routes import Route
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.tokens import Tokens, set_token
from tests.control.api_user import SITE

ROLES = [None, *ApiRole]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """The API, a token of each role, and what was asked."""

    client: TestClient[Any, Any]
    store: SqliteStore
    tokens: dict[ApiRole | None, str]
    clock: Clock
    headers: Any = None

    async def ask(
        self, method: str, path: str, role: ApiRole | None = ApiRole.ADMIN, body: object = None, **more: Any
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        async with self.client.request(
            method, path, json=body, headers={**headers, **more.pop("headers", {})}, **more
        ) as response:
            self.headers = response.headers
            raw = b"" if response.content_type == "text/event-stream" else await response.read()  # that has no end
            is_json = response.content_type.endswith("json")
            return response.status, json.loads(raw) if is_json else raw

    async def entries(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in await Audit(self.store).range(1, 1000)]


Opener = Callable[..., Awaitable[Door]]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opener]:
    ends: list[Any] = []

    async def start(limits: Limits | None = None, hosts: frozenset[str] | None = frozenset()) -> Door:
        store, clock = await SqliteStore.open(tmp_path / "db"), Clock()
        plane = await ControlPlane.load(store)
        access = Access(Tokens(store), Audit(store), limits or Limits(1e6, 1e6), hosts, clock)
        client = TestClient(TestServer(api.application(plane, access)))
        await client.start_server()
        tokens: dict[ApiRole | None, str] = {role: await set_token(store, role.value, role) for role in ApiRole}
        ends.extend((client.close, store.close))
        return Door(client, store, tokens, clock)

    yield start
    for end in ends:
        await end()


@pytest.fixture
async def door(opened: Opener) -> Door:
    return await opened()


def filled(path: str) -> str:
    """A path of a route with something in its braces that is well-formed, and not there."""
    known = {"version": "1", "id": "0123456789"}
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "none"), path)


# --- roles


def cases(routes: tuple[Route, ...]) -> list[Any]:
    return [
        pytest.param(route, role, id=f"{route.method}-{route.path}-{role.value if role else 'nobody'}")
        for route in routes
        if route.role is not None
        for role in ROLES
        if role is None or not role.may(route.role)
    ]


@pytest.mark.parametrize("route", [pytest.param(each, id=f"{each.method}-{each.path}") for each in api.ROUTES])
async def test_each_route_is_refused_to_lower_roles_and_open_to_its_own(door: Door, route: Route) -> None:
    """Of all routes that there are, each with every role: this list is made of the routes themselves."""
    path = filled(route.path)
    before = (await door.ask("GET", "/v1/config"))[1]
    for role in ROLES:
        may = route.role is None or (role is not None and role.may(route.role))
        status, document = await door.ask(route.method, path, role, {} if route.body else None)
        if may:
            assert status not in (401, 403, 500), document
        else:
            assert status == (401 if role is None else 403), (role, document)
            assert document["status"] == status
            assert (await door.ask("GET", "/v1/config"))[1] == before
    refused = [entry for entry in await door.entries() if entry["result"] == "refused"]
    lower = ROLES[: ROLES.index(route.role)]
    assert [(entry["status"], entry["who"]) for entry in refused] == [
        (403, role.value) if role else (401, "-") for role in lower
    ]
    assert all(entry["method"] == route.method and entry["path"] == path and entry["why"] for entry in refused)


def test_only_these_need_no_token() -> None:
    assert {route.path for route in api.ROUTES if route.role is None} == {"/v1/healthz", "/v1/openapi.json"}


def test_only_these_change_something_and_are_not_for_administrators() -> None:
    """A new route is to be looked at once more before it is put here."""
    found = {
        (route.method, route.path, route.role.value)
        for route in api.ROUTES
        if route.method != "GET" and route.role is not None and route.role is not ApiRole.ADMIN
    }
    assert found == {
        ("POST", "/v1/token/rotation", "read"),  # of itself
        ("POST", "/v1/token/access-key", "read"),  # of itself, and only shown
        ("POST", "/v1/availability_groups/{name}/weights", "operate"),
        ("POST", "/v1/rules/{name}/weights", "operate"),
        ("POST", "/v1/server_groups/{name}/weights", "operate"),
        ("PUT", "/v1/drains/{name}", "operate"),
        ("DELETE", "/v1/drains/{name}", "operate"),
        ("PUT", "/v1/availability_groups/{name}/members/{member}", "operate"),
        ("DELETE", "/v1/availability_groups/{name}/members/{member}", "operate"),
    }


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", "give a token: Authorization: Bearer"),
        ("Bearer ", "give a token"),
        ("Basic YTpi", "give a token"),
        ("Bearer pft_x", "the token is cut off"),
        ("Bearer nonsense", "the token is not known: they begin with pft_"),
        ("Bearer schlüssel", "the token is no token"),
    ],
)
async def test_who_is_not_known_is_told_why(door: Door, header: str, told: str) -> None:
    status, document = await door.ask("GET", "/v1/config", None, headers={"Authorization": header})
    assert (status, document["title"]) == (401, "Not authorised")
    assert told in document["detail"]
    assert door.headers["WWW-Authenticate"].startswith("Bearer")


# --- tokens


async def test_a_token_is_made_used_rotated_and_revoked(door: Door) -> None:
    status, made = await door.ask("POST", "/v1/tokens", body={"name": "ci", "role": "operate"})
    assert status == 201
    door.tokens[None] = made["secret"]

    async def use(secret: str) -> int:
        return (await door.ask("GET", "/v1/config", None, headers={"Authorization": f"Bearer {secret}"}))[0]

    assert await use(made["secret"]) == 200
    (listed,) = [each for each in (await door.ask("GET", "/v1/tokens"))[1]["tokens"] if each["name"] == "ci"]
    assert "secret" not in listed
    assert {"id": made["id"], "role": "operate", "creator": "admin"}.items() <= listed.items()
    status, again = await door.ask("POST", f"/v1/tokens/{made['id']}/rotation?grace_s=60")
    assert (status, again["id"]) == (200, made["id"])
    assert [await use(made["secret"]), await use(again["secret"])] == [200, 200]
    status, last = await door.ask("POST", f"/v1/tokens/{made['id']}/rotation")
    assert [await use(made["secret"]), await use(again["secret"]), await use(last["secret"])] == [401, 401, 200]
    assert (await door.ask("DELETE", f"/v1/tokens/{made['id']}"))[0] == 200
    assert await use(last["secret"]) == 401
    assert (await door.ask("DELETE", f"/v1/tokens/{made['id']}"))[0] == 404
    entries = [entry for entry in await door.entries() if entry.get("objects") == [f"tokens/{made['id']}"]]
    assert [(entry["method"], entry["status"]) for entry in entries] == [
        ("POST", 201), ("POST", 200), ("POST", 200), ("DELETE", 200),
    ]  # fmt: skip
    kept = json.dumps(await door.entries())
    assert not any(each["secret"][15:58] in kept for each in (made, again, last))
    refused = [entry for entry in await door.entries() if entry["status"] == 401]
    assert {entry["token"] for entry in refused} == {made["id"]}, "whose token it was that is good for nothing"


async def test_a_token_may_see_and_rotate_itself(door: Door) -> None:
    status, own = await door.ask("GET", "/v1/token", ApiRole.READ)
    assert (status, own["role"]) == (200, "read")
    status, made = await door.ask("POST", "/v1/token/rotation", ApiRole.READ)
    assert (status, made["id"]) == (200, own["id"])
    assert (await door.ask("GET", "/v1/token", ApiRole.READ))[0] == 401
    door.tokens[ApiRole.READ] = made["secret"]
    assert (await door.ask("GET", "/v1/token", ApiRole.READ))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"name": "x"}, 422, "role is missing"),
        ({"name": "x", "role": "root"}, 422, "give read, operate or admin"),
        ({"name": "two words", "role": "read"}, 422, "does not fit"),
        ({"name": "x", "role": "read", "expires": 5}, 409, "would have expired already"),
        ({"name": "x", "role": "read", "expires": "soon"}, 422, "is not a number"),
        ({"name": "operate-2", "role": "read", "colour": 1}, 422, "unknown key"),
    ],
)
async def test_a_token_that_cannot_be(door: Door, body: object, status: int, told: str) -> None:
    found, document = await door.ask("POST", "/v1/tokens", body=body)
    assert found == status
    assert told in json.dumps(document)


async def test_more_rights_than_ones_own_are_refused_and_kept(door: Door) -> None:
    soon = 9e9
    _, ending = await door.ask("POST", "/v1/tokens", body={"name": "ending", "role": "admin", "expires": soon})
    bearer = {"Authorization": f"Bearer {ending['secret']}"}
    body = {"name": "x", "role": "read", "expires": soon + 1}
    status, document = await door.ask("POST", "/v1/tokens", None, body, headers=bearer)
    assert (status, document["title"]) == (403, "Forbidden")
    assert "cannot outlive the one that made it" in document["detail"]
    assert [(entry["status"], entry["who"]) for entry in await door.entries()][-1] == (403, "ending")


async def test_use_is_seen(door: Door) -> None:
    own: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while not own.get("used"):
            own = (await door.ask("GET", "/v1/token", ApiRole.READ))[1]
    assert own["used_from"] == "127.0.0.1"


# --- audit


async def test_changes_are_written_with_what_they_changed(door: Door) -> None:
    assert (await door.ask("PUT", "/v1/config?comment=first", body=SITE))[0] == 200
    assert (await door.ask("PUT", "/v1/config?dry_run=1", body={}))[0] == 200
    assert (await door.ask("PUT", "/v1/config", body={"listeners": 1}))[0] == 422
    assert (await door.ask("DELETE", "/v1/listeners/web"))[0] == 200
    assert (await door.ask("GET", "/v1/listeners"))[0] == 200
    assert (await door.ask("POST", "/v1/issuance", body={"issuer": "a", "certificates": {}}))[0] == 204
    first, failed, deleted = await door.entries()
    assert {
        "who": "admin", "role": "admin", "from": "127.0.0.1", "method": "PUT", "path": "/v1/config", "status": 200,
        "result": "done", "comment": "first", "version_before": 0, "version": 1,
        "objects": ["server_groups/g", "backend_services/b", "instances/i", "listeners/web"],
    }.items() <= first.items()  # fmt: skip
    assert (failed["status"], failed["result"]) == (422, "failed")
    assert (deleted["version_before"], deleted["version"], deleted["objects"]) == (1, 2, ["listeners/web"])


async def test_the_log_is_read_by_pages_and_filters(door: Door) -> None:
    await door.ask("PUT", "/v1/config", body=SITE)
    await door.ask("PUT", "/v1/config", ApiRole.READ, {})
    await door.ask("DELETE", "/v1/listeners/web")

    async def numbers(query: str) -> tuple[list[int], Any]:
        status, document = await door.ask("GET", f"/v1/audit?{query}")
        assert status == 200, document
        return [entry["number"] for entry in document["entries"]], document["next"]

    assert await numbers("") == ([3, 2, 1], None)
    assert await numbers("limit=2") == ([3, 2], 2)
    assert await numbers("limit=2&before=2") == ([1], None)
    assert await numbers("after=0&limit=2") == ([1, 2], 2)
    assert await numbers("after=2") == ([3], None)
    for query, found in [
        ("who=read", [2]), ("result=refused", [2]), ("result=done", [3, 1]), ("method=DELETE", [3]),
        ("path=/v1/listeners", [3]), ("object=listeners/web", [3, 1]), ("object=instances/", [1]),
        ("since=99999999999", []), ("until=99999999999", [3, 2, 1]), ("from=127.0.0.1&who=admin", [3, 1]),
        ("from=127.0.0.2", []),
    ]:  # fmt: skip
        assert await numbers(query) == (found, None), query
    assert (await door.ask("GET", "/v1/audit?after=0&who=read"))[0] == 400
    assert (await door.ask("GET", "/v1/audit?limit=1001"))[0] == 400


# --- limits


async def test_wrong_tokens_are_slowed_down_and_the_right_one_is_not(opened: Opener) -> None:
    door = await opened(Limits(failures_per_s=0.1, failures_at_once=3))
    wrong = {"Authorization": "Bearer wrong"}
    statuses = [(await door.ask("GET", "/v1/config", None, headers=wrong))[0] for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert door.headers["Retry-After"] == "10"
    assert (await door.ask("GET", "/v1/config", ApiRole.READ))[0] == 200
    door.clock.now += 10
    assert (await door.ask("GET", "/v1/config", None, headers=wrong))[0] == 401


async def test_a_token_has_its_rate(opened: Opener) -> None:
    door = await opened(Limits(requests_per_s=0.5))  # two at once
    assert [(await door.ask("GET", "/v1/config", ApiRole.READ))[0] for _ in range(3)] == [200, 200, 429]
    assert (door.headers["Retry-After"], door.headers["Content-Type"]) == (
        "2",
        "application/problem+json; charset=utf-8",
    )
    assert (await door.ask("GET", "/v1/config", ApiRole.ADMIN))[0] == 200, "each its own"
    door.clock.now += 2
    assert (await door.ask("GET", "/v1/config", ApiRole.READ))[0] == 200
    (entry,) = await door.entries()
    assert (entry["status"], entry["who"], entry["why"]) == (429, "read", "too many requests of this token")


async def test_an_address_has_its_rate_whatever_it_sends(opened: Opener) -> None:
    door = await opened(Limits(address_per_s=0.5))
    assert [(await door.ask("GET", "/v1/healthz", None))[0] for _ in range(3)] == [200, 200, 429]
    assert (await door.ask("GET", "/v1/config", ApiRole.ADMIN))[0] == 429
    door.clock.now += 2
    assert (await door.ask("GET", "/v1/config", ApiRole.ADMIN))[0] == 200


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(opened: Opener) -> None:
    door = await opened(Limits(1e6, 1e6, body_s=0.05))

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    url = door.client.make_url("/v1/config")
    headers = {"Authorization": f"Bearer {door.tokens[ApiRole.ADMIN]}"}
    async with aiohttp.ClientSession() as session, session.put(url, data=slowly(), headers=headers) as response:
        assert response.status == 408
        assert (await response.json(content_type=None))["title"] == "Too slow"


async def test_a_token_has_so_many_places(opened: Opener) -> None:
    """Requests whose bodies do not come hold theirs; others' are not touched."""
    door = await opened(Limits(1e6, 1e6, places=3, places_each=2))
    going_on = asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b"{"
        await going_on.wait()
        yield b"}"

    async def put() -> int:
        return (await door.ask("PUT", "/v1/config?dry_run=1", ApiRole.ADMIN, data=held()))[0]

    held_tasks = [asyncio.create_task(put()) for _ in range(2)]
    async with asyncio.timeout(20):
        while (await door.ask("GET", "/v1/config", ApiRole.ADMIN))[0] != 429:
            await asyncio.sleep(0.01)
    assert "2 requests with the token 'admin' are under way" in str((await door.ask("GET", "/v1/config"))[1])
    assert (await door.ask("GET", "/v1/config", ApiRole.READ))[0] == 200
    going_on.set()
    assert await asyncio.gather(*held_tasks) == [200, 200]
    assert (await door.ask("GET", "/v1/config", ApiRole.ADMIN))[0] == 200


async def test_a_body_has_its_bound_and_strangers_bodies_are_not_read(door: Door) -> None:
    for role, status in ((ApiRole.ADMIN, 413), (None, 401)):
        big = io.BytesIO(b" " * ((1 << 24) + 1))
        assert (await door.ask("PUT", "/v1/config", role, data=big))[0] == status


# --- browsers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8470", 200),
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("[::1]:8470", 200),
        ("lb.example:443", 200),
        ("LB.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8470", 421),
        ("evil.example:127.0.0.1", 421),
        ("10.0.0.5", 421),
        ("", 421),
    ],
)
async def test_names_that_somebody_bound_to_our_address_are_refused(opened: Opener, host: str, status: int) -> None:
    door = await opened(hosts=frozenset({"lb.example"}))
    found, document = await door.ask("GET", "/v1/healthz", None, headers={"Host": host})
    assert found == status
    if status == 421:
        assert "--api-host NAME" in document["detail"]
        assert [entry["status"] for entry in await door.entries()] == [421]


async def test_with_tls_any_name_will_do(opened: Opener) -> None:
    door = await opened(hosts=None)
    assert (await door.ask("GET", "/v1/healthz", None, headers={"Host": "lb.example"}))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [("GET", "/v1/healthz", None), ("GET", "/v1/config", ApiRole.READ), ("GET", "/none", ApiRole.READ),
     ("PUT", "/v1/config", None), ("OPTIONS", "/v1/config", ApiRole.READ), ("GET", "/v1/metrics", ApiRole.READ)],
)  # fmt: skip
async def test_every_answer_has_the_headers_and_none_is_for_other_origins(
    door: Door, method: str, path: str, role: ApiRole | None
) -> None:
    await door.ask(method, path, role, headers={"Origin": "https://evil.example"})
    assert door.headers["Server"] == "paifang"
    assert door.headers["Cache-Control"] in ("no-store", "no-cache"), "what has an ETag may be asked for again"
    fixed = {name: value for name, value in HEADERS.items() if name != "Cache-Control"}
    assert {name: door.headers[name] for name in fixed} == fixed
    assert not [name for name in door.headers if name.lower().startswith("access-control-")]


async def test_a_token_in_a_path_is_not_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    secret = door.tokens[ApiRole.ADMIN]
    with caplog.at_level("INFO", logger="control"):
        await door.ask("DELETE", f"/v1/listeners/{secret}")
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("control"))
    assert secret[15:] not in ours + json.dumps(await door.entries())
    assert "DELETE /v1/listeners/pft_" in ours


async def test_bodies_that_nobody_reads_take_no_ones_place(opened: Opener) -> None:
    """A token that may only read could keep all others from writing otherwise."""
    door = await opened(Limits(1e6, 1e6, bodies=1))

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    bearer = {"Authorization": f"Bearer {door.tokens[ApiRole.READ]}"}
    slow = asyncio.create_task(door.client.post("/v1/token/rotation?grace_s=60", data=never(), headers=bearer))
    try:
        async with asyncio.timeout(20):
            while not any(entry["path"] == "/v1/token/rotation" for entry in await door.entries()):
                assert (await door.ask("PUT", "/v1/config", body=SITE))[0] == 200
    finally:
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
