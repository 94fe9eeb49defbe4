"""Members that register with the control plane reach a node by its own link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from control import registered
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.tasks import Tasks
from control.registered import Registration
from core.model import Model, Server
from tests.control.test_node_api import Cluster, cluster  # noqa: F401 - a fixture


def link_of(
    identity: Identity, url: str, state: Path, take: Callable[[Mapping[str, tuple[Server, ...]]], None]
) -> ControlLink:
    async def apply(_model: Model, _version: int) -> None:
        """Nothing."""

    return ControlLink(
        url=url, identity=identity, state=state,
        apply=apply, report=dict, take_members=take,
    )  # fmt: skip


async def test_a_node_is_told_who_is_there(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    identity = Identity.load(cluster.authority.issue("l4", "l4-1"))
    told = asyncio.Queue[Mapping[str, tuple[Server, ...]]]()

    link = link_of(identity, cluster.url, tmp_path / "s", told.put_nowait)
    tasks = Tasks()
    tasks.spawn(link.run(), "link")
    member = Registration("g", "192.0.2.1", 80, time.time() + 1000, 1000, "ann", 5, "a", "r")
    async with asyncio.timeout(20):
        assert await told.get() == {}
        await registered.register(cluster.plane.store, member, ())
        await cluster.plane.orders.refresh()
        assert await told.get() == {"g": (Server("192.0.2.1", 80, 5, "a", "r"),)}
        assert await registered.leave(cluster.plane.store, member.key)
        await cluster.plane.orders.refresh()
        assert await told.get() == {}
    await tasks.close()


async def test_a_node_that_starts_alone_knows_who_was_there(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    identity = Identity.load(cluster.authority.issue("l4", "l4-1"))
    told = asyncio.Queue[Mapping[str, tuple[Server, ...]]]()
    there = {"g": (Server("2001:db8::1", 80, 5, "a", "r"),)}
    member = Registration("g", "2001:db8::1", 80, time.time() + 1000, 1000, "ann", 5, "a", "r")
    await registered.register(cluster.plane.store, member, ())
    await cluster.plane.orders.refresh()
    tasks = Tasks()
    async with asyncio.timeout(20):
        tasks.spawn(link_of(identity, cluster.url, tmp_path / "s", told.put_nowait).run(), "link")
        assert await told.get() == there
        await tasks.close()
        tasks = Tasks()
        tasks.spawn(link_of(identity, "https://127.0.0.1:1", tmp_path / "s", told.put_nowait).run(), "link alone")
        assert await told.get() == there
    await tasks.close()
