"""What a node reports of its traffic is compact, complete and bounded."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy import traffic as module
from proxy.access_log import Record
from proxy.actions import Way
from proxy.meters import OTHER, Meters, Sums
from proxy.traffic import TOLD_MOST, traffic
from tests.proxy.processes import keep, running, state_of
from tests.proxy.support import Backend, Client, free_port, model
from tests.waiting import LIMIT_S


def counted(listeners: int, services: int) -> dict[str, dict[str, Any]]:
    """Each has had a request of 3 ms and one of 100 s, and is of https."""
    meters = Meters()
    names = [f"listener-of-team-{number}" for number in range(listeners)]
    for number in range(max(listeners, services)):
        way = Way("", f"service-{number % services}")
        for took_ms in (3, 100_000):
            meters.record(Record(names[number % listeners], "c", status=200, duration_ms=took_ms, way=way))
    for name in names:
        meters.handshake(name, "TLSv1.3 new")
        meters.handshake(name, "failed timeout")
    return Sums().rows([meters.news()], listeners=names, services=[f"service-{n}" for n in range(services)], rules=[])


def test_what_is_told() -> None:
    told = traffic(counted(1, 2), [{"listener-of-team-0": 2}, {"listener-of-team-0": 1}], 17.0, 3.14159)
    service = {"statuses": [0, 0, 2, 0, 0, 0], "buckets": [0, 0, 1, *[0] * 12, 1], "moved": [0, 0]}
    assert told == {
        "started": 17.0, "at_s": 3.142,
        "listeners": {"listener-of-team-0": {
            "statuses": [0, 0, 4, 0, 0, 0], "buckets": [0, 0, 2, *[0] * 12, 2], "open": 3, "tls": [1, 0, 1],
            "moved": [0, 0, 0],
        }},
        "services": {"service-0": service, "service-1": service},
    }  # fmt: skip


def test_what_is_beyond_the_bound_is_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_MOST", 2)
    told = traffic(counted(5, 4), [{f"listener-of-team-{n}": 1 for n in range(5)}], 1.0, 1.0)
    assert list(told["listeners"]) == ["listener-of-team-0", "listener-of-team-1", OTHER]
    assert told["listeners"][OTHER]["statuses"][2] == 6
    assert told["listeners"][OTHER]["tls"] == [3, 0, 3]
    assert told["listeners"][OTHER]["open"] == 3
    assert told["services"][OTHER]["statuses"][2] == 2 * 2


def test_its_size_is_bounded() -> None:
    """Of 5,000 listeners and services, all of them busy, with six figures."""
    rows = counted(5000, 5000)
    for kind in ("listeners", "services"):
        for row in rows[kind].values():
            row["statuses"], row["buckets"] = [123_456] * 6, [123_456] * 16
            row["moved"] = [123_456_789_012] * len(row["moved"])
    told = traffic(rows, [dict.fromkeys(rows["listeners"], 999)], 1.0, 1.0)
    assert len(told["listeners"]) == len(told["services"]) == TOLD_MOST + 1
    assert len(json.dumps(told)) < 600_000


def told(load: dict[str, Any], connections: int) -> bool:
    """Whether all of a listener's connections are known, and a second of its requests."""
    return bool(load["connections"] == connections and load["requests"])


async def test_top_shows_a_node_that_works(identity: Path) -> None:
    """Both workers' connections and requests, by the node's own socket."""
    port = free_port()
    argv = [sys.executable, "-m", "control.cli", "top", "--once", "--json", "--state", str(state_of(identity))]
    async with Backend().running() as backend:
        keep(identity, model(port, [backend.port]))
        async with running(identity, port, "--workers", "2"):
            clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(8)]

            async def ask() -> None:
                while True:
                    for client in clients:
                        assert (await client.ask())[0] == 200
                    await asyncio.sleep(0.01)

            asking = asyncio.create_task(ask())
            loop = asyncio.get_running_loop()
            deadline = loop.time() + LIMIT_S
            document: dict[str, Any] = {}
            # Not before both workers have told of their connections; on a busy machine the node may not answer in time.
            while not document or not told(document["traffic"]["listeners"]["web"], 8):
                assert not asking.done(), asking.result()
                process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
                output, _ = await process.communicate()
                if process.returncode == 0:
                    document = json.loads(output)
                assert loop.time() < deadline, f"the last of what was shown: {document}"
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for client in clients:
                await client.close()
    (node,) = document["nodes"]
    assert (node["role"], node["step"], node["traffic"]) == ("l7", "in step", document["traffic"])
    load = node["traffic"]["listeners"]["web"]
    assert load["status_2xx"] == load["requests"] > 0
    assert 0 < load["p50_ms"] <= load["p99_ms"]
    assert node["traffic"]["services"]["app"]["requests"] == pytest.approx(load["requests"])
    (server,) = node["traffic"]["servers"]
    assert (server["service"], server["server"], server["down"]) == ("app", f"127.0.0.1:{backend.port}", False)
    assert server["requests"] > 0
