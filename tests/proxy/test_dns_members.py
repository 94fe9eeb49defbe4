"""A node whose servers DNS names: from the first answer to the next one, through real workers."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

from core.model import AvailabilityGroup, DnsName, DnsType, Model
from proxy.server import Supervisor
from tests.control.node.name_server import NameServer
from tests.proxy.support import Backend, free_port, model, with_service
from tests.proxy.test_server import ask, node
from tests.waiting import until

NAME = DnsName("_http._tcp.app.test", DnsType.SRV)


def by_name(base: Model, server: NameServer) -> Model:
    group = AvailabilityGroup("app", dns=(NAME,), resolvers=(f"127.0.0.1:{server.port}",))
    base = replace(base, availability_groups={"app": group})
    return with_service(base, server_group="", availability_group="app", health_check=None)


def says(*ports: int) -> tuple[int, list[str]]:
    return 0, [f"0 0 {port} backend.test." for port in ports]


def upstreams(supervisor: Supervisor) -> list[str]:
    return [each["server"] for each in supervisor.report()["upstreams"]]  # type: ignore[attr-defined]


async def test_servers_come_and_go_with_the_answers() -> None:
    records: dict[tuple[str, str], tuple[int, list[str]]] = {("backend.test", "A"): (0, ["127.0.0.1"])}
    async with (
        Backend().running() as first,
        Backend().running() as second,
        NameServer(records).running() as server,
        node(workers=2) as supervisor,
    ):
        base = by_name(model(free_port(), []), server)
        port = base.listeners["web"].port
        await supervisor.apply(base, 1)
        assert (await ask(port))[0] == 503  # degraded, and everything else goes on
        problem = (
            "availability group app: DNS name _http._tcp.app.test (srv): there is no such name; it has no address yet"
        )
        assert problem in supervisor.report()["problems"]  # type: ignore[operator]
        records[NAME.name, "SRV"] = says(first.port)
        await until(lambda: upstreams(supervisor) == [f"127.0.0.1:{first.port}"])
        await until(lambda: supervisor.report()["problems"] == [])
        assert [(await ask(port))[0] for _ in range(4)] == [200] * 4
        records[NAME.name, "SRV"] = says(second.port)
        await until(lambda: upstreams(supervisor) == [f"127.0.0.1:{second.port}"])
        asked = len(first.heads)

        async def moved() -> bool:
            before = len(second.heads)
            assert (await ask(port))[0] == 200
            return len(second.heads) > before

        while not all([await moved() for _ in range(8)]):  # both workers have been told by then
            asked = len(first.heads)
        assert len(first.heads) == asked


async def test_a_worker_that_starts_later_knows_them_too() -> None:
    records = {("backend.test", "A"): (60, ["127.0.0.1"])}
    async with (
        Backend().running() as backend,
        NameServer(records).running() as server,
        node(workers=1) as supervisor,
    ):
        records[NAME.name, "SRV"] = says(backend.port)
        base = by_name(model(free_port(), []), server)
        port = base.listeners["web"].port
        await supervisor.apply(base, 1)
        assert (await ask(port))[0] == 200  # the first answer is waited for
        (pid,) = supervisor.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: bool(supervisor.pids) and supervisor.pids != [pid])

        async def serves() -> bool:
            try:
                return (await ask(port))[0] == 200
            except (ConnectionError, asyncio.IncompleteReadError):
                return False

        async with asyncio.timeout(20):
            while not await serves():
                await asyncio.sleep(0.02)
