"""Invitations, members and revocation by the users' API, and as the command line prints them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from certs.authority import Authority, fingerprint
from control import api, cli, cli_drains, cli_nodes, membership, show
from control.service import ControlPlane
from control.signing import SIGNING, Signing
from control.store_sqlite import SqliteStore
from control.tokens import set_token
from tests.control.api_user import User


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    store = await SqliteStore.open(tmp_path / "control.db")
    plane = await ControlPlane.load(store)
    token = await set_token(store, "admin")
    app = api.application(plane)
    app[SIGNING] = Signing(Authority.init(tmp_path / "ca"))
    app[SIGNING].address = "10.0.0.5:8471"
    async with TestClient(TestServer(app)) as client:
        yield User(client, plane, token)
    await store.close()


async def test_an_invitation_tells_its_token_once_and_all_that_the_new_machine_needs(
    user: User, tmp_path: Path
) -> None:
    told = await user.ask("POST", "/v1/joins", {"role": "l7", "name": "l7-3"}, status=201)
    assert told["ca_fingerprint"] == fingerprint((tmp_path / "ca" / "ca.pem").read_bytes())
    assert told["expires"] - told["created"] == 3600
    assert cli_nodes.command(told, None) == (
        f"paifang join https://10.0.0.5:8471 --token {told['token']} --ca-fingerprint {told['ca_fingerprint']} "
        "--out /etc/paifang/l7-3"
    )
    (listed,) = (await user.ask("GET", "/v1/joins"))["joins"]
    assert told["token"] not in str(listed)
    assert (listed["id"], listed["state"], listed["by"]) == (told["id"], "open", "admin")
    member = await membership.join(user.plane.store, told["token"], "", "key", told["created"] + 1)
    (listed,) = (await user.ask("GET", "/v1/joins"))["joins"]
    assert (listed["state"], listed["node"]) == ("used", member.name)


async def test_members_are_listed_and_revoked(user: User) -> None:
    told = await user.ask("POST", "/v1/joins", {"role": "l4", "name": "l4-*", "ttl_s": 60}, status=201)
    assert cli_nodes.command({**told, "nodes_address": "0.0.0.0:9000"}, None).startswith(
        f"paifang join https://CONTROL:9000 --token {told['token']}"
    )
    assert " --name NAME --out /etc/paifang/NAME" in cli_nodes.command(told, "https://c.example:1")
    await membership.join(user.plane.store, told["token"], "l4-2", "key", told["created"] + 1)
    assert (await user.ask("POST", "/v1/members/l4/l4-2/revoke"))["state"] == "revoked"
    (listed,) = (await user.ask("GET", "/v1/members"))["members"]
    assert (listed["role"], listed["name"], listed["state"], listed["by"]) == ("l4", "l4-2", "revoked", "admin")
    assert user.plane.orders.state.least == {"l4/l4-2": 2}
    await user.ask("POST", "/v1/members/boss/x/revoke", status=400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "l7"},
        {"role": "x", "name": "a"},
        {"role": "l7", "name": "a b"},
        {"role": "l7", "name": "a", "ttl_s": 1},
    ],
    ids=["nothing", "no name", "role", "name", "ttl"],
)
async def test_what_cannot_be_invited(user: User, body: dict[str, object]) -> None:
    await user.ask("POST", "/v1/joins", body, status=422)


async def test_without_a_ca_nobody_is_invited(user: User) -> None:
    user.client.app[SIGNING]._authority = None  # type: ignore[index]
    answer = await user.ask("POST", "/v1/joins", {"role": "l7", "name": "a"}, status=409)
    assert "--ca CADIR" in answer["detail"]
    assert (await user.ask("GET", "/v1/joins"))["joins"] == []


async def test_an_invitation_is_taken_back(user: User) -> None:
    told = await user.ask("POST", "/v1/joins", {"role": "l7", "name": "a"}, status=201)
    async with user.client.delete(
        f"/v1/joins/{told['id']}", headers={"Authorization": f"Bearer {user.token}"}
    ) as response:
        assert response.status == 204
    await user.ask("DELETE", f"/v1/joins/{told['id']}", status=404)


def _report(user: User, name: str, since: float, connections: int) -> None:
    facts = {"resting": since, "counters": {"connections_open": connections}}
    user.plane.report("l7", name, 0, None, facts)


async def test_a_node_drains_by_the_word_of_an_operator(user: User) -> None:
    assert "there are none" in (await user.ask("PUT", "/v1/drains/l7-1", status=404))["detail"]
    _report(user, "l7-1", 0.0, 5)
    told = await user.ask("PUT", "/v1/drains/l7-1")
    assert (told["role"], told["name"], told["by"]) == ("l7", "l7-1", "admin")
    assert await user.ask("PUT", "/v1/drains/l7-1") == told
    assert (await user.ask("GET", "/v1/drains"))["drains"] == [told]
    assert user.plane.orders.for_node("l7", "l7-1")["drain"] == told["since"]
    assert user.plane.orders.for_node("l4", "l7-1")["drain"] == 0.0
    _report(user, "l7-1", told["since"], 3)
    (node,) = (await user.ask("GET", "/v1/status"))["nodes"]
    assert "drains by an operator's word: 3 connections left" in show.remarks(node)
    headers = {"Authorization": f"Bearer {user.token}"}
    async with user.client.delete("/v1/drains/l7-1", headers=headers) as response:
        assert response.status == 204
    await user.ask("DELETE", "/v1/drains/l7-1", status=404)
    assert user.plane.orders.for_node("l7", "l7-1")["drain"] == 0.0


async def test_the_command_line_waits_until_nothing_is_left(
    user: User, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_drains, "LOOK_S", 0.02)
    _report(user, "l7-1", 0.0, 5)
    argv = ["--api", str(user.client.make_url("/")), "--token", user.token]
    draining = asyncio.ensure_future(asyncio.to_thread(cli.main, ["drain", "l7-1", "--wait", *argv]))
    async with asyncio.timeout(30):
        while not user.plane.orders.state.drains:
            await asyncio.sleep(0.01)
        since = user.plane.orders.state.drains[0].since
        _report(user, "l7-1", since, 2)
        while "l7-1: 2 connections left" not in (out := capsys.readouterr().out):
            assert "nothing left" not in out
            await asyncio.sleep(0.01)
        _report(user, "l7-1", since, 0)
        assert await draining == 0
    assert "l7-1: nothing left" in capsys.readouterr().out
    _report(user, "l7-1", since, 1)
    again = ["drain", "l7-1", "--wait", "--timeout", "1s", *argv]
    assert await asyncio.to_thread(cli.main, again) == 1
    assert "goes on draining" in capsys.readouterr().err
    assert await asyncio.to_thread(cli.main, ["undrain", "l7-1", *argv]) == 0
    assert user.plane.orders.state.drains == ()
