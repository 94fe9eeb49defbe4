"""Machines join by a token, renew by themselves and are refused when they are revoked: the API, the link, the CLI."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from certs.authority import Authority, fingerprint
from control import cli, drains, joining, membership, node_api
from control.drains import Drain
from control.joining import JoinError
from control.node import link as link_module
from control.node import membership as node_membership
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.tasks import Tasks
from control.reconcile import Step
from control.server import _node_context
from control.service import ControlPlane
from control.signing import Signing
from control.store_sqlite import SqliteStore
from core.config import from_dict
from core.model import Model

LIMIT_S = 30.0
WRONG = "sha256:" + "ab" * 32


class Site:
    """A control plane with a CA. `url` is that of its nodes' API."""

    def __init__(self, plane: ControlPlane, signing: Signing, ca: Authority, url: str) -> None:
        self.plane, self.signing, self.ca, self.url = plane, signing, ca, url
        self.fingerprint = fingerprint(ca.ca_pem)

    async def invite(self, name: str = "l7-3", role: str = "l7", ttl_s: float = 3600) -> str:
        token = (await membership.invite(self.plane.store, role, name, ttl_s, "admin", time.time()))[1]
        await self.plane.orders.refresh()
        return token

    async def join(
        self, directory: Path, token: str, *, name: str = "", wanted: str = "", replace: bool = False
    ) -> Identity:
        arguments = (self.url, token, wanted or self.fingerprint, name, directory)
        return (await asyncio.to_thread(joining.join, *arguments, replace=replace)).identity

    async def revoke(self, name: str) -> None:
        await membership.revoke(self.plane.store, "l7", name, "admin", time.time())
        await self.plane.orders.refresh()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    ca = Authority.init(tmp_path / "ca")
    ca.issue_node("control", "c").write(tmp_path / "c")
    store = await SqliteStore.open(tmp_path / "control.db")
    plane, signing = await ControlPlane.load(store), Signing(ca)
    runner = web.AppRunner(node_api.application(plane, signing), shutdown_timeout=0.1)
    await runner.setup()
    context = _node_context(Identity.load(tmp_path / "c"), plane, signing)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield Site(plane, signing, ca, f"https://127.0.0.1:{runner.addresses[0][1]}")
    await plane.close()
    await runner.cleanup()
    await store.close()
    await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr(node_membership, "AGAIN_S", (0.05, 0.3))


async def test_a_machine_joins_and_is_who_it_was_invited_as(site: Site, tmp_path: Path) -> None:
    token = await site.invite()
    identity = await site.join(tmp_path / "n", token)
    assert (identity.role, identity.name, identity.generation) == ("l7", "l7-3", 1)
    assert abs(identity.ends - time.time() - timedelta(days=30).total_seconds()) < 60
    assert sorted(path.name for path in (tmp_path / "n").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    for name, mode in (("key.pem", 0o600), ("", 0o700)):
        assert (tmp_path / "n" / name).stat().st_mode & 0o777 == mode
    async with linked(site, identity, tmp_path / "s"):
        async with asyncio.timeout(LIMIT_S):
            while not site.plane.status():
                await asyncio.sleep(0.01)
        assert site.plane.status()[0].name == "l7-3"


@asynccontextmanager
async def linked(
    site: Site, identity: Identity, state: Path, rest: Callable[[float], None] = lambda _: None
) -> AsyncIterator[ControlLink]:
    async def apply(_: Model, __: int) -> None:
        """Anything will do."""

    link = ControlLink(url=site.url, identity=identity, state=state, apply=apply, report=dict, rest=rest)
    tasks = Tasks()
    task = tasks.spawn(link.run(), "link")
    try:
        yield link
        assert not task.done()
    finally:
        await tasks.close()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"wanted": WRONG}, "has the fingerprint"),
        ({"wanted": "sha256:1234"}, "64 hexadecimal digits"),
        ({"token": "pfj_guess"}, "this token is not known"),
        ({"name": "l7-4"}, "is for the node l7-3"),
    ],
    ids=["another CA", "no fingerprint", "guessed", "another name"],
)
async def test_what_a_new_user_gets_wrong(site: Site, tmp_path: Path, change: dict[str, str], why: str) -> None:
    token = await site.invite()
    with pytest.raises(JoinError, match=why):
        await site.join(tmp_path / "n", change.pop("token", token), **change)  # type: ignore[arg-type]
    assert not (tmp_path / "n" / "cert.pem").exists()
    await site.join(tmp_path / "n", token)  # nothing was used up


