"""Routes as data: what they read from a request, whom they let in, and what they refuse."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from control import guard
from control.handling import Caller, body_of
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, add_routes, asked, flag, number, text, texts
from core.choices import Role
from core.fields import Range
from core.services import Ejection


async def show(request: web.Request) -> web.Response:
    return web.json_response(dict(asked(request)))


async def typed(request: web.Request) -> web.Response:
    return web.json_response([text(request, "name"), number(request, "n"), flag(request, "b"), texts(request, "s")])


async def read_body(request: web.Request) -> web.Response:
    return web.json_response({"failures": (await body_of(request, Ejection)).failures})


NINE = "give a whole number from 1 to 9"
QUERY = (
    Parameter("n", Annotated[int, Range(1, 9)], "a number", 5),
    Parameter("b", bool, "a flag", False),
    Parameter("r", Role, "a role"),
    Parameter("s", str, "words", many=True),
)
ROUTES = (
    Route("GET", "/v1/open", show, None, "open"),
    Route("GET", "/v1/things/{name}", typed, ApiRole.READ, "typed", QUERY, answers={200: Answer("it")}),
    Route("GET", "/v1/numbers/{n}", show, ApiRole.READ, "parts", parts=(Parameter("n", int, "which"),)),
    Route("GET", "/v1/shown", show, ApiRole.READ, "shown", (*QUERY, Parameter("limit", int, "x", 0))),
    Route("POST", "/v1/things/{name}/drain", show, ApiRole.OPERATE, "drain"),
    Route("PUT", "/v1/things/{name}", read_body, ApiRole.ADMIN, "put", body=Schema(Ejection)),
)


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient[Any, Any]]:
    async def identify(request: web.Request) -> Caller | web.Response:
        role = request.headers.get("Authorization")
        return web.json_response({}, status=401) if role is None else Caller("ann", ApiRole(role))

    monkeypatch.setattr(guard, "identify", identify)
    app = web.Application(middlewares=[guard.logged, guard.explained, guard.authorised])
    add_routes(app, ROUTES)
    async with TestClient(TestServer(app)) as client:
        yield client


async def ask(
    client: TestClient[Any, Any], method: str, path: str, status: int, role: str = "admin", **more: Any
) -> Any:
    headers = {"Authorization": role} if role else {}
    async with client.request(method, path, headers=headers, **more) as response:
        document = json.loads(await response.read())
        assert response.status == status, document
        return document


async def test_parameters_are_read_as_their_annotations_say(client: TestClient[Any, Any]) -> None:
    assert await ask(client, "GET", "/v1/things/web?n=7&b=1&s=x&s=y", 200) == ["web", 7, True, ["x", "y"]]
    assert await ask(client, "GET", "/v1/things/web", 200) == ["web", 5, False, []]
    assert await ask(client, "GET", "/v1/shown?r=l7", 200) == {"n": 5, "b": False, "r": "l7", "s": [], "limit": 0}
    assert await ask(client, "GET", "/v1/numbers/12", 200) == {"n": 12}


@pytest.mark.parametrize(
    ("path", "place", "why", "suggestion"),
    [
        ("/v1/shown?n=10", "n", "10 is out of range", NINE),
        ("/v1/shown?n=-1", "n", "'-1' is not a whole number", NINE),
        ("/v1/shown?n=²", "n", "'²' is not a whole number", NINE),
        ("/v1/shown?n=" + "9" * 5000, "n", f"'{'9' * 58}… is not a whole number", NINE),
        ("/v1/shown?b=yes", "b", "'yes' is neither true nor false", "give 1 or 0"),
        ("/v1/shown?r=l8", "r", "'l8' is not known", "give l4, l7 or keyserver"),
        ("/v1/shown?n=1&n=2", "n", "is given 2 times", "give it once"),
        ("/v1/numbers/1?n=2", "n", "is no parameter of this request", "there are none here"),
        ("/v1/shown?limits=1", "limits", "is no parameter of this request", "did you mean limit?"),
        ("/v1/shown?colour=1", "colour", "is no parameter of this request", "known are n, b, r, s, limit"),
        ("/v1/numbers/x", "n", "'x' is not a whole number", "give a whole number"),
    ],
    ids=range(11),
)  # fmt: skip
async def test_what_is_wrong_with_a_parameter_is_said(
    client: TestClient[Any, Any], path: str, place: str, why: str, suggestion: str
) -> None:
    problem = await ask(client, "GET", path, 400)
    (error,) = problem["errors"]
    assert (error["object"], error["why"], error["suggestion"]) == (place, why, suggestion)
    assert problem["detail"] == f"{place}: {why}"


async def test_all_that_is_wrong_comes_at_once(client: TestClient[Any, Any]) -> None:
    problem = await ask(client, "GET", "/v1/things/%20?n=0&b=2&x=1", 400)
    assert [error["object"] for error in problem["errors"]] == ["name", "n", "b", "x"]


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("", "GET", "/v1/open", 200),
        ("", "GET", "/v1/shown", 401),
        ("", "GET", "/v1/nowhere", 401),
        ("read", "GET", "/v1/shown", 200),
        ("read", "POST", "/v1/things/x/drain", 403),
        ("operate", "POST", "/v1/things/x/drain", 200),
        ("operate", "PUT", "/v1/things/x", 403),
        ("admin", "POST", "/v1/things/x/drain", 200),
    ],
)
async def test_a_role_may_do_what_those_before_it_may(
    client: TestClient[Any, Any], role: str, method: str, path: str, status: int
) -> None:
    problem = await ask(client, method, path, status, role)
    if status == 403:
        assert problem["detail"].startswith(f"the token 'ann' has the role {role}; this needs ")


async def test_a_body_is_read_as_a_class(client: TestClient[Any, Any]) -> None:
    assert await ask(client, "PUT", "/v1/things/x", 200, json={"failures": 3}) == {"failures": 3}
    problem = await ask(client, "PUT", "/v1/things/x", 422, json={"failures": -1, "x": 1})
    assert [error["object"] for error in problem["errors"]] == ["failures", "x"]
    problem = await ask(client, "PUT", "/v1/things/x", 422, json={"failures": 1, "failure": 1})
    assert [error["suggestion"] for error in problem["errors"]] == ["did you mean failures?"]
    problem = await ask(client, "PUT", "/v1/things/x", 422, json=[])
    assert problem["errors"][0]["why"] == "an empty list is not a table"
    await ask(client, "PUT", "/v1/things/x", 400, data=b"{")


async def test_what_is_near_is_named(client: TestClient[Any, Any]) -> None:
    problem = await ask(client, "GET", "/v1/showm", 404)
    assert problem["detail"] == "there is no /v1/showm; did you mean /v1/shown?"
    problem = await ask(client, "POST", "/v1/shown", 405)
    assert problem["detail"] == "POST is not for /v1/shown, which takes GET, HEAD"


async def test_the_same_route_twice_is_a_mistake() -> None:
    app = web.Application()
    with pytest.raises(AssertionError, match="GET /v1/open is there twice"):
        add_routes(app, [ROUTES[0], ROUTES[0]])
