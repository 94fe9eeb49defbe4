"""The configuration as a whole through the REST API: many changes at once, TOML, rollback, history, diffs."""

from typing import Any

import pytest

from control.api_config import CHANGES_LIMIT
from core.config import load
from tests.control.api_user import SITE, User

TOO_MANY = CHANGES_LIMIT + 1


@pytest.fixture
async def site(user: User) -> User:
    await user.ask("PUT", "/v1/config", SITE)
    return user


def edit(op: str, kind: str, name: str, body: object = None, **more: object) -> dict[str, object]:
    return {"op": op, "kind": kind, "name": name, **({} if body is None else {"object": body}), **more}


async def test_many_changes_are_one_version(site: User) -> None:
    """A service is put in another's place: in no single step could that be done."""
    steps = [
        edit("delete", "server_groups", "g"),
        edit("create", "server_groups", "h", {"servers": [{"address": "192.0.2.2", "port": 80}]}),
        edit("update", "backend_services", "b", {"protocol": "http", "server_group": "h"}),
        edit("patch", "listeners", "web", {"port": 81}),
        edit("put", "instances", "j", {}),
    ]
    planned = await site.ask("POST", "/v1/changes?dry_run=1", {"changes": steps})
    assert site.plane.current.version == 1
    answer = await site.ask("POST", "/v1/changes?comment=swap", {"changes": steps}, If_Match='"1"')
    assert (answer["version"], site.etag) == (2, '"2"')
    assert answer["changes"] == planned["changes"]
    told = [(each["op"], each["kind"], each["name"]) for each in answer["changes"]]
    assert told == [
        ("create", "server_groups", "h"),
        ("update", "backend_services", "b"),
        ("create", "instances", "j"),
        ("update", "listeners", "web"),
        ("delete", "server_groups", "g"),
    ]
    (entry,) = (await site.ask("GET", "/v1/versions?limit=1"))["versions"]
    assert entry["comment"] == "swap"
    await site.ask("POST", "/v1/changes", {"changes": steps}, If_Match='"1"', status=412)


@pytest.mark.parametrize(
    ("steps", "status", "words"),
    [
        ([edit("put", "instances", "j", {}), edit("create", "instances", "i", {})], 409, "instances/i exists already"),
        ([edit("put", "instances", "j", {}), edit("patch", "instances", "k", {})], 404, "there is no instances/k"),
        ([edit("put", "instances", "j", {}), edit("delete", "server_groups", "g")], 422, "backend_services.b"),
        ([edit("put", "instances", "j", {}, if_match='"o1"')], 404, "there is no instances/j"),
        ([edit("put", "instances", "i", {}, if_match='"o1"')], 412, "instances/i is another by now"),
        ([edit("put", "instances", "i", {"vips": [1]})], 422, "instances.i.vips[0]"),
    ],
    ids=range(6),
)
async def test_all_changes_or_none(site: User, steps: list[Any], status: int, words: str) -> None:
    problem = await site.ask("POST", "/v1/changes", {"changes": steps}, status=status)
    assert words in str(problem)
    assert site.plane.current.version == 1


@pytest.mark.parametrize(
    ("step", "place", "suggestion"),
    [
        (
            edit("putt", "instances", "i", {}),
            "changes[0].op",
            "did you mean put?",
        ),
        (edit("put", "instance", "i", {}), "changes[0].kind", "did you mean instances?"),
        (edit("put", "instances", "", {}), "changes[0].name", "give a name"),
        (edit("put", "instances", "i"), "changes[0].object", "give the object"),
        (edit("delete", "instances", "i", {}), "changes[0].object", "leave it out"),
        (edit("put", "instances", "i", []), "changes[0].object", "give the object"),
        (edit("put", "instances", "i", {"name": "j"}), "changes[0].object.name", "leave it out"),
        (edit("put", "instances", "i", {}, if_match="o1"), "changes[0].if_match", "give the ETag"),
        (edit("put", "instances", "i", {}, if_match=1), "changes[0].if_match", "give the ETag"),
        (
            edit("put", "instances", "i", {}, colour={}),
            "changes[0].colour",
            "known are op, kind, name, object, if_match",
        ),
        (7, "changes[0]", "give op, kind and name"),
    ],
    ids=range(11),
)
async def test_what_is_wrong_with_a_change_is_said(site: User, step: object, place: str, suggestion: str) -> None:
    problem = await site.ask("POST", "/v1/changes", {"changes": [step]}, status=422)
    (error,) = problem["errors"]
    assert error["object"] == place
    assert error["suggestion"].startswith(suggestion)


@pytest.mark.parametrize(
    "body", [[], {}, {"changes": {}}, {"changes": [], "x": 1}, {"changes": [1] * (CHANGES_LIMIT + 1)}]
)
async def test_what_is_no_list_of_changes(site: User, body: object) -> None:
    problem = await site.ask("POST", "/v1/changes", body, status=400)
    assert problem["detail"].startswith('give {"changes": [')