async def test_a_token_is_good_once_and_in_its_time(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await site.invite()
    await site.join(tmp_path / "a", token)
    with pytest.raises(JoinError, match="holds an identity already; --replace"):
        await site.join(tmp_path / "a", token)
    with pytest.raises(JoinError, match="has been used"):
        await site.join(tmp_path / "b", token)
    late = await site.invite("late", ttl_s=60)
    now = time.time
    monkeypatch.setattr(node_api.time, "time", lambda: now() + 61)
    with pytest.raises(JoinError, match="this token has expired"):
        await site.join(tmp_path / "late", late)


async def test_without_an_invitation_nobody_gets_in(site: Site, tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="lets nobody in without a certificate"):
        await site.join(tmp_path / "n", "pfj_x")
    await site.invite()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:  # strangers may join only
        for path in ("/v1/node/config", "/v1/node/orders", "/v1/node/nothing"):
            async with session.get(site.url + path) as response:
                assert response.status == 401
        for body in (b"", b"[]", b"{", b'{"token": 1}', b"x" * 20_000):
            async with session.post(f"{site.url}/v1/join", data=body) as response:
                assert response.status in (400, 413, 422)
    await asyncio.sleep(0.02)


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_token(site: Site, tmp_path: Path) -> None:
    token = await site.invite()
    await site.join(tmp_path / "n", token)
    (tmp_path / "n" / "key.pem").rename(tmp_path / "n" / "next-key.pem")  # as before the answer came
    (tmp_path / "n" / "cert.pem").unlink()
    assert (await site.join(tmp_path / "n", token)).generation == 1


async def test_a_clock_that_is_off_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, now = await site.invite(), time.time
    monkeypatch.setattr(joining, "time", SimpleNamespace(time=lambda: now() - 3600))
    done = await asyncio.to_thread(joining.join, site.url, token, site.fingerprint, "", tmp_path / "n")
    assert -3700 < done.skew_s < -3500


async def test_a_node_renews_in_time_and_keeps_its_link(site: Site, tmp_path: Path) -> None:
    site.signing._lifetime = timedelta(seconds=2)
    identity = await site.join(tmp_path / "n", await site.invite())
    keys = {(tmp_path / "n" / "key.pem").read_bytes()}
    await site.plane.change(lambda _: model(), author="a", comment="", expected=None)
    async with linked(site, identity, tmp_path / "s") as link, asyncio.timeout(LIMIT_S):
        while len(keys) < 2 or not site.plane.status():
            await asyncio.sleep(0.05)
            keys.add((tmp_path / "n" / "key.pem").read_bytes())
        assert link.connected
        assert site.plane.status()[0].step is Step.IN_STEP
        (member,) = await membership.members(site.plane.store)
        assert member.ends == pytest.approx(identity.ends, abs=5)
    assert Identity.load(tmp_path / "n").generation == 1


async def test_what_cannot_be_renewed_is_reported(site: Site, tmp_path: Path) -> None:
    site.signing._lifetime = timedelta(seconds=2)
    identity = await site.join(tmp_path / "n", await site.invite())
    site.signing._authority = None
    async with linked(site, identity, tmp_path / "s"), asyncio.timeout(LIMIT_S):
        while not (site.plane.status() and _problem(site)):
            await asyncio.sleep(0.02)
    assert "start it with --ca" in _problem(site)


def _problem(site: Site) -> str:
    facts: Any = site.plane.status()[0].facts
    return str(facts["identity"]["problem"])


async def test_a_revoked_node_is_cut_off_and_comes_back_by_a_new_token_only(site: Site, tmp_path: Path) -> None:
    identity = await site.join(tmp_path / "n", await site.invite())
    other = await site.join(tmp_path / "o", await site.invite("l7-4"))
    await site.plane.change(lambda _: model(), author="a", comment="", expected=None)
    async with linked(site, identity, tmp_path / "s") as link, linked(site, other, tmp_path / "t"):
        async with asyncio.timeout(LIMIT_S):
            while not link.connected or len(site.plane.status()) < 2:
                await asyncio.sleep(0.01)
            await site.revoke("l7-3")
            while link.connected or not other.why_not("l7", "l7-3", identity.generation):
                await asyncio.sleep(0.01)
        assert not other.why_not("l7", "l7-3", 2)
        assert json.loads((tmp_path / "o" / "refused.json").read_text()) == {"l7/l7-3": 2, "l7/l7-4": 1}
        status = site.plane.status()[0]
        assert (status.name, status.member) == ("l7-3", "revoked")
        assert status.why.startswith("revoked")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=identity.client_context())) as session:
            for path in ("/v1/node/config", "/v1/node/orders"):
                async with session.get(site.url + path) as response:
                    assert response.status == 403
            async with session.post(f"{site.url}/v1/node/renew", json={"request": ""}) as response:
                assert response.status == 403
        # It joins again into the same directory, and the link that runs takes that up by itself.
        again = await site.join(tmp_path / "n", await site.invite(), replace=True)
        assert again.generation == 3
        await site.plane.change(lambda _: from_dict({}), author="a", comment="", expected=None)
        async with asyncio.timeout(LIMIT_S):
            while not link.connected:
                await asyncio.sleep(0.02)


