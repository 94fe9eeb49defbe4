"""Members that register themselves: with the API, for a time; told to the nodes, and to nobody's history."""

from __future__ import annotations

from typing import Any

import pytest

from control import api_members, orders, registered
from control.node.membership import Orders
from control.roles import ApiRole
from control.tokens import set_token
from core.model import Server
from tests.control.api_user import User

PATH = "/v1/availability_groups/open/members"
ONE = f"{PATH}/192.0.2.1:80"
SITE: dict[str, Any] = {
    "availability_groups": [
        {"name": "open", "registered": True},
        {"name": "shut", "members": [{"address": f"192.0.2.{n}", "port": 80, "zone": f"z{n}"} for n in (3, 4)]},
    ],
}


class Clock:
    now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
async def clock(user: User, monkeypatch: pytest.MonkeyPatch) -> Clock:
    await user.ask("PUT", "/v1/config", SITE)
    clock = Clock()
    for module in (api_members, orders):
        monkeypatch.setattr(module, "time", clock)
    return clock


def told(user: User) -> dict[str, tuple[Server, ...]]:
    return dict(Orders.of(user.plane.orders.for_node("l7", "l7-1")).members)


async def test_a_member_stays_as_long_as_it_says_so(user: User, clock: Clock) -> None:
    shown = await user.ask("PUT", ONE, {"zone": "a", "rack": "r", "weight": 7, "ttl_s": 10})
    assert shown["member"] == "192.0.2.1:80"
    assert told(user) == {"open": (Server("192.0.2.1", 80, 7, "a", "r"),)}
    revision = user.plane.orders.revision
    clock.now += 9
    await user.ask("PUT", ONE, {"zone": "a", "rack": "r", "weight": 7, "ttl_s": 10})
    assert user.plane.orders.revision == revision, "the nodes are not told what they know"
    clock.now += 9
    assert [each["left_s"] for each in (await user.ask("GET", PATH))["members"]] == [1.0]
    clock.now += 1
    await user.plane.orders.refresh()
    assert told(user) == {}
    assert (await user.ask("GET", PATH))["members"] == []
    clock.now += registered.KEPT_S
    await user.plane.orders.refresh()
    assert await user.plane.store.records("marks", registered.PREFIX) == ()
    assert user.plane.current.version == 1


async def test_a_member_may_leave(user: User, clock: Clock) -> None:
    await user.ask("PUT", f"{PATH}/[2001:DB8::1]:80")
    assert [each["member"] for each in (await user.ask("GET", PATH))["members"]] == ["[2001:db8::1]:80"]
    async with user.client.delete(
        f"{PATH}/[2001:db8::1]:80", headers={"Authorization": f"Bearer {user.token}"}
    ) as response:
        assert response.status == 204
    assert told(user) == {}
    problem = await user.ask("DELETE", f"{PATH}/[2001:db8::1]:80", status=404)
    assert "open has no registered member [2001:db8::1]:80" in str(problem)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("none/members/192.0.2.1:80", {}, 404, "there is no availability_groups/none"),
        ("shut/members/192.0.2.1:80", {}, 409, "give registered = true"),
        ("open/members/224.0.0.1:80", {}, 422, "is not the address and port of a server"),
        ("open/members/192.0.2.1:70000", {}, 422, "is not the address and port of a server"),
        ("open/members/192.0.2.1:80", {"ttl_s": 4}, 422, "4 is out of range"),
        ("open/members/192.0.2.1:80", {"zoen": "a"}, 422, "did you mean zone?"),
    ],
    ids=range(6),
)
async def test_what_is_no_member(
    user: User, clock: Clock, path: str, body: dict[str, object], status: int, words: str
) -> None:
    assert words in str(await user.ask("PUT", f"/v1/availability_groups/{path}", body, status=status))
    assert told(user) == {}


async def test_a_group_has_room_for_so_many(user: User, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "MEMBERS_LIMIT", 1)
    await user.ask("PUT", ONE)
    assert "at most 1 may be" in str(await user.ask("PUT", f"{PATH}/192.0.2.2:80", status=409))
    await user.ask("PUT", ONE)


async def test_operators_may_register_and_readers_may_not(user: User, clock: Clock) -> None:
    for role, status in ((ApiRole.READ, 403), (ApiRole.OPERATE, 200)):
        user.token = await set_token(user.plane.store, f"of-{role}", role)  # type: ignore[assignment]
        await user.ask("PUT", ONE, status=status)


async def test_who_registers_a_member_stands_in_the_audit_log_and_that_it_is_still_there_does_not(
    user: User, clock: Clock
) -> None:
    before = len((await user.ask("GET", "/v1/audit"))["entries"])
    for weight in (7, 7, 8):
        clock.now += 1
        await user.ask("PUT", ONE, {"weight": weight})
    clock.now += 100
    await user.ask("PUT", ONE, {"weight": 8})  # it had gone
    entries = (await user.ask("GET", "/v1/audit"))["entries"][:-before]
    assert [entry["objects"] for entry in entries] == [["availability_groups/open", "members/192.0.2.1:80"]] * 3


async def test_what_a_member_says_of_itself_is_bounded(user: User, clock: Clock) -> None:
    """All of it is sent to all nodes, with whom else they are to refuse, in one answer."""
    for body in ({"zone": "z" * 81}, {"rack": "r" * 70_000}, {"zone": "a\nb"}):
        assert "at most 80 characters" in str(await user.ask("PUT", ONE, body, status=422))
    assert told(user) == {}
