"""What is said to happen to a flow happens: each is explained and run through the XDP program."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.endpoints import endpoint
from core.explain import Facts, Outcome, flow
from core.flows import slot
from core.model import (
    AccessList,
    Acl,
    BackendProtocol,
    BackendService,
    Instance,
    InstanceType,
    Listener,
    Mode,
    Model,
    Node,
    Protocol,
    Role,
    Scheduler,
    Server,
    ServerGroup,
)
from core.resolve import l4_services
from l4fast.sessions import Wanted
from tests.packets import REAL_MACS, REALS, SYN, TCP, UDP, VIP, Harness, Packet, flow_slot, six

pytestmark = pytest.mark.root

DICE = random.Random(11)
FLOWS = [
    Packet(
        source=f"198.51.{DICE.randrange(256)}.{DICE.randrange(1, 255)}",
        source_port=DICE.randrange(1, 65536),
        flags=SYN,
    )
    for _ in range(8)
]
SEED = 0x0123456789ABCDEF
BY_MAC = {mac: address for address, mac in REAL_MACS.items()}
HASHES = (Scheduler.MAGLEV, Scheduler.SH, Scheduler.TCH)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness(sessions=1024, half_open=256)
    yield harness
    harness.tables.set_seed(0)
    harness.close()


def configuration(scheduler: Scheduler, weights: tuple[int, ...], version: int) -> Model:
    vip, *reals = (VIP, *REALS) if version == 4 else map(six, (VIP, *REALS))
    group = tuple(Server(address, 8080, weight) for address, weight in zip(reals, weights, strict=False))
    listeners = [
        Listener("tcp", "i", Protocol.TCP, 80, "s"),
        Listener("udp", "i", Protocol.UDP, 53, "u"),
        Listener("dr", "i", Protocol.TCP, 8080, "s", mode=Mode.DR),
        Listener("off", "i", Protocol.TCP, 82, "s", enabled=False),
        Listener("denied", "i", Protocol.TCP, 83, "s", acl=Acl.BLACK, access_list="l"),
        Listener("allowed", "i", Protocol.TCP, 84, "s", acl=Acl.WHITE, access_list="l"),
        Listener("web", "i", Protocol.HTTP, 85, "w"),
    ]
    denied = ("198.51.0.0/17",) if version == 4 else (six("198.51.100.1"),)
    nodes = [Node(name, Role.L7, address) for name, address in zip(("l7-1", "l7-2"), reals, strict=False)]
    return Model(
        instances={"i": Instance("i", InstanceType.NLB, (vip,))},
        nodes={each.name: each for each in nodes},
        server_groups={"g": ServerGroup("g", group)},
        access_lists={"l": AccessList("l", denied)},
        backend_services={
            "s": BackendService("s", BackendProtocol.TCP, "g", scheduler=scheduler),
            "u": BackendService("u", BackendProtocol.UDP, "g", scheduler=scheduler),
            "w": BackendService("w", BackendProtocol.HTTP, "g"),
        },
        listeners={each.name: each for each in listeners},
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("scheduler", [*HASHES, Scheduler.WRR, Scheduler.WLC])
@pytest.mark.parametrize(("weights", "gone"), [((100, 100, 100), 0), ((1, 100, 0), 0), ((100, 50, 100), 1)])
def test_flows_go_where_it_is_told(
    harness: Harness, scheduler: Scheduler, version: int, weights: tuple[int, ...], gone: int
) -> None:
    model = configuration(scheduler, weights, version)
    services = l4_services(model)
    vip = services[0].vip
    down = {(s.reals[n].address, s.reals[n].port, s.protocol) for s in services for n in range(gone)}
    facts = Facts({f"{endpoint(a, p)}/{protocol}": "refused" for a, p, protocol in down}, SEED, known=True)
    harness.reset()
    harness.tables.set_seed(SEED)
    harness.tables.apply(services, down, harness.macs)
    met = set()
    for packet in FLOWS:
        for protocol, port in (
            ("tcp", 80), ("udp", 53), ("tcp", 8080), ("tcp", 82), ("tcp", 83), ("tcp", 84), ("tcp", 85), ("udp", 80)
        ):  # fmt: skip
            frame = replace(packet.as_version(version), port=port, protocol=TCP if protocol == "tcp" else UDP)
            client = (frame.source, frame.source_port)
            told = flow(model, protocol, client, (vip, port), facts)
            met.add(told.outcome)
            if told.outcome is Outcome.FORWARDED:
                real = BY_MAC[harness.run(frame)[1][:6]]  # in dr all else stays
                servers = [each.rpartition(":")[0].strip("[]") for each in told.result["candidates"]]
                assert real in servers
                if scheduler in HASHES or len(servers) == 1 or port == 85:
                    assert told.result["server"].rpartition(":")[0].strip("[]") == real, (client, port)
                else:
                    assert told.result["server"] == ""
            else:
                assert harness.run(frame)[0] == told.result["reason"]
    assert met == {Outcome.FORWARDED, Outcome.DROPPED, Outcome.KERNEL}


@pytest.mark.parametrize("version", [4, 6])
def test_who_can_be_no_client_is_dropped(harness: Harness, version: int) -> None:
    model = configuration(Scheduler.MAGLEV, (100, 100, 100), version)
    harness.reset(l4_services(model))
    sources = (
        ("0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "1.0.0.1", "223.255.255.255", VIP)
        if version == 4
        else ("::", "::1", "ff02::1", "fe80::1", "fec0::1", "::ffff:192.0.2.1", "::2", "2001:db8::1", six(VIP))
    )
    vip = model.instances["i"].vips[0]
    found = {}
    for source in sources:
        told = flow(model, "tcp", (source, 4000), (vip, 80), Facts(seed=0))
        found[source] = told.outcome
        verdict, _ = harness.run(Packet(source=source, destination=vip, source_port=4000, flags=SYN))
        assert (verdict == "drop_bad_source") is (told.outcome is Outcome.DROPPED), (source, verdict)
    assert set(found.values()) == {Outcome.FORWARDED, Outcome.DROPPED}


def test_nobody_who_takes_it(harness: Harness) -> None:
    model = configuration(Scheduler.MAGLEV, (0, 0, 0), 4)
    harness.reset(l4_services(model))
    told = flow(model, "tcp", ("198.51.100.7", 4000), (VIP, 80), Facts(seed=0))
    assert told.result["reason"] == harness.run(replace(FLOWS[0], port=80))[0] == "drop_no_real"


@pytest.mark.parametrize("version", [4, 6])
def test_a_session_whose_ends_are_known_is_not_searched_for(
    harness: Harness, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = configuration(Scheduler.MAGLEV, (100, 100, 100), version)
    harness.reset(l4_services(model))
    frames = [replace(each.as_version(version), port=53, protocol=UDP) for each in FLOWS]
    for frame in frames:
        assert harness.run(frame)[0] == "tx_new_session"
    ends = [(endpoint(f.source, f.source_port), endpoint(f.destination, f.port)) for f in frames]
    every = {(each.client, each.vip): each for each in harness.tables.sessions()}
    assert every.keys() == set(ends)
    for tables in harness.tables.versions.values():
        monkeypatch.setattr(tables.session_map, "blocks", None)
    for client, vip in ends:
        assert harness.tables.sessions(Wanted(client, vip)) == [every[client, vip]]
        assert harness.tables.sessions(Wanted(client, vip, state="closed")) == []
        assert harness.tables.sessions(Wanted(client, vip[:-1] + "4")) == []


@pytest.mark.parametrize("version", [4, 6])
def test_the_slot_is_the_one_of_the_packet_tables(version: int) -> None:
    for packet in FLOWS:
        of = packet.as_version(version)
        for scheduler in HASHES:
            ends = (of.source, of.source_port), (of.destination, of.port)
            assert slot(*ends, "tcp", scheduler, 4099, SEED) == flow_slot(of, scheduler, 4099, SEED)
