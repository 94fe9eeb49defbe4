"""Change under load: while real traffic passes, weights change, servers and listeners come and go. Sessions that a
change is not about notice nothing; the node drops none of their packets.

What a change may disturb (docs/l4.md): the sessions of a removed server or listener, which end, and with maglev a
connection whose handshake is going on, since its SYN has left nothing that the next packet could follow. So new
connections by maglev wait during the moment of a change, and nobody else does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from tests.l4fast.site import SERVERS, VIP, Site, site
from tests.l4fast.traffic import ANSWER_S, Flow, Traffic
from tests.packets import service

pytestmark = pytest.mark.root

SCHEDULERS = (Scheduler.MAGLEV, Scheduler.WRR, Scheduler.WLC)
FLOWS = 6  # of each listener
SHORT_PER_S = 90
EQUAL = {"s1": 100, "s2": 100, "s3": 100}


@pytest.fixture
def lan() -> Iterator[Site]:
    with site(4, sessions=1 << 16, half_open=1 << 12) as lan:
        yield lan


def listener(mode: Mode, port: int, scheduler: Scheduler, protocol: str, weights: Mapping[str, int]) -> L4Service:
    reals = [SERVERS[int(name[1:]) - 1] for name in weights]
    return service(port, mode, scheduler, protocol, name=f"{protocol}-{scheduler.value}-{port}", vip=VIP, reals=reals,
                   weights=list(weights.values()), real_port=8000 + port)  # fmt: skip


def listeners(mode: Mode, weights: Mapping[str, int]) -> list[L4Service]:
    return [
        listener(mode, port, scheduler, protocol, weights)
        for port, scheduler in enumerate(SCHEDULERS, 80)
        for protocol in ("tcp", "udp")
    ]


class Watch:
    """Makes changes and looks at what they did."""

    def __init__(self, lan: Site, traffic: Traffic, mode: Mode) -> None:
        self.lan, self.traffic, self.mode = lan, traffic, mode
        self.before = lan.tables.counters()

    def weights(self, **weights: int) -> None:
        self.change(*listeners(self.mode, weights))

    def change(self, *services: L4Service, without: Iterable[str] = ()) -> None:
        with self.traffic.no_handshakes():
            self.lan.apply(*services, without=list(without))

    def undisturbed(self, flows: Iterable[Flow] | None = None) -> None:
        """Each of these goes on, with its own server, and has lost nothing so far."""
        flows = self.traffic.flows if flows is None else list(flows)
        assert flows
        self.traffic.go_on(flows)
        for flow in flows:
            assert (flow.error, flow.lost, len(flow.servers)) == ("", 0, 1), flow
            assert flow.longest_s < ANSWER_S

    def drops(self) -> dict[str, int]:
        counters = self.lan.tables.counters()
        return {
            name: n - self.before[name]
            for name, n in counters.items()
            if n != self.before[name] and name.startswith("drop")
        }

    def new_ones_go_to(self, *servers: str) -> None:
        """All these servers get new connections of each listener, and no other."""
        seen: dict[str, set[str]] = {}
        for flow in self.traffic.short_ones(14):
            assert not flow.error, flow
            seen.setdefault(flow.to.listener, set()).update(flow.servers)
        assert all(who <= set(servers) for who in seen.values()), seen
        assert set().union(*seen.values()) == set(servers), seen


def on(flows: Iterable[Flow], server: str) -> list[Flow]:
    return [flow for flow in flows if flow.servers == [server]]


def swept(lan: Site, wanted: Callable[[str, str], bool]) -> None:
    """No session is left whose listener's end and real are wanted: a sweep leaves those that just had a packet to the
    next one."""
    deadline = time.monotonic() + 20
    while any(wanted(view.vip, view.real) for view in lan.tables.sessions(limit=1 << 16)):
        assert time.monotonic() < deadline
        lan.sweep()


@pytest.mark.parametrize("mode", [Mode.NAT, Mode.DR, Mode.FULLNAT], ids=lambda mode: mode.value)
def test_changes_disturb_nobody_else(lan: Site, mode: Mode) -> None:
    of = listeners(mode, EQUAL)
    short_lived = listener(mode, 99, Scheduler.WRR, "tcp", EQUAL)
    lan.apply(*of, short_lived)
    with Traffic(lan, mode) as traffic:
        traffic.serve([*of, short_lived])
        watch = Watch(lan, traffic, mode)
        flows = [flow for each in of for flow in traffic.open(each, FLOWS)]
        ending = traffic.open(short_lived, 3)
        traffic.keep_opening([each for each in of if each.protocol == "tcp"], SHORT_PER_S)
        for server in EQUAL:
            assert {flow.to.protocol for flow in on(flows, server)} == {"tcp", "udp"}
        watch.undisturbed()
        watch.new_ones_go_to("s1", "s2", "s3")

        watch.weights(s1=100, s2=1, s3=50)
        watch.undisturbed()
        watch.weights(**EQUAL, s4=100)
        watch.undisturbed()
        watch.new_ones_go_to("s1", "s2", "s3", "s4")
        watch.change(*(listener(mode, port, Scheduler.MAGLEV, "tcp", EQUAL) for port in range(200, 240)))
        watch.undisturbed()
        watch.change(without=[name for name in lan.services if int(name.rpartition("-")[2]) >= 200])
        watch.undisturbed()

        for turn in range(60):  # one after the other, as fast as may be
            other = listener(mode, 200, Scheduler.MAGLEV, "tcp", EQUAL)
            watch.change(*listeners(mode, {"s1": 40 + turn, "s2": 100, "s3": 100 - turn, "s4": 1}), other)
            watch.change(without=[other.listener])
        watch.undisturbed()

        watch.weights(s1=0, s2=0, s3=100, s4=100)
        watch.new_ones_go_to("s3", "s4")
        watch.undisturbed()
        assert watch.drops() == {}

        moved = on(flows, "s2")
        stay = [flow for flow in flows if flow not in moved]
        if mode is not Mode.FULLNAT:
            be_patient(traffic, moved)
        watch.weights(s1=0, s3=100, s4=100)
        watch.undisturbed([*stay, *ending])
        swept(lan, lambda vip, real: real.startswith(f"{SERVERS[1]}:") and vip != f"{VIP}:99")
        check_ended(traffic, moved, mode)
        watch.change(without=[short_lived.listener])
        at = [flow.exchanges for flow in ending]
        watch.undisturbed(stay)
        assert all(flow.exchanges <= before + 1 for flow, before in zip(ending, at, strict=True))
        swept(lan, lambda vip, _: vip == f"{VIP}:99")
        assert set(watch.drops()) <= {"drop_no_neighbour", "drop_no_session"}

        watch.weights(s1=100, s3=100, s4=100)
        watch.new_ones_go_to("s1", "s3", "s4")
        watch.undisturbed(stay)
        assert not [flow for flow in traffic.short if flow.error]


def be_patient(traffic: Traffic, flows: list[Flow]) -> None:
    """Lets connections live until they are reset: what they have sent is dropped until the sweep has come by, and sent
    again after 0.2, 0.6, 1.4, 3 and 6.2 s (RFC 6298)."""
    for flow in flows:
        flow.patience_s = 8.0
    traffic.go_on(flows, 2)


def check_ended(traffic: Traffic, flows: list[Flow], mode: Mode) -> None:
    """A removed server's connections are reset by the next server to get their packets; in fullnat nobody gets those.
    Its clients of UDP find another server."""
    deadline = time.monotonic() + 40
    for flow in flows:
        while not (flow.error if flow.to.protocol == "tcp" else len(flow.servers) > 1):
            assert time.monotonic() < deadline, flow
            time.sleep(0.01)
        assert "s2" not in flow.servers[1:]
        if flow.to.protocol == "tcp":
            assert flow.error == ("TimeoutError" if mode is Mode.FULLNAT else "ConnectionResetError")
