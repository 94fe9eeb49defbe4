"""Members that register with the control plane reach a node by its own link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from control import registered
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.tasks import Tasks
from control.registered import Registration
from core.model import Model, Server
from tests.control.test_node_api import Cluster, cluster  # noqa: F401 - a fixture


async def test_a_node_is_told_who_is_there(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    told = asyncio.Queue[Mapping[str, tuple[Server, ...]]]()

    async def apply(_model: Model, _version: int) -> None:
        """Nothing."""

    link = ControlLink(
        url=cluster.url, identity=Identity.load(cluster.authority.issue("l4", "l4-1")), state=tmp_path / "s",
        apply=apply, report=dict, take_members=told.put_nowait,
    )  # fmt: skip
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
