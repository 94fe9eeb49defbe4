"""What an L4 node bills: bytes of IP packets by listener, whatever becomes of members, numbers, agents and maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from control.node.ledger import Ledger
from control.node.metering import Metering
from core.model import Instance, InstanceType, Listener, Mode, Model, Protocol
from core.resolve import L4Service
from core.usage import Owner, Usage
from l4fast.metering import FREE, Billing, Left, Maps, owners, source_of
from l4fast.tables import Tables
from tests.l4fast.test_inherit import succeed
from tests.packets import ACK, REALS, UDP, Harness, Packet, service

pytestmark = pytest.mark.root

SIZES = {"sessions": 256, "half_open": 64, "listeners": 16, "members": 8, "access_lists": 4}
DNS = service(53, Mode.NAT, protocol="udp", real_port=5353, reals=REALS[:1])
DNS6 = service(53, Mode.NAT, protocol="udp", real_port=5353, reals=REALS[:1], version=6)
WEB = service(80, Mode.NAT, reals=REALS[:1])
ASK = Packet(port=53, protocol=UDP, payload=b"question")
ASK6 = ASK.as_version(6)


def model(**listeners: str) -> Model:
    """Listeners by name, with their instances; those of tcp-80 are http."""
    return Model(
        instances={name: Instance(name, InstanceType.NLB) for name in listeners.values()},
        listeners={
            name: Listener(name, instance, Protocol.HTTP if name == "tcp-80" else Protocol.UDP, 53, "b")
            for name, instance in ((name.replace("_", "-"), instance) for name, instance in listeners.items())
        },
    )


SITE = model(udp_53="shop", tcp_80="web")


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Harness, Harness, Harness]]:
    first = Harness(**SIZES)
    second = Harness(left=first.plane.estate, **SIZES)
    other = Harness(**SIZES)
    yield first, second, other
    for harness in (second, other, first):
        harness.close()


@pytest.fixture
def harness(loaded: tuple[Harness, Harness, Harness]) -> Harness:
    found = succeed(loaded[0], macs={})
    found.reset()
    return found


class Node:
    """An agent's metering; another one of the same directory goes on after `end`."""

    def __init__(self, state: Path, tables: Tables, left: Left | None = None) -> None:
        self.maps = Maps(tables, left)
        self.metering = Metering(state, self.maps)
        self.billing = Billing(self.maps, self.metering)
        self.tables = tables

    async def apply(self, harness: Harness, configuration: Model, *services: L4Service) -> None:
        """As the agent does."""
        await self.billing.before(configuration, services)
        self.tables.apply(services, set(), harness.macs)
        await self.billing.after(configuration, services)

    async def die(self) -> None:
        """Nothing is cut any more."""
        assert self.metering._ledger is not None
        self.metering._ledger.close()
        self.metering._ledger = None

    @classmethod
    async def start(cls, state: Path, tables: Tables, left: Left | None = None) -> Node:
        node = cls(state, tables, left)
        assert await node.metering.acquire()
        return node


def told(state: Path) -> dict[Owner, Usage]:
    ledger = Ledger(state / "metering.db")
    found: dict[Owner, Usage] = {}
    while (delivery := ledger.seal()) is not None:
        for (_, owner), usage in delivery.rows.items():
            found[owner] = tuple(map(sum, zip(found.get(owner, (0,) * len(usage)), usage, strict=True)))
        ledger.acknowledge(delivery, delivery.number)
    ledger.close()
    return found


def run(harness: Harness, packet: Packet) -> int:
    """Its bytes, once it is forwarded."""
    reason, _ = harness.run(packet)
    assert reason.startswith("tx")
    return len(packet.frame()) - 14


def answer(packet: Packet, real: str = REALS[0]) -> Packet:
    return replace(packet, source=real, destination=packet.source, source_port=5353, port=packet.source_port)


async def test_bytes_of_both_versions_and_directions(harness: Harness, tmp_path: Path) -> None:
    """And http listeners, which L7 nodes bill, are left out."""
    node = await Node.start(tmp_path, harness.tables)
    await node.apply(harness, SITE, DNS, DNS6, WEB)
    sent = run(harness, ASK) + run(harness, ASK6) + run(harness, replace(ASK, payload=bytes(500)))
    back = run(harness, replace(answer(ASK), payload=bytes(300)))
    syn = Packet()
    run(harness, syn)
    run(harness, replace(syn, flags=ACK, sequence=1001))
    node.maps.saw({"udp-53": {"sessions": 2}, "tcp-80": {"sessions": 1}, "gone": {"sessions": 5}})
    await node.metering.let_go()
    found = told(tmp_path)
    assert found == {("shop", "udp-53"): (sent, back, 2, 0, 0, 0, 0, 0, 0, 0, 2)}
    assert owners(SITE) == {"udp-53": ("shop", "udp-53"), "tcp-80": FREE}


async def test_members_come_and_go_and_numbers_are_given_to_others(harness: Harness, tmp_path: Path) -> None:
    node = await Node.start(tmp_path, harness.tables)
    expected: Counter[Owner] = Counter()
    both = model(udp_53="shop", udp_54="mail")
    for turn in range(12):  # more than there are numbers
        name = ("udp-53", "udp-54")[turn % 2]
        real = REALS[turn % 3]
        one = replace(
            service(53 + turn % 2, Mode.NAT, protocol="udp", real_port=5353 + turn, reals=[real]), listener=name
        )
        await node.apply(harness, both, one)
        owner = ("shop" if turn % 2 == 0 else "mail", name)
        for size in range(turn + 1):
            expected[owner] += run(
                harness, replace(ASK, port=53 + turn % 2, source_port=41000 + turn, payload=bytes(size))
            )
        if turn % 4 == 0:
            await node.metering.cut()
    await node.metering.let_go()
    assert {owner: usage[0] for owner, usage in told(tmp_path).items()} == expected


