"""Invitations, members and revocation by the users' API, and as the command line prints them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from certs.authority import Authority, fingerprint
from control import api, cli_nodes, membership
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
