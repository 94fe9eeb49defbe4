"""Objects through the REST API: patches, conditions, pages, filters, protection."""

from typing import Any

import pytest

from tests.control.api_user import SITE, User

MERGE = {"Content_Type": "application/merge-patch+json"}


@pytest.fixture
async def site(user: User) -> User:
    await user.ask("PUT", "/v1/config", SITE)
    return user


async def test_a_patch_changes_what_it_names(site: User) -> None:
    (change,) = (await site.ask("PATCH", "/v1/listeners/web", {"port": 81, "idle_timeout_s": 5}, **MERGE))["changes"]
    assert (change["old"]["port"], change["new"]["port"], change["new"]["idle_timeout_s"]) == (80, 81, 5)
    await site.ask("PATCH", "/v1/listeners/web", {"idle_timeout_s": None})
    assert await site.ask("GET", "/v1/listeners/web") == {**SITE["listeners"][0], "port": 81}
    await site.ask("PATCH", "/v1/backend_services/b", {"health_check": {"interval_s": 7}})
    await site.ask("PATCH", "/v1/backend_services/b", {"health_check": {"fall": 9}})
    found = await site.ask("GET", "/v1/backend_services/b")
    assert found["health_check"] == {"interval_s": 7, "fall": 9}
    assert len((await site.ask("PATCH", "/v1/listeners/web?dry_run=1", {"port": 9}))["changes"]) == 1
    assert (await site.ask("GET", "/v1/listeners/web"))["port"] == 81


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/listeners/web", {"port": None}, 422, "port is missing"),
        ("/v1/listeners/web", {"prot": 1}, 422, "unknown key"),
        ("/v1/listeners/web", {"name": "w"}, 400, "the body's name is not 'web'"),
        ("/v1/listeners/nope", {"port": 1}, 404, "there is no listeners/nope"),
        ("/v1/listeners/web", [], 400, "the body is one object"),
        ("/v1/listeners/web", {"backend_service": "nope"}, 422, "nope"),
    ],
    ids=range(6),
)
async def test_what_a_patch_may_not_do(site: User, path: str, body: object, status: int, words: str) -> None:
    problem = await site.ask("PATCH", path, body, status=status)
    assert words in str(problem)
    assert site.plane.current.version == 1


async def test_an_objects_tag_changes_when_it_does_and_not_otherwise(site: User) -> None:
    await site.ask("GET", "/v1/listeners/web")
    first = site.etag
    await site.ask("PATCH", "/v1/instances/i", {"vips": ["192.0.2.9"]})
    await site.ask("GET", "/v1/listeners/web")
    assert site.etag == first
    await site.ask("PATCH", "/v1/listeners/web", {"port": 81}, If_Match=first)
    second = site.etag
    assert second != first
    await site.ask("GET", "/v1/listeners/web")
    assert site.etag == second, "a write answers with the tag that it has made"
    problem = await site.ask("PATCH", "/v1/listeners/web", {"port": 82}, status=412, If_Match=first)
    assert problem["current_etag"] == second
    assert problem["detail"] == "listeners/web is another by now; read it again and repeat your change"
    await site.ask("DELETE", "/v1/listeners/web", status=412, If_Match=first)
    await site.ask("PUT", "/v1/listeners/web", SITE["listeners"][0], If_Match=f'"x", {second}')
    assert site.etag == first, "the same content has the same tag"
    await site.ask("DELETE", "/v1/listeners/web", If_Match=first)
    assert site.etag is None
    await site.ask("PUT", "/v1/instances/i", {}, If_Match='"4"', status=412)
    await site.ask("PUT", "/v1/instances/i", {}, If_Match=f'"{site.plane.current.version}"')


async def test_a_dry_run_answers_with_the_tag_that_stays(site: User) -> None:
    await site.ask("GET", "/v1/instances/i")
    tag = site.etag
    await site.ask("PATCH", "/v1/instances/i?dry_run=1", {"vips": ["192.0.2.7"]})
    assert site.etag == tag
    await site.ask("PUT", "/v1/instances/new?dry_run=1", {})
    assert site.etag is None


async def test_a_put_may_only_create_or_only_replace(site: User) -> None:
    problem = await site.ask("PUT", "/v1/instances/i", {}, status=412, If_None_Match="*")
    assert "instances/i exists already" in problem["detail"]
    problem = await site.ask("PUT", "/v1/instances/k", {}, status=412, If_Match="*")
    assert "instances/k does not exist" in problem["detail"]
    await site.ask("PUT", "/v1/instances/k", {}, If_None_Match="*")
    await site.ask("PUT", "/v1/instances/k", {"type": "nlb"}, If_Match="*")
    await site.ask("PUT", "/v1/instances/k", {}, status=400, If_None_Match="k")
    await site.ask("PUT", "/v1/config", {}, status=412, If_None_Match="*")


