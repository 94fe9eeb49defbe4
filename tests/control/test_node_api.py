"""The node API with the nodes' own link, over mutual TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from control import node_api
from control.cookie_secret import cookie_secret
from control.distribution import made_of
from control.node.identity import Identity
from control.node.link import SOFTWARE, ControlLink
from control.node.tasks import Tasks
from control.reconcile import Step
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from core.config import from_dict
from core.model import Model
from tests.control.conftest import Authority


def model(*names: str) -> Model:
    return from_dict({"instances": [{"name": name} for name in names]})


class Cluster:
    def __init__(self, plane: ControlPlane, url: str, authority: Authority) -> None:
        self.plane, self.url, self.authority = plane, url, authority

    async def put(self, wanted: Model) -> None:
        await self.plane.change(lambda _: wanted, author="a", comment="", expected=None)

    @asynccontextmanager
    async def session(self, role: str) -> AsyncIterator[aiohttp.ClientSession]:
        context = Identity.load(self.authority.issue(role, f"{role}-1")).client_context("control")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            yield session
        await asyncio.sleep(0.02)


@pytest.fixture
async def cluster(authority: Authority, tmp_path: Path) -> AsyncIterator[Cluster]:
    store = await SqliteStore.open(tmp_path / "control.db")
    plane = await ControlPlane.load(store)
    runner = web.AppRunner(node_api.application(plane), shutdown_timeout=0.1)
    await runner.setup()
    context = Identity.load(authority.issue("control", "c")).server_context(node_api.ROLES)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield Cluster(plane, f"https://127.0.0.1:{runner.addresses[0][1]}", authority)
    await plane.close()
    await runner.cleanup()
    await store.close()


async def test_a_node_follows_and_its_report_names_it_by_certificate(cluster: Cluster, tmp_path: Path) -> None:
    applied: asyncio.Queue[int] = asyncio.Queue()

    async def apply(wanted: Model, version: int) -> None:
        if "bad" in wanted.instances:
            raise RuntimeError("cannot")
        applied.put_nowait(version)

    await cluster.put(model("a"))
    identity = Identity.load(cluster.authority.issue("l7", "l7-9"))
    link = ControlLink(
        url=cluster.url, identity=identity, state=tmp_path / "s", apply=apply, report=lambda: {"ready": True}
    )
    tasks = Tasks()
    tasks.spawn(link.run(), "link")
    async with asyncio.timeout(10):
        assert await applied.get() == 1
        await cluster.put(model("a", "b"))
        assert await applied.get() == 2
        while not (found := cluster.plane.status()) or found[0].step is not Step.IN_STEP:
            await asyncio.sleep(0.01)
        assert (found[0].role, found[0].name, found[0].version) == ("l7", "l7-9", 2)
        identified = {"identity": {"ends": identity.ends, "problem": ""}, "software": SOFTWARE}
        assert found[0].facts == {"ready": True, **identified}
        await cluster.put(model("bad"))
        while cluster.plane.status()[0].why != "refuses version 3: cannot":
            await asyncio.sleep(0.01)
    await tasks.close()
    await asyncio.sleep(0.02)


async def test_long_polls_end_and_never_wait_for_what_is_there(cluster: Cluster) -> None:
    await cluster.put(model("a"))
    async with cluster.session("l4") as session:
        for after, status in ((0, 200), (7, 200), (1, 204)):
            params = {"after": str(after), "wait": "0.05"}
            async with session.get(f"{cluster.url}/v1/node/config", params=params) as response:
                assert response.status == status
        async with session.get(f"{cluster.url}/v1/node/config?after=x") as response:
            assert response.status == 400


async def test_where_the_storage_is_away_nodes_get_what_is_known_and_are_sent_on_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.put(model("a"))
    monkeypatch.setattr(cluster.plane.store, "away", lambda: "no etcd member answers")
    async with cluster.session("l4") as session:
        for after, status in ((0, 200), (1, 503)):
            async with session.get(f"{cluster.url}/v1/node/config?after={after}") as response:
                assert response.status == status
                assert ("no etcd member answers" in await response.text()) == (status == 503)


async def test_whoever_has_the_version_before_gets_what_has_changed(cluster: Cluster) -> None:
    await cluster.put(model("a"))
    async with cluster.session("l4") as session:

        async def poll(after: int, tag: str) -> dict[str, Any]:
            params = {"after": str(after), "tag": tag}
            async with session.get(f"{cluster.url}/v1/node/config", params=params) as response:
                return dict(await response.json())

        first = await poll(0, "")
        assert first["config"] == {"instances": [{"name": "a"}]}
        await cluster.put(model("a", "b"))
        second = await poll(1, first["tag"])
        assert (second["version"], second["changes"]) == (2, {"put": {"instances": [{"name": "b"}]}, "delete": {}})
        for tag in ("", "x", first["tag"] + "0", "0" + first["tag"], ".1", second["tag"][:-1] + "²"):
            assert (await poll(1, tag))["config"] == {"instances": [{"name": "a"}, {"name": "b"}]}
        await cluster.put(model("c", "a", "b"))  # another order
        third = await poll(2, second["tag"])
        assert third["config"] == {"instances": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}


async def test_l7_nodes_alone_get_the_secret_of_cookies(cluster: Cluster) -> None:
    await cluster.put(model("a"))
    secret = (await cookie_secret(cluster.plane.store)).hex()
    for role, wanted in (("l7", secret), ("l4", None)):
        async with cluster.session(role) as session, session.get(f"{cluster.url}/v1/node/config?after=0") as response:
            assert (await response.json()).get("cookie_secret") == wanted
    assert secret not in str(cluster.plane.current)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": "1", "report": {}}',
        b'{"version": 1, "report": []}',
        b'{"version": 1, "report": {}, "rejected": {"version": 1}}',
        b'{"version": 1, "report": {}, "rejected": 3}',
        b'{"version": 1, "report": {}, "rejected": {"version": 1e999, "why": ""}}',
        b'{"version": 1, "report": {"x": NaN}}',
        b'{"version": 1, "report": {"x": [-1e999]}}',
        b'{"version": %d, "report": {}}' % 10**400,
        b'{"version": 1, "report": {"x": %s0%s}}' % (b"[" * 40, b"]" * 40),
        b'{"version": 1, "report": {"x": %s}}' % (b"[" * 100_000),
    ],
    ids=range(13),
)
async def test_reports_that_are_none_are_refused(cluster: Cluster, body: bytes) -> None:
    async with (
        cluster.session("l7") as session,
        session.post(f"{cluster.url}/v1/node/report", data=body) as response,
    ):
        assert response.status == 400
    assert cluster.plane.status() == ()


async def test_a_key_server_gets_orders_and_no_configuration(cluster: Cluster) -> None:
    async with cluster.session("keyserver") as session:
        async with session.get(f"{cluster.url}/v1/node/config") as response:
            assert response.status == 403
        async with session.get(f"{cluster.url}/v1/node/orders") as response:
            assert (await response.json())["least"] == {}
        async with session.post(f"{cluster.url}/v1/node/renew", json={"request": "x"}) as response:
            assert (response.status, "--ca CADIR" in (await response.json())["detail"]) == (409, True)


async def test_a_control_plane_is_no_node(cluster: Cluster) -> None:
    async with cluster.session("control") as session:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await session.get(f"{cluster.url}/v1/node/orders")


async def test_no_time_to_wait_is_no_number(cluster: Cluster) -> None:
    async with asyncio.timeout(20), cluster.session("l7") as session:
        for path in ("config", "orders"):
            async with session.get(f"{cluster.url}/v1/node/{path}?after=0&wait=nan") as response:
                assert response.status == 400, path


async def test_half_a_character_is_refused(cluster: Cluster) -> None:
    async with (
        cluster.session("l7") as session,
        session.post(f"{cluster.url}/v1/node/renew", data=b'{"request": "\\ud800"}') as response,
    ):
        assert (response.status, "ASCII" in (await response.json())["detail"]) == (400, True)


async def test_another_version_of_the_same_number_is_another(
    cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    """A backup was brought back and changes were made again while a node was cut off."""
    await cluster.put(model("a"))
    async with cluster.session("l7") as session:

        async def poll(tag: str) -> tuple[int, str, Any]:
            params = {"after": "1", "tag": tag, "wait": "0"}
            async with session.get(f"{cluster.url}/v1/node/config", params=params) as response:
                document = await response.json() if response.status == 200 else {}
                return response.status, document.get("tag", ""), document.get("config")

        async with session.get(f"{cluster.url}/v1/node/config?after=0") as response:
            tag = (await response.json())["tag"]
        assert await poll(tag) == (204, "", None)
        again = await ControlPlane.load(cluster.plane.store)  # the same storage, another process
        assert again.current.made == cluster.plane.current.made != ""
        assert await again.newer_than(1, 0, made_of(tag)) is None
        other = await SqliteStore.open(tmp_path / "restored.db")
        await other.put(model("b"), "a", "", 0)
        restored = await ControlPlane.load(other)
        cluster.plane.current = restored.current
        await other.close()
        status, fresh, config = await poll(tag)
        assert (status, config) == (200, {"instances": [{"name": "b"}]})
        assert await poll(fresh) == (204, "", None)


async def test_who_wants_to_join_does_not_take_for_ever_to_say_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_api, "STRANGERS_BODY_S", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with asyncio.timeout(20), cluster.session("l7") as session:
        try:
            async with session.post(f"{cluster.url}/v1/join", data=never()) as response:
                assert response.status == 408
        except aiohttp.ClientConnectionError:
            return  # the connection is closed behind the answer
