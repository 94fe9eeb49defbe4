"""The daemon's decisions, with a list in place of the data plane and real probes on the loopback interface."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.node import member_files, probe
from control.node.metrics import render
from control.node.tasks import Tasks
from core.model import (
    AvailabilityGroup,
    BackendProtocol,
    BackendService,
    HealthCheck,
    Instance,
    InstanceType,
    Listener,
    Mode,
    Model,
    Node,
    Protocol,
    Role,
    Server,
    ServerGroup,
)
from core.resolve import L4Service
from l4fast import agent as agent_module
from l4fast import counts
from l4fast.agent import Agent
from l4fast.announcing import Announcing
from l4fast.fill import Fill
from l4fast.holding import Readiness
from l4fast.hops import HERE, Hop
from l4fast.sessions import SessionView, Wanted
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync
from l4fast.sync_records import Layout
from l4fast.vip_states import VipState
from tests.l4fast.fake_vips import FakeProgram
from tests.waiting import until

CHECK = HealthCheck(interval_s=0.02, timeout_s=1, rise=2, fall=2)


def model(port: int, *, vip: str = "10.1.0.1", check: HealthCheck | None = CHECK) -> Model:
    return Model(
        server_groups={"g": ServerGroup("g", (Server("127.0.0.1", port),))},
        backend_services={"b": BackendService("b", BackendProtocol.TCP, server_group="g", health_check=check)},
        instances={"i": Instance("i", InstanceType.NLB, (vip,))},
        listeners={"l": Listener("l", "i", Protocol.TCP, 80, "b")},
    )


class FakeTables:
    def __init__(self) -> None:
        self.pushes: list[tuple[list[str], set[tuple[str, int, str]], dict[str, Hop]]] = []
        self.fail: Callable[[Sequence[L4Service]], bool] = lambda services: False
        self.epochs: list[int] = []
        self.pools: list[tuple[tuple[str, ...], set[str]]] = []
        self.asked: list[tuple[str | None, int]] = []
        self.looks = 0

    def apply(
        self, services: Sequence[L4Service], down: AbstractSet[tuple[str, int, str]], next_hops: Mapping[str, Hop]
    ) -> None:
        if self.fail(services):
            raise RuntimeError("too many listeners; give fewer")
        self.pushes.append(([service.vip for service in services], set(down), dict(next_hops)))

    def set_pools(self, own: Sequence[str], everyones: AbstractSet[str]) -> None:
        self.pools.append((tuple(own), set(everyones)))

    def set_local(self, *addresses: Sequence[str]) -> tuple[str, ...]:
        self.local = [list(of) for of in addresses]
        return tuple(self.local[0][2:])

    def set_epoch(self, now_s: int) -> None:
        self.epochs.append(now_s)

    def counters(self) -> dict[str, int]:
        self.looks += 1
        return {"drop_no_real": 3, "event_warmed": 1, "event_sync_lost": 4}

    def server_counters(self) -> dict[str, dict[str, dict[str, int]]]:
        return {"l": {"10.0.1.1:80": {"packets_in": 9}}, "m": {"10.0.1.2:80": {"packets_in": 1}}}

    def listener_counters(self, servers: object = None) -> dict[str, dict[str, int]]:
        return {"l": {"sessions": 5}, "m": {"sessions": 2}}

    def connections(self) -> dict[str, dict[str, int]]:
        return {"l": {"10.0.1.1:80": 4}}

    def kill(self, wanted: Wanted) -> dict[int, bytes]:
        self.asked.append((wanted, 0))
        return {4: b"killed here!", 6: b""}

    def sessions(self, wanted: Wanted, *, limit: int = 1000) -> list[SessionView]:
        self.asked.append((wanted, limit))
        return [SessionView("192.0.2.1:5000", "10.1.0.1:80", "127.0.0.1:1", "tcp", "established", 3, 160, 0, False)]


class FakeHops:
    def __init__(self) -> None:
        self.watched: set[str] = set()
        self.here: dict[str, Hop] = {}

    async def watch(self, addresses: AbstractSet[str]) -> None:
        self.watched = set(addresses)

    def hops(self) -> dict[str, Hop]:
        return dict.fromkeys(self.watched, Hop(b"\x02\x00\x00\x00\x00\x01", "eth0")) | self.here


class Rig:
    def __init__(
        self, idle: AbstractSet[tuple[str, int, str]] = frozenset(), program: FakeProgram | None = None
    ) -> None:
        self.tables, self.hops, self.tasks = FakeTables(), FakeHops(), Tasks()
        self.expired: list[int] = []
        self.local = ["10.0.0.5"]
        self.sync = Sync(
            name="l4-1",
            keys=(ClusterKey(bytes(32)),),
            boot=1,
            salt=2,
            layouts={4: Layout(4, 8, 2, 8, 9), 6: Layout(6, 9, 3, 8, 9)},
            now=0.0,
            refresh_s=60,
        )
        self.announcing = Announcing(program, clock=lambda: 0.0)
        self.agent = Agent(
            name="l4-1", interfaces=["eth0", "eth1"], tables=self.tables, hops=self.hops, sync=self.sync,
            tasks=self.tasks, expire=self._expire, local=lambda: self.local, own=lambda: [self.local, ["10.0.1.5"]],
            early={}, fill=lambda: {"sessions": {4: Fill(7, 100)}}, announcing=self.announcing, idle=idle,
        )  # fmt: skip

    def _expire(self, now_s: int) -> int:
        self.expired.append(now_s)
        return 0


@pytest.fixture
async def rig():  # type: ignore[no-untyped-def]
    rig = Rig()
    yield rig
    await rig.tasks.close()


@pytest.fixture
async def by_vrrp():  # type: ignore[no-untyped-def]
    rig = Rig(program=FakeProgram())
    yield rig
    await rig.tasks.close()


@pytest.fixture
def server():  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


async def test_a_configuration_becomes_tables(rig: Rig, server: socket.socket) -> None:
    assert not rig.agent.configured.is_set()
    await rig.agent.apply(model(port_of(server)), 1)
    assert rig.tables.pushes == [(["10.1.0.1"], set(), {"127.0.0.1": Hop(b"\2\0\0\0\0\1", "eth0")})]
    assert rig.agent.configured.is_set()
    status = rig.agent.status({})
    assert isinstance(status, dict)
    assert status["vips"] == ("10.1.0.1",)
    assert status["routes"] == ("ip route replace 10.1.0.1/32 via 10.0.0.5",)
    assert status["problems"] == []
    assert rig.tables.local == [["10.0.0.5"], ["10.0.1.5"]]


class FakeClock:
    """The loop with another clock; what is to be called at a time looks at it now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: list[float]) -> None:
        self._real, self._now = loop, now

    def time(self) -> float:
        return self._now[0]

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self._real.call_later(delay, callback)

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        def look() -> None:
            if self._now[0] >= when:
                callback()
            elif not handle.cancelled():
                self._real.call_later(0.005, look)

        handle = self._real.call_later(0.005, look)
        return handle