async def test_a_drain_is_told_at_once_and_survives_restarts(site: Site, tmp_path: Path) -> None:
    identity = await site.join(tmp_path / "n", await site.invite())
    told: asyncio.Queue[float] = asyncio.Queue()
    since = Drain("l7", "l7-3", 1000.5, "admin")
    async with asyncio.timeout(LIMIT_S):
        async with linked(site, identity, tmp_path / "s", told.put_nowait):
            await drains.begin(site.plane.store, since)
            await drains.begin(site.plane.store, replace(since, role="l4", since=2.0))
            await site.plane.orders.refresh()
            assert await told.get() == 1000.5
            # The control plane is started anew, and so is the node; nothing is told twice.
            assert await drains.begin(site.plane.store, replace(since, since=2000.0)) == since
            site.plane.orders._nonce = "another"
            site.plane.orders._wake()
        url, site.url = site.url, "https://127.0.0.1:1"  # nobody is there
        async with linked(site, identity, tmp_path / "s", told.put_nowait):
            assert await told.get() == 1000.5
        site.url = url
        async with linked(site, identity, tmp_path / "s", told.put_nowait):
            assert await told.get() == 1000.5
            await drains.end(site.plane.store, since)
            await site.plane.orders.refresh()
            assert await told.get() == 0.0
        async with linked(site, identity, tmp_path / "s", told.put_nowait):
            await asyncio.sleep(0.05)
    assert told.empty()


def model() -> Model:
    return from_dict({"instances": [{"name": "a"}]})


async def test_names_within_a_pattern(site: Site, tmp_path: Path) -> None:
    identity = await site.join(tmp_path / "n", await site.invite("l4-*", "l4"), name="l4-9")
    assert (identity.role, identity.name) == ("l4", "l4-9")


async def test_the_command_line(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await site.invite()
    argv = ["join", site.url, "--ca-fingerprint", site.fingerprint, "--out", str(tmp_path / "n")]
    assert await asyncio.to_thread(cli.main, argv) == 1
    assert "no token: give --token or $PAIFANG_JOIN_TOKEN" in capsys.readouterr().err
    monkeypatch.setitem(os.environ, "PAIFANG_JOIN_TOKEN", token)
    assert await asyncio.to_thread(cli.main, argv) == 0
    assert "identity of l7 l7-3, valid until" in capsys.readouterr().out


def test_the_fingerprint_is_that_of_openssl(tmp_path: Path) -> None:
    import subprocess

    ca = Authority.init(tmp_path / "ca")
    argv = ["openssl", "x509", "-in", str(tmp_path / "ca" / "ca.pem"), "-noout", "-fingerprint", "-sha256"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().partition("=")[2]
    assert joining._fingerprint(told) == fingerprint(ca.ca_pem)
    assert len(hashlib.sha256().hexdigest()) == len(fingerprint(ca.ca_pem)) - len("sha256:")
