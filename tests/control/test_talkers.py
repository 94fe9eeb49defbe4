"""Who talks most: answers put together, and asked for by the API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.roles import ApiRole
from control.talkers import By, together
from control.tokens import set_token
from tests.control.api_user import User


def answer(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"ready": True, "window_s": 2.0, "share": 1, "sessions": [], "talkers": list(rows)} | more


def client(name: str, moved: float, sessions: int = 1) -> dict[str, Any]:
    return {"client": name, "bytes_in_per_s": moved, "packets_in_per_s": 1, "sessions": sessions}


def test_nodes_add_up() -> None:
    counts = [{"listener": "mail", "state": "udp", "sessions": number} for number in (5, 7)]
    found = together(
        By.CLIENT, 2,
        [
            answer(client("a", 10, 2), client("b", 50), sessions=[counts[0]]),
            answer(client("a", 45), client("c", 1), sessions=[counts[1]], window_s=3.0, share=4),
        ],
    )  # fmt: skip
    assert found == {
        "ready": True, "window_s": 3.0, "share": 4, "sessions": [counts[1]],
        "talkers": [
            {"client": "a", "bytes_in_per_s": 55, "packets_in_per_s": 2, "sessions": 3},
            {"client": "b", "bytes_in_per_s": 50, "packets_in_per_s": 1, "sessions": 1},
        ],
    }  # fmt: skip


def test_flows_are_told_apart_by_both_ends() -> None:
    row = {"client": "a:1", "vip": "v:80", "protocol": "tcp", "server": "s:80", "bytes_in_per_s": 3}
    found = together(By.FLOW, 9, [answer(row, {**row, "client": "a:2"}), answer(row)])
    assert [(each["client"], each["bytes_in_per_s"]) for each in found["talkers"]] == [("a:1", 6), ("a:2", 3)]


@pytest.mark.parametrize(
    "wrong",
    [None, [], {"ready": False}, {"ready": True, "talkers": [3, {"client": 1, "x": "y"}], "sessions": 5}],
    ids=str,
)
def test_answers_that_are_none(wrong: Any) -> None:
    found = together(By.CLIENT, 9, [wrong, answer(client("a", 1))])
    assert "a" in [each["client"] for each in found["talkers"]]
    assert not together(By.CLIENT, 9, [{"ready": False}])["ready"]


async def test_by_the_api(user: User) -> None:
    questions = user.plane.questions

    async def node() -> None:
        while True:
            for each in await questions.poll("l7", "l7-1", 20, lambda: True):
                told = {"id": each["id"], "answer": answer({"client": str(each["arguments"]), "bytes_out_per_s": 1})}
                questions.answered("l7", "l7-1", told)

    task = asyncio.create_task(node())
    while not questions.takes_questions("l7", "l7-1"):
        await asyncio.sleep(0)
    found = await user.ask("GET", "/v1/talkers?tier=l7")
    task.cancel()
    assert (found["nodes"], found["ready"], found["silent"]) == (1, True, {})
    assert found["talkers"] == [{"client": "{'by': 'client'}", "bytes_out_per_s": 1}]
    assert (await user.ask("GET", "/v1/talkers"))["ready"] is False, "there is no l4 node"
    await user.ask("GET", "/v1/talkers?tier=l7&by=flow", status=400)
    await user.ask("GET", "/v1/talkers?by=vip", status=400)
    user.token = await set_token(user.plane.store, "reader", ApiRole.READ)
    await user.ask("GET", "/v1/talkers", status=403)