async def test_what_passes_while_a_listener_is_taken_away(harness: Harness, tmp_path: Path) -> None:
    """Between the cut and the end of its member; nobody has its number then."""
    node = await Node.start(tmp_path, harness.tables)
    await node.apply(harness, SITE, DNS)
    sent = run(harness, ASK)
    await node.billing.before(Model(), ())
    sent += run(harness, ASK)
    harness.tables.apply([], set(), harness.macs)
    await node.billing.after(Model(), ())
    await node.metering.let_go()
    assert {owner: usage[0] for owner, usage in told(tmp_path).items()} == {("shop", "udp-53"): sent}


async def test_an_agent_that_dies_before_it_has_said_whose_a_number_is_now(
    harness: Harness, loaded: tuple[Harness, Harness, Harness], tmp_path: Path
) -> None:
    node = await Node.start(tmp_path, harness.tables)
    members: dict[int, int] = {}
    sent, port = 0, 5353
    while True:
        one = service(53, Mode.NAT, protocol="udp", real_port=port, reals=REALS[:1])
        await node.billing.before(SITE, [one])
        harness.tables.apply([one], set(), harness.macs)
        (number,) = harness.tables.versions[4].members.listeners()
        if number in members:
            break
        members[number] = port
        await node.billing.after(SITE, [one])
        sent += run(harness, replace(ASK, source_port=port))
        port += 1
    await node.die()
    sent += run(harness, replace(ASK, source_port=port, payload=bytes(900)))  # more than its last owner had
    heir = succeed(loaded[1], macs=harness.macs)
    second = await Node.start(tmp_path, heir.tables)
    await second.apply(heir, SITE, one)
    await second.metering.let_go()
    assert {owner: usage[0] for owner, usage in told(tmp_path).items()} == {("shop", "udp-53"): sent}


async def test_a_listener_that_moves_to_another_instance(harness: Harness, tmp_path: Path) -> None:
    node = await Node.start(tmp_path, harness.tables)
    await node.apply(harness, SITE, DNS)
    before = run(harness, ASK)
    await node.apply(harness, model(udp_53="other"), DNS)
    after = run(harness, replace(ASK, payload=bytes(100)))
    await node.metering.let_go()
    assert {owner[0]: usage[0] for owner, usage in told(tmp_path).items()} == {"shop": before, "other": after}


async def test_agents_that_are_killed(
    harness: Harness, loaded: tuple[Harness, Harness, Harness], tmp_path: Path
) -> None:
    """The next one counts what passed meanwhile, also of a listener that is gone by then."""
    node = await Node.start(tmp_path, harness.tables)
    await node.apply(harness, model(udp_53="shop", udp_54="mail"), DNS, replace(DNS, port=54, listener="udp-54"))
    sent = run(harness, ASK)
    gone = run(harness, replace(ASK, port=54))
    await node.die()
    sent += run(harness, replace(ASK, payload=bytes(77)))
    gone += run(harness, replace(ASK, port=54, payload=bytes(99)))
    heir = succeed(loaded[1], macs=harness.macs)
    second = await Node.start(tmp_path, heir.tables)
    await second.metering.cut()  # before there is a configuration
    sent += run(heir, ASK)
    gone += run(heir, replace(ASK, port=54))
    await second.apply(heir, SITE, DNS)
    sent += run(heir, ASK)
    await second.die()
    third = await Node.start(tmp_path, succeed(heir, macs=heir.macs).tables)
    await third.apply(heir, SITE, DNS)
    sent += run(heir, ASK)
    await third.metering.let_go()
    assert {owner: usage[0] for owner, usage in told(tmp_path).items()} == {
        ("shop", "udp-53"): sent, ("mail", "udp-54"): gone,
    }  # fmt: skip


async def test_an_agent_with_other_tables(
    harness: Harness, loaded: tuple[Harness, Harness, Harness], tmp_path: Path
) -> None:
    """The maps before are read as long as they count, and once more."""
    node = await Node.start(tmp_path, harness.tables)
    await node.apply(harness, SITE, DNS)
    sent = run(harness, ASK)
    await node.metering.cut()
    await node.die()
    sent += run(harness, ASK)
    other = succeed(loaded[2], macs={})
    other.reset()
    left = Left(other.plane, harness.plane.estate)
    second = await Node.start(tmp_path, other.tables, left)
    await second.apply(other, SITE, DNS)
    sent += run(harness, ASK)
    await second.metering.cut()
    sent += run(harness, ASK)
    second.maps.take_over()
    sent += run(other, ASK)
    await second.metering.cut()
    assert not left.places(second.metering._ledger)  # type: ignore[arg-type]
    sent += run(other, ASK)
    await second.metering.let_go()
    assert {owner: usage[0] for owner, usage in told(tmp_path).items()} == {("shop", "udp-53"): sent}


def test_maps_have_names_of_their_own(loaded: tuple[Harness, Harness, Harness]) -> None:
    first, second, other = (source_of(each.plane.map("member_stats", 4).fd) for each in loaded)
    assert first == second != other