@pytest.mark.parametrize("path", ["/v1/config", "/v1/export", "/v1/listeners", "/v1/listeners/web"])
async def test_what_a_reader_has_is_not_sent_again(site: User, path: str) -> None:
    headers = {"Authorization": f"Bearer {site.token}"}
    async with site.client.get(path, headers=headers) as response:
        tag = response.headers["ETag"]
        assert await response.read()
    for given, status in ((tag, 304), (f'"x", W/{tag}', 304), ("*", 304), ('"x"', 200)):
        async with site.client.get(path, headers={**headers, "If-None-Match": given}) as response:
            assert (response.status, response.headers["ETag"]) == (status, tag)
            assert bool(await response.read()) is (status == 200)
    async with site.client.get(path, headers={**headers, "If-None-Match": "x"}) as response:
        assert response.status == 400


async def pages(user: User, path: str) -> list[list[str]]:
    """The names of each page, by following the links."""
    found = []
    while True:
        found.append([each["name"] for each in await user.ask("GET", path)])
        link = user.headers.get("Link")
        if link is None:
            return found
        url, _, relation = link.partition("; ")
        assert relation == 'rel="next"'
        path = url.strip("<>")


async def test_lists_have_pages(user: User) -> None:
    names = ["d", "b", "e", "a", "c"]
    await user.ask("PUT", "/v1/config", {"instances": [{"name": name, "tags": {"x": "1"}} for name in names]})
    assert await pages(user, "/v1/instances") == [names], "all at once: as they were written"
    assert await pages(user, "/v1/instances?limit=2&tag=x%3D1") == [["a", "b"], ["c", "d"], ["e"]]
    assert await pages(user, "/v1/instances?limit=5") == [["a", "b", "c", "d", "e"]]
    assert await pages(user, "/v1/instances?after=c") == [["d", "e"]]
    assert await pages(user, "/v1/instances?after=c&limit=1") == [["d"], ["e"]]
    await user.ask("GET", "/v1/instances?limit=0", status=400)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("tag=team", ["a", "b"]),
        ("tag=team%3Dweb", ["a"]),
        ("tag=team%3Dweb&tag=env", ["a"]),
        ("tag=team&tag=none", []),
        ("tag=k%3Dv%3Dw", ["c"]),
        ("tag=k%3Dv", []),
    ],
)
async def test_lists_by_tag(user: User, query: str, names: list[str]) -> None:
    tags = {"a": {"team": "web", "env": ""}, "b": {"team": "shop"}, "c": {"k": "v=w"}, "d": {}}
    instances = [{"name": name, "tags": each} for name, each in tags.items()]
    await user.ask("PUT", "/v1/config", {"instances": instances})
    assert await pages(user, f"/v1/instances?{query}") == [names]


async def test_lists_by_what_is_referred_to(site: User) -> None:
    await site.ask("PUT", "/v1/rules/r", {"listener": "web", "url": "/r", "split": [{"backend_service": "b"}]})
    await site.ask("PUT", "/v1/rules/s", {"listener": "web", "url": "/s", "redirect": {"port": 8}})
    assert await pages(site, "/v1/rules?refers_to=backend_services/b") == [["r"]]
    assert await pages(site, "/v1/rules?refers_to=listeners/web") == [["r", "s"]]
    assert await pages(site, "/v1/rules?refers_to=listeners/web&refers_to=backend_services/b") == [["r"]]
    assert await pages(site, "/v1/listeners?refers_to=backend_services/other") == [[]]
    problem = await site.ask("GET", "/v1/rules?refers_to=web", status=400)
    assert problem["errors"][0]["suggestion"] == "give KIND/NAME, such as backend_services/shop"


async def test_a_protected_instance_is_left_alone(site: User) -> None:
    await site.ask("PATCH", "/v1/instances/i", {"modification_protection": True, "deletion_protection": True})
    version = site.plane.current.version
    requests: list[tuple[str, str, Any]] = [
        ("PATCH", "/v1/listeners/web", {"port": 81}),
        ("DELETE", "/v1/listeners/web", None),
        ("PUT", "/v1/rules/r", {"listener": "web", "url": "/r", "backend_service": "b"}),
        ("PUT", "/v1/config", {}),
        ("PUT", "/v1/config?dry_run=1", {}),
        ("POST", "/v1/rollback", {"version": 0}),
        ("POST", "/v1/changes", {"changes": [{"op": "delete", "kind": "listeners", "name": "web"}]}),
    ]
    for method, path, body in requests:
        problem = await site.ask(method, path, body, status=409)
        assert "instances/i has modification_protection, which refuses: " in problem["detail"]
        assert "set it to false first" in problem["detail"]
    assert site.plane.current.version == version
    await site.ask("PATCH", "/v1/server_groups/g", {"servers": []})
    lifted = {"modification_protection": False, "deletion_protection": False}
    steps = [
        {"op": "patch", "kind": "instances", "name": "i", "object": lifted},
        {"op": "delete", "kind": "listeners", "name": "web"},
    ]
    await site.ask("POST", "/v1/changes", {"changes": steps})
    assert await site.ask("GET", "/v1/listeners") == []