def drained(port: int, *addresses: str) -> Model:
    plain = model(port)
    group = ServerGroup("g", tuple(Server(address, port) for address in addresses))
    listener = replace(plain.listeners["l"], drain=True, drain_timeout_s=10)
    return replace(plain, server_groups={"g": group}, listeners={"l": listener})


def reals_of(services: Sequence[L4Service]) -> list[tuple[str, str, int]]:
    return [(each.listener, real.address, real.weight) for each in services for real in each.reals]


async def test_what_is_removed_is_drained(rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[list[tuple[str, str, int]]] = []
    monkeypatch.setattr(rig.tables, "fail", lambda services: pushed.append(reals_of(services)))
    clock = [1000.0]
    monkeypatch.setattr(rig.agent, "_loop", FakeClock(asyncio.get_running_loop(), clock))
    port = port_of(server)
    await rig.agent.apply(drained(port, "127.0.0.1", "127.0.0.2"), 1)
    await rig.agent.apply(drained(port, "127.0.0.1"), 2)
    assert pushed[-1] == [("l", "127.0.0.1", 100), ("l", "127.0.0.2", 0)]
    assert rig.hops.watched == {"127.0.0.1", "127.0.0.2"}
    assert rig.agent.report()["leaving"] == [{"listener": "l", "server": f"127.0.0.2:{port}", "left_s": 10.0}]
    await rig.agent.apply(Model(), 3)
    assert pushed[-1] == [("l", "127.0.0.1", 0), ("l", "127.0.0.2", 0)]
    clock[0] += 10
    await until(lambda: pushed[-1] == [])
    assert rig.agent.report()["leaving"] == []


async def test_members_of_a_file_come_and_go(
    rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In mode dr those of another port than the listener's are passed over."""
    monkeypatch.setattr(member_files, "LOOK_S", 0.01)
    pushed: list[list[tuple[str, str, int]]] = []
    monkeypatch.setattr(rig.tables, "fail", lambda services: pushed.append(reals_of(services)))
    port, path = port_of(server), tmp_path / "members.toml"

    def put(*addresses: str, port: int = port) -> None:
        tables = (f'{{ address = "{address}", port = {port} }}' for address in addresses)
        path.with_suffix(".new").write_text(f"members = [{', '.join(tables)}]")
        os.replace(path.with_suffix(".new"), path)

    put("127.0.0.1")
    plain = model(port)
    service = replace(plain.backend_services["b"], server_group="", availability_group="a")
    listener = replace(plain.listeners["l"], mode=Mode.DR, port=port)
    group = AvailabilityGroup("a", file=str(path))
    wanted = replace(
        plain, availability_groups={"a": group}, backend_services={"b": service}, listeners={"l": listener}
    )
    await rig.agent.apply(wanted, 1)
    assert pushed[-1] == [("l", "127.0.0.1", 100)]
    put("127.0.0.2", "127.0.0.3")
    await until(lambda: pushed[-1] == [("l", "127.0.0.2", 100), ("l", "127.0.0.3", 100)])
    assert rig.hops.watched == {"127.0.0.2", "127.0.0.3"}
    assert [each["address"] for each in rig.agent.report()["members"]["a"]] == ["127.0.0.2", "127.0.0.3"]  # type: ignore[index]
    path.unlink()
    await until(lambda: "No such file" in str(rig.agent.report()["problems"]))
    put("127.0.0.4", port=port - 1)
    await until(lambda: pushed[-1] == [])
    monkeypatch.setattr(rig.tables, "fail", lambda services: bool(reals_of(services)))
    put("127.0.0.5")
    await until(lambda: "members that have changed are not taken" in str(rig.agent.report()["problems"]))
    assert rig.agent.version == 1


async def test_what_is_drained_keeps_nothing_out(
    rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of(server)
    await rig.agent.apply(drained(port, "127.0.0.1", "127.0.0.2"), 1)
    monkeypatch.setattr(rig.tables, "fail", lambda services: len(reals_of(services)) > 2)
    await rig.agent.apply(drained(port, "127.0.0.3"), 2)
    assert not rig.agent.refused
    assert rig.agent.report()["leaving"] == []
    assert "not drained, since that does not fit: too many listeners" in caplog.text


async def test_fullnat_gets_the_pools_of_all_nodes(rig: Rig, server: socket.socket) -> None:
    plain = model(port_of(server))
    nodes = {
        "l4-1": Node("l4-1", Role.L4, "10.0.0.5", source_pool=("10.0.9.1",)),
        "l4-2": Node("l4-2", Role.L4, "10.0.0.6", source_pool=("10.0.9.2",)),
    }
    listener = replace(plain.listeners["l"], mode=Mode.FULLNAT)
    await rig.agent.apply(replace(plain, nodes=nodes, listeners={"l": listener}), 1)
    assert rig.tables.pools == [(("10.0.9.1",), {"10.0.9.1", "10.0.9.2"})]
    status = rig.agent.status({})
    assert isinstance(status, dict)
    assert status["routes"][1:] == ("ip route replace 10.0.9.1/32 via 10.0.0.5",)
    assert status["problems"] == []
    await rig.agent.apply(replace(plain, listeners={"l": listener}), 2)
    assert rig.agent.report()["problems"] == [
        "l is of mode fullnat and takes no new connections of IPv4 here: give the node l4-1 a source_pool"
    ]


async def test_vips_servers_and_pools_of_ipv6(rig: Rig) -> None:
    rig.local = ["10.0.0.5", "fd00::5"]
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        plain = model(port_of(sock), vip="2001:db8::1")
        servers = {"g": ServerGroup("g", (Server("127.0.0.1", 9), Server("::1", port_of(sock))))}
        nodes = {"l4-1": Node("l4-1", Role.L4, "10.0.0.5", source_pool=("10.0.9.1", "2001:db8:9::1"))}
        await rig.agent.apply(replace(plain, server_groups=servers, nodes=nodes), 1)
        assert rig.tables.pushes == [(["2001:db8::1"], set(), {"::1": Hop(b"\2\0\0\0\0\1", "eth0")})]
        assert rig.tables.pools == [(("10.0.9.1", "2001:db8:9::1"), {"10.0.9.1", "2001:db8:9::1"})]
        await until(lambda: rig.agent.report()["health"] != [] and "connected" in str(rig.agent.report()["health"]))
        assert rig.agent.report()["health"] == [
            {"server": f"[::1]:{port_of(sock)}/tcp", "healthy": True, "why": "connected"}
        ]
        status = rig.agent.status({})
    assert isinstance(status, dict)
    assert status["vips"] == ("2001:db8::1",)
    assert status["routes"][0] == "ip -6 route replace 2001:db8::1/128 via fd00::5"
    assert status["routes"][2] == "ip -6 route replace 2001:db8:9::1/128 via fd00::5"


async def test_a_pool_of_the_other_version_is_none(rig: Rig, server: socket.socket) -> None:
    plain = model(port_of(server))
    nodes = {"l4-1": Node("l4-1", Role.L4, "10.0.0.5", source_pool=("2001:db8:9::1",))}
    listener = replace(plain.listeners["l"], mode=Mode.FULLNAT)
    await rig.agent.apply(replace(plain, nodes=nodes, listeners={"l": listener}), 1)
    assert "l is of mode fullnat and takes no new connections of IPv4 here" in str(rig.agent.report()["problems"])


async def test_the_nodes_addresses_are_followed(
    rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "ADDRESSES_S", 0.005)
    task = rig.tasks.spawn(rig.agent.keep_addresses(), "addresses")
    await rig.agent.apply(model(port_of(server)), 1)
    rig.local = ["10.0.0.6", "fd00::5"]  # a new lease, and a router has begun to advertise a network
    await until(lambda: rig.tables.local == [["10.0.0.6", "fd00::5"], ["10.0.1.5"]])
    status = rig.agent.status({})
    assert status["routes"] == ("ip route replace 10.1.0.1/32 via 10.0.0.6",)
    assert status["problems"] == []
    rig.local = ["10.0.0.6", "10.1.0.1", "fd00::6"]
    await until(lambda: len(rig.agent.report()["problems"]) == 2)  # type: ignore[arg-type]
    assert rig.agent.report()["problems"] == [
        "the VIP 10.1.0.1 is configured on this node; remove it there: its traffic has to come by a route",
        "there is no room for the interface's address fd00::6: health checks from it may fail; remove it",
    ]
    assert "the VIP 10.1.0.1 is configured on this node" in caplog.text
    monkeypatch.setattr(rig.agent, "_local", lambda: failing())
    await until(lambda: "the node's addresses cannot be looked up: [Errno 12]" in caplog.text)
    assert not task.done()


def failing() -> Sequence[str]:
    raise OSError(12, "Cannot allocate memory")


async def test_a_refused_configuration_leaves_the_pools(rig: Rig, server: socket.socket) -> None:
    nodes = {"l4-1": Node("l4-1", Role.L4, "10.0.0.5", source_pool=("10.0.9.1",))}
    await rig.agent.apply(replace(model(port_of(server)), nodes=nodes), 1)
    rig.tables.fail = lambda services: services[0].vip == "10.1.0.9"
    with pytest.raises(RuntimeError):
        await rig.agent.apply(model(port_of(server), vip="10.1.0.9"), 2)
    assert [own for own, _ in rig.tables.pools] == [("10.0.9.1",), (), ("10.0.9.1",)]


async def test_a_real_that_fails_goes_down_and_comes_back(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = port_of(closed)
    await rig.agent.apply(model(port), 1)
    await until(lambda: rig.tables.pushes[-1][1] == {("127.0.0.1", port, "tcp")})
    assert rig.agent.report()["health"] == [
        {"server": f"127.0.0.1:{port}/tcp", "healthy": False, "why": "Connection refused"}
    ]
    with socket.create_server(("127.0.0.1", port)):
        await until(lambda: rig.tables.pushes[-1][1] == set())
    assert len(rig.tables.pushes) == 3


async def test_a_refused_configuration_leaves_the_old_one_in_force(rig: Rig, server: socket.socket) -> None:
    await rig.agent.apply(model(port_of(server)), 1)
    rig.tables.fail = lambda services: services[0].vip == "10.1.0.9"
    with pytest.raises(RuntimeError, match="too many listeners"):
        await rig.agent.apply(model(port_of(server), vip="10.1.0.9"), 2)
    assert rig.agent.refused
    assert [vips for vips, _, _ in rig.tables.pushes] == [["10.1.0.1"], ["10.1.0.1"]]
    assert rig.agent.status({})["vips"] == ("10.1.0.1",)  # type: ignore[index]
    rig.tables.fail = lambda services: False
    await rig.agent.apply(model(port_of(server), vip="10.1.0.9"), 3)
    assert not rig.agent.refused


async def test_changes_that_come_together_are_pushed_once(rig: Rig, server: socket.socket) -> None:
    await rig.agent.apply(model(port_of(server), check=None), 1)
    for _ in range(40):
        rig.agent.changed()
    await until(lambda: len(rig.tables.pushes) == 2)
    await asyncio.sleep(3 * agent_module.COALESCE_S)
    assert len(rig.tables.pushes) == 2


async def test_a_push_that_fails_is_reported_and_tried_again(
    rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "RETRY_S", 0.01)
    await rig.agent.apply(model(port_of(server), check=None), 1)
    rig.tables.fail = lambda services: True
    rig.agent.changed()
    await until(lambda: rig.agent.report()["problems"])
    assert rig.agent.report()["problems"] == ["too many listeners; give fewer"]
    rig.tables.fail = lambda services: False
    await until(lambda: len(rig.tables.pushes) == 2)
    assert rig.agent.report()["problems"] == []


async def test_a_vip_on_this_node_is_an_error(rig: Rig, server: socket.socket) -> None:
    rig.local = ["10.0.0.5", "10.1.0.1"]
    await rig.agent.apply(model(port_of(server)), 1)
    (error,) = rig.agent.report()["problems"]  # type: ignore[misc]
    assert "the VIP 10.1.0.1 is configured on this node; remove it there" in error  # type: ignore[operator]


async def test_a_server_that_is_this_node(rig: Rig, server: socket.socket) -> None:
    rig.hops.here = {"127.0.0.1": HERE}
    of = model(port_of(server))
    await rig.agent.apply(of, 1)
    assert rig.agent.report()["problems"] == [
        "l: its server 127.0.0.1 is this node itself, where mode nat does not lead; use mode dr"
    ]
    await rig.agent.apply(
        replace(of, listeners={"l": replace(of.listeners["l"], mode=Mode.DR, port=port_of(server))}), 2
    )
    assert rig.agent.report()["problems"] == [
        "this node is a server of the VIP 10.1.0.1 and does not have it: `ip addr add 10.1.0.1/32 dev lo`"
    ]
    rig.local = ["10.0.0.5", "10.1.0.1"]
    await rig.agent.apply(
        replace(of, listeners={"l": replace(of.listeners["l"], mode=Mode.DR, port=port_of(server))}), 3
    )
    assert rig.agent.report()["problems"] == []


async def test_refused_datagrams_become_a_problem_and_stop_being_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "COUNT_S", 0.01)
    monkeypatch.setattr("l4fast.problems.REFUSALS_SHOWN_S", 0.2)
    rig.tasks.spawn(rig.agent.keep_count(), "session count")
    await until(lambda: rig.sync.sessions == 7)
    assert rig.agent.report()["problems"] == []
    rig.sync.counters["clock"] += 2
    await until(lambda: rig.agent.report()["problems"])
    assert rig.agent.report()["problems"] == [
        "session sync refuses datagrams (clock): the clocks of two nodes differ by more than 30 s; check NTP"
    ]
    assert caplog.text.count("session sync refuses datagrams (clock)") == 1
    await until(lambda: not rig.agent.report()["problems"])


async def test_the_first_health_round_is_waited_for(rig: Rig, server: socket.socket) -> None:
    await rig.agent.apply(model(port_of(server)), 1)
    await rig.agent.first_health_round()
    assert rig.agent.report()["health"] == [
        {"server": f"127.0.0.1:{port_of(server)}/tcp", "healthy": True, "why": "connected"}
    ]


async def test_the_wait_for_health_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FIRST_ROUND_LIMIT_S", 0.1)
    await rig.agent.apply(model(1, check=HealthCheck(interval_s=1000, timeout_s=1)), 1)
    async with asyncio.timeout(2):
        await rig.agent.first_health_round()


async def test_what_was_down_before_stays_so_until_it_has_answered_often_enough(server: socket.socket) -> None:
    rig = Rig(idle={("127.0.0.1", port_of(server), "tcp")})
    try:
        await rig.agent.apply(model(port_of(server), check=HealthCheck(interval_s=1, timeout_s=1, rise=2)), 1)
        assert rig.tables.pushes[0][1] == {("127.0.0.1", port_of(server), "tcp")}
        await rig.agent.first_health_round()
        assert rig.agent.report()["health"] == [
            {"server": f"127.0.0.1:{port_of(server)}/tcp", "healthy": False, "why": "connected"}
        ]
        await until(lambda: rig.tables.pushes[-1][1] == set())
    finally:
        await rig.tasks.close()


async def test_timers_write_the_clock_and_expire(rig: Rig) -> None:
    rig.tasks.spawn(rig.agent.keep_epoch(), "epoch")
    rig.tasks.spawn(rig.agent.keep_expiry(), "expiry")
    rig.tasks.spawn(rig.agent.keep_count(), "session count")
    await until(lambda: len(rig.tables.epochs) >= 2)
    assert rig.expired == [], "of which listener a session is, is not known yet"
    await rig.agent.apply(model(1), 1)
    await until(lambda: rig.expired)
    assert rig.expired[0] >= rig.tables.epochs[0] > 1_600_000_000
    assert rig.sync.sessions == 7 == rig.agent.report()["sessions"]
    assert rig.sync.lost == 4


async def test_what_session_sync_has_to_complain_of_is_a_problem(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.sync, "problems", lambda now: ["l4-2 has another seed"])
    assert rig.agent.report()["problems"] == ["l4-2 has another seed"]


async def test_admin_commands(rig: Rig) -> None:
    (session,) = rig.agent.sessions({"client": "192.0.2.1", "limit": 5})  # type: ignore[misc]
    assert session["client"] == "192.0.2.1:5000"  # type: ignore[index]
    assert json.loads(json.dumps(session)) == session
    rig.agent.sessions({})
    of_real = {"real": "10.0.1.1:80", "state": "udp", "client": None}
    assert rig.agent.kill(of_real) == {"killed": 3}
    assert rig.sync.counters["sent_ends"] == 3
    assert rig.sync.datagrams_to_send
    every = Wanted()
    assert rig.tables.asked == [
        (Wanted(client="192.0.2.1"), 5), (every, 1000), (Wanted(real="10.0.1.1:80", state="udp"), 0),
    ]  # fmt: skip
    for wrong, why in (({"client": 7}, "client is a text"), ({"limit": "x"}, "positive"), ({"limit": 0}, "positive")):
        with pytest.raises(ValueError, match=why):
            rig.agent.sessions(wrong)
    for nothing in ({}, {"client": None, "vip": ""}):
        with pytest.raises(ValueError, match="which sessions"):
            rig.agent.kill(nothing)
    counters = rig.agent.counters({})
    assert counters["packets"] == {"drop_no_real": 3, "event_warmed": 1, "event_sync_lost": 4}  # type: ignore[index]
    assert counters["servers"]["l"] == {"10.0.1.1:80": {"packets_in": 9, "connections": 4}}  # type: ignore[index]
    assert counters["sync"]["forged"] == 0  # type: ignore[index]


async def test_the_report_has_what_top_shows(rig: Rig, server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.agent.report()
    assert before["counters"] == {"drop_no_real": 3, "event_warmed": 1, "event_sync_lost": 4}
    assert before["listeners"] == {"l": {"sessions": 5}, "m": {"sessions": 2}}
    assert before["servers"] == {
        "l": {"10.0.1.1:80": {"packets_in": 9, "connections": 4}}, "m": {"10.0.1.2:80": {"packets_in": 1}},
    }  # fmt: skip
    assert before["tables"] == {"sessions": {"4": {"used": 7, "size": 100}}}
    assert json.loads(json.dumps(before))["started"] > 1_600_000_000
    monkeypatch.setattr(counts, "FRESH_S", 0.0)
    after = rig.agent.report()
    assert after["at_s"] >= before["at_s"]  # type: ignore[operator]
    assert rig.tables.looks == 2
    assert after["started"] == before["started"]
    assert rig.agent.status({})["configuration"] == 0
    await rig.agent.apply(model(port_of(server)), 7)
    assert rig.agent.status({})["configuration"] == 7


async def test_many_who_look_cost_one_look(rig: Rig) -> None:
    for _ in range(10):
        rig.agent.report()
        list(rig.agent.metrics())
    assert rig.tables.looks == 1


async def test_metrics(rig: Rig, server: socket.socket) -> None:
    await rig.agent.apply(model(port_of(server)), 7)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(b"".join(render(rig.agent.metrics())).decode())
        for sample in family.samples
    }
    assert found["paifang_l4_configuration_version",] == 7
    assert found["paifang_l4_packets_total", "drop_no_real", "drop"] == 3
    assert found["paifang_l4_listener_sessions", "l"] == 5
    assert found["paifang_l4_server_connections", "l", "10.0.1.1:80"] == 4
    assert found["paifang_l4_server_up", f"127.0.0.1:{port_of(server)}", "tcp"] == 1
    assert found["paifang_l4_sync_refused_datagrams_total", "forged"] == 0
    assert ("process_cpu_seconds_total",) in found


async def test_the_monitor_says_what_we_wait_for() -> None:
    """`UNASKED` is a word of `control.node.probe`; a change there must show here."""
    tasks = Tasks()
    monitor = probe.HealthMonitor(lambda key, healthy, why: None, tasks)
    monitor.watch([probe.Target("k", "127.0.0.1", 1, HealthCheck(interval_s=1000))])
    assert monitor.states() == {"k": (True, agent_module.UNASKED)}
    await tasks.close()


async def test_vips_are_announced_once_the_node_is_ready(by_vrrp: Rig, server: socket.socket) -> None:
    agent, program = by_vrrp.agent, by_vrrp.announcing._program
    assert isinstance(program, FakeProgram)
    nodes = {name: Node(name, Role.L4, "10.0.0.5", source_pool=pool)
             for name, pool in (("l4-1", ("10.0.9.1",)), ("l4-2", ()))}  # fmt: skip
    by_vrrp.sync.catching_up._complete_at = math.inf
    assert agent.readiness() == Readiness(False, True, False)
    by_vrrp.tasks.spawn(by_vrrp.announcing.keep(agent.readiness), "VIPs")
    await agent.apply(replace(model(port_of(server)), nodes=nodes), 1)
    await agent.first_health_round()
    assert program.puts == []
    agent.ready = True
    by_vrrp.sync.catching_up._complete_at = 0.0
    assert agent.readiness() == Readiness(True, True, True)
    await until(lambda: program.puts)
    assert program.puts == ["10.0.9.1 10.1.0.1"]
    assert agent.status({})["routes"] == ()  # nothing that anybody would have to enter
    report = agent.report()["vip"]
    assert report["method"] == "vrrp"  # type: ignore[index]
    assert [each["address"] for each in report["addresses"]] == ["10.0.9.1", "10.1.0.1"]  # type: ignore[index]


async def test_a_vip_that_the_node_holds_is_neither_misplaced_nor_an_address_of_its_own(
    by_vrrp: Rig, server: socket.socket
) -> None:
    agent, announcing = by_vrrp.agent, by_vrrp.announcing
    await agent.apply(model(port_of(server)), 1)
    agent.ready = True
    by_vrrp.sync.catching_up._complete_at = 0.0
    keeping = by_vrrp.tasks.spawn(announcing.keep(agent.readiness), "VIPs")
    await until(lambda: announcing.excused())
    by_vrrp.local = ["10.0.0.5", "10.1.0.1"]
    await agent.apply(model(port_of(server)), 2)
    assert agent.report()["problems"] == []
    assert by_vrrp.tables.local == [["10.0.0.5"], ["10.0.1.5"]]
    keeping.cancel()
    program = announcing._program
    assert program is not None
    program.states.note("10.1.0.1", VipState.BACKUP, 0.0)  # long ago, and it is still there
    assert ["is configured on this node" in text for text in agent.report()["problems"]] == [True]  # type: ignore[attr-defined]
