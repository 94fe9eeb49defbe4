"""Weights of servers through the REST API, by whoever operates."""

from typing import Any

import pytest

from control.roles import ApiRole
from control.tokens import set_token
from tests.control.api_user import User

GROUP = [{"address": "192.0.2.1", "port": 80}, {"address": "2001:db8::1", "port": 80, "weight": 7, "rack": "r"}]
SITE: dict[str, Any] = {
    "server_groups": [{"name": "g", "servers": GROUP, "tags": {"a": "b"}}],
    "availability_groups": [
        {"name": "a", "members": [{"address": f"192.0.2.{n}", "port": 80, "zone": f"z{n}"} for n in (3, 4)]}
    ],
}

SPLIT: dict[str, Any] = {
    "server_groups": [{"name": "g", "servers": GROUP}],
    "backend_services": [{"name": name, "protocol": "http", "server_group": "g"} for name in ("v1", "v2")],
    "instances": [{"name": "i"}],
    "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 80}],
    "rules": [
        {
            "name": "r", "listener": "web", "split_by": "source",
            "split": [
                {"backend_service": "v1"},
                {"backend_service": "v2", "weight": 0, "headers": [{"name": "X-Canary", "values": ["always"]}]},
            ],
        },
        {"name": "plain", "listener": "web", "url": "/plain", "backend_service": "v1"},
    ],
}  # fmt: skip


@pytest.fixture
async def site(user: User) -> User:
    await user.ask("PUT", "/v1/config", SITE)
    return user


async def test_servers_that_are_named_are_weighed(site: User) -> None:
    body = {"servers": [{"address": "2001:DB8:0::1", "port": 80, "weight": 0}]}
    answer = await site.ask("POST", "/v1/server_groups/g/weights", body)
    assert [each["op"] for each in answer["changes"]] == ["update"]
    found = await site.ask("GET", "/v1/server_groups/g")
    assert found == {"name": "g", "servers": [GROUP[0], {**GROUP[1], "weight": 0}], "tags": {"a": "b"}}
    (entry,) = (await site.ask("GET", "/v1/versions?limit=1"))["versions"]
    assert entry["comment"] == "weights of server_groups/g: [2001:db8::1]:80 → 0"
    body = {"servers": [{"address": "192.0.2.4", "port": 80, "weight": 5}]}
    await site.ask("POST", "/v1/availability_groups/a/weights?dry_run=1", body)
    await site.ask("POST", "/v1/availability_groups/a/weights", body)
    members = (await site.ask("GET", "/v1/availability_groups/a"))["members"]
    assert [each.get("weight", 100) for each in members] == [100, 5]


@pytest.mark.parametrize(
    ("path", "server", "status", "words"),
    [
        ("server_groups/x", {"weight": 0}, 404, "there is no server_groups/x"),
        ("server_groups/g", {"weight": 0, "port": 81}, 404, "has no server 192.0.2.1:81; it has 192.0.2.1:80, [2001:"),
        ("server_groups/g", {"weight": 101}, 422, "101 is out of range"),
        ("server_groups/g", {}, 422, "weight is missing"),
        ("server_groups/g", {"weight": 1, "zone": "z"}, 422, "unknown key"),
        ("listeners/g", {"weight": 1}, 404, "there is no /v1/listeners/g/weights"),
    ],
    ids=range(6),
)
async def test_what_cannot_be_weighed(
    site: User, path: str, server: dict[str, object], status: int, words: str
) -> None:
    body = {"servers": [{"address": "192.0.2.1", "port": 80, **server}]}
    problem = await site.ask("POST", f"/v1/{path}/weights", body, status=status)
    assert words in str(problem)
    assert site.plane.current.version == 1


async def test_parts_of_a_split_are_weighed(site: User) -> None:
    await site.ask("PUT", "/v1/config", SPLIT)
    body = {"split": [{"backend_service": "v2", "weight": 10}, {"backend_service": "v1", "weight": 90}]}
    answer = await site.ask("POST", "/v1/rules/r/weights", body)
    assert [(each["op"], each["kind"], each["name"]) for each in answer["changes"]] == [("update", "rules", "r")]
    one, two = SPLIT["rules"][0]["split"]
    found = await site.ask("GET", "/v1/rules/r")
    assert found == {**SPLIT["rules"][0], "split": [{**one, "weight": 90}, {**two, "weight": 10}]}
    (entry,) = (await site.ask("GET", "/v1/versions?limit=1"))["versions"]
    assert entry["comment"] == "weights of rules/r: v2 → 10, v1 → 90"
    for path, part, status, words in (
        ("r", {"backend_service": "v3", "weight": 1}, 404, "the split of rules/r has no part v3; it has v1, v2"),
        ("x", {"backend_service": "v1", "weight": 1}, 404, "there is no rules/x"),
        ("r", {"backend_service": "v1", "weight": 101}, 422, "101 is out of range"),
        ("plain", {"backend_service": "v1", "weight": 1}, 404, "has no part v1; it has none"),
    ):
        assert words in str(await site.ask("POST", f"/v1/rules/{path}/weights", {"split": [part]}, status=status))
    none = {"split": [{"backend_service": name, "weight": 0} for name in ("v1", "v2")]}
    assert "all weights are 0" in str(await site.ask("POST", "/v1/rules/r/weights", none, status=422))


async def test_whoever_operates_may_weigh_and_change_nothing_else(site: User) -> None:
    body = {"servers": [{"address": "192.0.2.1", "port": 80, "weight": 0}]}
    for role, weighing, changing in ((ApiRole.READ, 403, 403), (ApiRole.OPERATE, 200, 403), (ApiRole.ADMIN, 200, 200)):
        site.token = await set_token(site.plane.store, role.value, role)
        await site.ask("POST", "/v1/server_groups/g/weights", body, status=weighing)
        await site.ask("PATCH", "/v1/server_groups/g", {"description": "x"}, status=changing)
        await site.ask("GET", "/v1/server_groups/g")