async def test_no_changes_are_none(site: User) -> None:
    assert (await site.ask("POST", "/v1/changes", {"changes": []}))["version"] == 1


async def test_toml_goes_out_and_comes_in(site: User) -> None:
    headers = {"Authorization": f"Bearer {site.token}"}
    async with site.client.get("/v1/export", headers=headers) as response:
        assert (response.content_type, response.headers["ETag"]) == ("application/toml", '"1"')
        text = await response.text()
    assert load(text, path="export", format="toml") == site.plane.current.model
    data = text.replace("port = 80\n", "port = 81\n").encode()
    answer = await site.ask("PUT", "/v1/config", data=data, Content_Type="application/toml")
    assert [(each["op"], each["name"]) for each in answer["changes"]] == [("update", "web")]


@pytest.mark.parametrize(
    ("kind", "text", "status", "line", "words"),
    [
        ("toml", "\n[[instances]]\nname = 'i'\nvip = []\n", 422, 4, "did you mean vips?"),
        ("toml", "[[instances]]\nname = \n", 400, 2, "not TOML"),
        ("toml", "[[instances]]\nname = 'i'\n[[instances]]\nname = 'i'\n", 422, 4, "named 'i'"),
        ("toml", "[acme]\nemail = 'a@b.test'\n", 422, 1, "is for the file of `paifang up` alone"),
        ("json", '{"instances": [\n {"name": "i",\n "vip": []}]}', 422, 3, "did you mean vips?"),
        ("json", '{"instances":\n x}', 400, 2, "not JSON"),
        ("json", '{"instances": [{"name": "i",\n "name": "j"}]}', 422, 2, "the key is given twice"),
    ],
    ids=range(7),
)
async def test_errors_name_the_line(user: User, kind: str, text: str, status: int, line: int, words: str) -> None:
    problem = await user.ask("PUT", "/v1/config", data=text.encode(), status=status, Content_Type=f"application/{kind}")
    (error,) = problem["errors"]
    assert error["line"] == line
    assert words in error["text"]
    assert error["text"].startswith(f"request:{line}: ")


async def test_back_to_an_old_version(site: User) -> None:
    await site.ask("DELETE", "/v1/listeners/web")
    planned = await site.ask("POST", "/v1/rollback?dry_run=1", {"version": 1})
    assert (planned["version"], [each["op"] for each in planned["changes"]]) == (2, ["create"])
    await site.ask("POST", "/v1/rollback", {"version": 1}, If_Match='"1"', status=412)
    answer = await site.ask("POST", "/v1/rollback", {"version": 1}, If_Match='"2"')
    assert (answer["version"], site.etag) == (3, '"3"')
    assert await site.ask("GET", "/v1/config") == SITE
    await site.ask("POST", "/v1/rollback?comment=oops", {"version": 0})
    comments = [each["comment"] for each in (await site.ask("GET", "/v1/versions?limit=2"))["versions"]]
    assert comments == ["oops", "back to version 1"]
    await site.ask("POST", "/v1/rollback", {"version": 99}, status=404)
    for body in ({}, {"version": -1}, {"version": "1"}, {"version": 1, "x": 2}, [], None):
        await site.ask("POST", "/v1/rollback", body, data=b"null" if body is None else None, status=422)


async def test_history_has_pages_and_changes(user: User) -> None:
    for name in "abcde":
        await user.ask("PUT", f"/v1/instances/{name}", {})
    path, found = "/v1/versions?limit=2&changes=1", []
    while path:
        page = (await user.ask("GET", path))["versions"]
        found.append([(each["version"], each["author"], [c["name"] for c in each["changes"]]) for each in page])
        path = user.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert found == [
        [(5, "ann", ["e"]), (4, "ann", ["d"])],
        [(3, "ann", ["c"]), (2, "ann", ["b"])],
        [(1, "ann", ["a"])],
    ]
    assert "changes" not in (await user.ask("GET", "/v1/versions?before=3"))["versions"][0]
    await user.ask("GET", "/v1/versions?limit=101&changes=1", status=400)


async def test_what_lies_between_two_versions(user: User) -> None:
    for name in "abc":
        await user.ask("PUT", f"/v1/instances/{name}", {})

    async def diff(query: str) -> tuple[int, int, list[tuple[str, str]]]:
        answer = await user.ask("GET", f"/v1/diff{query}")
        return answer["from"], answer["to"], [(each["op"], each["name"]) for each in answer["changes"]]

    assert await diff("") == (2, 3, [("create", "c")])
    assert await diff("?from=1") == (1, 3, [("create", "b"), ("create", "c")])
    assert await diff("?from=3&to=1") == (3, 1, [("delete", "c"), ("delete", "b")])
    assert await diff("?from=0&to=0") == (0, 0, [])
    await user.ask("GET", "/v1/diff?from=9", status=404)
